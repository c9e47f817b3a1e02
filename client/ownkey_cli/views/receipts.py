# SPDX-License-Identifier: Apache-2.0
"""What a generation came to: who pays, who served it, what it cost."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.router.v1 import attempt_pb2, media_pb2, text_pb2
from rich.console import RenderableType
from rich.text import Text

from client.ownkey_cli.texts import NONE, clean, credits_number, in_credits, in_usd, word
from client.ownkey_cli.views.tables import table

OWN_KEY = attempt_pb2.FUNDING_OWN_KEY
FUNDING_STYLES = {"own-key": "cyan", "credits": "magenta"}


def payer_line(
    start: text_pb2.TextStart | media_pb2.MediaStart | attempt_pb2.Receipt,
) -> Text:
    """Who pays and who serves, in a line."""
    side = start.payer
    payer = f"own key {clean(start.key_hint)}".rstrip() if side == OWN_KEY else "credits"
    line = Text.assemble(
        (payer, f"bold {FUNDING_STYLES[word(attempt_pb2.Funding, side)]}"),
        " pays" if side == OWN_KEY else " pay",
        f"  {clean(start.model)} at {clean(start.provider)}",
    )
    if start.fallback:
        line.append("  (in place of an own key that did not serve)", style="yellow")
    return line


def cost_line(finish: text_pb2.TextFinish | text_pb2.GenerateTextResponse) -> Text:
    """What it cost and how much was used, in a line."""
    receipt = finish.receipt
    parts = [*_paid(receipt), _tokens(receipt.usage)]
    parts.append(word(text_pb2.FinishReason, finish.finish_reason))
    if receipt.replayed:
        parts.append("repeats an earlier request, whose text was never kept")
    return Text("  ·  ".join(parts), style="dim")


def media_cost_line(receipt: attempt_pb2.Receipt) -> Text:
    """What images or speech cost and how much was made, in a line."""
    usage = receipt.usage
    parts = _paid(receipt)
    if usage.image_count:
        parts.append(f"{usage.image_count} image{'s' if usage.image_count > 1 else ''}")
    if usage.character_count:
        parts.append(f"{usage.character_count:,} characters")
    if usage.output_token_count:
        parts.append(_tokens(usage))
    if receipt.replayed:
        parts.append("repeats an earlier request, whose media were never kept")
    return Text("  ·  ".join(parts), style="dim")


def _paid(receipt: attempt_pb2.Receipt) -> list[str]:
    cost = in_usd(receipt.cost_nano_usd) if receipt.HasField("cost_nano_usd") else "unpriced"
    charged = f"charged {in_credits(receipt.charged_nano_credits)}"
    if receipt.settlement_state == attempt_pb2.SETTLEMENT_STATE_PENDING:
        charged = "the charge lands later"
    return [f"{cost} at the provider", charged]


def _tokens(usage: attempt_pb2.Usage) -> str:
    exact = "" if usage.basis == attempt_pb2.USAGE_BASIS_EXACT else ", estimated"
    heard, spoken = usage.audio_input_token_count, usage.audio_output_token_count
    sound = f" (of sound {heard:,} in, {spoken:,} out)" if heard or spoken else ""
    return f"tokens {usage.input_token_count:,} in, {usage.output_token_count:,} out{sound}{exact}"


def attempts_table(attempts: Iterable[attempt_pb2.Attempt]) -> RenderableType:
    """Every call at a provider, in order."""
    return table(
        ("!tried", "!model", "!paid by", "!came to", "?>status", "?>cost", "?>credits"),
        (
            (
                attempt.provider,
                attempt.model,
                funding_text(attempt.funding, attempt.key_hint),
                word(attempt_pb2.Outcome, attempt.outcome),
                str(attempt.http_status or NONE),
                in_usd(attempt.cost_nano_usd) if attempt.HasField("cost_nano_usd") else NONE,
                credits_number(attempt.charged_nano_credits),
            )
            for attempt in attempts
        ),
        empty="Nothing was tried.",
    )


def funding_text(funding: int, key_hint: str = "") -> Text:
    """A side that pays, in its colour."""
    side = word(attempt_pb2.Funding, funding)
    return Text(f"{side} {clean(key_hint)}".rstrip(), style=FUNDING_STYLES.get(side, ""))
