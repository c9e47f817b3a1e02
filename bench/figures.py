# SPDX-License-Identifier: Apache-2.0
"""Figures of a benchmark: printed last, one a line, tab-separated, with the bar and the verdict."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One figure.

    Args:
        name: What it is.
        value: How much.
        unit: Of what.
        bar: What it must reach; None for a figure that only informs.
        lower_is_better: True if the bar must not be passed.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    lower_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the bar is met; true without one."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.lower_is_better else self.value >= self.bar

    def line(self) -> str:
        """Return the figure as it is printed."""
        bar = "-" if self.bar is None else f"{self.bar:g}"
        verdict = "met" if self.met else "missed"
        return f"{self.name}\t{self.value:.2f}\t{self.unit}\t{bar}\t{verdict}"
