# SPDX-License-Identifier: Apache-2.0
"""Images and speech through a real router against the simulated providers."""

from __future__ import annotations

import uuid
from fractions import Fraction
from typing import Any

import grpc
import grpc.aio
import pytest
from ownkey.ledger.v1 import authorization_pb2 as ledger_pb2
from ownkey.router.v1 import attempt_pb2, catalogue_pb2, explain_pb2, media_pb2, text_pb2

from services.shared.status import RichStatus, from_rpc_error
from simulator.media import image, image_bytes, sound
from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, attempts_of
from tests.support.simulated_providers import KEYS, azure_key, faulty_key

OWN, CREDITS = attempt_pb2.FUNDING_OWN_KEY, attempt_pb2.FUNDING_CREDITS
MEDIUM = image("image/png", size=image_bytes("medium"))
CHUNK_BYTES_MAX = 256 * 1024
PROMPT = "A lighthouse at dusk"
CREDIT_SOURCE = attempt_pb2.SOURCE_CREDITS
_CHAT, _IMAGES = "chat/completions", "images/generations"
AZURE_IMAGES = azure_key("openai/gpt-image-1-mini").replace(_CHAT, _IMAGES)
AZURE_SPEECH = azure_key("openai/tts-1").replace(_CHAT, "audio/speech")

Request = media_pb2.GenerateImageRequest | media_pb2.SynthesizeSpeechRequest


def use_key(router: RouterUnderTest, provider: str, fault: str = "", secret: str = "") -> None:
    """Store one own key of a provider."""
    secret = secret or (faulty_key(provider, fault) if fault else KEYS[provider])
    router.keyvault.put("demo", stored_key("demo", "main", provider, secret))


def share_key(router: RouterUnderTest, provider: str, fault: str = "") -> None:
    """Store one shared key of a provider, and no own key."""
    secret = faulty_key(provider, fault) if fault else KEYS[provider]
    router.keyvault.put("demo")
    router.keyvault.put("platform", stored_key("platform", "shared", provider, secret))


def an_image(**fields: Any) -> media_pb2.GenerateImageRequest:
    return media_pb2.GenerateImageRequest(
        **{
            "account": "accounts/demo",
            "request_id": str(uuid.uuid4()),
            "model": "openai/gpt-image-1-mini",
            "prompt": PROMPT,
            **fields,
        }
    )


def a_speech(**fields: Any) -> media_pb2.SynthesizeSpeechRequest:
    return media_pb2.SynthesizeSpeechRequest(
        **{
            "account": "accounts/demo",
            "request_id": str(uuid.uuid4()),
            "model": "openai/tts-1",
            "text": "Good evening",
            **fields,
        }
    )


class Media:
    """What a media stream came to."""

    def __init__(self) -> None:
        self.start: media_pb2.MediaStart | None = None
        self.finish: media_pb2.MediaFinish | None = None
        self.chunks: list[media_pb2.MediaChunk] = []
        self.failure: RichStatus | None = None

    @property
    def receipt(self) -> attempt_pb2.Receipt:
        assert self.failure is None, self.failure
        assert self.finish is not None
        return self.finish.receipt

    def data(self, index: int = 0) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks if chunk.index == index)

    @property
    def reason(self) -> str:
        assert self.failure is not None, "it was served"
        return self.failure.reason


async def run(router: RouterUnderTest, request: Request, *, timeout: float = 20.0) -> Media:
    """Send a request and read all that comes."""
    images = isinstance(request, media_pb2.GenerateImageRequest)
    method = router.stub.GenerateImage if images else router.stub.SynthesizeSpeech
    media = Media()
    try:
        async for message in method(request, timeout=timeout):
            match message.WhichOneof("event"):
                case "start":
                    media.start = message.start
                case "chunk":
                    media.chunks.append(message.chunk)
                case "finish":
                    media.finish = message.finish
    except grpc.aio.AioRpcError as fault:
        media.failure = from_rpc_error(fault)
    return media


def rational_cost(usage: attempt_pb2.Usage, price: attempt_pb2.PriceUsed) -> Fraction:
    """Work a cost out anew, in exact fractions of a nano-USD."""
    million = Fraction(1, 1_000_000)
    image_in, image_out = usage.image_input_token_count, usage.image_output_token_count
    in_rate, out_rate = (
        price.input_nano_usd_per_million_tokens,
        price.output_nano_usd_per_million_tokens,
    )
    return (
        (usage.input_token_count - image_in) * in_rate * million
        + image_in * (price.image_input_nano_usd_per_million_tokens or in_rate) * million
        + (usage.output_token_count - image_out) * out_rate * million
        + image_out * (price.image_output_nano_usd_per_million_tokens or out_rate) * million
        + usage.character_count * price.nano_usd_per_million_characters * million
        + usage.image_count * price.nano_usd_per_image
    )


