# SPDX-License-Identifier: Apache-2.0
"""The audit trail's chains against someone who owns the database."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import field_mask_pb2
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.keyvault.adapters.postgres_audit_chain import PostgresAuditChain
from services.keyvault.domain.audit_chain import GENESIS
from services.keyvault.usecases.audit_chain import AuditChainer
from services.shared.clock import SystemClock
from services.shared.postgres import Database
from services.shared.secret import Secret
from tests.support.keyvault import RunningKeyvault, database, refusal, running_keyvault

KEY = "accounts/demo/keys/main"
ENTRIES = 6


async def verify(vaulted: RunningKeyvault, account: str = "demo", *, known_head: str = "") -> Any:
    request = service_pb2.VerifyAuditRequest(parent=f"accounts/{account}", known_head=known_head)
    return await vaulted.stub.VerifyAudit(request, metadata=vaulted.as_operator)


async def label(vaulted: RunningKeyvault, text: str) -> None:
    request = service_pb2.UpdateKeyRequest(
        key=key_pb2.Key(name=KEY, label=text),
        update_mask=field_mask_pb2.FieldMask(paths=["label"]),
    )
    await vaulted.stub.UpdateKey(request)


async def write_trail(vaulted: RunningKeyvault) -> str:
    """Write six chained entries and return their head."""
    await vaulted.create(key_id="main")
    for number in range(ENTRIES - 1):
        await label(vaulted, f"label {number}")
    answer = await verify(vaulted)
    assert (answer.checked_count, answer.first_fault, answer.waiting_count) == (ENTRIES, "", 0)
    return str(answer.head)


async def tamper(vaulted: RunningKeyvault, *statements: str) -> None:
    async with database(vaulted.dsn) as connection:
        await connection.execute("ALTER TABLE audit_events DISABLE TRIGGER USER")
        for statement in statements:
            await connection.execute(statement)
        await connection.execute("ALTER TABLE audit_events ENABLE TRIGGER USER")


async def numbers(vaulted: RunningKeyvault) -> list[int]:
    async with database(vaulted.dsn) as connection:
        rows = await connection.fetch(
            "SELECT number FROM audit_events WHERE account_id = 'demo' ORDER BY number"
        )
    return [row["number"] for row in rows]


def event(number: int) -> str:
    return f"accounts/demo/auditEvents/{number}"


@pytest.mark.requirement("K13")
class TestTampering:
    @pytest.mark.parametrize(
        "change",
        [
            "actor = 'nobody'",
            "action = 'CREATE'",
            "action = 'of no known kind'",
            "key_id = 'other'",
            "version = 9",
            "request_id = 'x'",
            "event_time = event_time + interval '1 microsecond'",
            "details = '{}'",
            "details = '[]'",
        ],
    )
    async def test_a_changed_entry_is_named(self, vaulted: RunningKeyvault, change: str) -> None:
        await write_trail(vaulted)
        third = (await numbers(vaulted))[2]
        await tamper(vaulted, f"UPDATE audit_events SET {change} WHERE number = {third}")  # noqa: S608
        answer = await verify(vaulted)

        assert (answer.first_fault, answer.checked_count) == (event(third), 2)
        assert "was changed" in answer.fault_detail

    async def test_what_follows_a_removed_entry_is_named(self, vaulted: RunningKeyvault) -> None:
        await write_trail(vaulted)
        trail = await numbers(vaulted)
        await tamper(vaulted, f"DELETE FROM audit_events WHERE number IN ({trail[2]}, {trail[3]})")  # noqa: S608
        answer = await verify(vaulted)

        assert (answer.first_fault, answer.checked_count) == (event(trail[4]), 2)
        assert "removed: places 3 to 4" in answer.fault_detail

    async def test_exchanged_places_are_named(self, vaulted: RunningKeyvault) -> None:
        await write_trail(vaulted)
        trail = await numbers(vaulted)
        await tamper(
            vaulted,
            "DROP INDEX audit_events_chain",
            # Places 3 and 4.
            "UPDATE audit_events SET chain_sequence = 7 - chain_sequence WHERE number IN "  # noqa: S608
            f"({trail[2]}, {trail[3]})",
        )
        answer = await verify(vaulted)

        assert (answer.first_fault, answer.checked_count) == (event(trail[3]), 2)
        assert "moved" in answer.fault_detail

    async def test_exchanged_contents_are_named(self, vaulted: RunningKeyvault) -> None:
        await write_trail(vaulted)
        trail = await numbers(vaulted)
        columns = "details, event_time, request_id, action"
        await tamper(
            vaulted,
            f"UPDATE audit_events a SET ({columns}) = (SELECT {columns} FROM audit_events b"  # noqa: S608
            f" WHERE b.number = {trail[2]} + {trail[3]} - a.number)"
            f" WHERE number IN ({trail[2]}, {trail[3]})",
        )

        assert (await verify(vaulted)).first_fault == event(trail[2])

    @pytest.mark.parametrize("cut", [1, 3, ENTRIES])
    async def test_a_tail_that_was_cut_off_shows_by_the_head(
        self, vaulted: RunningKeyvault, cut: int
    ) -> None:
        await write_trail(vaulted)
        trail = await numbers(vaulted)
        await tamper(vaulted, f"DELETE FROM audit_events WHERE number >= {trail[-cut]}")  # noqa: S608
        answer = await verify(vaulted)

        assert (answer.first_fault, answer.checked_count) == (event(trail[-1]), ENTRIES - cut)
        assert "was cut off" in answer.fault_detail

    async def test_nothing_new_hides_a_cut(self, vaulted: RunningKeyvault) -> None:
        await write_trail(vaulted)
        trail = await numbers(vaulted)
        await tamper(vaulted, f"DELETE FROM audit_events WHERE number = {trail[-1]}")  # noqa: S608
        await label(vaulted, "written after the cut")
        answer = await verify(vaulted)

        assert answer.first_fault == event(trail[-1])
        assert answer.waiting_count == 1
        await vaulted.create(account="other")
        assert (await verify(vaulted, "other")).first_fault == ""

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE audit_heads SET sequence = 5",
            "UPDATE audit_heads SET mac = signature",
            "UPDATE audit_heads SET signature = mac",
            "DELETE FROM audit_heads",
        ],
    )
    async def test_a_head_that_was_touched_is_named(
        self, vaulted: RunningKeyvault, change: str
    ) -> None:
        await write_trail(vaulted)
        await tamper(vaulted, change)
        answer = await verify(vaulted)

        assert answer.first_fault == event((await numbers(vaulted))[-1])
        assert "head" in answer.fault_detail

    async def test_forged_entries_do_not_fit(self, vaulted: RunningKeyvault) -> None:
        await write_trail(vaulted)
        await tamper(
            vaulted,
            "INSERT INTO audit_events (account_id, actor, action, key_id, version, request_id,"
            " details, chain_sequence, chain_previous, chain_mac) SELECT account_id, actor, action,"
            " key_id, version, request_id, details, 7, chain_mac, chain_mac FROM audit_events"
            " WHERE account_id = 'demo' AND chain_sequence = 6",
        )

        assert (await verify(vaulted)).first_fault == event((await numbers(vaulted))[-1])

    async def test_a_database_put_back_shows_by_a_head_kept_elsewhere(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await verify(vaulted)
        async with database(vaulted.dsn) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT * FROM audit_heads")
        await label(vaulted, "hidden later")
        known = (await verify(vaulted)).head
        last = (await numbers(vaulted))[-1]
        await tamper(
            vaulted,
            f"DELETE FROM audit_events WHERE number = {last}",  # noqa: S608
            "DELETE FROM audit_heads",
            "INSERT INTO audit_heads SELECT * FROM kept",
        )

        assert (await verify(vaulted)).first_fault == ""
        answer = await verify(vaulted, known_head=known)
        assert answer.first_fault == event(last)
        await label(vaulted, "in its place")
        answer = await verify(vaulted, known_head=known)
        assert "known head" in answer.fault_detail


@pytest.mark.requirement("K13")
class TestChains:
    async def test_each_account_has_its_own(self, vaulted: RunningKeyvault) -> None:
        for account in ("demo", "other"):
            await vaulted.create(account=account)
        await vaulted.resolve("demo", "other")

        assert [(await verify(vaulted, name)).checked_count for name in ("demo", "other")] == [2, 2]
        assert (await verify(vaulted, "never-seen")).head == ""

    async def test_known_heads_may_lie_in_the_middle_but_must_be_genuine(
        self, vaulted: RunningKeyvault
    ) -> None:
        head = await write_trail(vaulted)
        await label(vaulted, "one more")
        assert (await verify(vaulted, known_head=head)).first_fault == ""

        for forged in (head[:-1] + ("0" if head[-1] != "0" else "1"), "nonsense", f"1{head}"):
            status = await refusal(verify(vaulted, known_head=forged))
            assert status.metadata["field"] == "known_head"
        assert (await refusal(verify(vaulted, "other", known_head=head))).reason == (
            "INVALID_ARGUMENT"
        )

    async def test_chains_go_on_after_a_restart(self, tmp_path: Path, keyvault_dsn: str) -> None:
        for checked in (1, 2, 3):
            async with running_keyvault(tmp_path, keyvault_dsn) as vaulted:
                await vaulted.create()
                assert (await verify(vaulted)).checked_count == checked

    async def test_replicas_that_chain_at_once_make_one_chain(self, keyvault_dsn: str) -> None:
        stores = [Database(keyvault_dsn, application_name="replica") for _ in range(3)]
        key = Secret(GENESIS)
        try:
            chainers = []
            for store in stores:
                await store.open()
                chains = PostgresAuditChain(store)
                chainers.append(AuditChainer(chains, key=key, clock=SystemClock()))
            async with database(keyvault_dsn) as connection:
                await connection.execute(
                    "INSERT INTO audit_events (account_id, actor, action, key_id, version,"
                    " request_id, details) SELECT 'many', 'a', 'TEST', '', n, '', '{}'"
                    " FROM generate_series(1, 2500) n"
                )
                await asyncio.gather(*(chainer.catch_up_one("many") for chainer in chainers))
                places = await connection.fetch(
                    "SELECT chain_sequence FROM audit_events WHERE account_id = 'many'"
                    " ORDER BY number"
                )
        finally:
            for store in stores:
                await store.close()

        assert [row["chain_sequence"] for row in places] == list(range(1, 2501))

    async def test_only_operators_verify(self, vaulted: RunningKeyvault) -> None:
        request = service_pb2.VerifyAuditRequest(parent="accounts/demo")

        assert (await refusal(vaulted.stub.VerifyAudit(request))).reason == "ACCESS_DENIED"
