# SPDX-License-Identifier: Apache-2.0
"""
The terms an attempt is authorized by.
"""

from __future__ import annotations

from services.router.domain.plan import Candidate
from services.router.usecases.ports import CreditTerms, OwnTerms, PriceRow


def own_terms(candidate: Candidate | None) -> OwnTerms | None:
    """
    Give the terms of an attempt on an own key, None without one.
    """
    if candidate is None:
        return None
    return OwnTerms(
        key=candidate.key,
        price=_price_row(candidate),
        worst_case_nano_usd=candidate.worst_case_nano_usd,
    )


def credit_terms(candidate: Candidate | None) -> CreditTerms | None:
    """
    Give the terms of an attempt on credits, None without a shared key.
    """
    if candidate is None:
        return None
    assert candidate.worst_case_nano_usd is not None, "credits need a price"
    return CreditTerms(
        price=_price_row(candidate), worst_case_nano_usd=candidate.worst_case_nano_usd
    )


def _price_row(candidate: Candidate) -> PriceRow:
    price = candidate.offer.price
    return PriceRow(
        candidate.offer.model, candidate.offer.provider, price.price_id if price else ""
    )
