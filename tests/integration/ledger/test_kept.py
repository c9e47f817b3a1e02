# SPDX-License-Identifier: Apache-2.0
"""What a process keeps of an account is what is on record, whoever wrote last."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.ledger.adapters.store import PostgresLedgerStore
from services.ledger.domain.files import AccountFile
from services.ledger.domain.modes import BillingMode, OwnKeyState, Source
from services.ledger.domain.requests import RequestEnd
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.commands import AttemptCommand, OwnKeyTerms
from services.ledger.usecases.ports import Wanted
from services.shared.postgres import Database
from tests.support.ledger_accounts import NOW
from tests.support.ledger_commands import (
    PLANS,
    PRICE,
    authorize_command,
    capture_command,
    create,
    grant,
    release_command,
    renew_command,
    set_mode,
)

KEY = "accounts/demo/keys/main"
STEPS = 50


@pytest.fixture
async def database(ledger_dsn: str) -> AsyncIterator[Database]:
    """A ledger's database."""
    opened = Database(ledger_dsn, application_name="tests", pool_size=2)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def store(database: Database) -> PostgresLedgerStore:
    """A process's store, with one account that owns 1000 and uses its own keys."""
    made = PostgresLedgerStore(database)
    await create(made, new_id())
    await grant(made, new_id(), 1000)
    await set_mode(made, new_id(), BillingMode.OWN_KEY_FIRST)
    return made


def new_id() -> str:
    """Return a request id."""
    return str(uuid.uuid4())


def attempts(store: PostgresLedgerStore) -> Attempts:
    """Return the use case on a store."""
    return Attempts(store=store, plans=PLANS, lease=timedelta(seconds=60))


def shown(files: Mapping[str, AccountFile], request_id: str, claimant: str) -> list[str]:
    """Return all of a file that a unit may look at, but for its time."""
    file = files["demo"]
    request = file.requests.get(request_id)
    found = [file.attempts[key] for key in sorted(file.attempts) if key[0] == request_id]
    # Attempts of the current run and of who asks; what else is in the file is nobody's business.
    run = [a for a in found if a.claimant == claimant or (request and a.run == request.run)]
    return [
        repr(replace(file.account, last_time=NOW)),
        repr(sorted(file.book.in_order(), key=lambda one: one.grant_id)),
        repr(file.budget((KEY, file.now.date().replace(day=1)))),
        repr(request),
        repr(run),
    ]


async def seen(store: PostgresLedgerStore, request_id: str, claimant: str) -> list[str]:
    """Return what a unit of a store finds."""
    wanted = Wanted("demo", request_id=request_id, claimant=claimant, refusals=True, key=KEY)
    return await store.change([wanted], lambda files: shown(files, request_id, claimant))


