# SPDX-License-Identifier: Apache-2.0
"""
Whether a caller's preferences among providers make sense.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.router.domain.catalogue import Catalogue
    from services.router.domain.request import Preferences


def check_preferences(preferences: Preferences, catalogue: Catalogue) -> None:
    """
    Refuse preferences that name unknown providers or contradict each other. An empty list asks for
    nothing.

    Raises:
        InvalidArgumentError: Naming the field, and what is possible.
    """
    known = sorted(catalogue.providers)
    fields: tuple[tuple[str, Iterable[str]], ...] = (
        ("order", preferences.order),
        ("only", sorted(preferences.only)),
        ("ignore", sorted(preferences.ignore)),
    )
    for name, ids in fields:
        for provider in ids:
            if provider not in catalogue.providers:
                raise InvalidArgumentError.of(f"route.{name}", _unknown(provider, known))
    for provider in sorted(preferences.only & preferences.ignore):
        message = f"also names '{provider}', which route.only asks for; remove it from one of them"
        raise InvalidArgumentError.of("route.ignore", message)
    for provider in preferences.order:
        if provider in preferences.ignore:
            message = (
                f"names '{provider}', which route.ignore rules out; remove it from one of them"
            )
            raise InvalidArgumentError.of("route.order", message)
        if preferences.only and provider not in preferences.only:
            possible = ", ".join(sorted(preferences.only))
            message = f"names '{provider}', which route.only leaves out; possible are {possible}"
            raise InvalidArgumentError.of("route.order", message)


def _unknown(provider: str, known: list[str]) -> str:
    near = difflib.get_close_matches(provider.lower(), known, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"'{provider}' is not a provider here; {meant}the providers are {', '.join(known)}"
