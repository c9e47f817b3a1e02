# SPDX-License-Identifier: Apache-2.0
"""
The restore drill: everything that a backup holds, brought back to a new place, on a real Vault.

Its steps are the commands of docs/operate/rotate.md and docs/operate/backup.md, run as they stand.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, live_test_pb2
from ownkey.ledger.v1 import account_pb2

from deploy.local.clients import Clients
from deploy.local.postgres import EmbeddedPostgres, PostgresServer
from deploy.local.suite import STORED_IN, Suite
from deploy.local.vault import LocalVault
from deploy.programs import VAULT
from services.shared.ids import new_id
from tests.e2e import support
from tests.e2e.shell import Shell, prompts
from tests.e2e.support import StoredKey
from tests.e2e.terminal import Person
from tests.support import backups
from tests.support.doc_commands import ADD_SHARED_KEY, DRILLED, Runner, commands_of, lines_for

ROTATE, BACKUP = (
    [one.line for one in commands_of(page) if one.runner is Runner.DRILL] for page in DRILLED
)
PROVIDERS = ("openai", "anthropic", "gemini")
ACCOUNTS = 3
GRPCURL_CODES = 64
"""What grpcurl adds to a status' number for its exit code."""
WAITS, SERVES = "ownkey_keyvault_restore_waiting 1.0", "ownkey_keyvault_restore_waiting 0.0"


@dataclass(frozen=True, slots=True)
class Kept:
    """
    What was there when the backup was made.

    Args:
        accounts: All accounts; the first one has the key `main`.
        live: Keys that live on.
        deleted: A key that is deleted after the backup.
        disabled: A key that is disabled after the backup.
    """

    accounts: list[str]
    live: list[StoredKey]
    deleted: StoredKey
    disabled: StoredKey


def lines(page: list[str], *beginnings: str) -> list[str]:
    """The commands of a page that begin so; there must be some."""
    found = [line for line in page if line.startswith(beginnings)]
    assert found, beginnings
    return found


def shell_of(suite: Suite, account: str, folder: Path) -> Shell:
    """An operator's: of the suite, of its Vault and of nothing else."""
    (folder / ".ownkey").unlink(missing_ok=True)
    (folder / ".ownkey").symlink_to(suite.state.path)
    assert suite.vault is not None
    environ = vault_environ(suite.vault)
    return Shell(Person(suite, account, folder), environ, {"<uuid>": new_id()})


def vault_environ(vault: LocalVault) -> dict[str, str]:
    """Leads the program `vault` to a server, as its administrator."""
    return {
        "VAULT_ADDR": vault.address,
        "VAULT_CACERT": str(vault.ca_file),
        "VAULT_TOKEN": vault.admin().token,
    }


def run_for_roles(person: Person, server: PostgresServer, shown: list[str]) -> None:
    """Run what names a database, each line with the rights of the role that owns it."""
    for line in shown:
        ((service, role),) = (one for one in STORED_IN.items() if f"--dbname={one[1]}" in line)
        password = person.suite.state.database_password(service)
        dsn = server.dsn_for(role, user=role, password=password)
        Shell(person, backups.environ(dsn)).run(line)


async def add_keys(clients: Clients, accounts: list[str]) -> list[StoredKey]:
    """A key at each provider for each account."""
    return [
        await support.add_key(clients, account, provider=provider)
        for account in accounts
        for provider in PROVIDERS
    ]


async def begin(suite: Suite) -> tuple[list[str], list[StoredKey]]:
    """Accounts with keys under the first key-encryption key."""
    async with support.clients_of(suite) as clients:
        mode = account_pb2.BILLING_MODE_OWN_KEY_FIRST
        accounts = [await support.new_account(clients, mode=mode) for _ in range(ACCOUNTS)]
        secret = support.new_secret()
        made = await clients.keyvault.CreateKey(
            keyvault_service_pb2.CreateKeyRequest(
                parent=accounts[0],
                key_id="main",
                key=key_pb2.Key(provider="openai"),
                secret=secret,
                request_id=new_id(),
            ),
            timeout=support.CALL_SECONDS_MAX,
        )
        keys = await add_keys(clients, accounts)
        await support.generate(clients, accounts[0])
    return accounts, [StoredKey(made.key.name, secret, made.key.hint), *keys]