class Walk:
    """
    A random walk over one account's requests.

    Args:
        chance: Chooses.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.requests = [new_id() for _ in range(4)]

    def step(self) -> AttemptCommand:
        """Return the next command; many of them are refused."""
        request_id = self._chance.choice(self.requests)
        claimant = self._chance.choice(["claimant", "another"])
        sequence = self._chance.choice([1, 1, 1, 2])
        cost = self._chance.choice([0, 30, 120])
        make = self._chance.choice(
            [self._authorize, self._authorize, renew_command, capture_command, release_command]
        )
        command: Any = self._made(make, request_id, cost)
        command = command._replace(claimant=claimant)
        if hasattr(command, "terms"):
            succeeded = command.terms.capture is not None
            end = self._chance.choice([None, RequestEnd(succeeded, b"")])
            return command._replace(terms=command.terms._replace(sequence=sequence), end=end)
        return command._replace(sequence=sequence)

    def _made(self, make: Callable[..., Any], request_id: str, cost: int) -> Any:
        return make(request_id) if make is release_command else make(request_id, cost)

    def _authorize(self, request_id: str, cost: int) -> Any:
        own_key = OwnKeyTerms(KEY, 1, "1", PRICE, 5 + cost, 10_000)
        if self._chance.random() < 0.5:
            return authorize_command(request_id, worst_case=5 + cost)
        return authorize_command(
            request_id,
            worst_case=5 + cost,
            source=Source.AUTO,
            own_key_state=OwnKeyState.READY,
            own_key=own_key,
        )


@pytest.mark.requirement("L3", "L11", "L13")
class TestWhatIsKept:
    @pytest.mark.parametrize("seed", range(2))
    async def test_it_is_what_another_process_reads(
        self, database: Database, store: PostgresLedgerStore, seed: int
    ) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same walk in every run
        walk, other = Walk(chance), PostgresLedgerStore(database)
        for number in range(STEPS):
            command = walk.step()
            writer = chance.choice([store, store, store, other])
            await attempts(writer).each([command])
            if number % 20 == 19:
                await grant(writer, new_id(), 50)
            for name in ("claimant", "another"):
                fresh = await seen(PostgresLedgerStore(database), command.request_id, name)
                assert await seen(store, command.request_id, name) == fresh, number

    async def test_what_lies_under_its_stamp_is_not_read_again(
        self, database: Database, store: PostgresLedgerStore
    ) -> None:
        one = new_id()
        before = await seen(store, one, "claimant")
        await database.execute("UPDATE grants SET note = 'changed behind the stamp'")
        assert await seen(store, one, "claimant") == before
        assert await seen(PostgresLedgerStore(database), one, "claimant") != before

    async def test_a_writer_that_knows_of_no_stamps_takes_it_away(
        self, database: Database, store: PostgresLedgerStore
    ) -> None:
        one = new_id()
        await seen(store, one, "claimant")
        assert await _stamp(database) != 0
        await database.execute("UPDATE accounts SET fallback_daily_cap = 7")
        assert await _stamp(database) == 0
        assert "fallback_daily_cap=7" in (await seen(store, one, "claimant"))[0]
        await attempts(store).one(authorize_command(one))
        assert await _stamp(database) != 0

    async def test_whatever_is_written_has_a_stamp_of_its_own(
        self, database: Database, store: PostgresLedgerStore
    ) -> None:
        run, one, two = attempts(store), new_id(), new_id()
        stamps = [await _stamp(database)]
        for command in (
            authorize_command(one),
            renew_command(one, 10),
            capture_command(one, 20),
            # Refused, and the refusal is on record.
            authorize_command(two, worst_case=5000),
        ):
            await run.each([command])
            stamps.append(await _stamp(database))
        # A repeat writes nothing.
        await run.each([capture_command(one, 20)])
        assert len(set(stamps)) == len(stamps)
        assert await _stamp(database) == stamps[-1]

    async def test_a_unit_that_failed_leaves_nothing_to_the_next(
        self, database: Database, store: PostgresLedgerStore
    ) -> None:
        one = new_id()
        await attempts(store).one(authorize_command(one))
        before = await seen(store, one, "claimant")

        def spoil(files: Any) -> None:
            file = files["demo"]
            file.book.reserve(100)
            file.requests[one].run = 9
            raise LookupError("a bug")

        with pytest.raises(LookupError):
            await store.change([Wanted("demo", request_id=one, claimant="claimant")], spoil)
        assert await seen(store, one, "claimant") == before

    async def test_an_answer_stays_as_it_was_given(self, store: PostgresLedgerStore) -> None:
        run, one = attempts(store), new_id()
        granted: Any = await run.one(authorize_command(one))
        renewed: Any = await run.one(renew_command(one, 10))
        told = repr(granted.request), repr(renewed)
        await run.one(capture_command(one, 20))
        assert (repr(granted.request), repr(renewed)) == told
        assert granted.attempt.settlement is None


async def _stamp(database: Database) -> int:
    row = await database.fetchrow("SELECT stamp FROM accounts")
    assert row is not None
    stamp: int = row["stamp"]
    return stamp
