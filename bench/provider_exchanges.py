# SPDX-License-Identifier: Apache-2.0
"""
Made-up answers of every provider, whole and as streams of the pieces in which they leave.

Each is of the usual shape and length: an answer of 200 pieces of text, with the fields around it
that real ones carry; of providers that make media alone, an answer with one image.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

__all__ = ["EXCHANGES", "MEDIA", "Exchange", "MediaExchange"]

PIECES = 200
WORD = " lorem ipsum"
TEXT = WORD * PIECES
IMAGE_BYTES = 1_500_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    One provider's answers.

    Args:
        provider: Whose they are.
        model: The model that a call names.
        body: A whole answer.
        stream: The pieces of a streamed answer, an event in each.
    """

    provider: str
    model: str
    body: bytes
    stream: list[bytes]


@dataclass(frozen=True, slots=True)
class MediaExchange:
    """
    One provider's answer that is an image, or says where it is.

    Args:
        model: The model that a call names.
        headers: Of the answer.
        body: The answer.
    """

    model: str
    headers: dict[str, str]
    body: bytes


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _sse(value: Any, *, name: str = "", end: bytes = b"\n\n") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _json(value) + end


def _chat(whose: str, model: str, **extra: Any) -> Exchange:
    head = {"id": "chatcmpl-Bv1aQ0", "created": 1_767_225_600, "model": model, **extra}
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": PIECES,
        "total_tokens": PIECES + 12,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    message: dict[str, Any] = {
        "role": "assistant",
        "content": TEXT,
        "refusal": None,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk_head = {**head, "object": "chat.completion.chunk"}
        return {**chunk_head, "choices": [choice], "usage": None, "obfuscation": "Qx1"}

    events = [chunk({"role": "assistant", "content": ""})]
    events += [chunk({"content": WORD}) for _ in range(PIECES)]
    events += [chunk({}, "stop"), {**head, "choices": [], "usage": usage}]
    return Exchange(whose, model, _json(body), [*map(_sse, events), b"data: [DONE]\n\n"])


def _responses(provider: str, model: str) -> Exchange:
    usage = {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": PIECES,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PIECES + 12,
    }
    head = {"id": "resp_68a1", "object": "response", "created_at": 1_767_225_600, "model": model}
    settings: dict[str, Any] = {
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {
        "id": "msg_68a1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    body = {**head, **settings, "status": "completed", "output": [item], "usage": usage}
    begun = {**head, **settings, "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": "msg_68a1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *(
            {"type": "response.output_text.delta", **place, "delta": WORD, "logprobs": []}
            for _ in range(PIECES)
        ),
        {"type": "response.output_text.done", **place, "text": TEXT, "logprobs": []},
        {"type": "response.completed", "response": body},
    ]
    stream = [
        _sse({**event, "sequence_number": number}, name=event["type"])
        for number, event in enumerate(events)
    ]
    return Exchange(provider, model, _json(body), stream)


def _anthropic(provider: str, model: str) -> Exchange:
    usage = {
        "input_tokens": 12,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": PIECES,
        "service_tier": "standard",
    }
    head = {"id": "msg_01Sim", "type": "message", "role": "assistant", "model": model}
    content = [{"type": "text", "text": TEXT}]
    body = {**head, "content": content, "stop_reason": "end_turn", "stop_sequence": None}
    begun: dict[str, Any] = {
        **head,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    delta = {"type": "text_delta", "text": WORD}
    stopped = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for _ in range(PIECES)),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stopped, "usage": {"output_tokens": PIECES}},
        {"type": "message_stop"},
    ]
    stream = [_sse(event, name=event["type"]) for event in events]
    return Exchange(provider, model, _json({**body, "usage": usage}), stream)


def _gemini(provider: str, model: str) -> Exchange:
    def answer(text: str, count: int, finish: str | None) -> dict[str, Any]:
        content = {"parts": [{"text": text}], "role": "model"}
        ended = {"finishReason": finish} if finish else {}
        usage = {
            "promptTokenCount": 12,
            "candidatesTokenCount": count,
            "totalTokenCount": count + 12,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
        }
        return {
            "candidates": [{"content": content, "index": 0, **ended}],
            "usageMetadata": usage,
            "modelVersion": model,
            "responseId": "simulated",
        }

    events = [answer(WORD, count, None) for count in range(1, PIECES)]
    events.append(answer(WORD, PIECES, "STOP"))
    stream = [_sse(event, end=b"\r\n\r\n") for event in events]
    return Exchange(provider, model, _json(answer(TEXT, PIECES, "STOP")), stream)


