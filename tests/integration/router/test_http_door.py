# SPDX-License-Identifier: Apache-2.0
"""The HTTP door, driven by the official SDKs: only the base address changes."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, serve_router
from tests.support.simulated_providers import KEYS, faulty_key

ACCOUNT = {"X-Ownkey-Account": "accounts/demo"}
HELLO: Any = [{"role": "user", "content": "Say hello"}]
MINI, HAIKU = "gpt-4o-mini", "claude-haiku-4-5"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


ACME_ONLY = """
identities:
  acme: {token: true}
rules:
  - identities: [acme]
    rpcs: [ownkey.router.v1.RouterService/GenerateText]
    accounts: ["accounts/acme-*"]
"""


@pytest.fixture
async def gpt(router: RouterUnderTest) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's SDK at the door."""
    async with openai.AsyncOpenAI(
        api_key="anonymous", base_url=f"{router.http}/v1", default_headers=ACCOUNT, max_retries=2
    ) as client:
        yield client


@pytest.fixture
async def claude(router: RouterUnderTest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's SDK at the door; the account has a key there too."""
    own = stored_key("demo", "claude", "anthropic", KEYS["anthropic"])
    router.keyvault.put("demo", stored_key("demo", "main", "openai", KEYS["openai"]), own)
    async with anthropic.AsyncAnthropic(
        api_key="anonymous", base_url=router.http, default_headers=ACCOUNT, max_retries=2
    ) as client:
        yield client


def fail(router: RouterUnderTest, fault: str) -> None:
    """Let the account's only key fail."""
    router.keyvault.put("demo", stored_key("demo", "main", "openai", faulty_key("openai", fault)))
    router.ledger.mode = "OWN_KEY_ONLY"


def put_revoked_before(router: RouterUnderTest, provider: str) -> None:
    """Let a key that its provider refuses stand before one that serves."""
    revoked = stored_key("demo", "first", provider, faulty_key(provider, "revoked"), order=1)
    serving = stored_key("demo", "second", provider, KEYS[provider], order=2)
    router.keyvault.put("demo", revoked, serving)


class TestOpenAI:
    @pytest.mark.requirement("O9", "R1", "R12")
    async def test_a_whole_answer_with_payer_and_attempts_in_its_headers(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        request_id = str(uuid.uuid4())
        raw = await gpt.chat.completions.with_raw_response.create(
            model=MINI,
            messages=[{"role": "system", "content": "Be brief"}, *HELLO],
            max_tokens=50,
            temperature=0.5,
            extra_headers={"X-Ownkey-Request-Id": request_id},
        )
        answer = raw.parse()
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        assert answer.model == "openai/gpt-4o-mini"
        assert raw.headers["x-ownkey-payer"] == "own_key"
        assert raw.headers["x-ownkey-request-id"] == request_id
        (attempt,) = json.loads(raw.headers["x-ownkey-attempts"])
        assert attempt["outcome"] == "ok"
        assert attempt["key_hint"].endswith(KEYS["openai"][-4:])
        assert list(router.ledger.runs) == [request_id]

    @pytest.mark.requirement("O9", "R2", "R12")
    async def test_a_stream_ends_with_its_receipt_and_usage(self, gpt: openai.AsyncOpenAI) -> None:
        stream = await gpt.chat.completions.create(
            model=MINI, messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text
        ends = [c for c in chunks if c.choices and c.choices[0].finish_reason]
        assert [c.choices[0].finish_reason for c in ends] == ["stop"]
        assert ends[0].model_extra is not None
        assert ends[0].model_extra["ownkey"]["payer"] == "own_key"
        assert chunks[-1].usage is not None
        assert stream.response.headers["x-ownkey-provider"] == "openai"
        assert stream.response.headers["x-ownkey-attempts"] == "[]"

    @pytest.mark.requirement("O9", "R2", "R11", "R12")
    async def test_a_stream_s_headers_tell_the_attempts_before_the_one_that_answers(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        put_revoked_before(router, "openai")
        stream = await gpt.chat.completions.create(model=MINI, messages=HELLO, stream=True)
        (attempt,) = json.loads(stream.response.headers["x-ownkey-attempts"])
        assert (attempt["outcome"], attempt["billed"]) == ("invalid_key", "refused")
        assert [chunk async for chunk in stream]

    @pytest.mark.requirement("O9", "R1")
    async def test_tools_and_images_pass_both_ways(self, gpt: openai.AsyncOpenAI) -> None:
        tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
        picture = {"url": f"data:image/png;base64,{PNG}"}
        parts = [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": picture},
        ]
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
        }
        messages: Any = [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Rain"},
        ]
        answer = await gpt.chat.completions.create(model=MINI, messages=messages, tools=tools)
        message = answer.choices[0].message
        assert message.content or message.tool_calls

    @pytest.mark.requirement("O9", "R7")
    async def test_the_source_header_decides_who_pays(self, gpt: openai.AsyncOpenAI) -> None:
        raw = await gpt.chat.completions.with_raw_response.create(
            model=MINI, messages=HELLO, extra_headers={"X-Ownkey-Source": "credits"}
        )
        assert raw.headers["x-ownkey-payer"] == "credits"
        assert int(raw.headers["x-ownkey-charged-nano-credits"]) > 0

    @pytest.mark.requirement("O9", "R5")
    async def test_models_are_listed_and_read(self, gpt: openai.AsyncOpenAI) -> None:
        names = [model.id async for model in gpt.models.list()]
        assert "anthropic/claude-sonnet-4-6" in names
        assert (await gpt.models.retrieve(MINI)).id == "openai/gpt-4o-mini"
        with pytest.raises(openai.NotFoundError):
            await gpt.models.retrieve("nothing")


class TestAnthropic:
    @pytest.mark.requirement("O9", "R1", "R12")
    async def test_a_whole_answer(self, claude: anthropic.AsyncAnthropic) -> None:
        raw = await claude.messages.with_raw_response.create(
            model=HAIKU, max_tokens=50, messages=HELLO, system="Be brief"
        )
        message = await raw.parse()
        assert message.content[0].type == "text"
        assert message.content[0].text
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 0
        assert raw.headers["x-ownkey-payer"] == "own_key"
        assert raw.headers["x-ownkey-provider"] == "anthropic"

    @pytest.mark.requirement("O9", "R2")
    async def test_a_stream(self, claude: anthropic.AsyncAnthropic) -> None:
        """The SDK's own accumulator finds a message, a block and an end."""
        async with claude.messages.stream(model=HAIKU, max_tokens=50, messages=HELLO) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            message = await stream.get_final_message()
        assert text
        assert message.content[0].type == "text"
        assert message.content[0].text == text
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 0

    @pytest.mark.requirement("O9", "R2", "R11", "R12")
    async def test_a_stream_s_headers_tell_the_attempts_before_the_one_that_answers(
        self, router: RouterUnderTest, claude: anthropic.AsyncAnthropic
    ) -> None:
        put_revoked_before(router, "anthropic")
        async with claude.messages.stream(model=HAIKU, max_tokens=50, messages=HELLO) as stream:
            (attempt,) = json.loads(stream.response.headers["x-ownkey-attempts"])
            assert await stream.get_final_message()
        assert (attempt["outcome"], attempt["billed"]) == ("invalid_key", "refused")

    @pytest.mark.requirement("O9", "R1")
    async def test_tools_and_images_pass_both_ways(self, claude: anthropic.AsyncAnthropic) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        used = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "Rain"}
        messages: Any = [
            {"role": "user", "content": [{"type": "image", "source": source}]},
            {"role": "assistant", "content": [used]},
            {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
        ]
        tools: Any = [{"name": "weather", "input_schema": WEATHER}]
        async with claude.messages.stream(
            model=HAIKU, max_tokens=50, messages=messages, tools=tools
        ) as stream:
            message = await stream.get_final_message()
        assert message.content

    @pytest.mark.requirement("O9", "R1")
    async def test_thinking_comes_back_as_blocks(self, claude: anthropic.AsyncAnthropic) -> None:
        """Whole and streamed, with the signature that lets it be handed back."""
        asked: Any = {
            "model": HAIKU,
            "max_tokens": 3_000,
            "messages": HELLO,
            "thinking": {"type": "enabled", "budget_tokens": 2_000},
        }
        whole = await claude.messages.create(**asked)
        async with claude.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            assert [block.type for block in message.content] == ["thinking", "text"]
            assert message.content[0].type == "thinking"
            assert message.content[0].signature
        again: Any = [*HELLO, {"role": "assistant", "content": whole.content}, *HELLO]
        assert (await claude.messages.create(**{**asked, "messages": again})).content

    @pytest.mark.requirement("O9", "R1")
    async def test_a_forced_tool_is_called(self, claude: anthropic.AsyncAnthropic) -> None:
        tools: Any = [{"name": "weather", "input_schema": WEATHER}]
        message = await claude.messages.create(
            model=HAIKU,
            max_tokens=50,
            messages=HELLO,
            tools=tools,
            tool_choice={"type": "tool", "name": "weather"},
            extra_body={"top_k": 5},
        )
        assert message.stop_reason == "tool_use"
        with pytest.raises(anthropic.BadRequestError, match=r"input\.tool_choice\.name"):
            await claude.messages.create(
                model=HAIKU,
                max_tokens=50,
                messages=HELLO,
                tools=tools,
                tool_choice={"type": "tool", "name": "clock"},
            )

    @pytest.mark.requirement("O9", "R5", "R11")
    async def test_models_and_errors_have_its_shape(
        self, router: RouterUnderTest, claude: anthropic.AsyncAnthropic
    ) -> None:
        names = [model.id async for model in claude.models.list()]
        assert "anthropic/claude-haiku-4-5" in names
        with pytest.raises(anthropic.BadRequestError) as caught:
            await claude.messages.create(
                model=HAIKU, max_tokens=50, messages=HELLO, extra_body={"container": "c1"}
            )
        body: Any = caught.value.body
        assert body["type"] == "error"
        assert "container" in body["error"]["message"]
        assert not router.ledger.asked


class TestFailures:
    @pytest.mark.requirement("O9", "R11")
    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            ("revoked", 424, "key_invalid"),
            ("nocredit", 402, "key_no_credit"),
            ("forbidden", 424, "key_forbidden"),
        ],
    )
    async def test_what_is_wrong_with_the_key_reads_as_that(
        self,
        router: RouterUnderTest,
        gpt: openai.AsyncOpenAI,
        fault: str,
        status: int,
        code: str,
    ) -> None:
        """Never 401: that would be this door's own key. The SDK does not try again."""
        fail(router, fault)
        with pytest.raises(openai.APIStatusError) as caught:
            await gpt.chat.completions.create(model=MINI, messages=HELLO)
        assert caught.value.status_code == status
        assert caught.value.code == code
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert json.loads(caught.value.response.headers["x-ownkey-attempts"])
        assert len(router.ledger.runs) == 1

    @pytest.mark.requirement("O9", "R11", "R14")
    async def test_after_a_billable_attempt_the_sdk_does_not_repeat_it(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        """A 503 that it would otherwise send three times."""
        fail(router, "down")
        with pytest.raises(openai.InternalServerError) as caught:
            await gpt.chat.completions.create(model=MINI, messages=HELLO)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(router.ledger.runs) == 1

    @pytest.mark.requirement("O9", "R2")
    async def test_a_stream_cut_upstream_raises_in_the_sdk(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        fail(router, "cut")
        stream = await gpt.chat.completions.create(model=MINI, messages=HELLO, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "stream_broken"
        assert isinstance(caught.value.body, dict)
        (attempt,) = caught.value.body["attempts"]
        assert attempt["billed"] == "maybe_billed"

    @pytest.mark.requirement("O9", "R2", "L9")
    async def test_a_caller_that_leaves_a_stream_is_settled(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        """As on gRPC: the call is cancelled, and what was delivered is captured."""
        fail(router, "stall")
        stream = await gpt.chat.completions.create(model=MINI, messages=HELLO, stream=True)
        await anext(stream)
        await stream.close()
        async with asyncio.timeout(15):
            while not router.ledger.settled:
                await asyncio.sleep(0.02)
        assert router.ledger.settled[0].HasField("capture")
        assert not router.ledger.settled[0].capture.end.succeeded

    @pytest.mark.requirement("O9", "R14", "R15")
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_repeat_says_that_the_text_is_not_kept(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI, stream: bool
    ) -> None:
        """An empty answer would read as the model's."""
        headers = {"X-Ownkey-Request-Id": str(uuid.uuid4())}
        await gpt.chat.completions.create(model=MINI, messages=HELLO, extra_headers=headers)
        with pytest.raises(openai.ConflictError) as caught:
            await gpt.chat.completions.create(
                model=MINI, messages=HELLO, extra_headers=headers, stream=stream
            )
        assert caught.value.code == "answer_not_kept"
        assert len(await router.calls()) == 1

    @pytest.mark.requirement("O9", "R11")
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"n": 2}, "n"),
            ({"logit_bias": {"5": 1}}, "logit_bias"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"temperature": 9}, "temperature"),
            ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
            ({"messages": []}, "messages"),
            ({"extra_body": {"providers": ["x"]}}, "providers"),
            ({"extra_headers": {"X-Ownkey-Account": "demo"}}, "account"),
            ({"extra_headers": {"X-Ownkey-Source": "both"}}, "X-Ownkey-Source"),
            ({"extra_headers": {"X-Ownkey-Request-Id": "7"}}, "request_id"),
        ],
    )
    async def test_what_is_not_served_is_refused_by_name(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI, fields: dict[str, Any], param: str
    ) -> None:
        """Never passed over: it would change the answer unseen."""
        call: dict[str, Any] = {"model": MINI, "messages": HELLO, **fields}
        with pytest.raises(openai.BadRequestError) as caught:
            await gpt.chat.completions.create(**call)
        assert caught.value.param == param
        assert not router.ledger.asked

    @pytest.mark.requirement("O9", "R11")
    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'"x"', b"{", b'{"messages":"\\ud800"}', b"[" * 100_000, b"\xff"]
    )
    async def test_a_body_that_is_no_request_is_refused(
        self, router: RouterUnderTest, body: bytes
    ) -> None:
        async with (
            aiohttp.ClientSession(headers=ACCOUNT) as session,
            session.post(f"{router.http}/v1/chat/completions", data=body) as answer,
        ):
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "invalid_argument"

    @pytest.mark.requirement("O9")
    async def test_a_path_that_is_not_there_says_what_is(self, router: RouterUnderTest) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{router.http}/v1/embeddings") as answer,
        ):
            assert answer.status == 404
            assert "/v1/chat/completions" in (await answer.json())["error"]["message"]


