# SPDX-License-Identifier: Apache-2.0
"""Tokens that are sound, where a provider tells them apart."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.router.domain.text import Usage
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import NOW


def usage_of(provider: str, body: dict[str, Any]) -> Usage:
    """Read the usage of a whole answer."""
    dialect = DIALECTS[provider]
    read = dialect.parse_response(200, {}, msgspec.json.encode(body), now=NOW).usage
    assert read is not None
    return read


@pytest.mark.requirement("R1", "R3")
@pytest.mark.parametrize("provider", ["openai", "azure", "openrouter", "deepseek"])
def test_chat_completions_name_it_among_the_details(provider: str) -> None:
    """See https://platform.openai.com/docs/api-reference/chat/object ."""
    message = {"role": "assistant", "content": "Hi"}
    used = usage_of(
        provider,
        {
            "model": "gpt-audio",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"audio_tokens": 80, "cached_tokens": 10},
                "completion_tokens_details": {"audio_tokens": 40, "reasoning_tokens": 0},
            },
        },
    )
    assert (used.input_tokens, used.audio_input_tokens) == (100, 80)
    assert (used.output_tokens, used.audio_output_tokens) == (50, 40)
    assert used.cached_input_tokens == 10


@pytest.mark.requirement("R1", "R3")
@pytest.mark.parametrize("provider", ["gemini", "google-vertex"])
def test_gemini_counts_by_modality_and_the_cached_once(provider: str) -> None:
    """See https://ai.google.dev/api/generate-content#UsageMetadata ."""
    used = usage_of(
        provider,
        {
            "modelVersion": "gemini-2.5-flash",
            "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
            "usageMetadata": {
                "promptTokenCount": 120,
                "candidatesTokenCount": 30,
                "cachedContentTokenCount": 60,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 20},
                    {"modality": "AUDIO", "tokenCount": 100},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 60}],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
            },
        },
    )
    assert (used.input_tokens, used.cached_input_tokens) == (120, 60)
    assert (used.audio_input_tokens, used.audio_output_tokens) == (40, 30)
