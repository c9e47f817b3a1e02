# SPDX-License-Identifier: Apache-2.0
"""
The restore drill: everything that a backup holds, brought back to a new place, on a real Vault.

The steps are those of docs/operate/backup.md.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2

from deploy.local.postgres import EmbeddedPostgres
from deploy.local.state import StateFolder
from deploy.local.suite import STORED_IN, Suite
from services.shared.ids import new_id
from tests.e2e import support
from tests.e2e.support import StoredKey
from tests.e2e.terminal import Person
from tests.support import backups


def back_up(suite: Suite, to: Path) -> None:
    """Dump the three databases, and apart from them copy the Vault and the secrets."""
    for service, database in STORED_IN.items():
        dsn = suite.postgres.server.dsn_for(
            database, user=database, password=suite.state.database_password(service)
        )
        backups.dump(dsn, to / f"{service}.dump")
    shutil.copytree(
        suite.state.path, to / "apart", ignore=shutil.ignore_patterns("postgres", "logs", "lock")
    )


def bring_back(backup: Path, to: Path) -> None:
    """Make a new place of a backup: another PostgreSQL, the Vault's copy, the secrets."""
    shutil.copytree(backup / "apart", to)
    state = StateFolder(to, kek="vault")
    with EmbeddedPostgres(state.postgres, log_folder=state.logs) as postgres:
        for service, database in STORED_IN.items():
            password = state.database_password(service)
            dsn = postgres.server.create_database(database, password=password)
            backups.restore(backup / f"{service}.dump", dsn)


async def live_before(suite: Suite, backup: Path) -> tuple[str, StoredKey]:
    """An account with two keys is backed up; then one of them is revoked."""
    async with support.clients_of(suite) as clients:
        account = await support.new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        kept = await support.add_key(clients, account)
        revoked = await support.add_key(clients, account)
        await support.generate(clients, account)
        back_up(suite, backup)
        await clients.keyvault.DeleteKey(
            keyvault_service_pb2.DeleteKeyRequest(name=revoked.name, request_id=new_id())
        )
    return account, kept


async def assert_nothing_is_served(suite: Suite, account: str) -> None:
    """The router gets no secret and says so; nothing is charged."""
    async with support.clients_of(suite) as clients:
        refused = await support.refusal(support.generate(clients, account))
        assert refused.reason == "PEER_UNAVAILABLE"


async def assert_all_is_back(suite: Suite, account: str, kept: StoredKey) -> None:
    """Keys decrypt, books and trails hold, and the revoked key is gone."""
    async with support.clients_of(suite) as clients:
        [left] = await support.list_keys(clients, account)
        assert left.name == kept.name
        test, _ = await support.check_key(clients, kept)
        assert test.result == live_test_pb2.TEST_RESULT_VALID
        answer = await support.generate(clients, account)
        assert answer.receipt.attempts[-1].key_hint == kept.hint
        for trail in (account, support.PLATFORM):
            verdict = await clients.keyvault.VerifyAudit(
                keyvault_service_pb2.VerifyAuditRequest(parent=trail), metadata=clients.operator
            )
            assert verdict.checked_count
            assert verdict.first_fault == ""
    await support.assert_books_hold(suite)
    support.assert_logs_hold_no_secret(suite)


@pytest.mark.requirement("O11", "K7", "K12")
@pytest.mark.timeout(150)
def test_a_backup_in_a_new_place_decrypts_adds_up_and_revives_no_revoked_key(
    tmp_path: Path,
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    file = str(tmp_path / "revocations")
    with support.running_suite(tmp_path / "first", kek="vault") as suite:
        account, kept = asyncio.run(live_before(suite, backup))
        operator = Person(suite, account, tmp_path)
        operator.run("revocations", "export", file, operator=True)

    bring_back(backup, tmp_path / "second")
    with Suite(tmp_path / "second", kek="vault", ports=suite.ports) as back:
        operator = Person(back, account, tmp_path)
        asyncio.run(assert_nothing_is_served(back, account))
        operator.run("revocations", "status", operator=True, code=1)

        told = operator.run("revocations", "replay", file, operator=True)
        assert told.err.endswith("revoked now: 1\n")
        operator.run("revocations", "status", operator=True)
        asyncio.run(assert_all_is_back(back, account, kept))
