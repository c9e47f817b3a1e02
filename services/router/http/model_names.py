# SPDX-License-Identifier: Apache-2.0
"""
SDKs name models as their provider does; here they are `vendor/model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue


def model_name(name: str, catalogue: Catalogue, *, vendor: str) -> str:
    """
    Give the catalogue's name of a model.

    Args:
        name: `vendor/model`, a provider's own name, or empty for the account's default.
        catalogue: Knows the providers' names.
        vendor: Whose SDK asks: its provider's names go first, and an unknown name is its own.
    """
    if not name or "/" in name:
        return name
    found = [
        offer
        for model in catalogue.models.values()
        for offer in model.offers
        if offer.provider_model == name
    ]
    found.sort(key=lambda offer: offer.provider != vendor)
    return found[0].model if found else f"{vendor}/{name}"
