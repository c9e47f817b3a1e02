# SPDX-License-Identifier: Apache-2.0
"""Providers, models and plans of requests, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.router.v1 import attempt_pb2, catalogue_pb2, explain_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.texts import (
    NONE,
    clean,
    in_credits,
    in_usd,
    seconds_text,
    short,
    usd_per_million,
    word,
)
from client.ownkey_cli.views.receipts import funding_text
from client.ownkey_cli.views.tables import table, titled


def providers_table(
    providers: Iterable[catalogue_pb2.Provider], *, curated: bool
) -> RenderableType:
    """Providers, where their keys are made and how they look, or their curated models."""
    if curated:
        return table(
            ("!provider", "!default model", "models that a key's default may name"),
            (
                (one.provider_id, one.default_model, "\n".join(one.curated_models))
                for one in providers
            ),
            empty="The catalogue has no provider.",
        )
    return table(
        ("!provider", "?!name", "?serves", "a key looks like", "!made at", "?!default model"),
        (
            (
                one.provider_id,
                one.display_name,
                ", ".join(word(catalogue_pb2.Capability, work) for work in one.capabilities),
                one.key_shape,
                one.key_page_url,
                one.default_model or NONE,
            )
            for one in providers
        ),
        empty="The catalogue has no provider.",
    )


def models_table(models: Iterable[catalogue_pb2.Model]) -> RenderableType:
    """Models, a row for each provider that serves one, with its price."""
    return table(
        ("!model", "!provider", ">in", ">out", "?>context", "?can"),
        (row for model in models for row in _offers(model)),
        empty="No model of the catalogue is served there.",
    )


def _offers(model: catalogue_pb2.Model) -> Iterable[tuple[str, ...]]:
    named = (
        model.model_id,
        f"{model.context_token_count:,}" if model.context_token_count else NONE,
        ", ".join(word(catalogue_pb2.Capability, one) for one in model.capabilities),
    )
    for number, offer in enumerate(model.offers):
        name, context, can = ("", "", "") if number else named
        yield (
            name,
            offer.provider,
            _stacked(offer, "input"),
            _stacked(offer, "output"),
            context,
            can,
        )


def _stacked(offer: catalogue_pb2.ModelOffer, side: str) -> str:
    """A price with what it is for below each amount: an unusual one makes no column wide."""
    return "\n".join(part.replace(" ", "\n", 1) for part in _price(offer, side).split(", "))


def estimate_table(estimates: Iterable[explain_pb2.CostEstimate]) -> RenderableType:
    """What a workload would cost, cheapest first, whoever pays."""
    return table(
        ("!paid by", "!model", "!provider", ">cost", ">credits", "?>in, out"),
        (
            (
                funding_text(one.funding),
                one.model or "any",
                one.provider or NONE,
                in_usd(one.cost_nano_usd, places_min=4),
                in_credits(one.cost_nano_credits) if one.HasField("cost_nano_credits") else NONE,
                f"{_price(one, 'input')}, {_price(one, 'output')}",
            )
            for one in estimates
        ),
        empty="No model of the catalogue has a price for such a workload.",
    )


def explain_view(answer: explain_pb2.ExplainResponse) -> RenderableType:
    """What a request would do: who pays, what would be tried, what not and why."""
    if answer.HasField("refusal"):
        payer = Text.assemble(("It would be refused: ", "bold red"), clean(answer.refusal.message))
    else:
        payer = Text("Paid by ").append_text(funding_text(answer.payer))
        if answer.fallback:
            payer.append(" in place of an own key", style="yellow")
        if answer.held_nano_credits:
            payer.append(f", with {in_credits(answer.held_nano_credits)} held", style="default")
    candidates = table(
        ("", "!paid by", "!provider", "!model", ">at most", "?!when", "?!key", "?>in, out"),
        (
            (
                f"{number}.",
                funding_text(one.funding, one.key_hint),
                one.provider,
                one.model,
                in_usd(one.worst_case_nano_usd) if one.HasField("worst_case_nano_usd") else NONE,
                f"in {seconds_text(one.wait.ToMilliseconds() / 1000)}"
                if one.HasField("wait")
                else "now",
                short(one.key),
                f"{_price(one, 'input')}, {_price(one, 'output')}",
            )
            for number, one in enumerate(answer.candidates, 1)
        ),
        empty="Nothing would be tried.",
    )
    parts: list[RenderableType] = [payer, titled("Would be tried, in order", candidates)]
    if answer.exclusions:
        parts.append(titled("Would not", _exclusions(answer.exclusions)))
    parts += [Text(clean(note), style="dim") for note in answer.notes]
    return Group(*parts)


def _exclusions(exclusions: Iterable[explain_pb2.Exclusion]) -> RenderableType:
    return table(
        ("!side", "!provider", "key", "!reason", "why"),
        (
            (
                word(attempt_pb2.Funding, one.funding),
                one.provider,
                short(one.key),
                word(explain_pb2.ExclusionReason, one.reason),
                one.detail,
            )
            for one in exclusions
        ),
        empty="",
    )


def _price(
    priced: catalogue_pb2.ModelOffer | explain_pb2.Candidate | explain_pb2.CostEstimate, side: str
) -> str:
    if not priced.HasField("price"):
        return NONE
    price = priced.price
    parts = []
    if side == "input" and price.nano_usd_per_million_characters:
        parts.append(f"{usd_per_million(price.nano_usd_per_million_characters)} characters")
    if side == "output" and price.nano_usd_per_image:
        parts.append(f"{in_usd(price.nano_usd_per_image)} an image")
    if side == "output" and price.image_output_nano_usd_per_million_tokens:
        parts.append(f"{usd_per_million(price.image_output_nano_usd_per_million_tokens)} images")
    sound = getattr(price, f"audio_{side}_nano_usd_per_million_tokens")
    if sound:
        parts.append(f"{usd_per_million(sound)} sound")
    if side == "output" and price.nano_usd_per_media_second:
        parts.append(f"{in_usd(price.nano_usd_per_media_second)} a second")
    if side == "output" and price.nano_usd_per_machine_second:
        parts.append(f"{in_usd(price.nano_usd_per_machine_second)} a machine's second")
    by_tokens = getattr(price, f"{side}_nano_usd_per_million_tokens")
    other = (
        price.nano_usd_per_million_characters,
        price.nano_usd_per_image,
        price.nano_usd_per_media_second,
        price.nano_usd_per_machine_second,
    )
    if by_tokens or not any(other):
        parts.insert(0, usd_per_million(by_tokens))
    return ", ".join(parts) or NONE