IMAGE_CASES = {
    "openai": ("openai/gpt-image-1-mini", "", Fraction(4 * 2_000 + 1056 * 8_000)),
    "openai-1.5": ("openai/gpt-image-1.5", "", Fraction(4 * 5_000 + 1056 * 32_000)),
    "gemini": ("google/gemini-2.5-flash-image", "", Fraction(4 * 300 + 1290 * 30_000)),
    "google-vertex": ("google/gemini-3.1-flash-image", "", Fraction(4 * 500 + 1120 * 60_000)),
    "azure": ("openai/gpt-image-1-mini", AZURE_IMAGES, Fraction(4 * 2_000 + 1056 * 8_000)),
    "stability": ("stability/core", "", Fraction(30_000_000)),
    "stability-sd3": ("stability/sd3.5-large", "", Fraction(65_000_000)),
}
"""Provider, its model, its key where it is not the usual one, and the exact cost in nano-USD."""


class TestImages:
    @pytest.mark.requirement("R3", "R4", "R12")
    @pytest.mark.parametrize("case", sorted(IMAGE_CASES))
    async def test_every_provider_draws_at_its_exact_price(
        self, router: RouterUnderTest, case: str
    ) -> None:
        """The bytes are the provider's, and the cost is that of its list, to the nano-USD."""
        model, secret, cost = IMAGE_CASES[case]
        provider = "openai" if case == "openai-1.5" else case.removesuffix("-sd3")
        use_key(router, provider, secret=secret)
        media = await run(router, an_image(model=model))
        receipt = media.receipt
        assert media.start is not None
        assert (media.start.payer, media.start.provider) == (OWN, provider)
        assert media.data() == MEDIUM
        assert media.chunks[0].media_type == "image/png"
        assert media.chunks[-1].last
        assert receipt.usage.image_count == 1
        assert receipt.usage.basis == attempt_pb2.USAGE_BASIS_EXACT
        assert receipt.cost_nano_usd == cost == rational_cost(receipt.usage, receipt.price)
        assert receipt.price.price_id

    @pytest.mark.requirement("R3")
    async def test_large_images_come_in_chunks_one_image_after_the_other(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai")
        media = await run(router, an_image(quality="high", size="1536x1024", count=3))
        assert [chunk.index for chunk in media.chunks] == sorted(c.index for c in media.chunks)
        assert max(len(chunk.data) for chunk in media.chunks) <= CHUNK_BYTES_MAX
        for index in range(3):
            assert media.data(index) == image("image/png", size=image_bytes("high"), index=index)
        assert media.receipt.usage.output_token_count == 3 * 6208

    @pytest.mark.requirement("R3")
    async def test_images_are_drawn_from_images_of_the_callers(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai")
        given = text_pb2.Image(data=MEDIUM, media_type="image/png")
        media = await run(router, an_image(images=[given, given], media_type="image/webp"))
        usage = media.receipt.usage
        assert media.chunks[0].media_type == "image/webp"
        assert usage.image_input_token_count == 2 * 85
        assert media.receipt.cost_nano_usd == 4 * 2_000 + 170 * 2_500 + 1056 * 8_000

    @pytest.mark.requirement("R3", "R7", "L3")
    async def test_credits_hold_the_worst_case_and_pay_the_exact_price(
        self, router: RouterUnderTest
    ) -> None:
        share_key(router, "openai")
        media = await run(router, an_image(source=CREDIT_SOURCE))
        asked = router.ledger.asked[0]
        assert asked.operation == ledger_pb2.OPERATION_IMAGE
        assert media.receipt.payer == CREDITS
        assert asked.credits.worst_case_nano_usd >= media.receipt.cost_nano_usd > 0
        assert media.receipt.charged_nano_credits == media.receipt.cost_nano_usd

    @pytest.mark.requirement("R14")
    async def test_a_repeat_gets_the_outcome_without_the_bytes(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "stability")
        request = an_image(model="stability/core")
        first = await run(router, request)
        again = await run(router, request)
        assert again.receipt.replayed
        assert not again.chunks
        assert again.receipt.cost_nano_usd == first.receipt.cost_nano_usd
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("R5")
    async def test_the_default_image_model_serves_a_request_without_one(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai")
        media = await run(router, an_image(model=""))
        assert media.receipt.model == "openai/gpt-image-1-mini"


class TestSpeech:
    @pytest.mark.requirement("R3", "R4")
    @pytest.mark.parametrize(
        ("model", "secret", "cost"),
        [
            ("openai/tts-1", "", Fraction(12 * 15_000)),
            ("openai/tts-1-hd", "", Fraction(12 * 30_000)),
            ("openai/gpt-4o-mini-tts", "", Fraction(2 * 600 + 6 * 12_000)),
            ("openai/tts-1", AZURE_SPEECH, Fraction(12 * 15_000)),
        ],
    )
    async def test_sound_comes_as_the_provider_made_it_at_its_exact_price(
        self, router: RouterUnderTest, model: str, secret: str, cost: Fraction
    ) -> None:
        use_key(router, "azure" if secret else "openai", secret=secret)
        media = await run(router, a_speech(model=model, media_type="audio/mpeg"))
        assert media.data() == sound("audio/mpeg", "Good evening")
        assert media.chunks[-1].last
        assert media.receipt.cost_nano_usd == cost
        assert media.receipt.usage.basis == attempt_pb2.USAGE_BASIS_EXACT

    @pytest.mark.requirement("R3", "L9")
    async def test_sound_that_breaks_off_is_an_error_and_costs_no_credits(
        self, router: RouterUnderTest
    ) -> None:
        """What came is handed over; the rest is a typed error, and nothing is sent again."""
        share_key(router, "openai", "cut")
        media = await run(router, a_speech(source=CREDIT_SOURCE, text="Good evening " * 100))
        assert media.chunks
        assert media.reason == "STREAM_BROKEN"
        assert media.failure is not None
        [attempt] = attempts_of(media.failure)
        assert attempt.charged_nano_credits == 0
        assert len(await router.calls()) == 1


class TestFailures:
    @pytest.mark.requirement("R3", "L9", "R11")
    @pytest.mark.parametrize(
        ("provider", "model"),
        [("openai", "openai/gpt-image-1-mini"), ("stability", "stability/core")],
    )
    @pytest.mark.parametrize("fault", ["cut", "midstream"])
    async def test_a_call_that_may_have_been_billed_is_never_repeated(
        self, router: RouterUnderTest, provider: str, model: str, fault: str
    ) -> None:
        """On credits it is free; there is one call, whatever else could serve."""
        share_key(router, provider, fault)
        media = await run(router, an_image(model=model, source=CREDIT_SOURCE))
        assert media.failure is not None
        [attempt] = attempts_of(media.failure)
        assert attempt.billed == attempt_pb2.BILLED_MAYBE
        assert attempt.charged_nano_credits == 0
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("L8")
    async def test_what_may_have_been_billed_stays_on_an_own_key(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "stability", "cut")
        media = await run(router, an_image(model="stability/core"))
        assert media.failure is not None
        [attempt] = attempts_of(media.failure)
        assert attempt.cost_nano_usd == 30_000_000

    @pytest.mark.requirement("L9", "R11")
    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("openai", "openai/gpt-image-1-mini"),
            ("stability", "stability/ultra"),
            ("gemini", "google/gemini-2.5-flash-image"),
        ],
    )
    async def test_a_filtered_image_is_refused_as_such_and_free_on_credits(
        self, router: RouterUnderTest, provider: str, model: str
    ) -> None:
        share_key(router, provider, "filtered")
        media = await run(router, an_image(model=model, source=CREDIT_SOURCE))
        assert media.reason == "CONTENT_FILTERED"
        assert not media.chunks
        assert media.failure is not None
        assert all(a.charged_nano_credits == 0 for a in attempts_of(media.failure))

    @pytest.mark.requirement("R9", "R10", "R11")
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("revoked", "KEY_INVALID"),
            ("nocredit", "KEY_NO_CREDIT"),
            ("forbidden", "KEY_FORBIDDEN"),
        ],
    )
    async def test_a_key_that_cannot_draw_is_told_as_such(
        self, router: RouterUnderTest, fault: str, reason: str
    ) -> None:
        use_key(router, "stability", fault)
        source = attempt_pb2.SOURCE_OWN_KEY
        media = await run(router, an_image(model="stability/core", source=source))
        assert media.reason == reason


