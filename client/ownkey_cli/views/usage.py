# SPDX-License-Identifier: Apache-2.0
"""What was settled, summed for people, with a bar for who paid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import auto

from ownkey.ledger.v1 import authorization_pb2, usage_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.choices import Choice
from client.ownkey_cli.texts import credits_number, in_usd, short
from client.ownkey_cli.views.charts import Part, bar
from client.ownkey_cli.views.tables import table

BAR_COLUMNS = 16
_OWN_KEY = ("█", "cyan")
_CREDITS = ("░", "magenta")


class UsageBy(Choice):
    """What usage is summed by."""

    DAY = auto()
    MODEL = auto()
    PROVIDER = auto()
    KEY = auto()


@dataclass(slots=True)
class UsageSum:
    """
    Usage of one day, model, provider or key.

    Args:
        name: Which.
        own_key_attempts: Served by an own key.
        credit_attempts: Served on credits.
        vendor_cost_nano_usd: What providers charge for all of them.
        charged_nano_credits: What the customer was charged, fees included.
        fee_nano_credits: Part of that which is fees.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
    """

    name: str
    own_key_attempts: int = 0
    credit_attempts: int = 0
    vendor_cost_nano_usd: int = 0
    charged_nano_credits: int = 0
    fee_nano_credits: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def attempts(self) -> int:
        """On either side."""
        return self.own_key_attempts + self.credit_attempts

    def add(self, row: usage_pb2.UsageRow) -> None:
        """Add a row."""
        if row.funding == authorization_pb2.FUNDING_OWN_KEY:
            self.own_key_attempts += row.attempt_count
        else:
            self.credit_attempts += row.attempt_count
        self.vendor_cost_nano_usd += row.vendor_cost_nano_usd
        self.charged_nano_credits += row.charged_nano_credits
        self.fee_nano_credits += row.fee_nano_credits
        self.tokens_in += row.units.input_token_count
        self.tokens_out += row.units.output_token_count


def sum_usage(rows: Iterable[usage_pb2.UsageRow], by: UsageBy) -> list[UsageSum]:
    """Sums of the rows, days in their order, others by attempts, the most first."""
    sums: dict[str, UsageSum] = {}
    for row in rows:
        name = _name(row, by)
        sums.setdefault(name, UsageSum(name)).add(row)
    if by is UsageBy.DAY:
        return sorted(sums.values(), key=lambda one: one.name)
    return sorted(sums.values(), key=lambda one: (-one.attempts, one.name))


def usage_view(rows: Iterable[usage_pb2.UsageRow], by: UsageBy) -> RenderableType:
    """A table of sums with a bar each, and their total."""
    rows = list(rows)
    sums = sum_usage(rows, by)
    if not sums:
        return Text("Nothing was settled in that time.", style="dim")
    total = UsageSum("all")
    for row in rows:
        total.add(row)
    largest = max(one.attempts for one in sums)
    body = table(
        (
            *(f"!{by.value}", "!who paid", ">attempts", ">vendor cost", ">credits"),
            *("?>fees", "?>tokens in, out"),
        ),
        (_cells(one, largest) for one in (sums if len(sums) == 1 else [*sums, total])),
        empty="",
    )
    legend = Text.assemble(_OWN_KEY, " own key   ", _CREDITS, " credits", style="dim")
    return Group(body, legend)


def _cells(one: UsageSum, largest: int) -> tuple[str | Text, ...]:
    parts = (
        Part(one.own_key_attempts, *_OWN_KEY),
        Part(one.credit_attempts, *_CREDITS),
    )
    return (
        one.name,
        bar(parts, largest=max(largest, one.attempts), columns=BAR_COLUMNS),
        f"{one.attempts:,}",
        in_usd(one.vendor_cost_nano_usd),
        credits_number(one.charged_nano_credits),
        credits_number(one.fee_nano_credits),
        f"{one.tokens_in:,}, {one.tokens_out:,}",
    )


def _name(row: usage_pb2.UsageRow, by: UsageBy) -> str:
    if by is UsageBy.DAY:
        return row.day
    if by is UsageBy.MODEL:
        return row.model
    if by is UsageBy.PROVIDER:
        return row.provider
    return short(row.key) if row.key else "credits"
