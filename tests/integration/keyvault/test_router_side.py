# SPDX-License-Identifier: Apache-2.0
"""What the router asks: secrets, changes, and what it reports."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import (
    audit_pb2,
    key_pb2,
    keyvault_service_pb2_grpc,
    resolution_pb2,
)
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.shared.channel import open_channel
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)

MAIN = "accounts/demo/keys/main"


class Watch:
    """A router's watch stream, question by question."""

    def __init__(self, vaulted: RunningKeyvault, start: Any = None) -> None:
        self._call = vaulted.stub.WatchChanges(metadata=vaulted.as_router)
        self._start = start
        self._nonce = 0

    async def ask(self) -> resolution_pb2.WatchChangesResponse:
        self._nonce += 1
        question = resolution_pb2.WatchChangesRequest(nonce=self._nonce, start=self._start)
        self._start = None
        await self._call.write(question)
        answer = await self._call.read()
        assert answer.nonce == self._nonce
        return answer

    async def ended(self) -> grpc.StatusCode:
        """Return how it ended, once it has."""
        code: grpc.StatusCode = await self._call.code()
        return code


async def report(
    vaulted: RunningKeyvault,
    outcome: str,
    *,
    key: str = MAIN,
    version: int = 1,
    model: str = "",
    seconds: int | None = None,
) -> resolution_pb2.ReportKeyHealthResponse:
    request = resolution_pb2.ReportKeyHealthRequest(
        key=key,
        version=version,
        outcome=resolution_pb2.Outcome.Value(f"OUTCOME_{outcome}"),
        model=model,
        retry_after=None if seconds is None else duration_pb2.Duration(seconds=seconds),
    )
    return await vaulted.stub.ReportKeyHealth(request, metadata=vaulted.as_router)


async def health(vaulted: RunningKeyvault) -> list[key_pb2.KeyHealth]:
    key = (await vaulted.stub.GetKey(service_pb2.GetKeyRequest(name=MAIN))).key
    return list(key.health)


async def until(vaulted: RunningKeyvault, state: int) -> None:
    """Wait until the key's health is what a confirmation in the background makes it."""
    async with asyncio.timeout(10):
        while (await health(vaulted))[0].state != state:
            await asyncio.sleep(0.01)


