# SPDX-License-Identifier: Apache-2.0
"""
Holds a decoded recording against what its collection expects of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any

from services.router.domain.text import (
    Completion,
    Finished,
    FinishReason,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from services.router.providers.base import ProviderError

__all__ = ["Decoded", "collect", "differences"]

_FINISH_WORDS = {
    FinishReason.STOP: (
        *("stop", "end_turn", "stop_sequence", "STOP", "completed", "response.completed"),
    ),
    FinishReason.LENGTH: (
        *("length", "max_tokens", "max_output_tokens", "MAX_TOKENS", "incomplete"),
        *("response.incomplete", "model_context_window_exceeded"),
    ),
    FinishReason.TOOL_CALLS: ("tool_calls", "function_call", "tool_use"),
    FinishReason.CONTENT_FILTER: (
        *("content_filter", "refusal", "content_filtered", "guardrail_intervened"),
        *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
    ),
}
"""The providers' words for each end; any other word is FinishReason.OTHER."""
_FINISH_REASONS = {word: reason for reason, words in _FINISH_WORDS.items() for word in words}
_NANO = Decimal(1_000_000_000)


@dataclass(frozen=True, slots=True)
class Decoded:
    """
    What came out of a recording: an answer or an error.
    """

    completion: Completion | None = None
    error: ProviderError | None = None


def collect(events: list[StreamEvent]) -> Completion:
    """
    Put a stream's events together.

    Raises:
        ValueError: The events do not end with exactly one end.
    """
    ends = [event for event in events if isinstance(event, Finished)]
    if len(ends) != 1 or events[-1] is not ends[0]:
        raise ValueError("the stream did not end with exactly one end")
    calls: dict[int, ToolCall] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            call = calls.get(event.index, ToolCall("", "", ""))
            calls[event.index] = replace(
                call,
                id=call.id or event.id,
                name=call.name or event.name,
                arguments=call.arguments + event.arguments,
                signature=call.signature or event.signature,
            )
    return Completion(
        text="".join(event.text for event in events if isinstance(event, TextDelta)),
        reasoning="".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        tool_calls=tuple(calls[index] for index in sorted(calls)),
        finish_reason=ends[0].finish_reason,
        usage=ends[0].usage,
        model=ends[0].model,
    )


def differences(expected: dict[str, Any], decoded: Decoded) -> list[str]:
    """
    Name every point in which a recording was decoded otherwise than expected.
    """
    wanted = expected.get("error_class")
    if wanted is not None:
        return _error_differences(expected, str(wanted), decoded)
    completion = decoded.completion
    if completion is None:
        outcome = decoded.error.outcome if decoded.error else "nothing"
        return [f"expected an answer, got {outcome}"]
    found: list[str] = []
    _compare(found, "text", expected.get("text"), completion.text)
    _compare(found, "model", expected.get("model"), completion.model)
    _compare(found, "reasoning", expected.get("reasoning_chars"), len(completion.reasoning))
    finish = expected.get("finish")
    if finish is not None:
        mapped = _FINISH_REASONS.get(finish, FinishReason.OTHER)
        # Gemini says STOP with its function calls, Responses says completed.
        if mapped is FinishReason.STOP and completion.tool_calls:
            mapped = FinishReason.TOOL_CALLS
        _compare(found, "finish", mapped, completion.finish_reason)
    _call_differences(found, expected.get("tool_calls"), completion.tool_calls)
    if expected.get("usage"):
        _usage_differences(found, expected["usage"], completion.usage)
    return found


def _error_differences(expected: dict[str, Any], wanted: str, decoded: Decoded) -> list[str]:
    if decoded.error is None:
        # A filtered answer may be one that broke off.
        reason = decoded.completion.finish_reason if decoded.completion else None
        if wanted == "content_filtered" and reason is FinishReason.CONTENT_FILTER:
            return []
        return [f"expected {wanted}, got an answer"]
    found: list[str] = []
    _compare(found, "outcome", wanted, decoded.error.outcome.value)
    error = expected.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    if message and str(message) in str(decoded.error):
        found.append("the provider's own text is in the error")
    return found


