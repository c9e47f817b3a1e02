# SPDX-License-Identifier: Apache-2.0
"""
Google Vertex AI: Gemini and Claude under one project.

1. Gemini: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference .
2. Claude: https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai , the Messages
   body without its model, by `rawPredict` and `streamRawPredict`.
3. The location `global` has a host without a prefix.
4. Either publisher's answers are told by their bytes: both fail in Google's words as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

import msgspec

from services.router.domain.media import ImageCall
from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Completion,
    ImageURLPart,
    ReasoningEffort,
    StreamEvent,
    TextCall,
)
from services.router.domain.work import Call
from services.router.providers import anthropic, anthropic_request, gemini, gemini_request
from services.router.providers.base import (
    AccessToken,
    Credential,
    HTTPRequest,
    Probe,
    ProviderError,
    TokenExchange,
)
from services.router.providers.classify import ErrorRule, ErrorTable, decode_object
from services.router.providers.dialect import JSONDialect
from services.router.providers.gemini_images import GEMINI_IMAGES, build_image_body
from services.router.providers.hosts import ANY_HOST, address
from services.router.providers.media_format import MediaFormats
from services.router.providers.probe import FreeCallFinding, KeyProbe, ProbePlan
from services.router.providers.sse import SSEEvent
from services.router.providers.vertex_credential import (
    ServiceAccount,
    VertexExchange,
    read_service_account,
)

__all__ = ["VERTEX", "VertexDecoder", "VertexDialect"]

ANTHROPIC_VERSION = "vertex-2023-10-16"
_CLAUDE = "claude-"
_ERRORS = "https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/api-errors"
_IAM = "https://cloud.google.com/vertex-ai/docs/general/access-control"
_HTTP_OK = 200
_COUNTED = "gemini-2.5-flash-lite"
"""The model whose countTokens is the free call."""

_RULES = (
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_IAM,
        code=("iam_permission_denied",),
        text=r"aiplatform\.endpoints\.predict",
        missing_permission="aiplatform.endpoints.predict",
    ),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_ERRORS,
        code=("service_disabled",),
        missing_permission="aiplatform.googleapis.com (the API is not enabled)",
    ),
    ErrorRule(outcome=Outcome.INSUFFICIENT_CREDIT, source=_ERRORS, code=("billing_disabled",)),
    *gemini.TABLE.rules,
    *anthropic.TABLE.rules,
)


def _is_claude(model: str) -> bool:
    return model.startswith(_CLAUDE)


def _unsupported(call: TextCall) -> list[str]:
    if not _is_claude(call.model):
        return gemini_request.unsupported_fields(call)
    fields = anthropic_request.unsupported_fields(call)
    parts = (part for message in call.messages for part in message.parts)
    if any(isinstance(part, ImageURLPart) for part in parts):
        fields.append("messages.image_url")
    return fields


def _build_body(call: TextCall) -> bytes:
    if not _is_claude(call.model):
        return gemini_request.build_generate_body(call)
    body = anthropic_request.messages_body(call)
    del body["model"]
    return msgspec.json.encode({**body, "anthropic_version": ANTHROPIC_VERSION})


def _model_path(call: TextCall, account: ServiceAccount) -> str:
    if not _is_claude(call.model):
        return _google_path(account, call.model, gemini.generate_method(call))
    method = "streamRawPredict" if call.stream else "rawPredict"
    model = quote(call.model, safe="@")
    return f"{_location(account)}/publishers/anthropic/models/{model}:{method}"


def _google_path(account: ServiceAccount, model: str, method: str) -> str:
    return f"{_location(account)}/publishers/google/models/{quote(model, safe='@')}:{method}"


def _location(account: ServiceAccount) -> str:
    return f"/v1/projects/{quote(account.project, safe=':')}/locations/{account.region}"


class VertexDecoder(gemini.GeminiDecoder):
    """
    Decodes either publisher's stream: Anthropic's events carry names, Google's none.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._messages = anthropic.AnthropicDecoder(table, now=now)

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one event.
        """
        if not event.event:
            super().read_event(event, out)
            return
        self.read_by(self._messages, event, out)


def _parse_answer(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    if status != _HTTP_OK:
        raise _parse_refusal(table, status, headers, body, now=now)
    if decode_object(body).get("type") in ("message", "error"):
        return anthropic.parse_message(table, status, headers, body, now=now)
    return gemini.parse_generate(table, status, headers, body, now=now)


def _parse_refusal(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    if decode_object(body).get("type") == "error":
        return anthropic.parse_message_error(table, status, headers, body, now=now)
    return gemini.parse_generate_error(table, status, headers, body, now=now)


def _lowest_effort(model: str) -> ReasoningEffort | None:
    return None if _is_claude(model) else gemini_request.lowest_effort(model)


def _read_count(body: bytes) -> FreeCallFinding:
    """
    Read nothing: that it was answered proves project, API and role.
    """
    del body
    return FreeCallFinding()


_PLAN = ProbePlan(
    free_path=f"/publishers/google/models/{_COUNTED}:countTokens",
    read_free_call=_read_count,
    cheap_models=(_COUNTED, "gemini-2.5-flash", "gemini-3.1-flash-lite"),
    lowest_effort=_lowest_effort,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexDialect(JSONDialect):
    """
    One host per region; a service account's assertion is traded for a token beforehand.
    """

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call, without its token yet.

        Raises:
            CredentialMalformedError: The credential cannot be read.
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        account = read_service_account(credential)
        base = address(base_url, account.host)
        headers = {"content-type": "application/json"}
        if isinstance(call, ImageCall):
            self.refuse_unsupported(call)
            path = _google_path(account, call.model, "generateContent")
            return HTTPRequest("POST", base + path, headers, build_image_body(call))
        text = self.text_call(call)
        return HTTPRequest("POST", base + _model_path(text, account), headers, _build_body(text))

    def exchange(
        self, credential: Credential, *, base_url: str, now: datetime
    ) -> TokenExchange | None:
        """
        Begin the exchange of a credential for a token.

        Raises:
            CredentialMalformedError: The credential cannot be read.
        """
        return VertexExchange(read_service_account(credential), base_url=base_url, now=now)

    def authorize(
        self,
        request: HTTPRequest,
        credential: Credential,
        *,
        base_url: str,
        now: datetime,
        token: AccessToken | None = None,
    ) -> HTTPRequest:
        """
        Put the token into its header.
        """
        del credential, base_url, now
        assert token is not None, "an exchange comes before"
        headers = {**request.headers, "authorization": f"Bearer {token.secret.reveal()}"}
        return HTTPRequest(request.method, request.url, headers, request.body)

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of a key, which its exchange comes before.

        Raises:
            CredentialMalformedError: The credential cannot be read.
        """
        account = read_service_account(credential)
        url = address(base_url, account.host) + _location(account) + _PLAN.free_path
        contents = [{"role": "user", "parts": [{"text": "Hi"}]}]
        body = msgspec.json.encode({"contents": contents})
        return KeyProbe(
            self,
            _PLAN,
            credential,
            base_url=base_url,
            free_call=HTTPRequest("POST", url, {"content-type": "application/json"}, body),
            models=models,
        )


VERTEX = VertexDialect(
    provider="google-vertex",
    default_base_url=ANY_HOST,
    table=ErrorTable(title="Google Vertex AI", rules=_RULES),
    unsupported_fields=_unsupported,
    parse_answer=_parse_answer,
    parse_refusal=_parse_refusal,
    make_decoder=VertexDecoder,
    media=MediaFormats(image=GEMINI_IMAGES),
)
