# SPDX-License-Identifier: Apache-2.0
"""Words that options take in place of the protos' enum values, and how options are read."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import typer

Value = TypeVar("Value")


class Choice(StrEnum):
    """Words for values of an enum: `OWN_KEY_ONLY` is typed as `own-key-only`."""

    @staticmethod
    def _generate_next_value_(name: str, *_: Any) -> str:
        return name.lower().replace("_", "-")

    def of(self, enum: Any) -> Any:
        """The value of a proto's enum, for example of BillingMode."""
        unspecified: str = enum.DESCRIPTOR.values_by_number[0].name
        return enum.Value(unspecified.removesuffix("UNSPECIFIED") + self.name)


def number_of(choice: Choice | None, enum: Any) -> Any:
    """The value of a proto's enum; zero, its unspecified value, for no choice."""
    return choice.of(enum) if choice is not None else 0


def parsed(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """A parser for an option: what it refuses becomes the option's usage error."""

    def read(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from None

    return read
