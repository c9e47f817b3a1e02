# SPDX-License-Identifier: Apache-2.0
"""Provider streams made up for tests, and ways to feed them to decoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec

from services.router.domain.text import (
    Message,
    ReasoningDelta,
    Role,
    StreamEvent,
    TextCall,
    TextDelta,
    TextPart,
    ToolCallDelta,
)
from services.router.providers.base import APIKeyCredential, ProviderError, StreamDecoder
from services.router.providers.no_text import refuse_text
from services.router.providers.registry import DIALECTS
from services.shared.secret import Secret
from tests.support.simulated_providers import KEYS, azure_key

NOW = datetime(2026, 9, 1, 12, 0, 0, tzinfo=UTC)
CANARY = "sk-proj-canary-0123456789abcdefghij"
TEXT_PROVIDERS = tuple(
    name
    for name, dialect in sorted(DIALECTS.items())
    if getattr(dialect, "unsupported_fields", None) is not refuse_text
)
"""Providers that write text; the others make media alone."""


def credential(key: str = CANARY) -> APIKeyCredential:
    """Give a credential that holds a key."""
    return APIKeyCredential(Secret(key))


def credential_of(provider: str, key: str = CANARY) -> APIKeyCredential:
    """Give a provider's credential that holds a key; a service account's key cannot be chosen."""
    if provider == "azure":
        return credential(azure_key("openai/gpt-4o-mini", api_key=key))
    return credential(KEYS[provider] if provider == "google-vertex" else key)


def text_call(**fields: Any) -> TextCall:
    """Give a call with one user message, changed by `fields`."""
    plain = {
        "model": "gpt-4o-mini",
        "messages": (Message(Role.USER, (TextPart("Say hello"),)),),
        "max_output_tokens": 100,
    }
    return TextCall(**{**plain, **fields})


def sse(*bodies: Any, end: str = "\n\n") -> bytes:
    """Give server-sent events; text is sent as it is, anything else as JSON."""
    texts = (
        body if isinstance(body, str) else msgspec.json.encode(body).decode() for body in bodies
    )
    return "".join(f"data: {text}{end}" for text in texts).encode()


def drain(
    decoder: StreamDecoder, pieces: Iterable[bytes]
) -> tuple[list[StreamEvent], ProviderError | None]:
    """Feed pieces to a decoder and give all events and the failure, if there was one."""
    events: list[StreamEvent] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.finish()
    except ProviderError as error:
        return events, error
    return events, None


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut bytes at the given places."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def summary(result: tuple[list[StreamEvent], ProviderError | None]) -> tuple[Any, ...]:
    """Give what must not depend on the cuts."""
    events, error = result
    failed = error and (error.outcome, error.billed, error.usage, error.safe_message)
    return (*events, failed)


def assert_cuts_agree(make: Callable[[], StreamDecoder], data: bytes, cuts: Iterable[int]) -> None:
    """Hold that a stream means the same whole, byte by byte and at the given cuts."""
    whole = summary(drain(make(), [data]))
    assert summary(drain(make(), cut_at(data, range(len(data))))) == whole
    assert summary(drain(make(), cut_at(data, cuts))) == whole


def text_of(events: Iterable[StreamEvent]) -> str:
    """Give the text of a stream."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def reasoning_of(events: Iterable[StreamEvent]) -> str:
    """Give the reasoning of a stream."""
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def arguments_of(events: Iterable[StreamEvent], index: int) -> str:
    """Give the arguments of one tool call of a stream."""
    pieces = (event for event in events if isinstance(event, ToolCallDelta))
    return "".join(event.arguments for event in pieces if event.index == index)
