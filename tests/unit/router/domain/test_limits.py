# SPDX-License-Identifier: Apache-2.0
"""What is too long for a model, told before anything is sent."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router import errors
from services.router.domain.catalogue import Model
from services.router.domain.limits import input_excess, output_excess
from services.router.domain.media_work import ImageInput
from services.router.domain.plan import ExclusionReason
from services.router.domain.request import TextInput
from services.router.domain.text import ImagePart, Message, Role, TextPart, ToolResult
from services.router.domain.token_bound import WORDS_PER_TOKEN_MAX, input_tokens_min
from services.shared.errors import InvalidArgumentError
from tests.support.engine import FakeTransport
from tests.support.routing import account_keys, catalogue, own_key, planned, request
from tests.support.stage import MODEL, Stage

LIMIT = 1_000


def prompt(text: str, **fields: Any) -> TextInput:
    """Give a prompt."""
    return TextInput(messages=(Message(Role.USER, (TextPart(text),)),), **fields)


def model(vendor: str, **fields: Any) -> Model:
    """Give a model of a vendor."""
    found = catalogue().models["anthropic/claude"]
    return dataclasses.replace(found, id=f"{vendor}/m", **fields)


class TestInput:
    @pytest.mark.requirement("R1", "R11")
    @pytest.mark.parametrize(
        ("vendor", "words", "refused"),
        [
            ("openai", LIMIT, False),
            ("openai", LIMIT + 1, True),
            ("google", LIMIT + 1, True),
            ("deepseek", LIMIT + 1, True),
            ("anthropic", LIMIT * WORDS_PER_TOKEN_MAX, False),
            ("anthropic", (LIMIT + 1) * WORDS_PER_TOKEN_MAX, True),
        ],
    )
    def test_it_is_too_long_from_the_first_token_past_the_limit(
        self, vendor: str, words: int, *, refused: bool
    ) -> None:
        """A word is a token at least where the tokenizer says so; four may be one where it may."""
        assert bool(input_excess(prompt("w " * words), model(vendor))) is refused

    @pytest.mark.requirement("R1")
    @pytest.mark.parametrize(
        "text", ["a" * 100_000, " " * 100_000, "a\n" * 50_000, " \n" * 50_000, "字" * 50_000]
    )
    def test_what_may_be_few_tokens_is_let_through(self, text: str) -> None:
        """Runs that a tokenizer may take in one piece say nothing."""
        assert input_excess(prompt(text), model("openai")) == ""

    @pytest.mark.requirement("R1")
    @given(words=st.lists(st.text("ab,.", min_size=1), max_size=300), above=st.integers(0, 100))
    def test_the_bound_is_never_above_the_words(self, words: list[str], above: int) -> None:
        text = " ".join(words)
        least = input_tokens_min(prompt(text), vendor="openai", above=above)
        assert least in (0, len(text.split()))
        assert least or len(text.split()) <= above or len(text.split()) == 0

    @pytest.mark.requirement("R1")
    def test_system_and_results_count_and_images_do_not(self) -> None:
        messages = (
            Message(Role.USER, (ImagePart("image/png", b"x " * 9_999),)),
            Message(Role.TOOL, (ToolResult("c", "w " * 600),)),
        )
        spread = TextInput(messages=messages, system="w " * 401)
        assert "holds 1,001 tokens at least" in input_excess(spread, model("openai"))

    @pytest.mark.requirement("R1")
    def test_a_model_without_a_known_limit_takes_anything(self) -> None:
        assert input_excess(prompt("w " * 9_999), model("openai", context_tokens=0)) == ""
        assert input_excess(ImageInput(prompt="w " * 9_999), model("openai")) == ""


class TestOutput:
    @pytest.mark.requirement("R1")
    @pytest.mark.parametrize(
        ("asked", "limit", "refused"),
        [(4_096, 4_096, False), (4_097, 4_096, True), (4_097, 0, False), (None, 1, False)],
    )
    def test_more_than_the_model_gives_is_refused(
        self, asked: int | None, limit: int, *, refused: bool
    ) -> None:
        work = prompt("Hi", max_output_tokens=asked)
        assert bool(output_excess(work, model("openai", output_tokens_max=limit))) is refused


class TestRequests:
    @pytest.mark.requirement("R1", "R11")
    async def test_a_prompt_too_long_for_the_model_asked_for_never_leaves(self) -> None:
        stage = Stage(FakeTransport())
        with pytest.raises(errors.ContextTooLongError) as caught:
            [event async for event in stage.run(prompt=prompt("w " * 1_001))]
        assert "1,001 tokens at least" in caught.value.message
        assert "takes 1,000 at most" in caught.value.message
        assert caught.value.metadata == {"model": MODEL}
        assert not stage.ledger.asks
        assert not stage.bearers

    @pytest.mark.requirement("R1", "R11")
    async def test_more_output_than_the_model_gives_is_refused_by_field(self) -> None:
        stage = Stage(FakeTransport())
        stage.limit_output(MODEL, 50)
        with pytest.raises(InvalidArgumentError) as caught:
            [event async for event in stage.run(prompt=prompt("Hi", max_output_tokens=51))]
        assert caught.value.fields[0].field == "input.max_output_tokens"
        assert f"is 51, and {MODEL} gives 50 tokens at most" in caught.value.message
        assert not stage.ledger.asks

    @pytest.mark.requirement("R13")
    def test_a_request_without_a_model_passes_by_one_that_is_too_short(self) -> None:
        long = prompt("w " * (LIMIT + 1) * WORDS_PER_TOKEN_MAX)
        laid_out = planned(request(model="", input=long), keys=account_keys(own_key("anthropic")))
        assert not laid_out.own
        assert not laid_out.shared
        reasons = {(item.reason, item.detail.partition(" ")[0]) for item in laid_out.exclusions}
        assert (ExclusionReason.PARAMETER, "the") in reasons
