# SPDX-License-Identifier: Apache-2.0
"""
Builds the body of a Gemini call, https://ai.google.dev/api/generate-content .

Pure. Which model takes what follows from the version in its name.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec

from services.router.domain.text import (
    EARLIER_REASONING,
    LENIENT_SCHEMA,
    ImagePart,
    ImageURLPart,
    Message,
    Part,
    ReasoningEffort,
    Role,
    TextCall,
    TextPart,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)

__all__ = ["build_generate_body", "lowest_effort", "unsupported_fields"]

_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NEWEST = (99, 0)
_BUDGETS_FROM = (2, 5)
_LEVELS_FROM = (3, 0)
"""https://ai.google.dev/gemini-api/docs/thinking : budgets in 2.5, levels from 3 on."""

_BUDGET_TOKENS = {
    # https://ai.google.dev/gemini-api/docs/openai#thinking maps the words so.
    ReasoningEffort.NONE: 0,
    ReasoningEffort.MINIMAL: 1024,
    ReasoningEffort.LOW: 1024,
    ReasoningEffort.MEDIUM: 8192,
    ReasoningEffort.HIGH: 24576,
}


def build_generate_body(call: TextCall) -> bytes:
    """
    Give the JSON body of a call.

    Raises:
        msgspec.DecodeError: A tool's or the answer's schema is not JSON.
    """
    config: dict[str, Any] = {"maxOutputTokens": call.max_output_tokens}
    sampling = {
        "temperature": call.temperature,
        "topP": call.top_p,
        "topK": call.top_k,
        "seed": call.seed,
    }
    config |= {name: value for name, value in sampling.items() if value is not None}
    if call.stop:
        config["stopSequences"] = list(call.stop)
    if call.response_schema is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = msgspec.json.decode(call.response_schema.schema_json)
    thinking = _thinking(call)
    if thinking:
        config["thinkingConfig"] = thinking
    body: dict[str, Any] = {"contents": _contents(call.messages), "generationConfig": config}
    if call.system:
        body["systemInstruction"] = {"parts": [{"text": call.system}]}
    if call.tools:
        declarations = [
            {
                "name": tool.name,
                "description": tool.description,
                "parametersJsonSchema": msgspec.json.decode(tool.parameters_json),
            }
            for tool in call.tools
        ]
        body["tools"] = [{"functionDeclarations": declarations}]
    if call.tool_choice is not None:
        body["toolConfig"] = {"functionCallingConfig": _calling(call.tool_choice)}
    return msgspec.json.encode(body)


def _calling(choice: ToolChoice) -> dict[str, Any]:
    """
    Give the calling mode, https://ai.google.dev/gemini-api/docs/function-calling .
    """
    if choice.mode is ToolMode.NONE:
        return {"mode": "NONE"}
    return {"mode": "ANY", **({"allowedFunctionNames": [choice.name]} if choice.name else {})}


def unsupported_fields(call: TextCall) -> list[str]:
    """
    Name the fields of the call that the API or the model does not take.

    Earlier reasoning is not taken back, but for the signatures of the calls that came of it; an
    answer always holds to its schema (https://ai.google.dev/gemini-api/docs/structured-output).
    """
    fields = call.holds(EARLIER_REASONING, LENIENT_SCHEMA)
    parts = (part for message in call.messages for part in message.parts)
    if any(isinstance(part, ImageURLPart) for part in parts):
        fields.append("messages.image_url")
    if call.reasoning_effort is not None and not _effort_fits(call.model, call.reasoning_effort):
        fields.append("reasoning_effort")
    return fields


def lowest_effort(model: str) -> ReasoningEffort | None:
    """
    Give the effort at which a model thinks least.
    """
    version = _version(model)
    if version < _BUDGETS_FROM:
        return None
    if version < _LEVELS_FROM:
        return None if "-pro" in model else ReasoningEffort.NONE
    return ReasoningEffort.LOW if "-pro" in model else ReasoningEffort.MINIMAL


def _version(model: str) -> tuple[int, int]:
    """
    Read the version out of a model's name; names that carry none count as newest.
    """
    found = _VERSION.match(model)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def _effort_fits(model: str, effort: ReasoningEffort) -> bool:
    """
    Tell whether a model takes an effort, by the thinking page's table.
    """
    version = _version(model)
    if version < _BUDGETS_FROM:
        return effort is ReasoningEffort.NONE
    if version < _LEVELS_FROM:
        return effort is not ReasoningEffort.NONE or "-pro" not in model
    if effort is ReasoningEffort.NONE:
        return False
    return effort is not ReasoningEffort.MINIMAL or "-pro" not in model


def _thinking(call: TextCall) -> dict[str, Any]:
    effort = call.reasoning_effort
    version = _version(call.model)
    if effort is None or version < _BUDGETS_FROM:
        return {}
    if version < _LEVELS_FROM:
        thinking: dict[str, Any] = {"thinkingBudget": _BUDGET_TOKENS[effort]}
    else:
        thinking = {"thinkingLevel": effort.value}
    if effort is not ReasoningEffort.NONE:
        thinking["includeThoughts"] = True
    return thinking


def _contents(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """
    Give the turns; neighbours of one role become one turn, so that the answers to all calls
    of a turn come together, as the API demands.
    """
    names: dict[str, str] = {}
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "model" if message.role is Role.ASSISTANT else "user"
        parts = [_part(part, names) for part in message.parts]
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return turns


def _part(part: Part, names: dict[str, str]) -> dict[str, Any]:
    """
    Give one part; the proof of earlier reasoning travels with the tool calls.
    """
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, ImagePart):
        data = base64.b64encode(part.data).decode("ascii")
        return {"inlineData": {"mimeType": part.media_type, "data": data}}
    if isinstance(part, ToolCall):
        names[part.id] = part.name
        call: dict[str, Any] = {"functionCall": {"name": part.name, "args": _arguments(part)}}
        if part.signature:
            call["thoughtSignature"] = part.signature
        return call
    if isinstance(part, ToolResult):
        # The API pairs results with calls by the function's name.
        name = names.get(part.tool_call_id, part.tool_call_id)
        result = {"error" if part.failed else "result": part.content}
        return {"functionResponse": {"name": name, "response": result}}
    raise TypeError(f"a {type(part).__name__} has no place in a turn")


def _arguments(call: ToolCall) -> dict[str, Any]:
    """
    Give a call's arguments as the object the API demands, whatever a model wrote.
    """
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"arguments": call.arguments}
