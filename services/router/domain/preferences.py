# SPDX-License-Identifier: Apache-2.0
"""
Whether a caller's preferences among providers make sense.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.router.domain.catalogue import Catalogue
    from services.router.domain.request import Preferences


def check_preferences(preferences: Preferences, catalogue: Catalogue) -> None:
    """
    Refuse preferences that name unknown providers or contradict each other.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    fields: tuple[tuple[str, Iterable[str]], ...] = (
        ("order", preferences.order),
        ("only", sorted(preferences.only)),
        ("ignore", sorted(preferences.ignore)),
    )
    for name, ids in fields:
        for provider in ids:
            if provider not in catalogue.providers:
                known = ", ".join(sorted(catalogue.providers))
                message = f"'{provider}' is not a provider here; the providers are {known}"
                raise InvalidArgumentError.of(f"route.{name}", message)
    both = sorted(preferences.only & preferences.ignore)
    if both:
        message = f"also names '{both[0]}', which route.only asks for; remove it from one of them"
        raise InvalidArgumentError.of("route.ignore", message)
