# SPDX-License-Identifier: Apache-2.0
"""
Tells what a workload would cost before it runs; reads only.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.router.domain.estimate import Estimate, Workload, estimate
from services.router.errors import ModelNotFoundError
from services.router.usecases.ports import PLATFORM
from services.shared.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.router.domain.estimate import CreditTariff
    from services.router.usecases.ports import Keys, Tariffs
    from services.router.usecases.price_book import PriceBook

AMOUNT_MAX = 2**63 - 1
TARIFF_SECONDS_MAX = 5.0


class EstimateCost:
    """
    The use case.

    Args:
        prices: The catalogue at the prices in force.
        keys: Tells which providers the shared keys reach.
        tariffs: What the accounts' plans charge.
    """

    def __init__(self, prices: PriceBook, keys: Keys, tariffs: Tariffs) -> None:
        self._prices = prices
        self._keys = keys
        self._tariffs = tariffs

    async def __call__(
        self, workload: Workload, *, models: Sequence[str], account: str
    ) -> tuple[Estimate, ...]:
        """
        Compare a workload, cheapest first.

        Args:
            workload: What would be generated.
            models: `vendor/model`; empty for the whole catalogue.
            account: `accounts/{account}`, to compare with its plan's credits; may be empty.

        Raises:
            ModelNotFoundError: The catalogue lacks a model.
            AccountNotFoundError: The ledger knows no such account.
            InvalidArgumentError: The amount is too large to tell.
        """
        known = self._prices.catalogue.models
        unknown = [name for name in models if name not in known]
        if unknown:
            raise ModelNotFoundError(
                f"the catalogue has no model '{unknown[0]}', so its cost is not known; ListModels "
                "lists those it has",
                metadata={"model": unknown[0]},
            )
        tariff, on_credits = await self._credit_side(account) if account else (None, frozenset())
        names = dict.fromkeys(models) or known
        rows = estimate(
            workload,
            [known[name] for name in names],
            tariff=tariff,
            on_credits=on_credits,
        )
        largest = max(
            (max(row.cost_nano_usd, row.cost_nano_credits or 0) for row in rows), default=0
        )
        if largest > AMOUNT_MAX:
            raise InvalidArgumentError.of(
                "workload", "costs more than can be written down; estimate a smaller one"
            )
        return rows

    async def _credit_side(self, account: str) -> tuple[CreditTariff, frozenset[str]]:
        tariff, shared = await asyncio.gather(
            self._tariffs.of(account, timeout_seconds=TARIFF_SECONDS_MAX),
            self._keys.held(PLATFORM),
        )
        return tariff, frozenset(key.provider for key in shared.keys.keys if key.enabled)