def _bedrock(provider: str, model: str) -> Exchange:
    usage = {"inputTokens": 12, "outputTokens": PIECES, "totalTokens": PIECES + 12}
    metrics = {"latencyMs": 500}
    message = {"content": [{"text": TEXT}], "role": "assistant"}
    body = {
        "output": {"message": message},
        "stopReason": "end_turn",
        "usage": usage,
        "metrics": metrics,
    }
    delta = {"contentBlockIndex": 0, "delta": {"text": WORD}, "p": "abcdefgh"}
    events = [
        _message("messageStart", {"role": "assistant", "p": "abcd"}),
        *(_message("contentBlockDelta", delta) for _ in range(PIECES)),
        _message("contentBlockStop", {"contentBlockIndex": 0, "p": "abc"}),
        _message("messageStop", {"stopReason": "end_turn", "p": "abcdef"}),
        _message("metadata", {"usage": usage, "metrics": metrics, "p": "ab"}),
    ]
    return Exchange(provider, model, _json(body), events)


def _message(event: str, payload: Any) -> bytes:
    """
    Frame a message, https://smithy.io/2.0/aws/amazon-eventstream.html .
    """
    named = {
        ":event-type": event,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    headers = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value))
        + value.encode()
        for name, value in named.items()
    )
    data = _json(payload)
    lengths = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    prelude = lengths + struct.pack(">I", zlib.crc32(lengths))
    message = prelude + headers + data
    return message + struct.pack(">I", zlib.crc32(message))


def _replicate(model: str) -> MediaExchange:
    address = "https://api.replicate.com/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu"
    body = {
        "id": "gm3qorzdhgbfurvjtvhg6dckhu",
        "model": model,
        "version": "hidden",
        "input": {"prompt": "A quiet harbour", "aspect_ratio": "1:1"},
        "logs": "",
        "output": ["https://replicate.delivery/xezq/f1/out-0.png"],
        "data_removed": False,
        "error": None,
        "status": "succeeded",
        "created_at": "2026-09-01T12:00:00.000Z",
        "urls": {"get": address, "cancel": f"{address}/cancel"},
        "metrics": {"predict_time": 1.5, "total_time": 1.6},
    }
    return MediaExchange(model, {"content-type": "application/json"}, _json(body))


def _stability(model: str) -> MediaExchange:
    headers = {"content-type": "image/png", "finish-reason": "SUCCESS", "seed": "7"}
    return MediaExchange(model, headers, b"\x89PNG\r\n\x1a\n" + bytes(IMAGE_BYTES))


EXCHANGES = {
    "openai": _chat("openai", "gpt-4o-mini", service_tier="default", system_fingerprint="fp_44"),
    "openai-responses": _responses("openai", "gpt-5-codex"),
    "openrouter": _chat(
        "openrouter", "openai/gpt-4o-mini", provider="OpenAI", system_fingerprint=None
    ),
    "azure": _chat("azure", "openai/gpt-4o-mini", system_fingerprint="fp_44"),
    "deepseek": _chat("deepseek", "deepseek-chat", system_fingerprint="fp_44"),
    "anthropic": _anthropic("anthropic", "claude-sonnet-4-6"),
    "gemini": _gemini("gemini", "gemini-2.5-flash"),
    "google-vertex": _gemini("google-vertex", "gemini-2.5-flash"),
    "google-vertex-claude": _anthropic("google-vertex", "claude-sonnet-4-6"),
    "amazon-bedrock": _bedrock("amazon-bedrock", "us.amazon.nova-micro-v1:0"),
}
"""By format: the provider's id, and what tells its formats apart where it has several."""

MEDIA = {
    "replicate": _replicate("black-forest-labs/flux-schnell"),
    "stability": _stability("core"),
}
"""By provider."""