async def go_on(suite: Suite, accounts: list[str], keys: list[StoredKey]) -> Kept:
    """More keys under the version in force now, and again under the next one."""
    async with support.clients_of(suite) as clients:
        keys = [*keys, *await add_keys(clients, accounts)]
        assert suite.vault is not None
        suite.vault.admin().secrets.transit.rotate_key("ownkey")
        keys += await add_keys(clients, accounts)
        status = await clients.keyvault.GetKekStatus(
            keyvault_service_pb2.GetKekStatusRequest(), metadata=clients.operator
        )
        counts = {one.version: one.record_count for one in status.status.versions}
        assert min(counts[2], counts[3]) > 0, counts
        await support.generate(clients, accounts[1])
    *live, deleted, disabled = keys
    return Kept(accounts, live, deleted, disabled)


async def revoke(suite: Suite, kept: Kept) -> None:
    """Delete one key and disable another."""
    async with support.clients_of(suite) as clients:
        await clients.keyvault.DeleteKey(
            keyvault_service_pb2.DeleteKeyRequest(name=kept.deleted.name, request_id=new_id())
        )
        await support.disable_key(clients, kept.disabled)


def back_up(shell: Shell) -> None:
    """The steps of "Back up": databases, Vault, secrets; the revocations come when they come."""
    suite = shell.person.suite
    run_for_roles(shell.person, suite.postgres.server, lines(BACKUP, "pg_dump"))
    shell.run(*lines(BACKUP, "vault operator raft snapshot save"))
    left_out = shutil.ignore_patterns("postgres", "logs", "lock", "store")
    shutil.copytree(suite.state.path, shell.person.folder / "apart", ignore=left_out)


def bring_back(suite: Suite, account: str, folder: Path) -> None:
    """The first two steps of "Restore", before any service is started."""
    state, apart, person = suite.state, folder / "apart", Person(suite, account, folder)
    binary = VAULT.find()
    assert binary is not None
    new = LocalVault(state.vault, log_folder=state.logs, binary=binary, storage="raft")
    with new:
        shell = Shell(person, vault_environ(new))
        shell.run(*lines(BACKUP, "vault operator raft snapshot restore"))
    # It is the old Vault now: what opens it at its next start, and keyvault's login, are the old
    # ones.
    for name in ("init.json", "role_id", "secret_id"):
        shutil.copy(apart / "vault" / name, state.vault)
    shutil.copytree(apart, state.path, ignore=shutil.ignore_patterns("vault"), dirs_exist_ok=True)
    with EmbeddedPostgres(state.postgres, log_folder=state.logs) as postgres:
        for service, database in STORED_IN.items():
            password = state.database_password(service)
            postgres.server.create_database(database, password=password)
        run_for_roles(person, postgres.server, lines(BACKUP, "pg_restore"))


async def assert_nothing_is_served(suite: Suite, account: str) -> None:
    """The router gets no secret and says so; nothing is charged; the alert's metric tells."""
    async with support.clients_of(suite) as clients:
        refused = await support.refusal(support.generate(clients, account))
        assert refused.reason == "PEER_UNAVAILABLE"
    await support.eventually(lambda: tells(suite, WAITS))


async def tells(suite: Suite, line: str) -> bool:
    """Whether keyvault's metrics have a line."""
    url = f"http://{suite.metrics_address('keyvault')}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return line in (await answer.text()).splitlines()


async def assert_all_is_back(suite: Suite, kept: Kept) -> None:
    """Keys decrypt, books and trails hold, and what was revoked stays so."""
    async with support.clients_of(suite) as clients:
        found = {
            key.name: key
            for account in kept.accounts
            for key in await support.list_keys(clients, account)
        }
        assert found.keys() == {key.name for key in (*kept.live, kept.disabled)}
        assert found[kept.disabled.name].state == key_pb2.KEY_STATE_DISABLED
        for key in kept.live:
            test, _ = await support.check_key(clients, key)
            assert test.result == live_test_pb2.TEST_RESULT_VALID, key.name
        for trail in (*kept.accounts, support.PLATFORM):
            verdict = await clients.keyvault.VerifyAudit(
                keyvault_service_pb2.VerifyAuditRequest(parent=trail), metadata=clients.operator
            )
            assert verdict.checked_count
            assert verdict.first_fault == ""
    await assert_it_serves(suite, kept.accounts[0])
    await support.assert_books_hold(suite)
    support.assert_logs_hold_no_secret(suite)