@pytest.mark.requirement("K15")
class TestWatchChanges:
    async def test_each_change_is_in_the_answer_to_the_next_question(
        self, vaulted: RunningKeyvault
    ) -> None:
        watch = Watch(vaulted)
        assert list((await watch.ask()).changed_accounts) == []

        async def changed_by(call: Any) -> bool:
            await call
            return list((await watch.ask()).changed_accounts) == ["accounts/demo"]

        stub = vaulted.stub
        assert await changed_by(vaulted.create(key_id="main"))
        assert await changed_by(vaulted.create(key_id="second"))
        assert await changed_by(stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN)))
        assert await changed_by(stub.EnableKey(service_pb2.EnableKeyRequest(name=MAIN)))
        assert await changed_by(
            stub.ActivateKey(service_pb2.ActivateKeyRequest(name="accounts/demo/keys/second"))
        )
        assert await changed_by(
            stub.ReplaceKey(
                service_pb2.ReplaceKeyRequest(
                    name=MAIN, secret=OPENAI_KEY + "2", request_id=new_request_id()
                )
            )
        )
        assert await changed_by(report(vaulted, "RATE_LIMITED", version=2))
        assert await changed_by(
            stub.DeleteKey(service_pb2.DeleteKeyRequest(name=MAIN, request_id=new_request_id()))
        )
        assert list((await watch.ask()).changed_accounts) == []

    async def test_what_changed_since_a_resolve_is_told(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        position = (await vaulted.resolve()).position
        await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        answer = await Watch(vaulted, start=position).ask()

        assert list(answer.changed_accounts) == ["accounts/demo"]
        assert not answer.resync

    async def test_a_place_of_another_lineage_means_forget_all(
        self, vaulted: RunningKeyvault
    ) -> None:
        start = resolution_pb2.FeedPosition(lineage="another-1", sequence=0)
        watch = Watch(vaulted, start=start)

        assert (await watch.ask()).resync
        assert not (await watch.ask()).resync

    async def test_writers_at_once_leave_no_change_untold(self, vaulted: RunningKeyvault) -> None:
        watch = Watch(vaulted)
        await watch.ask()
        accounts = [f"account-{number}" for number in range(20)]
        writing = asyncio.gather(*(vaulted.create(account=account) for account in accounts))
        told: set[str] = set()
        while not writing.done():
            told.update((await watch.ask()).changed_accounts)
        await writing
        told.update((await watch.ask()).changed_accounts)

        assert told == {f"accounts/{account}" for account in accounts}

    async def test_a_feed_that_cannot_be_read_ends_the_stream(
        self, vaulted: RunningKeyvault
    ) -> None:
        """So a router's lease runs out: it fails closed."""
        watch = Watch(vaulted)
        await watch.ask()
        async with database(vaulted.dsn) as connection:
            await connection.execute("ALTER TABLE change_head RENAME TO elsewhere")

        assert (await refusal(watch.ask())).reason == "INTERNAL"

    @pytest.mark.requirement("O7")
    async def test_a_stop_ends_the_streams_well_long_before_the_drains_bound(
        self, tmp_path: Path, keyvault_dsn: str
    ) -> None:
        async with AsyncExitStack() as stack:
            async with running_keyvault(tmp_path, keyvault_dsn, DRAIN_SECONDS="600") as vaulted:
                channel = await stack.enter_async_context(open_channel(vaulted.address))
                stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
                idle, watch = Watch(replace(vaulted, stub=stub)), Watch(replace(vaulted, stub=stub))
                await watch.ask()

            assert await watch.ended() is grpc.StatusCode.OK
            assert await idle.ended() is grpc.StatusCode.OK


@pytest.mark.requirement("K8", "K13", "O5")
class TestResolveKeys:
    async def test_accounts_come_in_order_and_one_without_keys_has_none(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(account="b", key_id="x")
        resolved = await vaulted.resolve("a", "b", "c")

        assert [account.account for account in resolved.accounts] == [
            "accounts/a",
            "accounts/b",
            "accounts/c",
        ]
        assert [len(account.keys) for account in resolved.accounts] == [0, 1, 0]
        assert resolved.position.lineage

    async def test_each_release_is_in_the_trail_before_the_secret_leaves(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        for _ in range(3):
            await vaulted.resolve()
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/demo")
        )
        releases = [
            event for event in events.audit_events if event.action == audit_pb2.AUDIT_ACTION_RELEASE
        ]

        assert [(event.key, event.version, event.actor) for event in releases] == [
            (MAIN, 1, "router")
        ] * 3

    async def test_what_cannot_be_recorded_is_not_released(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                "ALTER TABLE audit_events"
                " ADD CONSTRAINT no_room CHECK (action <> 'RELEASE') NOT VALID"
            )
        status = await refusal(vaulted.resolve())

        assert OPENAI_KEY not in f"{status}"

    @pytest.mark.parametrize("count", [0, 65])
    async def test_the_number_of_accounts_is_bounded(
        self, vaulted: RunningKeyvault, count: int
    ) -> None:
        request = resolution_pb2.ResolveKeysRequest(
            accounts=[f"accounts/a{number}" for number in range(count)]
        )
        call = vaulted.stub.ResolveKeys(request, metadata=vaulted.as_router)

        status = await refusal(call)
        assert (status.code, status.reason, status.metadata) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            {"field": "accounts"},
        )


@pytest.mark.requirement("K14")
class TestReportKeyHealth:
    async def test_a_model_cools_for_the_hints_time(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        applied = await report(vaulted, "RATE_LIMITED", model="gpt-4o", seconds=30)

        whole, model = applied.key.health
        assert whole.state == key_pb2.HEALTH_STATE_ACTIVE
        assert (model.model, model.state) == ("gpt-4o", key_pb2.HEALTH_STATE_COOLING)
        assert 25_000 < model.remaining_millis <= 30_000
        [account] = (await vaulted.resolve()).accounts
        assert [entry.model for entry in account.keys[0].key.health] == ["", "gpt-4o"]

    async def test_a_report_about_an_old_version_is_dropped(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        request = service_pb2.ReplaceKeyRequest(
            name=MAIN, secret=OPENAI_KEY + "2", request_id=new_request_id()
        )
        await vaulted.stub.ReplaceKey(request)
        late = await report(vaulted, "RATE_LIMITED", version=1)

        assert not late.applied
        assert [entry.state for entry in late.key.health] == [key_pb2.HEALTH_STATE_ACTIVE]

    async def test_a_report_about_a_deleted_key_is_dropped(self, vaulted: RunningKeyvault) -> None:
        gone = await report(vaulted, "RATE_LIMITED")

        assert not gone.applied
        assert not gone.HasField("key")

    async def test_a_refusal_is_confirmed_by_one_shared_probe_and_rejects(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        vaulted.router.finds("INVALID", detail="The key was revoked.")
        vaulted.router.asked.clear()
        reports = await asyncio.gather(*(report(vaulted, "INVALID_KEY") for _ in range(20)))
        await until(vaulted, key_pb2.HEALTH_STATE_REJECTED)

        assert all(item.applied for item in reports)
        assert len(vaulted.router.asked) == 1
        [entry] = await health(vaulted)
        assert entry.reason == "The key was revoked."
        assert entry.next_step

    @pytest.mark.requirement("K16", "R10")
    async def test_a_shared_key_without_credit_serves_on_until_the_probe_says_the_same(
        self, vaulted: RunningKeyvault
    ) -> None:
        """An own key is taken out by the first report."""
        created = await vaulted.create(
            account="platform", key_id="main", metadata=vaulted.as_operator
        )
        await vaulted.create(key_id="main")
        vaulted.router.finds("VALID")
        shared = await report(vaulted, "INSUFFICIENT_CREDIT", key=created.key.name)
        own = await report(vaulted, "INSUFFICIENT_CREDIT")

        assert [entry.state for entry in shared.key.health] == [key_pb2.HEALTH_STATE_SUSPECT]
        assert [entry.state for entry in own.key.health] == [key_pb2.HEALTH_STATE_NO_CREDIT]

    async def test_a_refusal_that_the_probe_does_not_confirm_is_cleared(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        reported = await report(vaulted, "PERMISSION_DENIED")
        await until(vaulted, key_pb2.HEALTH_STATE_ACTIVE)

        assert reported.key.health[0].state == key_pb2.HEALTH_STATE_SUSPECT

    async def test_a_replaced_key_is_active_at_once(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        vaulted.router.finds("INVALID")
        await report(vaulted, "INVALID_KEY")
        await until(vaulted, key_pb2.HEALTH_STATE_REJECTED)
        vaulted.router.finds("VALID")
        request = service_pb2.ReplaceKeyRequest(
            name=MAIN, secret=OPENAI_KEY + "2", request_id=new_request_id()
        )
        replaced = await vaulted.stub.ReplaceKey(request)

        assert [entry.state for entry in replaced.key.health] == [key_pb2.HEALTH_STATE_ACTIVE]


@pytest.mark.requirement("K4", "K14")
class TestTestKey:
    async def test_a_test_acts_on_the_health_at_once(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        request = service_pb2.TestKeyRequest(name=MAIN)
        vaulted.router.finds("INVALID")
        rejected = await vaulted.stub.TestKey(request)
        vaulted.router.finds("VALID", credit_checked=True)
        healed = await vaulted.stub.TestKey(request)

        assert rejected.key.health[0].state == key_pb2.HEALTH_STATE_REJECTED
        assert healed.key.health[0].state == key_pb2.HEALTH_STATE_ACTIVE
        assert [asked.secret for asked in vaulted.router.asked] == [OPENAI_KEY] * 3

    async def test_the_release_for_a_test_is_in_the_trail(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        await vaulted.stub.TestKey(service_pb2.TestKeyRequest(name=MAIN))
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/demo")
        )

        assert [event.action for event in events.audit_events] == [
            audit_pb2.AUDIT_ACTION_TEST,
            audit_pb2.AUDIT_ACTION_RELEASE,
            audit_pb2.AUDIT_ACTION_CREATE,
        ]
        assert events.audit_events[0].details["result"] == "VALID"
        assert events.audit_events[1].details["purpose"] == "test"

    async def test_an_unknown_key_is_named(self, vaulted: RunningKeyvault) -> None:
        status = await refusal(vaulted.stub.TestKey(service_pb2.TestKeyRequest(name=MAIN)))

        assert status.reason == "KEY_NOT_FOUND"
