# SPDX-License-Identifier: Apache-2.0
"""A restored keyvault serves nothing until what was revoked since the backup is revoked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ownkey.keyvault.v1 import audit_pb2, key_pb2, resolution_pb2, restoring_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault

from client.ownkey_cli.exits import Exit
from deploy.local.postgres import EmbeddedPostgres
from tests.support import backups, command_line
from tests.support.client_held import MAIN, hold, opening, refused
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    migrated,
    new_request_id,
    refusal,
    running_keyvault,
)
from tests.support.postgres import Databases

pytestmark = pytest.mark.requirement("O11")

PASSWORD = "for-tests"
KEYS = ("kept", "deleted", "replaced", "disabled")
REPLACEMENT = OPENAI_KEY[::-1].replace("-jorp-ks", "") + "new"


def secret_of(key: str) -> str:
    """A secret of its own for each key."""
    return f"{OPENAI_KEY}{key}"


async def store_keys(vaulted: RunningKeyvault) -> None:
    """Store the keys that all these tests begin with."""
    for key in KEYS:
        await vaulted.create(secret_of(key), key_id=key)


async def revoke_keys(vaulted: RunningKeyvault) -> None:
    """Revoke all keys but one, each in another way."""
    names = {key: f"accounts/demo/keys/{key}" for key in KEYS}
    await vaulted.stub.DeleteKey(
        keyvault.DeleteKeyRequest(name=names["deleted"], request_id=new_request_id())
    )
    await vaulted.stub.ReplaceKey(
        keyvault.ReplaceKeyRequest(
            name=names["replaced"],
            secret=f"sk-proj-{REPLACEMENT}",
            overlap_seconds=600,
            request_id=new_request_id(),
        )
    )
    await vaulted.stub.DisableKey(
        keyvault.DisableKeyRequest(name=names["disabled"], request_id=new_request_id())
    )


async def export(vaulted: RunningKeyvault, **after: Any) -> list[restoring_pb2.RevocationsPage]:
    """Export revocations."""
    request = restoring_pb2.ExportRevocationsRequest(**after)
    answers = vaulted.stub.ExportRevocations(request, metadata=vaulted.as_operator)
    return [answer.page async for answer in answers]


async def replay(vaulted: RunningKeyvault, page: restoring_pb2.RevocationsPage) -> Any:
    """Replay a page."""
    request = restoring_pb2.ReplayRevocationsRequest(page=page)
    return await vaulted.stub.ReplayRevocations(request, metadata=vaulted.as_operator)


async def accept(vaulted: RunningKeyvault, **what: Any) -> restoring_pb2.RestoreStatus:
    """Let the database serve."""
    request = restoring_pb2.AcceptRestoreRequest(**what)
    answer = await vaulted.stub.AcceptRestore(request, metadata=vaulted.as_operator)
    status: restoring_pb2.RestoreStatus = answer.status
    return status


async def status_of(vaulted: RunningKeyvault) -> restoring_pb2.RestoreStatus:
    """Where the restore stands."""
    request = restoring_pb2.GetRestoreStatusRequest()
    answer = await vaulted.stub.GetRestoreStatus(request, metadata=vaulted.as_operator)
    status: restoring_pb2.RestoreStatus = answer.status
    return status


async def served(vaulted: RunningKeyvault) -> dict[str, str]:
    """The secrets that the router gets, by key."""
    answer = await vaulted.resolve()
    return {
        one.key.name.rpartition("/")[2]: one.secret for one in answer.accounts[0].keys if one.secret
    }


@dataclass(frozen=True)
class Drill:
    """
    A keyvault that is backed up and brought back.

    Args:
        vaulted: It.
        folder: Keeps backups, and the keyring that all of them share.
        databases: Makes databases to bring them back into.
    """

    vaulted: RunningKeyvault
    folder: Path
    databases: Databases

    def dump(self, vaulted: RunningKeyvault) -> Path:
        """Back a keyvault up."""
        return backups.dump(vaulted.dsn, self.folder / f"dump-{new_request_id()}")

    async def before_revoking(self) -> Path:
        """Store the keys and back them up; then revoke all but one."""
        await store_keys(self.vaulted)
        dump = self.dump(self.vaulted)
        await revoke_keys(self.vaulted)
        return dump

    @asynccontextmanager
    async def restored(self, dump: Path) -> AsyncIterator[RunningKeyvault]:
        """A keyvault on a database that a dump was read back into."""
        with self.databases.empty() as dsn:
            backups.restore(dump, dsn)
            async with running_keyvault(self.folder, dsn) as running:
                yield running


@pytest.fixture
def drill(vaulted: RunningKeyvault, tmp_path: Path, databases: Databases) -> Drill:
    """What these tests begin with."""
    return Drill(vaulted, tmp_path, databases)


class TestReplay:
    async def test_what_was_revoked_since_the_backup_stays_revoked(self, drill: Drill) -> None:
        dump = await drill.before_revoking()
        pages = await export(drill.vaulted)
        async with drill.restored(dump) as back:
            assert (await refusal(back.resolve())).reason == "RESTORE_NOT_ACCEPTED"
            counts = [(await replay(back, page)).revoked_count for page in pages]
            assert sum(counts) == 3
            assert (await refusal(back.resolve())).reason == "RESTORE_NOT_ACCEPTED"
            status = await accept(back, replayed_through_sequence=pages[-1].through_sequence)
            assert status.serving
            assert await served(back) == {"kept": secret_of("kept")}
            keys = (await back.stub.ListKeys(keyvault.ListKeysRequest(parent="accounts/demo"))).keys
            shown = {key.name.rpartition("/")[2] for key in keys}
            assert shown == {"kept", "replaced", "disabled"}
            events = await back.stub.ListAuditEvents(
                keyvault.ListAuditEventsRequest(parent="accounts/demo", page_size=4)
            )
            assert {event.action for event in events.audit_events[1:]} == {
                audit_pb2.AUDIT_ACTION_REPLAY
            }

    async def test_a_replaced_key_switched_on_again_does_not_bring_the_old_secret_back(
        self, drill: Drill
    ) -> None:
        dump = await drill.before_revoking()
        [page] = await export(drill.vaulted)
        async with drill.restored(dump) as back:
            await replay(back, page)
            await accept(back, replayed_through_sequence=page.through_sequence)
            await back.stub.EnableKey(
                keyvault.EnableKeyRequest(
                    name="accounts/demo/keys/replaced", request_id=new_request_id()
                )
            )
            assert set(await served(back)) == {"kept"}

    async def test_a_second_restore_needs_the_export_of_the_first_one_s_database(
        self, drill: Drill
    ) -> None:
        dump = await drill.before_revoking()
        first = await export(drill.vaulted)
        async with drill.restored(dump) as back:
            for page in first:
                await replay(back, page)
            await accept(back, replayed_through_sequence=first[-1].through_sequence)
            fault = await refusal(
                export(
                    back,
                    after_sequence=first[-1].through_sequence,
                    database=first[-1].database,
                )
            )
            assert fault.metadata["fault"] == "OTHER_DATABASE"
            second = await export(back)
            assert [one.key for page in second for one in page.revocations] == [
                one.key for page in first for one in page.revocations
            ]
            again = drill.dump(back)
            async with drill.restored(again) as third:
                assert (await refusal(replay(third, first[0]))).metadata["fault"] == (
                    "OTHER_DATABASE"
                )
                for page in second:
                    await replay(third, page)
                await accept(third, replayed_through_sequence=second[-1].through_sequence)
                assert set(await served(third)) == {"kept"}

    async def test_an_export_goes_on_where_the_last_one_ended(
        self, vaulted: RunningKeyvault
    ) -> None:
        await store_keys(vaulted)
        [before] = await export(vaulted)
        assert list(before.revocations) == []
        await revoke_keys(vaulted)
        after = {"after_sequence": before.through_sequence, "database": before.database}
        [page] = await export(vaulted, **after)
        kinds = [restoring_pb2.RevocationKind.Name(one.kind) for one in page.revocations]
        assert kinds == [f"REVOCATION_KIND_{how}" for how in ("DELETED", "REPLACED", "DISABLED")]
        assert page.after_sequence == before.through_sequence


class TestRefusals:
    async def test_pages_that_do_not_fit_are_refused(self, drill: Drill) -> None:
        dump = await drill.before_revoking()
        [page] = await export(drill.vaulted)
        last = page.revocations[-1].sequence
        [later] = await export(drill.vaulted, after_sequence=last, database=page.database)
        assert (await refusal(replay(drill.vaulted, page))).metadata["fault"] == "NOT_RESTORED"
        changed = restoring_pb2.RevocationsPage()
        changed.CopyFrom(page)
        del changed.revocations[0]
        async with drill.restored(dump) as back:
            assert (await refusal(replay(back, changed))).metadata["fault"] == "NOT_GENUINE"
            assert (await refusal(replay(back, later))).metadata["fault"] == "PAGES_MISSING"
            skipped = accept(back, replayed_through_sequence=page.through_sequence)
            assert (await refusal(skipped)).metadata["fault"] == "NOT_REPLAYED"
            assert not (await status_of(back)).serving

    async def test_an_export_older_than_the_backup_is_no_replay(self, drill: Drill) -> None:
        [early] = await export(drill.vaulted)
        await store_keys(drill.vaulted)
        dump = drill.dump(drill.vaulted)
        async with drill.restored(dump) as back:
            status = (await replay(back, early)).status
            assert not status.replayed
            tried = accept(back, replayed_through_sequence=status.through_sequence)
            assert (await refusal(tried)).metadata["fault"] == "NOT_REPLAYED"

    async def test_nothing_that_releases_or_changes_a_key_works(self, drill: Drill) -> None:
        await store_keys(drill.vaulted)
        dump = drill.dump(drill.vaulted)
        name = "accounts/demo/keys/kept"
        async with drill.restored(dump) as back:
            stub, request_id = back.stub, new_request_id()
            for call in (
                back.resolve(),
                back.create(),
                stub.TestKey(keyvault.TestKeyRequest(name=name)),
                stub.DisableKey(keyvault.DisableKeyRequest(name=name, request_id=request_id)),
            ):
                assert (await refusal(call)).reason == "RESTORE_NOT_ACCEPTED"
            assert (await stub.GetKey(keyvault.GetKeyRequest(name=name))).key.name == name

    async def test_a_client_held_key_is_not_opened_either_and_stays_closed_if_it_was_moved(
        self, drill: Drill
    ) -> None:
        browser = await hold(drill.vaulted)
        dump = drill.dump(drill.vaulted)
        await drill.vaulted.stub.MoveKey(
            keyvault.MoveKeyRequest(
                name=MAIN, residence=key_pb2.RESIDENCE_SERVER, **browser.bring()
            )
        )
        [page] = await export(drill.vaulted)
        async with drill.restored(dump) as back:
            assert await refused(back, opening(browser)) == ("RESTORE_NOT_ACCEPTED", "")
            await replay(back, page)
            await accept(back, replayed_through_sequence=page.through_sequence)
            assert (await refused(back, opening(browser)))[0] == "KEY_DISABLED"
            enable = keyvault.EnableKeyRequest(name=MAIN, request_id=new_request_id())
            await back.stub.EnableKey(enable)
            assert (await refused(back, opening(browser)))[0] == "WRONG_RESIDENCE"

    async def test_it_may_be_accepted_by_name_which_stands_in_the_audit_trail(
        self, drill: Drill
    ) -> None:
        dump = await drill.before_revoking()
        async with drill.restored(dump) as back:
            nobody = await refusal(accept(back))
            assert nobody.reason == "INVALID_ARGUMENT"
            as_operator = {
                "OWNKEY_KEYVAULT": back.address,
                "OWNKEY_TOKEN_FILE": str(drill.folder / "tokens" / "operator"),
            }
            line = ("revocations", "accept", "--name", "Ada Lovelace")
            done = await asyncio.to_thread(command_line.run, *line, **as_operator)
            assert done.exit_code == Exit.DONE
            status = await status_of(back)
            assert (status.serving, status.accepted_by) == (True, "Ada Lovelace")
            assert set(await served(back)) == set(KEYS)
            events = await back.stub.ListAuditEvents(
                keyvault.ListAuditEventsRequest(parent="accounts/platform", page_size=1),
                metadata=back.as_operator,
            )
            [event] = events.audit_events
            assert event.action == audit_pb2.AUDIT_ACTION_ACCEPT_RESTORE
            assert event.details["accepted_by"] == "Ada Lovelace"


class TestRouters:
    async def test_a_router_s_place_in_the_old_feed_means_forget_all(self, drill: Drill) -> None:
        dump = await drill.before_revoking()
        place = (await drill.vaulted.resolve()).position
        async with drill.restored(dump) as back:
            await accept(back, accepted_by="Ada Lovelace")
            watch = back.stub.WatchChanges(metadata=back.as_router)
            start = resolution_pb2.FeedPosition(lineage=place.lineage, sequence=place.sequence)
            await watch.write(resolution_pb2.WatchChangesRequest(nonce=1, start=start))
            assert (await watch.read()).resync
            watch.cancel()


class TestWhatCountsAsRestored:
    async def test_a_cluster_that_was_copied_and_recovered_and_a_promotion_that_is_trusted(
        self, tmp_path: Path
    ) -> None:
        with EmbeddedPostgres(tmp_path / "first", log_folder=tmp_path / "logs") as first:
            dsn = first.server.create_database("keyvault", password=PASSWORD)
            await migrated(dsn)
            async with running_keyvault(tmp_path, dsn) as before:
                await store_keys(before)
            backups.copy_cluster(first.server.dsn, tmp_path / "first", tmp_path / "copy")
        with EmbeddedPostgres(tmp_path / "copy", log_folder=tmp_path / "logs") as second:
            backups.await_recovery(second.server)
            again = second.server.dsn_for("keyvault", user="keyvault", password=PASSWORD)
            async with running_keyvault(tmp_path, again) as back:
                assert (await refusal(back.resolve())).reason == "RESTORE_NOT_ACCEPTED"
            async with running_keyvault(tmp_path, again, PROMOTIONS="trust") as trusting:
                assert set(await served(trusting)) == set(KEYS)

    async def test_one_that_left_no_trace_is_marked_by_hand(self, vaulted: RunningKeyvault) -> None:
        await store_keys(vaulted)
        async with database(vaulted.dsn) as connection:
            await connection.execute("UPDATE served_database SET restored = true")
        assert (await refusal(vaulted.resolve())).reason == "RESTORE_NOT_ACCEPTED"
        assert (await accept(vaulted, accepted_by="Ada Lovelace")).serving
        assert set(await served(vaulted)) == set(KEYS)
