# SPDX-License-Identifier: Apache-2.0
"""Images and speech through the HTTP door, driven by OpenAI's official SDK."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import openai
import pytest

from simulator.media import image, image_bytes, sound
from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest
from tests.support.simulated_providers import faulty_key

pytestmark = pytest.mark.requirement("O9", "R3")

ACCOUNT = {"X-Ownkey-Account": "accounts/demo"}


@pytest.fixture
async def gpt(router: RouterUnderTest) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's SDK at the door."""
    async with openai.AsyncOpenAI(
        api_key="anonymous", base_url=f"{router.http}/v1", default_headers=ACCOUNT, max_retries=2
    ) as client:
        yield client


def fail(router: RouterUnderTest, fault: str) -> None:
    """Let the account's only key fail, and nobody else pay."""
    router.keyvault.put("demo", stored_key("demo", "main", "openai", faulty_key("openai", fault)))
    router.ledger.mode = "OWN_KEY_ONLY"


async def test_an_image_comes_as_the_sdk_expects_it(
    router: RouterUnderTest, gpt: openai.AsyncOpenAI
) -> None:
    raw = await gpt.images.with_raw_response.generate(
        model="gpt-image-1-mini", prompt="A boat", n=2, size="1024x1024", quality="low"
    )
    answer = raw.parse()
    assert answer.data is not None
    decoded = [base64.b64decode(item.b64_json or "") for item in answer.data]
    size = image_bytes("low")
    assert decoded == [image("image/png", size=size, index=index) for index in range(2)]
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2 * 272
    assert raw.headers["x-ownkey-payer"] == "own_key"
    assert int(raw.headers["x-ownkey-cost-nano-usd"]) == 2 * 2_000 + 544 * 8_000
    assert len(await router.calls()) == 1


async def test_sound_comes_as_it_is_made(gpt: openai.AsyncOpenAI) -> None:
    text = "Good evening " * 50
    async with gpt.audio.speech.with_streaming_response.create(
        model="tts-1", voice="nova", input=text, response_format="wav"
    ) as answer:
        data = b"".join([piece async for piece in answer.iter_bytes()])
        assert answer.headers["content-type"] == "audio/wav"
        assert answer.headers["x-ownkey-provider"] == "openai"
        assert answer.headers["x-ownkey-attempts"] == "[]"
    assert data == sound("audio/wav", text)


@pytest.mark.requirement("R14")
async def test_sound_that_breaks_off_is_no_whole_answer_and_is_billed_once(
    router: RouterUnderTest, gpt: openai.AsyncOpenAI
) -> None:
    """The connection breaks, and the SDK's own retry is told of the request that it repeats."""
    fail(router, "cut")
    call = {"model": "tts-1", "voice": "nova", "input": "Good evening " * 50}
    with pytest.raises(openai.APIStatusError) as caught:
        await gpt.audio.speech.create(**call)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(await router.calls()) == 1
    with pytest.raises(openai.APIConnectionError):
        await gpt.with_options(max_retries=0).audio.speech.create(**call)
    assert len(await router.calls()) == 2


async def test_failures_come_in_the_sdk_s_shape(
    router: RouterUnderTest, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.images.generate(model="gpt-image-1-mini", prompt="x", size="256x256")
    assert caught.value.param == "size"
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.images.generate(model="gpt-4o-mini", prompt="x")
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.audio.speech.create(
            model="tts-1", voice="nova", input="x", instructions="Whisper."
        )
    assert caught.value.param == "instructions"
    assert not await router.calls()
    fail(router, "nocredit")
    with pytest.raises(openai.APIStatusError) as failed:
        await gpt.images.generate(model="gpt-image-1-mini", prompt="x")
    assert failed.value.status_code == 402
    assert failed.value.code == "key_no_credit"


async def test_a_repeat_says_that_its_media_were_not_kept(gpt: openai.AsyncOpenAI) -> None:
    headers = {"X-Ownkey-Request-Id": "3e4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11"}
    await gpt.images.generate(
        model="gpt-image-1-mini", prompt="x", quality="low", extra_headers=headers
    )
    with pytest.raises(openai.ConflictError) as caught:
        await gpt.images.generate(
            model="gpt-image-1-mini", prompt="x", quality="low", extra_headers=headers
        )
    assert caught.value.code == "answer_not_kept"
