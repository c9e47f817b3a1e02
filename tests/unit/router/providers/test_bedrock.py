# SPDX-License-Identifier: Apache-2.0
"""Bedrock: signatures, requests, answers and streams."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ImagePart,
    ImageURLPart,
    Message,
    ReasoningDelta,
    ReasoningEffort,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
)
from services.router.providers.base import CredentialMalformedError, HTTPRequest, ProviderError
from services.router.providers.bedrock import BEDROCK
from services.router.providers.bedrock_credential import AccessKey, read_access, sign
from services.router.providers.hosts import ANY_HOST
from services.shared.secret import Secret
from simulator.converse_format import event, exception
from simulator.credentials import access_key, short_term_key
from tests.support.provider_streams import (
    NOW,
    arguments_of,
    assert_cuts_agree,
    credential,
    drain,
    text_call,
    text_of,
)

HOST = "https://example.amazonaws.com"
SUITE_TIME = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}}}'
CLAUDE = "us.anthropic.claude-sonnet-4-6"
NOVA = "us.amazon.nova-2-lite-v1:0"


@pytest.mark.requirement("R4")
class TestSignature:
    def test_a_session_token_is_sent_and_signed(self) -> None:
        key = AccessKey("ASIAEXAMPLE", Secret("secret"), Secret("token"))
        request = HTTPRequest("GET", HOST, {})
        headers = sign(request, key, region="us-east-1", url=HOST, now=SUITE_TIME).headers
        assert headers["x-amz-security-token"] == "token"
        assert "x-amz-security-token" in headers["authorization"]

    @pytest.mark.parametrize(
        "model", [NOVA, "arn:aws:bedrock:us-east-1:123456789012:inference-profile/x"]
    )
    def test_a_model_s_name_is_encoded_in_the_address_and_again_in_the_signature(
        self, model: str
    ) -> None:
        secret = credential(access_key("AKIA_sim_0123456789"))
        built = BEDROCK.build_request(text_call(model=model), secret, base_url=ANY_HOST)
        request = BEDROCK.authorize(built, secret, base_url=ANY_HOST, now=SUITE_TIME)
        once = model.replace(":", "%3A").replace("/", "%2F")
        host = "bedrock-runtime.us-east-1.amazonaws.com"
        assert request.url == f"https://{host}/model/{once}/converse"
        assert request.headers["authorization"].endswith(
            _signature(request, host, f"/model/{once.replace('%', '%25')}/converse")
        )

    def test_the_provider_s_own_address_is_signed_wherever_it_is_sent(self) -> None:
        secret = credential(access_key("AKIA_sim_0123456789"))
        signatures = set()
        for base_url in (ANY_HOST, "http://127.0.0.1:7190/amazon-bedrock/{host}"):
            built = BEDROCK.build_request(text_call(model=NOVA), secret, base_url=base_url)
            request = BEDROCK.authorize(built, secret, base_url=base_url, now=SUITE_TIME)
            signatures.add(request.headers["authorization"])
        assert len(signatures) == 1


def _signature(request: HTTPRequest, host: str, canonical_path: str) -> str:
    """Compute a signature step by step, as the page on signing describes it."""
    headers = {**request.headers, "host": host}
    names = sorted(set(headers) - {"authorization"})
    canonical = "\n".join(
        [
            request.method, canonical_path, "",
            *(f"{name}:{headers[name]}" for name in names), "",
            ";".join(names), hashlib.sha256(request.body).hexdigest(),
        ]
    )  # fmt: skip
    scope = "20150830/us-east-1/bedrock/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n20150830T123600Z\n{scope}\n{digest}"
    key = b"AWS4" + json.loads(access_key("AKIA_sim_0123456789"))["secretAccessKey"].encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


@pytest.mark.requirement("K11")
class TestCredentials:
    def test_a_short_term_key_names_its_region_and_others_take_the_default(self) -> None:
        found = read_access(credential(short_term_key("eu-west-3")), default_region="us-east-1")
        assert found.region == "eu-west-3"
        for key in ("ABSKxyz", "bedrock-api-key-!", "bedrock-api-key-/w==", "bedrock-api-key-YQ=="):
            assert read_access(credential(key), default_region="us-west-2").region == "us-west-2"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"accessKeyId": "short"}, "accessKeyId"),
            ({"secretAccessKey": ""}, "secretAccessKey"),
            ({"secretAccessKey": "canary canary"}, "secretAccessKey"),
            ({"region": "US East"}, "region"),
            ({"region": 5}, "region"),
            ({"accessKeyId": "ASIA0123456789ABCDEF"}, "sessionToken"),
            ({"more": "canary"}, "more"),
        ],
    )
    def test_each_fault_is_named_by_its_field(self, change: dict[str, Any], field: str) -> None:
        fields = {**json.loads(access_key("AKIA_sim_0123456789")), **change}
        with pytest.raises(CredentialMalformedError) as refused:
            read_access(credential(json.dumps(fields)), default_region="us-east-1")
        assert [fault.field for fault in refused.value.faults] == [field]
        assert "canary" not in str(refused.value)

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_other_json_is_refused(self, text: str) -> None:
        with pytest.raises(CredentialMalformedError):
            read_access(credential(text), default_region="us-east-1")


def body_of(**fields: Any) -> Any:
    request = BEDROCK.build_request(
        text_call(**{"model": CLAUDE, **fields}), credential("ABSK"), base_url=ANY_HOST
    )
    return msgspec.json.decode(request.body)


@pytest.mark.requirement("R1")
class TestRequests:
    def test_the_whole_of_a_call_is_taken(self) -> None:
        talk = (
            Message(Role.USER, (TextPart("see"), ImagePart("image/png", b"\x89PNG"))),
            Message(
                Role.ASSISTANT,
                (
                    ReasoningPart("hm", "proof"),
                    ReasoningPart("", "redacted:b3Bh"),
                    ReasoningPart("bare", ""),
                    ToolCall("c1", "lookup", '{"a":1}'),
                    ToolCall("c2", "lookup", "not json"),
                ),
            ),
            Message(Role.TOOL, (ToolResult("c1", "found"),)),
            Message(Role.TOOL, (ToolResult("c2", "gone", failed=True),)),
        )
        body = body_of(
            system="be brief", messages=talk, temperature=0.5, stop=("x",),
            tools=(Tool("lookup", "Looks up", SCHEMA), Tool("other", "", SCHEMA)),
            response_schema=ResponseSchema("answer", SCHEMA),
        )  # fmt: skip
        assert body["system"] == [{"text": "be brief"}]
        config = {"maxTokens": 100, "temperature": 0.5, "stopSequences": ["x"]}
        assert body["inferenceConfig"] == config
        specs = [tool["toolSpec"] for tool in body["toolConfig"]["tools"]]
        assert specs[0]["inputSchema"]["json"]["type"] == "object"
        assert ["description" in spec for spec in specs] == [True, False]
        schema = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        assert schema == {"schema": SCHEMA, "name": "answer"}
        user, assistant, results = body["messages"]
        assert user["content"][1]["image"] == {"format": "png", "source": {"bytes": "iVBORw=="}}
        thinking, redacted, bare, call, bad_call = assistant["content"]
        assert thinking["reasoningContent"]["reasoningText"] == {"text": "hm", "signature": "proof"}
        assert redacted["reasoningContent"] == {"redactedContent": "b3Bh"}
        assert bare["reasoningContent"]["reasoningText"] == {"text": "bare"}
        assert call["toolUse"] == {"toolUseId": "c1", "name": "lookup", "input": {"a": 1}}
        assert bad_call["toolUse"]["input"] == {"arguments": "not json"}
        assert [b["toolResult"].get("status") for b in results["content"]] == [None, "error"]

    @pytest.mark.parametrize(
        ("model", "effort", "fields"),
        [
            (
                CLAUDE,
                "high",
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            ),
            (
                "anthropic.claude-haiku-4-5-20251001-v1:0",
                "low",
                {"thinking": {"type": "enabled", "budget_tokens": 1999}},
            ),
            (NOVA, "low", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}),
            ("openai.gpt-oss-20b-1:0", "high", {"reasoning_effort": "high"}),
            (NOVA, "none", None),
        ],
    )  # fmt: skip
    def test_the_effort_is_said_in_each_vendor_s_way(
        self, model: str, effort: str, fields: dict[str, Any] | None
    ) -> None:
        body = body_of(
            model=model, reasoning_effort=ReasoningEffort(effort), max_output_tokens=2000
        )
        assert body.get("additionalModelRequestFields") == fields

    @pytest.mark.parametrize(
        ("fields", "unsupported"),
        [
            ({"seed": 1}, ["seed"]),
            ({"seed": 1, "model": NOVA}, ["seed"]),
            ({"model": NOVA, "reasoning_effort": ReasoningEffort.HIGH}, ["reasoning_effort"]),
            (
                {"model": "meta.llama3", "reasoning_effort": ReasoningEffort.LOW},
                ["reasoning_effort"],
            ),
            (
                {"messages": (Message(Role.USER, (ImageURLPart("https://x"),)),)},
                ["messages.image_url"],
            ),
            (
                {"messages": (Message(Role.USER, (ImagePart("image/tiff", b"x"),)),)},
                ["messages.image.media_type"],
            ),
            ({"model": NOVA, "temperature": 0.5, "top_p": 0.5}, []),
        ],
    )
    def test_what_is_lacking_is_named(self, fields: dict[str, Any], unsupported: list[str]) -> None:
        assert BEDROCK.unsupported(text_call(**{"model": CLAUDE, **fields})) == unsupported


def delta(index: int, **fields: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": fields})


USAGE = {"inputTokens": 5, "outputTokens": 7, "totalTokens": 15, "cacheReadInputTokens": 2,
         "cacheWriteInputTokens": 1}  # fmt: skip
END = event("messageStop", {"stopReason": "tool_use"}) + event("metadata", {"usage": USAGE})
TALK = b"".join(
    [
        event("messageStart", {"role": "assistant"}),
        delta(0, reasoningContent={"text": "hm"}),
        delta(0, reasoningContent={"signature": "proof"}),
        event("contentBlockStop", {"contentBlockIndex": 0}),
        delta(1, text="Olá"),
        event("unheardOf", {"x": 1}),
        event(
            "contentBlockStart",
            {
                "contentBlockIndex": 2,
                "start": {"toolUse": {"toolUseId": "t1", "name": "lookup"}},
            },
        ),
        delta(2, toolUse={"input": '{"a"'}),
        delta(2, toolUse={"input": ":1}"}),
        END,
    ]
)


def decoder() -> Any:
    return BEDROCK.stream_decoder(now=NOW)


@pytest.mark.requirement("R2")
class TestStream:
    def test_every_kind_of_piece_is_read(self) -> None:
        events, error = drain(decoder(), [TALK])
        assert error is None
        assert text_of(events) == "Olá"
        assert ReasoningDelta("", "proof") in events
        assert ToolCallDelta(0, "t1", "lookup", "") in events
        assert arguments_of(events, 0) == '{"a":1}'
        end = events[-1]
        assert isinstance(end, Finished)
        assert end.finish_reason is FinishReason.TOOL_CALLS
        assert end.usage is not None
        assert (end.usage.input_tokens, end.usage.output_tokens) == (8, 7)
        assert (end.usage.cached_input_tokens, end.usage.cache_write_tokens) == (2, 1)

    def test_any_cut_gives_the_same(self) -> None:
        assert_cuts_agree(decoder, TALK, range(0, len(TALK), 17))

    def test_a_failure_comes_after_what_was_said(self) -> None:
        data = delta(0, text="Hi") + exception("throttlingException", "Too many tokens")
        events, error = drain(decoder(), [data])
        assert text_of(events) == "Hi"
        assert error is not None
        assert (error.outcome, error.http_status) == (Outcome.RATE_LIMITED, 200)
        assert "Too many" not in str(error)

    @pytest.mark.parametrize(
        ("name", "outcome"),
        [
            ("validationException", Outcome.INVALID_REQUEST),
            ("modelStreamErrorException", Outcome.SERVER_ERROR),
            ("serviceUnavailableException", Outcome.OVERLOADED),
            ("internalServerException", Outcome.SERVER_ERROR),
            ("modelTimeoutException", Outcome.TIMEOUT),
        ],
    )
    def test_each_exception_has_its_outcome(self, name: str, outcome: Outcome) -> None:
        _, error = drain(decoder(), [exception(name, "x")])
        assert error is not None
        assert error.outcome is outcome

    @pytest.mark.parametrize(
        ("data", "outcome"),
        [
            (TALK[: -len(END)], Outcome.NETWORK),
            (TALK[:-5], Outcome.NETWORK),
            (event("metadata", {"usage": USAGE}), Outcome.NETWORK),
            (TALK[: -len(END)] + b"\0" * 16, Outcome.SERVER_ERROR),
            (event("chunk", {"bytes": "!"}), Outcome.SERVER_ERROR),
        ],
    )
    def test_without_its_end_it_is_an_error(self, data: bytes, outcome: Outcome) -> None:
        _, error = drain(decoder(), [data])
        assert error is not None
        assert error.outcome is outcome

    def test_an_anthropic_model_s_events_stand_inside_chunks(self) -> None:
        inner: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}},
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
             "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        ]  # fmt: skip
        data = b"".join(
            event("chunk", {"bytes": base64.b64encode(msgspec.json.encode(item)).decode()})
            for item in inner
        )
        events, error = drain(decoder(), [data])
        assert error is None
        assert text_of(events) == "Hi"
        assert isinstance(events[-1], Finished)
        assert events[-1].model == "m"
        assert_cuts_agree(decoder, data, range(0, len(data), 13))


class TestAnswers:
    @pytest.mark.requirement("R1")
    def test_a_whole_answer_is_read(self) -> None:
        content = [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "proof"}}},
            {"text": "Hi"},
            {"toolUse": {"toolUseId": "t", "name": "lookup", "input": {"a": 1}}},
        ]
        body = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": "tool_use",
            "usage": USAGE,
        }
        answer = BEDROCK.parse_response(200, {}, msgspec.json.encode(body), now=NOW)
        assert (answer.text, answer.reasoning, answer.reasoning_signature) == ("Hi", "hm", "proof")
        assert answer.tool_calls == (ToolCall("t", "lookup", '{"a":1}'),)

    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize(
        "body", [b"{}", b"x", b"[]", b'{"output":{}}', b'{"output":{"message":{"content":[]}}}']
    )
    def test_what_is_no_answer_is_an_error(self, body: bytes) -> None:
        with pytest.raises(ProviderError) as failed:
            BEDROCK.parse_response(200, {}, body, now=NOW)
        assert failed.value.outcome is Outcome.SERVER_ERROR

    @pytest.mark.requirement("R11", "K3")
    @pytest.mark.parametrize(
        ("status", "kind", "message", "outcome"),
        [
            (403, "UnrecognizedClientException", "x", Outcome.INVALID_KEY),
            (403, "InvalidSignatureException", "x", Outcome.INVALID_KEY),
            (403, "ExpiredTokenException", "x", Outcome.EXPIRED_CREDENTIALS),
            (403, "", "Bearer Token has expired", Outcome.EXPIRED_CREDENTIALS),
            (403, "", "Authentication failed: Please make sure", Outcome.INVALID_KEY),
            (403, "", "Invalid API Key format: Must start", Outcome.INVALID_KEY),
            (403, "AccessDeniedException", "no access to the model", Outcome.PERMISSION_DENIED),
            (403, "AccessDeniedException", "INVALID_PAYMENT_INSTRUMENT",
             Outcome.INSUFFICIENT_CREDIT),
            (400, "ValidationException", "The provided model identifier is invalid.",
             Outcome.MODEL_NOT_FOUND),
            (400, "ValidationException", "Input is too long for requested model.",
             Outcome.CONTEXT_LENGTH),
            (400, "ValidationException", "x", Outcome.INVALID_REQUEST),
            (404, "ResourceNotFoundException", "x", Outcome.MODEL_NOT_FOUND),
            (408, "ModelTimeoutException", "x", Outcome.TIMEOUT),
            (424, "ModelErrorException", "x", Outcome.SERVER_ERROR),
            (429, "ThrottlingException", "Too many tokens, please wait", Outcome.RATE_LIMITED),
            (429, "ModelNotReadyException", "x", Outcome.OVERLOADED),
            (503, "ServiceUnavailableException", "x", Outcome.OVERLOADED),
        ],
    )  # fmt: skip
    def test_each_refusal_has_its_outcome(
        self, status: int, kind: str, message: str, outcome: Outcome
    ) -> None:
        headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/"} if kind else {}
        body = msgspec.json.encode({"Message": message})
        error = BEDROCK.parse_error(status, headers, body, now=NOW)
        assert error.outcome is outcome

    @pytest.mark.requirement("R10")
    def test_a_daily_quota_is_not_waited_for(self) -> None:
        body = b'{"message":"Too many tokens per day, please wait"}'
        headers = {"x-amzn-errortype": "ThrottlingException"}
        assert BEDROCK.parse_error(429, headers, body, now=NOW).retryable is False

    @pytest.mark.requirement("K3")
    def test_a_missing_action_is_named(self) -> None:
        body = b'{"message":"x is not authorized to perform: bedrock:InvokeModel on y"}'
        error = BEDROCK.parse_error(403, {}, body, now=NOW)
        assert error.missing_permission == "bedrock:InvokeModel"
