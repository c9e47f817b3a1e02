# SPDX-License-Identifier: Apache-2.0
"""
The simulator's token rule and answers: fixed, so that tests can predict every cost.

A token is a word: a run of characters without blanks. An image is `IMAGE_TOKENS`. A model that
thinks spends `REASONING_TOKENS` on it, within the output limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

__all__ = [
    "IMAGE_TOKENS",
    "REASONING_TOKENS",
    "Answer",
    "Finish",
    "Prompt",
    "answer_text",
    "count_tokens",
    "make_answer",
    "pieces",
]

IMAGE_TOKENS = 85
REASONING_TOKENS = 8


class Finish(StrEnum):
    """
    Why an answer ends.
    """

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALL = "tool_call"
    FILTERED = "filtered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """
    What a request asks for, whatever format it came in.
    """

    model: str
    texts: tuple[str, ...]
    """System prompt, messages and tool results, in order."""
    image_count: int = 0
    output_tokens_max: int | None = None
    stop: tuple[str, ...] = ()
    tool: tuple[str, dict[str, Any]] | None = None
    """Name and JSON Schema of the first tool, if one may still be called."""
    schema: dict[str, Any] | None = None
    thinks: bool = False

    @property
    def input_tokens(self) -> int:
        """
        The tokens of the whole input.
        """
        return sum(map(count_tokens, self.texts)) + IMAGE_TOKENS * self.image_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What the simulator answers.
    """

    model: str
    text: str
    finish: Finish
    input_tokens: int
    output_tokens: int
    """All of them, `reasoning_tokens` included."""
    reasoning_tokens: int = 0
    tool_name: str = ""
    tool_arguments: dict[str, Any] = field(default_factory=dict)


def count_tokens(text: str) -> int:
    """
    Count the words of a text.
    """
    return len(text.split())


def answer_text(model: str, input_tokens: int) -> str:
    """
    Give the text that a plain request is answered with.
    """
    return f"Simulated answer of {model} to a prompt of {input_tokens} tokens."


def make_answer(prompt: Prompt, *, empty: bool = False, filtered: bool = False) -> Answer:
    """
    Answer a prompt: by a tool call if a tool may be called, by JSON if a schema is set, else
    by one sentence, cut at the first stop sequence and at the output limit.
    """
    if empty:
        return _answer(prompt, "", Finish.STOP, thinks=False)
    if filtered:
        return _answer(prompt, "", Finish.FILTERED, thinks=False)
    if prompt.tool is not None:
        name, schema = prompt.tool
        arguments = _example(schema)
        return Answer(
            model=prompt.model,
            text="",
            finish=Finish.TOOL_CALL,
            input_tokens=prompt.input_tokens,
            output_tokens=1 + count_tokens(msgspec.json.encode(arguments).decode()),
            tool_name=name,
            tool_arguments=arguments if isinstance(arguments, dict) else {},
        )
    text = answer_text(prompt.model, prompt.input_tokens)
    if prompt.schema is not None:
        text = msgspec.json.encode(_example(prompt.schema)).decode()
    for stop in prompt.stop:
        text = text.partition(stop)[0]
    return _answer(prompt, text, Finish.STOP, thinks=prompt.thinks)


def pieces(text: str) -> list[str]:
    """
    Cut a text into the pieces a stream carries: one word each, blanks in front.
    """
    words = text.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)] if text else []


def _answer(prompt: Prompt, text: str, finish: Finish, *, thinks: bool) -> Answer:
    limit = prompt.output_tokens_max
    reasoning = REASONING_TOKENS if thinks else 0
    if limit is not None and reasoning + count_tokens(text) > limit:
        reasoning = min(reasoning, limit)
        text = " ".join(text.split()[: limit - reasoning])
        finish = Finish.LENGTH
    return Answer(
        model=prompt.model,
        text=text,
        finish=finish,
        input_tokens=prompt.input_tokens,
        output_tokens=reasoning + count_tokens(text),
        reasoning_tokens=reasoning,
    )


_EXAMPLES: dict[str, Any] = {
    "string": "simulated",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
}


def _example(schema: dict[str, Any]) -> Any:
    """
    Give the simplest value that a JSON Schema of plain types describes.
    """
    if "enum" in schema:
        return schema["enum"][0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}))]
    if kind != "object":
        return _EXAMPLES.get(kind)
    return {name: _example(inner) for name, inner in schema.get("properties", {}).items()}
