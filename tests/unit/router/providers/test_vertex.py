# SPDX-License-Identifier: Apache-2.0
"""Vertex: addresses, the exchange of credentials, and both publishers' answers."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from google.auth import jwt

from services.router.domain.outcomes import Outcome
from services.router.domain.text import Finished, ImageURLPart, Message, Role
from services.router.providers.base import CredentialMalformedError, ProviderError
from services.router.providers.hosts import ANY_HOST
from services.router.providers.vertex import VERTEX
from services.router.providers.vertex_credential import read_token
from simulator.credentials import service_account
from tests.support.provider_streams import (
    NOW,
    assert_cuts_agree,
    credential,
    drain,
    sse,
    text_call,
    text_of,
)
from tests.support.simulated_providers import PRIVATE_KEY

CLAUDE = "claude-haiku-4-5@20251001"


def account(**change: Any) -> Any:
    fields = json.loads(service_account(private_key=PRIVATE_KEY))
    return credential(json.dumps({**fields, **change}))


@pytest.mark.requirement("R4", "K11")
class TestRequests:
    @pytest.mark.parametrize(
        ("region", "host"),
        [
            ("global", "aiplatform.googleapis.com"),
            ("us-east5", "us-east5-aiplatform.googleapis.com"),
        ],
    )
    @pytest.mark.parametrize(
        ("model", "stream", "path"),
        [
            ("gemini-2.5-flash", False, "google/models/gemini-2.5-flash:generateContent"),
            (
                "gemini-2.5-flash",
                True,
                "google/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            ),
            (CLAUDE, False, f"anthropic/models/{CLAUDE}:rawPredict"),
            (CLAUDE, True, f"anthropic/models/{CLAUDE}:streamRawPredict"),
        ],
    )
    def test_region_and_publisher_make_the_address(
        self, region: str, host: str, model: str, path: str, *, stream: bool
    ) -> None:
        call = text_call(model=model, stream=stream)
        request = VERTEX.build_request(call, account(region=region), base_url=ANY_HOST)
        base = f"https://{host}/v1/projects/simulated-project/locations/{region}"
        assert request.url == f"{base}/publishers/{path}"

    @pytest.mark.requirement("R1")
    def test_claude_takes_messages_without_their_model(self) -> None:
        call = text_call(model=CLAUDE, stream=True)
        request = VERTEX.build_request(call, account(), base_url=ANY_HOST)
        body = msgspec.json.decode(request.body)
        assert body["anthropic_version"] == "vertex-2023-10-16"
        assert body["stream"] is True
        assert "model" not in body

    @pytest.mark.requirement("R8")
    def test_what_a_publisher_lacks_is_named(self) -> None:
        talk = (Message(Role.USER, (ImageURLPart("https://x"),)),)
        for model in (CLAUDE, "gemini-2.5-flash"):
            call = text_call(model=model, messages=talk)
            assert VERTEX.unsupported(call) == ["messages.image_url"]
        assert VERTEX.unsupported(text_call(model=CLAUDE, seed=1)) == ["seed"]


@pytest.mark.requirement("K11")
class TestExchange:
    def test_an_assertion_is_posted_to_google(self) -> None:
        exchange = VERTEX.exchange(account(), base_url=ANY_HOST, now=NOW)
        assert exchange is not None
        assert exchange.request.url == "https://oauth2.googleapis.com/token"
        form = parse_qs(exchange.request.body.decode())
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        claims = jwt.decode(form["assertion"][0], verify=False)
        assert claims["aud"] == "https://oauth2.googleapis.com/token"
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        assert claims["exp"] - claims["iat"] == 3600
        assert claims["iat"] == int(NOW.timestamp())
        answer = b'{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}'
        token = exchange.read(200, {}, answer, now=NOW)
        assert token.secret.reveal() == "ya29.x"
        assert token.expire_time == NOW + timedelta(seconds=3599)

    @pytest.mark.parametrize(
        ("status", "body", "outcome"),
        [
            (400, {"error": "invalid_grant"}, Outcome.INVALID_KEY),
            (401, {"error": "invalid_client"}, Outcome.INVALID_KEY),
            (400, {}, Outcome.INVALID_KEY),
            (403, {"error": "access_denied"}, Outcome.PERMISSION_DENIED),
            (503, {}, Outcome.OVERLOADED),
            (200, {}, Outcome.SERVER_ERROR),
            (200, {"access_token": "x"}, Outcome.SERVER_ERROR),
        ],
    )
    def test_each_refusal_has_its_outcome(
        self, status: int, body: dict[str, Any], outcome: Outcome
    ) -> None:
        with pytest.raises(ProviderError) as failed:
            read_token(status, {}, msgspec.json.encode(body), now=NOW)
        assert failed.value.outcome is outcome

    @pytest.mark.requirement("R16")
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"type": "authorized_user"}, "type"),
            ({"project_id": ""}, "project_id"),
            ({"project_id": "x/../y"}, "project_id"),
            ({"client_email": "x"}, "client_email"),
            ({"private_key": "canary"}, "private_key"),
            ({"region": "us.evil.org/"}, "region"),
            ({"token_uri": "https://evil.org/token"}, "token_uri"),
            ({"token_uri": "https://googleapis.com.evil.org/token"}, "token_uri"),
            ({"token_uri": "http://oauth2.googleapis.com/token"}, "token_uri"),
        ],
    )
    def test_each_fault_is_named_before_anything_is_sent(
        self, change: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(CredentialMalformedError) as refused:
            VERTEX.exchange(account(**change), base_url=ANY_HOST, now=NOW)
        assert [fault.field for fault in refused.value.faults] == [field]
        assert "canary" not in str(refused.value)

    def test_a_private_key_that_is_none_is_named(self) -> None:
        key = "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----"
        with pytest.raises(CredentialMalformedError) as refused:
            VERTEX.exchange(account(private_key=key), base_url=ANY_HOST, now=NOW)
        assert refused.value.faults[0].field == "private_key"

    def test_text_that_is_no_json_is_refused(self) -> None:
        with pytest.raises(CredentialMalformedError):
            VERTEX.exchange(credential("canary"), base_url=ANY_HOST, now=NOW)


def claude(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + sse({"type": kind, **fields})


CLAUDE_STREAM = b"".join(
    [
        claude("message_start", message={"model": "m", "usage": {"input_tokens": 3}}),
        claude("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
        claude("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        claude("message_stop"),
    ]
)
GEMINI_STREAM = sse(
    {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}
)


@pytest.mark.requirement("R2")
class TestStreams:
    @pytest.mark.parametrize("data", [CLAUDE_STREAM, GEMINI_STREAM])
    def test_either_publisher_s_stream_is_read(self, data: bytes) -> None:
        events, error = drain(VERTEX.stream_decoder(now=NOW), [data])
        assert error is None
        assert text_of(events) == "Hi"
        assert isinstance(events[-1], Finished)
        assert_cuts_agree(lambda: VERTEX.stream_decoder(now=NOW), data, range(0, len(data), 7))

    @pytest.mark.parametrize(
        ("tail", "outcome"),
        [
            (b"", Outcome.NETWORK),
            (claude("error", error={"type": "overloaded_error"}), Outcome.OVERLOADED),
            (b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}', Outcome.RATE_LIMITED),
        ],
    )
    def test_a_failure_in_either_s_words_is_one(self, tail: bytes, outcome: Outcome) -> None:
        data = CLAUDE_STREAM[: -len(claude("message_stop"))] + tail
        _, error = drain(VERTEX.stream_decoder(now=NOW), [data])
        assert error is not None
        assert error.outcome is outcome


@pytest.mark.requirement("R11")
@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (401, {"status": "UNAUTHENTICATED"}, Outcome.INVALID_KEY),
        (403, {"status": "PERMISSION_DENIED"}, Outcome.PERMISSION_DENIED),
        (
            403,
            {"status": "PERMISSION_DENIED", "details": [{"reason": "BILLING_DISABLED"}]},
            Outcome.INSUFFICIENT_CREDIT,
        ),
        (404, {"status": "NOT_FOUND"}, Outcome.MODEL_NOT_FOUND),
        (429, {"status": "RESOURCE_EXHAUSTED"}, Outcome.RATE_LIMITED),
        (503, {"status": "UNAVAILABLE"}, Outcome.OVERLOADED),
    ],
)
def test_each_refusal_has_its_outcome(status: int, error: Any, outcome: Outcome) -> None:
    body = msgspec.json.encode([{"error": {"code": status, "message": "x", **error}}])
    assert VERTEX.parse_error(status, {}, body, now=NOW).outcome is outcome


@pytest.mark.requirement("R11")
def test_claude_s_own_words_are_understood_whole_and_refused() -> None:
    body = b'{"type":"error","error":{"type":"rate_limit_error","message":"x"}}'
    assert VERTEX.parse_error(429, {}, body, now=NOW).outcome is Outcome.RATE_LIMITED
    with pytest.raises(ProviderError):
        VERTEX.parse_response(200, {}, body, now=NOW)
    with pytest.raises(ProviderError):
        VERTEX.parse_response(403, {}, b"{}", now=NOW)
