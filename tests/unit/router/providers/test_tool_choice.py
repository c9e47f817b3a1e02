# SPDX-License-Identifier: Apache-2.0
"""Forced tools and top-k in each provider's own words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.router.domain.text import ReasoningEffort, Tool, ToolChoice, ToolMode
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import credential, text_call

TOOL = Tool("lookup", "", '{"type":"object"}')
ANY, NONE = ToolChoice(ToolMode.REQUIRED), ToolChoice(ToolMode.NONE)
LOOKUP = ToolChoice(ToolMode.REQUIRED, "lookup")
HAIKU, NOVA = "claude-haiku-4-5", "amazon.nova-lite-v1:0"
BEDROCK_HAIKU = "anthropic.claude-haiku-4-5-20251001-v1:0"


def body(provider: str, model: str, **fields: Any) -> Any:
    """Give the body that a provider would get."""
    call = text_call(model=model, tools=(TOOL,), **fields)
    dialect = DIALECTS[provider]
    request = dialect.build_request(call, credential(), base_url=dialect.default_base_url)
    return msgspec.json.decode(request.body)


def unsupported(provider: str, model: str, **fields: Any) -> list[str]:
    """Name what a provider does not take."""
    return DIALECTS[provider].unsupported(text_call(model=model, tools=(TOOL,), **fields))


@pytest.mark.requirement("R1", "O9")
@pytest.mark.parametrize("provider", ["openai", "openrouter", "deepseek"])
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (ANY, "required"),
        (NONE, "none"),
        (LOOKUP, {"type": "function", "function": {"name": "lookup"}}),
    ],
)
def test_chat_completions(provider: str, choice: ToolChoice, told: Any) -> None:
    assert body(provider, "some-model", tool_choice=choice)["tool_choice"] == told


@pytest.mark.requirement("R1", "O9")
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (ANY, {"type": "any"}),
        (NONE, {"type": "none"}),
        (LOOKUP, {"type": "tool", "name": "lookup"}),
    ],
)
def test_anthropic(choice: ToolChoice, told: Any) -> None:
    assert body("anthropic", HAIKU, tool_choice=choice)["tool_choice"] == told


@pytest.mark.requirement("R1", "O9")
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (ANY, {"mode": "ANY"}),
        (NONE, {"mode": "NONE"}),
        (LOOKUP, {"mode": "ANY", "allowedFunctionNames": ["lookup"]}),
    ],
)
def test_gemini(choice: ToolChoice, told: Any) -> None:
    config = body("gemini", "gemini-2.5-flash", tool_choice=choice)["toolConfig"]
    assert config == {"functionCallingConfig": told}


@pytest.mark.requirement("R1", "O9")
@pytest.mark.parametrize("model", [BEDROCK_HAIKU, NOVA])
def test_bedrock_forces_and_cannot_forbid(model: str) -> None:
    any_one = body("amazon-bedrock", model, tool_choice=ANY)["toolConfig"]["toolChoice"]
    one = body("amazon-bedrock", model, tool_choice=LOOKUP)["toolConfig"]["toolChoice"]
    assert (any_one, one) == ({"any": {}}, {"tool": {"name": "lookup"}})
    assert "tool_choice" in unsupported("amazon-bedrock", model, tool_choice=NONE)


@pytest.mark.requirement("R1")
def test_thinking_gives_way_to_a_forced_call() -> None:
    """Anthropic's models do not think before a call that is forced; where none is, they do."""
    thinking: dict[str, Any] = {
        "reasoning_effort": ReasoningEffort.LOW,
        "max_output_tokens": 4_000,
    }
    assert unsupported("anthropic", HAIKU, tool_choice=LOOKUP, **thinking) == ["reasoning_effort"]
    assert unsupported("anthropic", HAIKU, tool_choice=NONE, **thinking) == []


@pytest.mark.requirement("R1", "O9")
def test_top_k_goes_where_it_is_known() -> None:
    assert body("anthropic", HAIKU, top_k=7)["top_k"] == 7
    assert body("openrouter", "m", top_k=7)["top_k"] == 7
    gemini = body("gemini", "gemini-2.5-flash", top_k=7)
    assert gemini["generationConfig"]["topK"] == 7
    bedrock = body("amazon-bedrock", BEDROCK_HAIKU, top_k=7)
    assert bedrock["additionalModelRequestFields"]["top_k"] == 7


@pytest.mark.requirement("R1", "R8")
@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-4o-mini"), ("deepseek", "deepseek-chat"), ("amazon-bedrock", NOVA)],
)
def test_top_k_is_named_where_it_is_not(provider: str, model: str) -> None:
    assert unsupported(provider, model, top_k=7) == ["top_k"]
    assert text_call(model=model, top_k=7).without(["top_k"]).top_k is None
