# SPDX-License-Identifier: Apache-2.0
"""The requests that each dialect builds, and what it says it does not take."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from services.router.domain.fitting import TUNING_FIELDS
from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    ReasoningEffort,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolResult,
)
from services.router.providers.anthropic import ANTHROPIC
from services.router.providers.base import AccessToken, UnsupportedParameterError
from services.router.providers.gemini import GEMINI
from services.router.providers.openai import OPENAI
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.registry import DIALECTS
from services.shared.secret import Secret
from tests.support.provider_streams import (
    CANARY,
    NOW,
    TEXT_PROVIDERS,
    credential,
    credential_of,
    text_call,
)

SCHEMA = '{"type":"object","properties":{"a":{"type":"integer"}}}'
TOOL = Tool("lookup", "Looks up", SCHEMA)
FORM = ResponseSchema("answer", SCHEMA)
TALK = (
    Message(Role.USER, (TextPart("see"), ImagePart("image/png", b"\x89PNG"))),
    Message(
        Role.ASSISTANT,
        (
            ReasoningPart("hm", "proof"),
            TextPart("calling"),
            ToolCall("call_1", "lookup", '{"a":1}', "sig"),
            ToolCall("call_2", "lookup", "not json"),
        ),
    ),
    Message(Role.TOOL, (ToolResult("call_1", "found"),)),
    Message(Role.TOOL, (ToolResult("call_2", "gone", failed=True),)),
)
PNG = "iVBORw=="


def body_of(dialect: Any, **fields: Any) -> Any:
    call = text_call(**fields)
    call = call.without(TUNING_FIELDS.intersection(dialect.unsupported(call)))
    request = dialect.build_request(call, credential(), base_url="https://x/")
    return msgspec.json.decode(request.body)


@pytest.mark.requirement("K8")
class TestSecrets:
    @pytest.mark.parametrize("provider", TEXT_PROVIDERS)
    def test_the_key_is_in_a_header_and_nowhere_else(self, provider: str) -> None:
        dialect = DIALECTS[provider]
        secret = credential_of(dialect.provider)
        model = {"azure": "openai/gpt-4o-mini"}.get(dialect.provider, "gpt-4o-mini")
        built = dialect.build_request(text_call(model=model), secret, base_url="https://{host}")
        token = AccessToken(Secret(CANARY), NOW)
        request = dialect.authorize(built, secret, base_url="https://{host}", now=NOW, token=token)
        assert any(CANARY in value for value in request.headers.values())
        assert CANARY not in request.url
        assert CANARY not in request.body.decode()
        assert CANARY not in f"{request!r} {request}"
        with pytest.raises(TypeError):
            pickle.dumps(request)

    @pytest.mark.parametrize("provider", TEXT_PROVIDERS)
    def test_a_prompt_is_not_shown(self, provider: str) -> None:
        dialect = DIALECTS[provider]
        model = {"azure": "openai/gpt-4o-mini"}.get(dialect.provider, "gpt-4o-mini")
        request = dialect.build_request(
            text_call(model=model), credential_of(dialect.provider), base_url="https://{host}"
        )
        assert "hello" not in repr(request)


class TestAddresses:
    @pytest.mark.requirement("R4")
    @pytest.mark.parametrize(
        ("provider", "stream", "url"),
        [
            ("openai", False, "https://api.openai.com/v1/chat/completions"),
            ("openrouter", True, "https://openrouter.ai/api/v1/chat/completions"),
            ("anthropic", False, "https://api.anthropic.com/v1/messages"),
            (
                "gemini",
                False,
                "https://generativelanguage.googleapis.com/v1beta/models/a%2Fb:generateContent",
            ),
            (
                "gemini",
                True,
                (
                    "https://generativelanguage.googleapis.com/v1beta/models/a%2Fb"
                    ":streamGenerateContent?alt=sse"
                ),
            ),
        ],
    )
    def test_requests_go_to_the_provider_s_own_host(
        self, provider: str, url: str, *, stream: bool
    ) -> None:
        dialect = DIALECTS[provider]
        call = text_call(model="a/b", stream=stream)
        request = dialect.build_request(call, credential(), base_url=dialect.default_base_url)
        assert (request.method, request.url) == ("POST", url)

    def test_headers_are_the_provider_s(self) -> None:
        headers = ANTHROPIC.build_request(text_call(), credential(), base_url="x").headers
        assert headers["anthropic-version"] == "2023-06-01"
        assert headers["x-api-key"] == CANARY
        headers = OPENAI.build_request(text_call(), credential(), base_url="x").headers
        assert headers["authorization"] == f"Bearer {CANARY}"
        assert (
            "x-goog-api-key"
            in GEMINI.build_request(text_call(), credential(), base_url="x").headers
        )


@pytest.mark.requirement("R1")
class TestBodies:
    def test_openai_takes_the_whole_of_a_call(self) -> None:
        body = body_of(
            OPENAI, system="be brief", messages=TALK, tools=(TOOL,), response_schema=FORM,
            temperature=0.5, top_p=0.9, stop=("x",), seed=7, stream=True,
        )  # fmt: skip
        assert body["max_completion_tokens"] == 100
        assert body["stream_options"] == {"include_usage": True}
        assert (body["temperature"], body["top_p"], body["seed"]) == (0.5, 0.9, 7)
        assert body["stop"] == ["x"]
        assert body["response_format"]["json_schema"]["strict"] is True
        assert body["tools"][0]["function"]["parameters"]["type"] == "object"
        system, user, assistant, *results = body["messages"]
        assert system == {"role": "system", "content": "be brief"}
        assert user["content"][1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
        assert assistant["content"] == "calling"
        assert assistant["tool_calls"][1]["function"]["arguments"] == "not json"
        assert [result["content"] for result in results] == ["found", "gone"]
        assert "reasoning_details" not in assistant

    def test_openrouter_takes_reasoning_back_and_demands_that_parameters_count(self) -> None:
        body = body_of(OPENROUTER, messages=TALK, temperature=0)
        assert body["max_tokens"] == 100
        assert body["messages"][1]["reasoning_details"][0]["signature"] == "proof"
        assert body["provider"] == {"require_parameters": True}
        assert "provider" not in body_of(OPENROUTER)
        said = (Message(Role.ASSISTANT, (TextPart("a"),)),)
        assert "reasoning_details" not in body_of(OPENROUTER, messages=said)["messages"][0]
        assert body_of(OPENROUTER, stop=("x",))["provider"] == {"require_parameters": True}

    def test_an_image_by_address_is_passed_on(self) -> None:
        talk = (Message(Role.USER, (ImageURLPart("https://x/y.png"),)),)
        assert body_of(OPENAI, messages=talk)["messages"][0]["content"][0]["image_url"]["url"]
        source = body_of(ANTHROPIC, messages=talk)["messages"][0]["content"][0]["source"]
        assert source == {"type": "url", "url": "https://x/y.png"}

    def test_a_part_in_the_wrong_message_is_a_bug(self) -> None:
        talk = (Message(Role.USER, (TextPart("a"), ToolResult("c", "x"))),)
        with pytest.raises(TypeError):
            body_of(OPENAI, messages=talk)

    def test_anthropic_takes_the_whole_of_a_call(self) -> None:
        body = body_of(
            ANTHROPIC, model="claude-sonnet-4-6", system="be brief", messages=TALK,
            tools=(TOOL,), response_schema=FORM, temperature=0.5, stop=("x",), stream=True,
        )  # fmt: skip
        assert (body["max_tokens"], body["system"], body["stream"]) == (100, "be brief", True)
        assert body["tools"][0]["input_schema"]["type"] == "object"
        assert body["output_config"]["format"]["type"] == "json_schema"
        user, assistant, results = body["messages"]
        assert user["content"][1]["source"]["data"] == PNG
        thinking, _, call, bad_call = assistant["content"]
        assert thinking == {"type": "thinking", "thinking": "hm", "signature": "proof"}
        assert call["input"] == {"a": 1}
        assert bad_call["input"] == {"arguments": "not json"}
        assert results["role"] == "user"
        assert [block.get("is_error", False) for block in results["content"]] == [False, True]

    def test_anthropic_gets_redacted_thinking_back_as_it_was(self) -> None:
        talk = (Message(Role.ASSISTANT, (ReasoningPart("", "redacted:opaque"),)),)
        block = body_of(ANTHROPIC, messages=talk, top_p=0.5)["messages"][0]["content"][0]
        assert block == {"type": "redacted_thinking", "data": "opaque"}

    def test_gemini_takes_the_whole_of_a_call(self) -> None:
        body = body_of(
            GEMINI, model="gemini-3.1-flash-lite", system="be brief", messages=TALK,
            tools=(TOOL,), response_schema=FORM, temperature=0.5, top_p=0.9, stop=("x",), seed=7,
        )  # fmt: skip
        config = body["generationConfig"]
        assert (config["maxOutputTokens"], config["topP"], config["seed"]) == (100, 0.9, 7)
        assert config["stopSequences"] == ["x"]
        assert config["responseMimeType"] == "application/json"
        assert body["systemInstruction"] == {"parts": [{"text": "be brief"}]}
        assert body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"]
        user, model, results = body["contents"]
        assert user["parts"][1]["inlineData"] == {"mimeType": "image/png", "data": PNG}
        text, call, bad_call = model["parts"]
        assert text == {"text": "calling"}
        assert call["thoughtSignature"] == "sig"
        assert bad_call["functionCall"]["args"] == {"arguments": "not json"}
        assert results["parts"] == [
            {"functionResponse": {"name": "lookup", "response": {"result": "found"}}},
            {"functionResponse": {"name": "lookup", "response": {"error": "gone"}}},
        ]

    def test_gemini_drops_a_turn_that_is_reasoning_alone(self) -> None:
        talk = (Message(Role.ASSISTANT, (ReasoningPart("hm", ""),)), *text_call().messages)
        assert [turn["role"] for turn in body_of(GEMINI, messages=talk)["contents"]] == ["user"]


EFFORTS = [
    (OPENAI, "gpt-5-mini", "low", {"reasoning_effort": "low"}),
    (OPENAI, "gpt-4o", "none", {}),
    (OPENAI, "some-new-model", "high", {"reasoning_effort": "high"}),
    (OPENROUTER, "openai/o3", "high", {"reasoning": {"effort": "high"}}),
    (OPENROUTER, "openai/o3", "none", {"reasoning": {"enabled": False}}),
    (
        ANTHROPIC,
        "claude-sonnet-4-6",
        "minimal",
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
    ),
    (
        ANTHROPIC,
        "claude-haiku-4-5-20251001",
        "high",
        {"thinking": {"type": "enabled", "budget_tokens": 1999}},
    ),
    (ANTHROPIC, "claude-3-haiku-20240307", "none", {}),
]


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(("dialect", "model", "effort", "fields"), EFFORTS)
def test_the_effort_is_said_in_the_provider_s_way(
    dialect: Any, model: str, effort: str, fields: dict[str, Any]
) -> None:
    plain = body_of(dialect, model=model, max_output_tokens=2000)
    body = body_of(
        dialect, model=model, max_output_tokens=2000, reasoning_effort=ReasoningEffort(effort)
    )
    assert {name: value for name, value in body.items() if name not in plain} == fields


@pytest.mark.requirement("R1")
@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("gemini-3-pro", "high", {"thinkingLevel": "high", "includeThoughts": True}),
        ("gemini-2.0-flash", "none", None),
        ("learnlm", "low", {"thinkingLevel": "low", "includeThoughts": True}),
    ],
)
def test_gemini_s_effort_is_a_budget_or_a_level(
    model: str, effort: str, thinking: dict[str, Any] | None
) -> None:
    body = body_of(GEMINI, model=model, reasoning_effort=ReasoningEffort(effort))
    assert body["generationConfig"].get("thinkingConfig") == thinking


UNSUPPORTED = [
    (OPENAI, {"model": "gpt-4o", "temperature": 0.5, "stop": ("x",)}, []),
    (OPENAI, {"model": "o4-mini", "temperature": 0.5, "top_p": 0.5}, ["temperature", "top_p"]),
    (OPENAI, {"model": "gpt-5-mini", "stop": ("x",), "temperature": 1}, ["stop"]),
    (OPENAI, {"model": "gpt-5.2", "temperature": 0, "reasoning_effort": "none"}, []),
    (OPENAI, {"model": "gpt-5-chat-latest", "temperature": 0}, []),
    (OPENAI, {"model": "gpt-4o", "reasoning_effort": "low"}, ["reasoning_effort"]),
    (OPENAI, {"model": "o3", "reasoning_effort": "minimal"}, ["reasoning_effort"]),
    (OPENAI, {"model": "gpt-5.1", "reasoning_effort": "minimal"}, ["reasoning_effort"]),
    (OPENROUTER, {"model": "x/y", "seed": 1, "temperature": 0}, []),
    (ANTHROPIC, {"model": "claude-sonnet-4-6", "seed": 1}, ["seed"]),
    (ANTHROPIC, {"model": "claude-3-haiku", "response_schema": FORM}, ["response_schema"]),
    (ANTHROPIC, {"model": "claude-3-haiku", "reasoning_effort": "low"}, ["reasoning_effort"]),
    (ANTHROPIC, {"model": "claude-haiku-4-5", "reasoning_effort": "low"}, ["reasoning_effort"]),
    (ANTHROPIC, {"model": "claude-sonnet-4-6", "temperature": 0, "top_p": 0.5}, ["top_p"]),
    (ANTHROPIC, {"model": "claude-sonnet-4-20250514", "temperature": 0, "top_p": 0.5}, []),
    (
        ANTHROPIC,
        {"model": "claude-x", "temperature": 0, "top_p": 0.5, "reasoning_effort": "low"},
        ["temperature", "top_p"],
    ),
    (
        GEMINI,
        {"model": "m", "messages": (Message(Role.USER, (ImageURLPart("https://x"),)),)},
        ["messages.image_url"],
    ),
    (GEMINI, {"model": "gemini-2.0-flash", "reasoning_effort": "low"}, ["reasoning_effort"]),
    (GEMINI, {"model": "gemini-2.5-pro", "reasoning_effort": "none"}, ["reasoning_effort"]),
    (GEMINI, {"model": "gemini-3-flash", "reasoning_effort": "none"}, ["reasoning_effort"]),
    (GEMINI, {"model": "gemini-3-pro", "reasoning_effort": "minimal"}, ["reasoning_effort"]),
]


@pytest.mark.requirement("R8")
@pytest.mark.parametrize(("dialect", "fields", "unsupported"), UNSUPPORTED)
def test_what_a_model_does_not_take_is_named_and_never_dropped(
    dialect: Any, fields: dict[str, Any], unsupported: list[str]
) -> None:
    if "reasoning_effort" in fields:
        fields = {**fields, "reasoning_effort": ReasoningEffort(fields["reasoning_effort"])}
    call = text_call(**fields)
    assert dialect.unsupported(call) == unsupported
    if unsupported:
        with pytest.raises(UnsupportedParameterError) as caught:
            dialect.build_request(call, credential(), base_url="https://x")
        assert caught.value.field == unsupported[0]