async def assert_it_serves(suite: Suite, account: str) -> None:
    """The account's own key is released again, and the alert's metric tells."""
    async with support.clients_of(suite) as clients:
        answer = await support.generate(clients, account)
        assert answer.receipt.attempts[-1].funding == support.OWN_KEY
    await support.eventually(lambda: tells(suite, SERVES))


def rotate(shell: Shell) -> None:
    """The page "Rotate", in its order."""
    shell.run_prompting(ADD_SHARED_KEY)
    asking, retire = prompts(ROTATE), lines(ROTATE, "grpcurl")[0]
    quiet = [line for line in ROTATE if line not in asking]
    at = quiet.index(retire)
    shell.run(*quiet[:at])
    # On Vault it ends so, having seen to the rows: the rest is the operator's.
    shell.run(retire, code=GRPCURL_CODES + grpc.StatusCode.UNIMPLEMENTED.value[0])
    shell.run(*quiet[at + 1 :])
    for line in asking:
        shell.run_prompting(line)


@pytest.mark.requirement("O11", "K7", "K12")
@pytest.mark.timeout(600)
def test_a_backup_in_a_new_place_decrypts_adds_up_and_revives_no_revoked_key(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "operator"
    folder.mkdir()
    export = lines(BACKUP, "ownkey revocations export")
    places = {"kek": "vault", "vault_storage": "raft", "metrics": True}
    with support.running_suite(tmp_path / "first", **places) as suite:
        accounts, keys = asyncio.run(begin(suite))
        shell = shell_of(suite, accounts[0], folder)
        rotate(shell)
        kept = asyncio.run(go_on(suite, accounts, keys))
        shell.run(*export)
        back_up(shell)
        asyncio.run(revoke(suite, kept))
        shell.run(*export)

    back = Suite(tmp_path / "second", ports=suite.ports, **places)
    bring_back(back, accounts[0], folder)
    with back:
        shell = shell_of(back, accounts[0], folder)
        status, accept, mark, replay = (
            lines(BACKUP, beginning)[0]
            for beginning in (
                "ownkey revocations status",
                "ownkey revocations accept",
                "psql",
                "ownkey revocations replay",
            )
        )
        asyncio.run(assert_nothing_is_served(back, accounts[0]))
        shell.run(status, code=1)
        shell.run(replay, status)
        asyncio.run(assert_all_is_back(back, kept))

        # A copied disk leaves no mark: somebody says it before the services start, and as there is
        # no file, accepts by name.
        for service in ("router", "keyvault"):
            back.process(service).stop()
        run_for_roles(shell.person, back.postgres.server, [mark])
        for service in ("keyvault", "router"):
            back.start_part(service)
        asyncio.run(assert_nothing_is_served(back, accounts[0]))
        shell.run(accept, status)
        (folder / "revocations.jsonl").unlink()
        shell.run(*export, *lines(BACKUP, "ownkey verify", "ownkey keys"))
        asyncio.run(assert_it_serves(back, accounts[0]))


def test_no_step_of_the_pages_is_left_out() -> None:
    """What is run above is taken from them by how it begins."""
    run = {
        *ROTATE,
        *lines(BACKUP, "pg_dump", "pg_restore", "psql", "vault operator", "ownkey"),
        *(line.removeprefix(".venv/bin/") for line in lines_for(Runner.DRILL)),
    }
    assert set(BACKUP) <= run
    assert {line for line in BACKUP if line.startswith("ownkey revocations")} == {
        f"ownkey revocations {verb}"
        for verb in (
            "export revocations.jsonl",
            "status",
            "replay revocations.jsonl",
            'accept --name "Ada Lovelace"',
        )
    }
