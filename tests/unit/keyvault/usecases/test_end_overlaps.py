# SPDX-License-Identifier: Apache-2.0
"""Ending overlaps goes on whatever happens to one account or for a while to the database."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.keyvault.usecases.end_overlaps import INTERVAL_SECONDS, EndOverlaps
from services.keyvault.usecases.ports import KeyStore
from services.shared.errors import OverloadedError, StoreUnavailableError
from tests.support.clock import ManualClock


class Accounts:
    """Some accounts with expired versions; `locked` ones cannot be changed."""

    def __init__(self, *accounts: str, locked: str = "") -> None:
        self._accounts = accounts
        self._locked = locked
        self.away = False
        self.changed: list[str] = []

    async def accounts_with_expired(self, limit: int) -> list[str]:
        if self.away:
            raise StoreUnavailableError("away")
        return list(self._accounts)

    async def change(self, account: str, work: Any) -> None:
        if account == self._locked:
            raise OverloadedError("locked")
        self.changed.append(account)


def ending(accounts: Accounts, clock: ManualClock) -> EndOverlaps:
    return EndOverlaps(cast("KeyStore", accounts), clock=clock)


async def settle() -> None:
    """Let work that is under way end."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.requirement("K7")
class TestEndOverlaps:
    async def test_an_account_that_stays_locked_keeps_no_other_waiting(self) -> None:
        accounts = Accounts("a", "b", "c", locked="a")
        await ending(accounts, ManualClock())()

        assert accounts.changed == ["b", "c"]

    async def test_it_goes_on_when_the_database_is_back(self) -> None:
        accounts, clock = Accounts("a"), ManualClock()
        accounts.away = True
        end = ending(accounts, clock)
        end.start()
        await settle()
        assert accounts.changed == []

        accounts.away = False
        clock.advance(INTERVAL_SECONDS)
        await settle()
        assert accounts.changed == ["a"]
        await end.close()