class TestRepeatsOfTheSDK:
    """What an SDK sends again by itself is the same request; what a caller sends again is not."""

    @pytest.mark.requirement("O9", "R14")
    async def test_an_idempotency_key_names_the_request(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        headers = {"Idempotency-Key": "order-17"}
        await gpt.chat.completions.create(model=MINI, messages=HELLO, extra_headers=headers)
        with pytest.raises(openai.ConflictError) as caught:
            await gpt.chat.completions.create(model=MINI, messages=HELLO, extra_headers=headers)
        assert caught.value.code == "answer_not_kept"
        assert len(await router.calls()) == 1
        other = {**headers, "X-Ownkey-Account": "accounts/other"}
        router.keyvault.put("other", stored_key("other", "main", "openai", KEYS["openai"]))
        await gpt.chat.completions.create(model=MINI, messages=HELLO, extra_headers=other)
        with pytest.raises(openai.BadRequestError) as refused:
            await gpt.chat.completions.create(
                model=MINI, messages=HELLO, extra_headers={"Idempotency-Key": "x" * 256}
            )
        assert refused.value.param == "Idempotency-Key"

    @pytest.mark.requirement("O9", "R14")
    async def test_after_a_timeout_it_repeats_the_same_request(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        """The SDK gives up waiting and sends it again, with nothing but a count of its tries."""
        fail(router, "slow")
        hurried = gpt.with_options(timeout=0.7, max_retries=1)
        with pytest.raises(openai.APIError):
            await hurried.chat.completions.create(model=MINI, messages=HELLO)
        assert len({ask.request_id for ask in router.ledger.asked}) == 1

    @pytest.mark.requirement("O9", "R14")
    async def test_equal_calls_of_a_caller_are_requests_of_their_own(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        for _ in range(2):
            await gpt.chat.completions.create(model=MINI, messages=HELLO)
        assert len(await router.calls()) == 2


class TestIdentity:
    @pytest.mark.requirement("O5", "O9")
    async def test_a_caller_reaches_only_the_accounts_of_its_rule(self, tmp_path: Path) -> None:
        policy, token = tmp_path / "policy.yaml", tmp_path / "acme"
        policy.write_text(ACME_ONLY)
        token.write_text("acme-token-0123456789")
        token.chmod(0o600)
        async with (
            serve_router(tmp_path, OWNKEY_ROUTER_POLICY_FILE=str(policy)) as router,
            openai.AsyncOpenAI(
                api_key=token.read_text(), base_url=f"{router.http}/v1", max_retries=0
            ) as gpt,
        ):
            own = stored_key("acme-1", "main", "openai", KEYS["openai"])
            router.keyvault.put("acme-1", own)
            for account in ("accounts/demo", "accounts/acme", ""):
                headers = {"X-Ownkey-Account": account} if account else {}
                with pytest.raises(openai.PermissionDeniedError):
                    await gpt.chat.completions.create(
                        model=MINI, messages=HELLO, extra_headers=headers
                    )
            assert not router.ledger.asked
            served = await gpt.chat.completions.create(
                model=MINI, messages=HELLO, extra_headers={"X-Ownkey-Account": "accounts/acme-1"}
            )
            assert served.choices

    @pytest.mark.requirement("O5", "O9", "R16")
    async def test_a_providers_key_is_refused_not_passed_over(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI
    ) -> None:
        client = gpt.with_options(api_key=KEYS["openai"])
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model=MINI, messages=HELLO)
        assert "keyvault" in caught.value.message
        assert KEYS["openai"] not in caught.value.message
        assert not await router.calls()

    @pytest.mark.requirement("O5", "O9")
    @pytest.mark.parametrize(("identity", "allowed"), [("operator", True), ("keyvault", False)])
    async def test_a_service_token_is_the_callers_identity(
        self, router: RouterUnderTest, gpt: openai.AsyncOpenAI, identity: str, allowed: bool
    ) -> None:
        client = gpt.with_options(api_key=(router.tokens / identity).read_text().strip())
        if allowed:
            assert (await client.chat.completions.create(model=MINI, messages=HELLO)).choices
        else:
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model=MINI, messages=HELLO)