BAD = [
    (an_image(model="openai/gpt-4o-mini"), "model"),
    (an_image(prompt=""), "prompt"),
    (an_image(prompt="x" * 32_001), "prompt"),
    (an_image(model="stability/core", prompt="x" * 10_001), "prompt"),
    (an_image(size="10x10"), "size"),
    (an_image(quality="ultra"), "quality"),
    (an_image(media_type="image/tiff"), "media_type"),
    (an_image(count=11), "count"),
    (an_image(model="stability/core", count=2), "count"),
    (
        an_image(images=[text_pb2.Image(data=MEDIUM, media_type="image/webp")]),
        "images[0].media_type",
    ),
    (an_image(images=[text_pb2.Image(data=b"?" * 99, media_type="image/png")]), "images[0].m"),
    (
        an_image(
            model="stability/core", images=[text_pb2.Image(data=MEDIUM, media_type="image/png")]
        ),
        "images",
    ),
    (an_image(images=[text_pb2.Image(url="https://example.com/a.png")]), "images[0].url"),
    (a_speech(model="openai/gpt-4o-mini"), "model"),
    (a_speech(text=" "), "text"),
    (a_speech(text="x" * 4_097), "text"),
    (a_speech(voice="nobody"), "voice"),
    (a_speech(speed=9.0), "speed"),
    (a_speech(media_type="audio/midi"), "media_type"),
]


