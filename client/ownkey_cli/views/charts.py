# SPDX-License-Identifier: Apache-2.0
"""Bars for a terminal, told apart by their letters as well as by their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of a bar.

    Args:
        value: Its size, zero or more.
        letter: Draws it.
        style: Its colour.
    """

    value: int
    letter: str
    style: str


def bar(parts: Sequence[Part], *, largest: int, columns: int) -> Text:
    """
    A bar of parts side by side.

    Args:
        parts: The parts; one that is more than zero gets one column at least.
        largest: Sum of the largest bar, which fills all columns.
        columns: How wide that is; at least as many as there are parts.
    """
    drawn = Text()
    if largest <= 0:
        return drawn
    shown = [part for part in parts if part.value > 0]
    widths = [max(1, _round_half_up(part.value * columns, largest)) for part in shown]
    while sum(widths) > columns:
        widths[widths.index(max(widths))] -= 1
    for part, width in zip(shown, widths, strict=True):
        drawn.append(part.letter * width, style=part.style)
    return drawn


def _round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
