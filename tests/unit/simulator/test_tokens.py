# SPDX-License-Identifier: Apache-2.0
"""The simulator's token rule and answers."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.tokens import (
    IMAGE_TOKENS,
    REASONING_TOKENS,
    Finish,
    Prompt,
    answer_text,
    count_tokens,
    make_answer,
    pieces,
)


def prompt(**fields: Any) -> Prompt:
    return Prompt(**{"model": "m", "texts": ("be brief", "say hello"), **fields})


class TestTokens:
    @pytest.mark.parametrize(("text", "count"), [("", 0), (" a\n b ", 2), ("a", 1)])
    def test_a_token_is_a_word(self, text: str, count: int) -> None:
        assert count_tokens(text) == count

    def test_input_is_all_text_and_images(self) -> None:
        assert prompt(image_count=2).input_tokens == 4 + 2 * IMAGE_TOKENS

    def test_pieces_put_together_are_the_text(self) -> None:
        text = answer_text("m", 4)
        assert "".join(pieces(text)) == text
        assert pieces("") == []


class TestAnswers:
    def test_the_same_prompt_has_the_same_answer(self) -> None:
        answer = make_answer(prompt())
        assert answer == make_answer(prompt())
        assert answer.text == "Simulated answer of m to a prompt of 4 tokens."
        assert (answer.input_tokens, answer.output_tokens) == (4, 10)

    def test_an_answer_of_exactly_the_limit_is_whole(self) -> None:
        assert make_answer(prompt(output_tokens_max=10)).finish is Finish.STOP
        cut = make_answer(prompt(output_tokens_max=9))
        assert (cut.finish, cut.output_tokens) == (Finish.LENGTH, 9)

    def test_thinking_is_output_within_the_limit(self) -> None:
        answer = make_answer(prompt(thinks=True))
        assert answer.output_tokens == 10 + REASONING_TOKENS
        short = make_answer(prompt(thinks=True, output_tokens_max=3))
        assert (short.text, short.output_tokens, short.reasoning_tokens) == ("", 3, 3)

    def test_a_stop_sequence_ends_the_text_before_it(self) -> None:
        assert make_answer(prompt(stop=(" of", "x"))).text == "Simulated answer"

    def test_a_schema_is_answered_by_json_that_fits(self) -> None:
        kinds = ("string", "integer", "number", "boolean", "null")
        properties: dict[str, Any] = {kind: {"type": kind} for kind in kinds}
        properties |= {"list": {"type": "array", "items": {"enum": ["x", "y"]}}}
        schema = {"type": "object", "properties": properties}
        assert make_answer(prompt(schema=schema)).text == (
            '{"string":"simulated","integer":1,"number":1.5,"boolean":true,"null":null,"list":["x"]}'
        )

    def test_a_tool_is_called(self) -> None:
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        answer = make_answer(prompt(tool=("weather", schema)))
        assert (answer.finish, answer.tool_name) == (Finish.TOOL_CALL, "weather")
        assert (answer.tool_arguments, answer.output_tokens) == ({"city": "simulated"}, 2)

    def test_a_tool_whose_schema_is_no_object_is_called_without_arguments(self) -> None:
        assert make_answer(prompt(tool=("f", {"type": "string"}))).tool_arguments == {}

    def test_empty_and_filtered_answers_have_no_output(self) -> None:
        empty = make_answer(prompt(), empty=True)
        filtered = make_answer(prompt(), filtered=True)
        assert (empty.output_tokens, empty.finish) == (0, Finish.STOP)
        assert (filtered.output_tokens, filtered.finish) == (0, Finish.FILTERED)