def _usage_differences(found: list[str], raw: dict[str, Any], usage: Usage | None) -> None:
    if usage is None:
        found.append("usage is missing")
        return
    count = {name: value for name, value in raw.items() if isinstance(value, int | float)}
    read = int(count.get("cache_read_input_tokens", 0))
    written = int(count.get("cache_creation_input_tokens", count.get("cache_write_tokens", 0)))
    if count.keys() & {"promptTokenCount", "candidatesTokenCount"}:
        thoughts = count.get("thoughtsTokenCount", 0)
        wanted = {
            "input_tokens": count.get("promptTokenCount", 0)
            + count.get("toolUsePromptTokenCount", 0),
            "output_tokens": count.get("candidatesTokenCount", 0) + thoughts,
            "reasoning_tokens": thoughts,
            "cached_input_tokens": count.get("cachedContentTokenCount", 0),
        }
    elif "prompt_tokens" in count:
        cached = count.get("cached_tokens") or count.get("prompt_cache_hit_tokens") or 0
        wanted = {
            "input_tokens": count["prompt_tokens"],
            "output_tokens": count.get("completion_tokens", 0),
            "reasoning_tokens": count.get("reasoning_tokens", 0),
            "cached_input_tokens": cached,
        }
    elif "inputTokens" in count:
        read = int(count.get("cacheReadInputTokens", 0))
        written = int(count.get("cacheWriteInputTokens", 0))
        wanted = {
            "input_tokens": count["inputTokens"] + read + written,
            "output_tokens": count.get("outputTokens", 0),
            "cached_input_tokens": read,
            "cache_write_tokens": written,
        }
    else:
        wanted = {
            "input_tokens": count.get("input_tokens", 0) + read + written,
            "output_tokens": count.get("output_tokens", 0),
            "cached_input_tokens": read or count.get("cached_tokens", 0),
        }
    if "cost" in count:
        wanted["provider_cost_nano_usd"] = int(
            (Decimal(str(raw["cost"])) * _NANO).to_integral_value(ROUND_CEILING)
        )
    for name, value in wanted.items():
        _compare(found, name, value, getattr(usage, name))
    total = count.get("total_tokens", count.get("totalTokenCount", count.get("totalTokens")))
    _compare(found, "total tokens", total, usage.input_tokens + usage.output_tokens)


def _call_differences(found: list[str], wanted: object, got: tuple[ToolCall, ...]) -> None:
    """
    Compare tool calls with a number of them, or with a list, in whichever form it is written down.
    """
    if isinstance(wanted, int):
        _compare(found, "number of tool calls", wanted, len(got))
    if not wanted or not isinstance(wanted, list):
        return
    calls = [_called(call) for call in wanted]
    if all(name for name, _ in calls):
        _compare(found, "tool calls", [name for name, _ in calls], [call.name for call in got])
    for (_, arguments), call in zip(calls, got, strict=False):
        if arguments is not None:
            _compare(found, "arguments", arguments, _json(call.arguments))


def _called(call: object) -> tuple[str | None, object]:
    """
    Give name and arguments of an expected tool call, as far as they are told.
    """
    if isinstance(call, str):
        return call, None
    fields = call if isinstance(call, dict) else {}
    inner = fields.get("function")
    fields = inner if isinstance(inner, dict) else fields
    arguments = next((fields[n] for n in ("arguments", "input", "args") if n in fields), None)
    return fields.get("name"), _json(arguments) if isinstance(arguments, str) else arguments


def _json(text: str) -> object:
    """
    Give the value of JSON text; None where it is none.
    """
    try:
        return json.loads(text)
    except ValueError:
        return None


def _compare(found: list[str], what: str, wanted: object, got: object) -> None:
    if wanted is not None and wanted != got:
        found.append(f"{what}: expected {wanted!r}, got {got!r}")
