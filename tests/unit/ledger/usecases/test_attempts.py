# SPDX-License-Identifier: Apache-2.0
"""Batches: order, isolation of what the store refuses, deadlines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from services.ledger.domain.files import AccountFile
from services.ledger.domain.plans import PlanBook
from services.ledger.errors import AccountNotFoundError
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.commands import RenewCommand
from services.ledger.usecases.ports import LapsedRun, UnitRefusedError, Wanted
from services.shared.errors import InternalError, StoreUnavailableError

POISON = "poison"


class RefusingStore:
    """Has no accounts; refuses every unit that a poisoned request is part of."""

    def __init__(self) -> None:
        self.units: list[list[str]] = []

    async def change(
        self,
        wanted: Sequence[Wanted],
        work: Callable[[Mapping[str, AccountFile]], Any],
    ) -> Any:
        """Run a unit on no files."""
        self.units.append([one.request_id for one in wanted])
        if POISON in self.units[-1]:
            raise UnitRefusedError(POISON)
        return work({})

    async def peek(self, wanted: Any, work: Any) -> Any:
        """Run a unit on no files."""
        return work({})

    async def lapsed_runs(self, limit: int) -> list[LapsedRun]:
        """Return none."""
        return []


class AwayStore(RefusingStore):
    """Cannot be reached."""

    async def change(self, wanted: Any, work: Any) -> Any:
        """Fail."""
        raise StoreUnavailableError("away")


def attempts(store: Any) -> Attempts:
    """Return the use case on a store."""
    return Attempts(store=store, plans=PlanBook({}), lease=timedelta(seconds=60))


def renew(request_id: str, account_id: str = "demo") -> RenewCommand:
    """Return a command."""
    return RenewCommand(account_id, request_id, "claimant", 1, None)


@pytest.mark.requirement("L3", "L13")
class TestBatches:
    async def test_a_poisoned_item_fails_alone(self) -> None:
        store = RefusingStore()
        outcomes = await attempts(store).each([renew("one"), renew(POISON), renew("two")])
        assert [type(outcome) for outcome in outcomes] == [
            AccountNotFoundError,
            InternalError,
            AccountNotFoundError,
        ]
        assert store.units == [["one", POISON, "two"], ["one"], [POISON, "two"], [POISON], ["two"]]

    async def test_outcomes_keep_the_order_of_commands_over_buckets(self) -> None:
        names = [f"account-{number}" for number in range(24)]
        outcomes = await attempts(RefusingStore()).each([renew("r", name) for name in names])
        told = [getattr(outcome, "metadata", {})["account"] for outcome in outcomes]
        assert told == [f"accounts/{name}" for name in names]

    async def test_commands_of_one_account_are_one_unit_in_order(self) -> None:
        store = RefusingStore()
        await attempts(store).each([renew(str(number)) for number in range(5)])
        assert store.units == [["0", "1", "2", "3", "4"]]

    async def test_an_unreachable_store_fails_every_item(self) -> None:
        outcomes = await attempts(AwayStore()).each([renew("one"), renew("two", "other")])
        assert all(isinstance(outcome, StoreUnavailableError) for outcome in outcomes)
        with pytest.raises(StoreUnavailableError):
            await attempts(AwayStore()).one(renew("one"))
