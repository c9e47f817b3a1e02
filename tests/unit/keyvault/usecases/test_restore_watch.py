# SPDX-License-Identifier: Apache-2.0
"""A restored database that waits to be accepted is told of, once, and so is its acceptance."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import structlog

from services.keyvault.domain.revocations import Page, RestoreState
from services.keyvault.usecases.restore_watch import RestoreWatch
from services.shared.errors import StoreUnavailableError
from services.shared.secret import Secret
from tests.support.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class OneDatabase:
    """A store of which only its state is asked."""

    def __init__(self) -> None:
        self.serving = True
        self.away = False

    async def state(self) -> RestoreState:
        if self.away:
            raise StoreUnavailableError("away", retry_after_seconds=1.0)
        return RestoreState(
            serving=self.serving,
            database="2-1",
            accepted_database="1-1",
            accept_time=NOW,
            accepted_by="",
            through=7,
            replayed=False,
        )

    async def page(self, after: int) -> Page:
        raise AssertionError(after)

    async def replay(self, page: Page, mac: bytes, *, key: Secret, actor: str) -> int:
        raise AssertionError(page)

    async def accept(self, *, replayed_through: int | None, name: str, actor: str) -> None:
        raise AssertionError(name)


@pytest.mark.requirement("O11", "O6")
class TestRestoreWatch:
    async def test_each_change_is_logged_once_and_shown(self) -> None:
        store = OneDatabase()
        watch = RestoreWatch(store, clock=ManualClock(NOW))
        shown = []
        with structlog.testing.capture_logs() as lines:
            for serving in (True, False, False, True, True):
                store.serving = serving
                await watch()
                shown.append(watch.waiting())

        assert shown == [False, True, True, False, False]
        assert [line["event"] for line in lines] == ["restore_waits", "restore_accepted"]
        assert "ownkey revocations replay" in lines[0]["advice"]

    async def test_while_the_database_is_away_what_was_seen_last_stands(self) -> None:
        store = OneDatabase()
        watch = RestoreWatch(store, clock=ManualClock(NOW))
        store.serving = False
        await watch()
        store.away = True
        with pytest.raises(StoreUnavailableError):
            await watch()

        assert watch.waiting()