class TestBadInput:
    @pytest.mark.requirement("R3", "R11")
    async def test_each_fault_has_its_field_and_nothing_is_sent(
        self, router: RouterUnderTest
    ) -> None:
        for request, field in BAD:
            media = await run(router, request)
            assert media.reason == "INVALID_ARGUMENT", field
            assert media.failure is not None
            assert media.failure.metadata["field"].startswith(field)
        assert not await router.calls()

    @pytest.mark.requirement("R5", "R7")
    async def test_an_image_key_does_not_choose_the_model_of_text(
        self, router: RouterUnderTest
    ) -> None:
        """A request for text that names no model is served as if that key were not there."""
        image_key = stored_key("demo", "images", "stability", KEYS["stability"])
        text_key = stored_key("demo", "main", "openai", KEYS["openai"])
        router.keyvault.put("demo", image_key, text_key, active_provider="stability")
        answer = await router.generate(model="")
        assert answer.receipt.model == "openai/gpt-4o-mini"
        assert answer.receipt.payer == OWN

    @pytest.mark.requirement("R1", "R3")
    async def test_a_request_for_text_to_an_image_model_finds_nobody(
        self, router: RouterUnderTest
    ) -> None:
        refused = await router.refused(model="openai/gpt-image-1-mini")
        assert refused.reason == "NO_CANDIDATE"
        assert "requests for text" in refused.message
        assert not await router.calls()


class TestTelling:
    @pytest.mark.requirement("R13")
    async def test_explain_shows_the_plan_of_an_image_without_spending(
        self, router: RouterUnderTest
    ) -> None:
        use_key(router, "openai")
        request = an_image(request_id="", quality="high")
        shown = await router.stub.Explain(explain_pb2.ExplainRequest(image=request))
        [own] = [row for row in shown.candidates if row.funding == OWN]
        assert own.worst_case_nano_usd >= 4160 * 8_000
        assert not await router.calls()

    @pytest.mark.requirement("R13")
    async def test_explain_takes_one_request(self, router: RouterUnderTest) -> None:
        both = explain_pb2.ExplainRequest(image=an_image(), speech=a_speech())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.stub.Explain(both)
        assert from_rpc_error(caught.value).metadata["field"] == "speech"

    @pytest.mark.requirement("R6")
    async def test_images_and_speech_are_estimated_side_by_side(
        self, router: RouterUnderTest
    ) -> None:
        images = explain_pb2.Workload(generation_count=10, image_count=2, input_token_count=4)
        rows = (
            await router.stub.EstimateCost(explain_pb2.EstimateCostRequest(workload=images))
        ).estimates
        by_offer = {(row.provider, row.model): row.cost_nano_usd for row in rows}
        each = 4 * 2_000 + 2 * 1056 * 8_000
        assert by_offer["openai", "openai/gpt-image-1-mini"] == 10 * each
        assert not [row for row in rows if row.model == "openai/gpt-4o-mini"]
        speech = explain_pb2.Workload(generation_count=1, character_count=1_000)
        rows = (
            await router.stub.EstimateCost(explain_pb2.EstimateCostRequest(workload=speech))
        ).estimates
        by_offer = {(row.provider, row.model): row.cost_nano_usd for row in rows}
        assert by_offer["openai", "openai/tts-1"] == 15_000_000
        assert by_offer["openai", "openai/gpt-4o-mini-tts"] == 250 * 600 + 1400 * 12_000

    @pytest.mark.requirement("R5")
    async def test_the_catalogue_tells_which_key_serves_which_work(
        self, router: RouterUnderTest
    ) -> None:
        listed = await router.stub.ListProviders(catalogue_pb2.ListProvidersRequest())
        work = {row.provider_id: set(row.capabilities) for row in listed.providers}
        assert work["stability"] == {catalogue_pb2.CAPABILITY_IMAGE}
        assert catalogue_pb2.CAPABILITY_SPEECH in work["openai"]
        assert catalogue_pb2.CAPABILITY_IMAGE not in work["deepseek"]
        found = await router.stub.GetModel(
            catalogue_pb2.GetModelRequest(name="models/openai/gpt-image-1-mini")
        )
        assert found.model.image.sizes[0] == "1024x1024"
