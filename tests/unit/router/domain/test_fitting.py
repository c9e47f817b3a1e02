# SPDX-License-Identifier: Apache-2.0
"""What an offer lacks for a request, and what of a request is left out for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from services.router.domain.catalogue import Catalogue, Offer
from services.router.domain.fitting import TUNING_FIELDS, Fitting
from services.router.domain.plan import Exclusion, ExclusionReason, Funding, Plan
from services.router.domain.prices import ImagePrice, Price, Rates, VideoPrice
from services.router.domain.request import Preferences, TextInput
from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    Message,
    ReasoningPart,
    ResponseSchema,
    Role,
    TextCall,
    TextPart,
    Tool,
    ToolCall,
    ToolResult,
)
from services.router.providers.registry import DIALECTS
from tests.support.routing import (
    MODEL,
    Lately,
    account_keys,
    catalogue,
    own_key,
    planned,
    request,
    takes_all,
)

ASKED = Message(Role.USER, (TextPart("Hi"),))
SHARED = account_keys(own_key("anthropic", account="platform"), account="platform")
HISTORY = (
    ASKED,
    Message(
        Role.ASSISTANT,
        (ReasoningPart("hm", "proof"), ToolCall("call", "tool", "{}", signature="state")),
    ),
    Message(Role.TOOL, (ToolResult("call", "none", failed=True),)),
)


def unpriced() -> Catalogue:
    """Give a catalogue of which nothing has a price."""
    listed = catalogue()
    model = listed.models[MODEL]
    offers = tuple(dataclasses.replace(offer, price=None) for offer in model.offers)
    return dataclasses.replace(listed, models={MODEL: dataclasses.replace(model, offers=offers)})


def excluded(laid_out: Plan, reason: ExclusionReason, funding: Funding) -> list[Exclusion]:
    """Give what is left out for a reason."""
    found = laid_out.exclusions
    return [item for item in found if (item.reason, item.funding) == (reason, funding)]


def fitting(preferences: Preferences) -> Fitting:
    """Fit a request with preferences, of which providers take every parameter."""
    asked = request(preferences=preferences)
    return Fitting(asked, catalogue(), takes_all, Lately(), now=0.0)


class TestPrices:
    @pytest.mark.requirement("R5", "R6")
    def test_credits_never_pay_for_what_has_no_price(self) -> None:
        laid_out = planned(shared=SHARED, catalogue=unpriced())
        assert not laid_out.shared
        details = {e.detail for e in excluded(laid_out, ExclusionReason.UNPRICED, Funding.CREDITS)}
        assert f"credits need a price, and {MODEL} has none at anthropic" in details

    @pytest.mark.requirement("R5")
    def test_an_own_key_serves_it_without_a_worst_case(self) -> None:
        laid_out = planned(keys=account_keys(own_key("anthropic")), catalogue=unpriced())
        [candidate] = laid_out.own
        assert (candidate.offer.price, candidate.worst_case_nano_usd) == (None, None)

    @pytest.mark.requirement("R5", "R8")
    def test_a_limit_of_the_price_needs_one_on_an_own_key_too(self) -> None:
        asked = request(preferences=Preferences(max_input_rate=10**12))
        laid_out = planned(asked, keys=account_keys(own_key("anthropic")), catalogue=unpriced())
        assert not laid_out.own
        [found] = excluded(laid_out, ExclusionReason.PRICE, Funding.OWN_KEY)
        assert found.detail == f"route.max_price needs a price; {MODEL} has none"

    @pytest.mark.requirement("R8", "R11")
    @pytest.mark.parametrize(
        ("priced", "unit"),
        [
            (Price("p", Rates(0, 0, 0, 0, image=1)), "image"),
            (Price("p", Rates(0, 0, 0, 0), images=(ImagePrice("", "", 1),)), "image"),
            (Price("p", Rates(0, 0, 0, 0, characters=1)), "character"),
            (Price("p", Rates(0, 0, 0, 0, media_second=1)), "second of video"),
            (Price("p", Rates(0, 0, 0, 0), videos=(VideoPrice("", 1),)), "second of video"),
            (Price("p", Rates(0, 0, 0, 0, machine_second=1)), "second of machine time"),
        ],
    )
    @pytest.mark.parametrize("limit", ["max_input_rate", "max_output_rate"])
    def test_a_limit_in_tokens_leaves_out_what_is_priced_otherwise(
        self, priced: Price, unit: str, limit: str
    ) -> None:
        """However high the limit: without one, the same offer serves."""
        offer = Offer("anthropic", MODEL, "claude", priced)
        limited = Preferences(**{limit: 10**12})  # type: ignore[arg-type]
        assert fitting(limited).fault(offer) == (
            ExclusionReason.PRICE,
            f"is priced by the {unit}, and max_price limits tokens only; leave max_price out",
        )
        assert fitting(Preferences()).fault(offer) is None


class TestCapabilities:
    @pytest.mark.requirement("R1", "R11", "R13")
    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"messages": (Message(Role.USER, (ImagePart("image/png", b"x"),)),)}, "images"),
            ({"messages": (Message(Role.USER, (ImageURLPart("https://a.example"),)),)}, "images"),
            ({"response_schema": ResponseSchema("form", "{}")}, "a response schema"),
        ],
    )
    def test_what_a_model_does_not_take_leaves_every_offer_of_it_out(
        self, fields: dict[str, Any], what: str
    ) -> None:
        asked = request(input=TextInput(**{"messages": (ASKED,), **fields}))
        laid_out = planned(asked, keys=account_keys(own_key("anthropic")), shared=SHARED)
        assert not laid_out.own
        assert not laid_out.shared
        for funding in Funding:
            found = excluded(laid_out, ExclusionReason.PARAMETER, funding)
            assert {item.detail for item in found} == {f"{MODEL} does not take {what}"}

    @pytest.mark.requirement("R1")
    def test_what_it_takes_lets_it_serve(self) -> None:
        asked = request(input=TextInput(messages=(ASKED,), tools=(Tool("tool", "", "{}"),)))
        assert planned(asked, keys=account_keys(own_key("anthropic"))).own


class TestDropped:
    @pytest.mark.requirement("R1", "R8")
    @pytest.mark.parametrize(
        ("provider", "fields"),
        [
            ("anthropic", {"messages.tool_call.signature"}),
            ("gemini", {"messages.reasoning"}),
            ("deepseek", {"tool_result.failed", "tool_call.signature", "reasoning.signature"}),
            ("openai", {"tool_result.failed", "tool_call.signature", "reasoning"}),
        ],
    )
    @pytest.mark.parametrize("required", [False, True])
    def test_what_a_provider_has_no_field_for_is_dropped_or_passes_it_by(
        self, provider: str, fields: set[str], *, required: bool
    ) -> None:
        names = {f"messages.{field.removeprefix('messages.')}" for field in fields}
        assert names <= TUNING_FIELDS
        asked = request(
            input=TextInput(messages=HISTORY, tools=(Tool("tool", "", "{}"),)),
            preferences=Preferences(require_parameters=required),
        )
        laid_out = planned(
            asked,
            keys=account_keys(own_key(provider)),
            catalogue=catalogue((provider,)),
            unsupported=lambda name, call: DIALECTS[name].unsupported(call),
        )
        if required:
            assert not laid_out.own
            [found] = excluded(laid_out, ExclusionReason.PARAMETER, Funding.OWN_KEY)
            assert all(name in found.detail for name in names)
            return
        [candidate] = laid_out.own
        assert set(candidate.dropped) == names
        assert isinstance(candidate.call, TextCall)
        assert not DIALECTS[provider].unsupported(candidate.call)

    @pytest.mark.requirement("R1")
    def test_a_turn_of_which_nothing_is_left_is_left_out(self) -> None:
        reasoned = Message(Role.ASSISTANT, (ReasoningPart("", "redacted:x"),))
        call = TextCall(model="m", messages=(ASKED, reasoned), max_output_tokens=1)
        assert call.without({"messages.reasoning.signature"}).messages == (ASKED,)
        assert call.without({"messages.reasoning"}).messages == (ASKED,)

    @pytest.mark.requirement("R1")
    def test_a_lenient_schema_becomes_a_strict_one(self) -> None:
        schema = ResponseSchema("form", "{}", strict=False)
        call = TextCall(model="m", messages=(ASKED,), max_output_tokens=1, response_schema=schema)
        kept = call.without({"response_schema.strict"}).response_schema
        assert kept == ResponseSchema("form", "{}", strict=True)
