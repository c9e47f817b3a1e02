# SPDX-License-Identifier: Apache-2.0
"""
Google's Gemini API: https://ai.google.dev/api/generate-content .

1. A stream is asked for as server-sent events (`alt=sse`); one JSON array is read as well.
2. There is no end marker in a stream: it is over when the connection closes after a candidate
   said its `finishReason`.
3. `usageMetadata` is repeated and cumulative: the last one counts.
4. `candidatesTokenCount` excludes thoughts, `promptTokenCount` includes cached tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Completion,
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextCall,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from services.router.providers.base import Credential, ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorRule,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.dialect import HTTPDialect
from services.router.providers.gemini_images import BLOCKED, GEMINI_IMAGES
from services.router.providers.gemini_request import (
    build_generate_body,
    lowest_effort,
    unsupported_fields,
)
from services.router.providers.json_stream import JSONStreamParser
from services.router.providers.media_format import MediaFormats
from services.router.providers.probe import FreeCallFinding, ProbePlan
from services.router.providers.sse import SSEEvent
from services.router.providers.sse_decoder import HTTP_OK, SSEDecoder
from services.router.providers.typed_events import NO_ARGUMENTS, arguments_text

__all__ = [
    "GEMINI",
    "TABLE",
    "GeminiDecoder",
    "generate_method",
    "parse_generate",
    "parse_generate_error",
]

_TROUBLE = "https://ai.google.dev/gemini-api/docs/troubleshooting"
_KEYS = "https://ai.google.dev/gemini-api/docs/api-key"
_QUOTA = "https://ai.google.dev/gemini-api/docs/rate-limits"
_DAILY = "per_day"
_NO_QUOTA = "quota_of_zero"

TABLE = ErrorTable(
    title="Google Gemini",
    rules=(
        ErrorRule(outcome=Outcome.EXPIRED_CREDENTIALS, source=_KEYS, text=r"api key expired"),
        ErrorRule(
            outcome=Outcome.INVALID_KEY,
            source=_KEYS,
            code=(
                "api_key_invalid",
                "unauthenticated",
                "access_token_type_unsupported",
                "credentials_missing",
            ),
        ),
        ErrorRule(
            outcome=Outcome.INVALID_KEY,
            source=_KEYS,
            status=(400, 403),
            text=r"api key not valid|reported as leaked|without established identity"
            r"|unregistered callers",
        ),
        ErrorRule(
            outcome=Outcome.PERMISSION_DENIED,
            source=_TROUBLE,
            code=("service_disabled",),
            missing_permission="generativelanguage.googleapis.com (the API is not enabled)",
        ),
        ErrorRule(
            outcome=Outcome.INSUFFICIENT_CREDIT,
            source=_TROUBLE,
            status=(400, 402, 403, 429),
            text=r"billing (?:account )?(?:is )?(?:disabled|not enabled|not active)|enable billing"
            r"|prepay\w* (?:credits?|balance)|credits? (?:are|is) depleted|spend(?:ing)? cap",
        ),
        ErrorRule(
            outcome=Outcome.CONTEXT_LENGTH,
            source="https://ai.google.dev/gemini-api/docs/long-context",
            text=r"(?:exceeds|exceeded) the maximum number of tokens|input token count"
            r"|context is too long",
            status=(200, 400, 500),
        ),
        ErrorRule(outcome=Outcome.CONTENT_FILTERED, source=_TROUBLE, code=(BLOCKED,)),
        ErrorRule(
            outcome=Outcome.PERMISSION_DENIED, source=_TROUBLE, code=("failed_precondition",)
        ),
        ErrorRule(
            outcome=Outcome.RATE_LIMITED,
            source=_QUOTA,
            status=(429,),
            code=(_DAILY, _NO_QUOTA),
            retryable=False,
        ),
        ErrorRule(outcome=Outcome.RATE_LIMITED, source=_TROUBLE, code=("resource_exhausted",)),
        ErrorRule(outcome=Outcome.MODEL_NOT_FOUND, source=_TROUBLE, code=("not_found",)),
        ErrorRule(outcome=Outcome.OVERLOADED, source=_TROUBLE, code=("unavailable",)),
        ErrorRule(outcome=Outcome.TIMEOUT, source=_TROUBLE, code=("deadline_exceeded",)),
        ErrorRule(outcome=Outcome.PERMISSION_DENIED, source=_TROUBLE, code=("permission_denied",)),
    ),
)

_FINISH_REASONS = {
    # https://ai.google.dev/api/generate-content#FinishReason
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "LANGUAGE": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
    "IMAGE_SAFETY": FinishReason.CONTENT_FILTER,
    "IMAGE_PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "IMAGE_RECITATION": FinishReason.CONTENT_FILTER,
    # https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse
    "MODEL_ARMOR": FinishReason.CONTENT_FILTER,
}


class _FunctionCall(msgspec.Struct):
    name: str | None = None
    id: str | None = None
    args: msgspec.Raw = NO_ARGUMENTS


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: int | None = None
    content: _Content | None = None
    finish_reason: str | None = None


class _ModalityCount(msgspec.Struct, rename="camel"):
    """
    Tokens of one modality, https://ai.google.dev/api/generate-content#ModalityTokenCount .
    """

    modality: str | None = None
    token_count: int | None = None


class _Usage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    prompt_tokens_details: list[_ModalityCount] | None = None
    cache_tokens_details: list[_ModalityCount] | None = None
    candidates_tokens_details: list[_ModalityCount] | None = None

    def normalised(self) -> Usage:
        """
        Add thoughts to the output and what the provider's own tools read to the input; of sound in
        the prompt, what was cached counts as cached.
        """
        heard = _sound(self.prompt_tokens_details) - _sound(self.cache_tokens_details)
        thoughts = self.thoughts_token_count or 0
        return Usage(
            input_tokens=(self.prompt_token_count or 0) + (self.tool_use_prompt_token_count or 0),
            output_tokens=(self.candidates_token_count or 0) + thoughts,
            cached_input_tokens=self.cached_content_token_count or 0,
            reasoning_tokens=thoughts,
            audio_input_tokens=max(0, heard),
            audio_output_tokens=_sound(self.candidates_tokens_details),
        )


def _sound(counts: list[_ModalityCount] | None) -> int:
    return sum(count.token_count or 0 for count in counts or () if count.modality == "AUDIO")


class _PromptFeedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Answer(msgspec.Struct, rename="camel"):
    """
    A whole answer and a piece of a stream: the same fields.
    """

    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _PromptFeedback | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None

    def blocked(self) -> bool:
        """
        Tell whether the prompt was refused.
        """
        feedback = self.prompt_feedback
        return feedback is not None and feedback.block_reason is not None

    def candidate(self) -> _Candidate | None:
        """
        Give the first of the alternatives; one is all that is asked for.
        """
        return next((one for one in self.candidates or () if not one.index), None)

    def call(self, part: _Part, function: _FunctionCall, index: int) -> ToolCall:
        """
        Give a function call, which arrives whole; an id is made where there is none.
        """
        return ToolCall(
            id=function.id or f"call_{self.response_id or ''}_{index}",
            name=function.name or "",
            arguments=arguments_text(function.args),
            signature=part.thought_signature or "",
        )


_decode = msgspec.json.Decoder(_Answer).decode


class GeminiDecoder(SSEDecoder):
    """
    Decodes a stream of `streamGenerateContent?alt=sse`.
    """

    def __init__(self, table: ErrorTable, *, now: datetime) -> None:
        super().__init__(table, now=now)
        self._finish_reason: str | None = None
        self._tool_call_count = 0
        self._begun = False

    def feed(self, data: bytes) -> list[StreamEvent]:
        """
        Take the next bytes; the first one that is no blank tells the framing.
        """
        if not self._begun:
            data = data.lstrip()
            if not data:
                return []
            self._begun = True
            if data.startswith((b"[", b"{")):
                self.parser = JSONStreamParser()
        return super().feed(data)

    def read_event(self, event: SSEEvent, out: list[StreamEvent]) -> None:
        """
        Read one piece.
        """
        answer = _decode(event.data)
        if answer.model_version:
            self.model = answer.model_version
        if answer.usage_metadata is not None:
            self.usage = answer.usage_metadata.normalised()
        if answer.error is not None:
            raise self.error(_facts(answer.error, status=HTTP_OK, usage=self.usage))
        if answer.blocked():
            raise self.error(_blocked(self.usage))
        candidate = answer.candidate()
        if candidate is not None:
            self._candidate(answer, candidate, out)
        if answer.usage_metadata is not None and self.usage is not None:
            out.append(UsageReport(self.usage))

    def _candidate(self, answer: _Answer, candidate: _Candidate, out: list[StreamEvent]) -> None:
        content = candidate.content or _Content()
        for part in content.parts or ():
            if part.function_call is not None:
                call = answer.call(part, part.function_call, self._tool_call_count)
                index = self._tool_call_count
                self._tool_call_count += 1
                out.append(ToolCallDelta(index, call.id, call.name, call.arguments, call.signature))
            elif part.text:
                out.append(ReasoningDelta(part.text) if part.thought else TextDelta(part.text))
        if candidate.finish_reason:
            self._finish_reason = candidate.finish_reason

    def end_of_connection(self, out: list[StreamEvent]) -> None:
        """
        Finish, if a candidate said that it was done.
        """
        if self._finish_reason is not None:
            called = self._tool_call_count > 0
            self.end(_finish_reason(self._finish_reason, called=called), out)

    def stray_error(self, stray: bytes) -> ErrorFacts | None:
        """
        Find an error written as bare JSON after the pieces, or in place of them.
        """
        error = decode_object(stray).get("error")
        return None if error is None else _facts(error, status=HTTP_OK, usage=self.usage)


def parse_generate(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    """
    Read a whole answer.

    Raises:
        ProviderError: The status is not 200, or the prompt was blocked.
    """
    if status != HTTP_OK:
        raise parse_generate_error(table, status, headers, body, now=now)
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=status, cut=False) from None
    usage = None if answer.usage_metadata is None else answer.usage_metadata.normalised()
    if answer.error is not None:
        facts = _facts(answer.error, status=status, usage=usage)
        raise classify(table, facts, http_status=status, now=now)
    if answer.blocked():
        raise classify(table, _blocked(usage), http_status=status, now=now)
    candidate = answer.candidate() or _Candidate()
    if not candidate.finish_reason:
        raise broken(table, http_status=status, cut=False, usage=usage)
    parts = (candidate.content or _Content()).parts or []
    called = [(part, part.function_call) for part in parts if part.function_call is not None]
    calls = tuple(
        answer.call(part, function, index) for index, (part, function) in enumerate(called)
    )
    return Completion(
        text="".join(part.text or "" for part in parts if not part.thought),
        reasoning="".join(part.text or "" for part in parts if part.thought),
        tool_calls=calls,
        finish_reason=_finish_reason(candidate.finish_reason, called=bool(calls)),
        usage=usage,
        model=answer.model_version or "",
    )


def parse_generate_error(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    """
    Classify an answer whose status is not 200.
    """
    facts = _facts(decode_object(body).get("error"), status=status, headers=headers)
    return classify(table, facts, http_status=status, now=now)


def _finish_reason(word: str, *, called: bool) -> FinishReason:
    reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
    return FinishReason.TOOL_CALLS if called and reason is FinishReason.STOP else reason


def _blocked(usage: Usage | None) -> ErrorFacts:
    return ErrorFacts(status=HTTP_OK, codes=frozenset({BLOCKED}), inside_answer=True, usage=usage)


def _facts(
    error: object,
    *,
    status: int,
    headers: Mapping[str, str] | None = None,
    usage: Usage | None = None,
) -> ErrorFacts:
    """
    Take the facts out of Google's error object, https://cloud.google.com/apis/design/errors .
    """
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    inside = status == HTTP_OK
    details = [item for item in _list(fields.get("details")) if isinstance(item, dict)]
    codes = {str(fields.get("status")).lower()}
    codes.update(str(item["reason"]).lower() for item in details if "reason" in item)
    for item in details:
        for violation in _list(item.get("violations")):
            codes.update(_quota_codes(violation))
    text = str(fields.get("message") or "")
    if "limit: 0," in text:
        codes.add(_NO_QUOTA)
    delays = [str(item["retryDelay"]) for item in details if "retryDelay" in item]
    return ErrorFacts(
        status=code if inside and isinstance(code, int) else status,
        codes=frozenset(codes),
        text=text,
        delay=delays[0] if delays else "",
        headers=headers or {},
        inside_answer=inside,
        usage=usage,
    )


def _quota_codes(violation: object) -> set[str]:
    """
    Tell a spent day and a quota of zero, which no wait within a request mends.
    """
    if not isinstance(violation, dict):
        return set()
    codes = set()
    if "PerDay" in str(violation.get("quotaId")):
        codes.add(_DAILY)
    if str(violation.get("quotaValue")) == "0":
        codes.add(_NO_QUOTA)
    return codes


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_models(body: bytes) -> FreeCallFinding:
    """
    Read GET /v1beta/models: one page of up to 1,000 models, named `models/...`.
    """
    items = _list(decode_object(body).get("models"))
    names = (str(item.get("name")) for item in items if isinstance(item, dict))
    return FreeCallFinding(models=tuple(name.removeprefix("models/") for name in names))


def generate_method(call: TextCall) -> str:
    """
    Give the method of a call, as it stands behind the model's name.
    """
    return "streamGenerateContent?alt=sse" if call.stream else "generateContent"


def _path(call: TextCall) -> str:
    return f"/v1beta/models/{quote(call.model, safe='')}:{generate_method(call)}"


def _headers(credential: Credential) -> dict[str, str]:
    # Never `?key=`: addresses end up in logs.
    return {"x-goog-api-key": credential.secret.reveal()}


GEMINI = HTTPDialect(
    provider="gemini",
    default_base_url="https://generativelanguage.googleapis.com",
    table=TABLE,
    path=_path,
    headers=_headers,
    build_body=build_generate_body,
    unsupported_fields=unsupported_fields,
    media=MediaFormats(image=GEMINI_IMAGES),
    parse_answer=parse_generate,
    parse_refusal=parse_generate_error,
    make_decoder=GeminiDecoder,
    probe_plan=ProbePlan(
        free_path="/v1beta/models?pageSize=1000",
        read_free_call=_read_models,
        cheap_models=("gemini-2.5-flash-lite", "gemini-3.1-flash-lite", "gemini-2.5-flash"),
        lowest_effort=lowest_effort,
    ),
)
