# SPDX-License-Identifier: Apache-2.0
"""Client-held keys on both key-encryption keys: stored nowhere, opened once, moved at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from ownkey.keyvault.v1 import audit_pb2, key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from deploy.local.vault import LocalVault
from tests.support.client_held import (
    HELD,
    HYBRID,
    MAIN,
    X25519,
    FakeBrowser,
    hold,
    opened,
    opening,
    refused,
)
from tests.support.keyvault import (
    OPENAI_KEY,
    OPENROUTER_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)
from tests.support.vault_transit import vault_environ

JOB = "accounts/demo/jobs/video-1"
OTHER_KEY = "sk-proj-otherotherotherotherother0123456789ABCD"
SERVER = key_pb2.RESIDENCE_SERVER


@pytest.fixture(params=["local", "vault"])
async def on_each_kek(
    request: pytest.FixtureRequest, tmp_path: Path, keyvault_dsn: str
) -> AsyncIterator[RunningKeyvault]:
    """A keyvault on each key-encryption key in turn."""
    settings: dict[str, str] = {}
    if request.param == "vault":
        server: LocalVault = request.getfixturevalue("vault")
        settings = vault_environ(server)
    async with running_keyvault(tmp_path, keyvault_dsn, **settings) as running:
        yield running


async def stored_secrets(vaulted: RunningKeyvault) -> int:
    async with database(vaulted.dsn) as connection:
        return await connection.fetchval("SELECT count(*) FROM key_secrets")


def moving(residence: Any, browser: FakeBrowser, request_id: str = "") -> Any:
    fields = browser.bring(request_id)
    if residence == HELD:
        fields |= {"signing_key": browser.keys.signing_key, "suite": X25519, "sealed_key": None}
    return service_pb2.MoveKeyRequest(name=MAIN, residence=residence, **fields)


@pytest.mark.requirement("K10")
class TestHolding:
    @pytest.mark.parametrize("suite", [X25519, HYBRID])
    async def test_a_sealed_key_is_tested_stored_without_its_secret_and_opened_for_the_router(
        self, on_each_kek: RunningKeyvault, suite: Any
    ) -> None:
        vaulted = on_each_kek
        browser = await hold(vaulted, f"  Bearer {OPENAI_KEY}\n", suite=suite, always_use=True)
        [asked] = vaulted.router.asked
        answer = await opened(vaulted, opening(browser))
        [account] = (await vaulted.resolve()).accounts

        assert asked.secret == OPENAI_KEY
        assert answer.secret == OPENAI_KEY
        assert answer.hint == account.keys[0].key.hint == "sk-proj-…WXYZ"
        assert not answer.HasField("resealed_key")
        assert account.keys[0].secret == ""
        assert account.keys[0].key.residence == HELD
        assert account.keys[0].key.health[0].state == key_pb2.HEALTH_STATE_ACTIVE
        assert await stored_secrets(vaulted) == 0

    async def test_a_sealed_key_may_also_be_stored_on_the_server(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = FakeBrowser(vaulted.stub)
        await browser.seal(OPENAI_KEY)
        created = await vaulted.create("", key_id="main", **browser.bring())
        [account] = (await vaulted.resolve()).accounts

        assert created.key.residence == SERVER
        assert account.keys[0].secret == OPENAI_KEY
        assert await refused(vaulted, opening(browser)) == ("WRONG_RESIDENCE", "")

    async def test_a_client_held_key_comes_sealed_or_not_at_all(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = FakeBrowser(vaulted.stub)
        sealed = await browser.seal(OPENAI_KEY)
        in_clear = await refusal(vaulted.create(residence=HELD))
        unproven = await refusal(vaulted.create("", residence=HELD, sealed_key=sealed))
        both = await refusal(vaulted.create(OPENAI_KEY, **browser.bring()))

        assert (in_clear.reason, in_clear.metadata["fault"]) == ("SEALED_KEY_REFUSED", "MISSING")
        assert (unproven.reason, unproven.metadata["fault"]) == ("PROOF_REFUSED", "MISSING")
        assert both.reason == "INVALID_ARGUMENT"
        assert not vaulted.router.asked

    async def test_a_repeated_creation_gives_the_recorded_outcome_without_another_proof(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = FakeBrowser(vaulted.stub)
        await browser.seal(OPENAI_KEY)
        fields = browser.bring()
        first = await vaulted.create("", residence=HELD, **fields)
        again = await vaulted.create("", residence=HELD, **fields)

        assert first.key.name == again.key.name
        assert len(vaulted.router.asked) == 1

    async def test_it_is_tested_with_a_proof_and_its_health_follows(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        vaulted.router.finds("INVALID")
        request = service_pb2.TestKeyRequest(name=MAIN, **browser.bring())
        tested = await vaulted.stub.TestKey(request)
        bare = await refusal(vaulted.stub.TestKey(service_pb2.TestKeyRequest(name=MAIN)))
        again = await refusal(vaulted.stub.TestKey(request))

        assert tested.key.health[0].state == key_pb2.HEALTH_STATE_REJECTED
        assert (bare.reason, bare.metadata["residence"]) == ("WRONG_RESIDENCE", "CLIENT_HELD")
        assert (again.reason, again.metadata["fault"]) == ("PROOF_REFUSED", "REPLAYED")

    async def test_a_replaced_secret_lives_where_the_old_one_did_and_the_old_blob_is_refused(
        self, vaulted: RunningKeyvault
    ) -> None:
        old = await hold(vaulted)
        new = FakeBrowser(vaulted.stub)
        await new.seal(OTHER_KEY)
        in_clear = service_pb2.ReplaceKeyRequest(
            name=MAIN, secret=OTHER_KEY, request_id=new_request_id()
        )
        assert (await refusal(vaulted.stub.ReplaceKey(in_clear))).reason == "SEALED_KEY_REFUSED"
        overlapping = service_pb2.ReplaceKeyRequest(name=MAIN, overlap_seconds=9, **new.bring())
        assert (await refusal(vaulted.stub.ReplaceKey(overlapping))).reason == "INVALID_ARGUMENT"
        replaced = await vaulted.stub.ReplaceKey(
            service_pb2.ReplaceKeyRequest(name=MAIN, **new.bring())
        )

        assert (replaced.key.version, replaced.key.residence) == (2, HELD)
        assert (await opened(vaulted, opening(new))).secret == OTHER_KEY
        assert await refused(vaulted, opening(old)) == ("SEALED_KEY_REFUSED", "OTHER_SECRET")

    async def test_what_is_disabled_or_deleted_opens_no_more(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        disabled = await refused(vaulted, opening(browser))
        await vaulted.stub.DeleteKey(
            service_pb2.DeleteKeyRequest(name=MAIN, request_id=new_request_id())
        )

        assert disabled == ("KEY_DISABLED", "")
        assert await refused(vaulted, opening(browser)) == ("KEY_NOT_FOUND", "")

    async def test_only_the_router_may_open(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        for metadata in (None, vaulted.as_operator, vaulted.as_keyvault):
            call = vaulted.stub.OpenSealedKey(opening(browser), metadata=metadata)
            status = await refusal(call)
            assert (status.code, status.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "ACCESS_DENIED",
            )


@pytest.mark.requirement("K10")
class TestRefusals:
    async def test_a_proof_serves_one_run(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        request = opening(browser)
        await opened(vaulted, request)

        assert await refused(vaulted, request) == ("PROOF_REFUSED", "REPLAYED")

    async def test_of_many_at_once_one_spends_it(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        request = opening(browser)
        answers = await asyncio.gather(
            *(opened(vaulted, request) for _ in range(8)), return_exceptions=True
        )

        served = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert [answer.secret for answer in served] == [OPENAI_KEY]

    async def test_another_signature_over_the_same_is_the_same_proof(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser, expiry = await hold(vaulted), datetime.now(UTC) + timedelta(seconds=60)
        request_id = new_request_id()
        first, second = (
            opening(browser, request_id=request_id, expire_time=expiry) for _ in range(2)
        )
        await opened(vaulted, first)

        assert first.proof.signature != second.proof.signature
        assert await refused(vaulted, second) == ("PROOF_REFUSED", "REPLAYED")

    @pytest.mark.parametrize(("seconds", "fault"), [(-1, "EXPIRED"), (150, "TOO_LONG")])
    async def test_a_proof_is_fresh(
        self, vaulted: RunningKeyvault, seconds: int, fault: str
    ) -> None:
        browser = await hold(vaulted)
        until = datetime.now(UTC) + timedelta(seconds=seconds)

        assert await refused(vaulted, opening(browser, expire_time=until)) == (
            "PROOF_REFUSED",
            fault,
        )

    async def test_a_proof_is_of_this_request_account_provider_browser_and_job(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        stranger = FakeBrowser(vaulted.stub)
        stranger.sealed = browser.sealed
        wrong = {
            "request": opening(browser),
            "account": opening(browser),
            "provider": opening(browser),
            "browser": opening(stranger),
            "expiry": opening(browser),
            "job": opening(browser, job=JOB),
            "no signature": opening(browser),
        }
        wrong["request"].request_id = new_request_id()
        for about in ({"account": "accounts/other"}, {"provider": "openrouter"}):
            [field] = about
            proven = browser.bring(wrong[field].request_id, **about)
            wrong[field].proof.CopyFrom(proven["proof"])
        wrong["expiry"].proof.expire_time.seconds -= 1
        wrong["job"].proof.job = "accounts/demo/jobs/other"
        wrong["no signature"].proof.signature = b""

        found = {name: await refused(vaulted, request) for name, request in wrong.items()}
        assert found == dict.fromkeys(wrong, ("PROOF_REFUSED", "SIGNATURE"))

    async def test_a_job_of_another_account_is_refused(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        request = opening(browser, job="accounts/other/jobs/video-1")

        assert await refused(vaulted, request) == ("PROOF_REFUSED", "OTHER_JOB")

    async def test_a_blob_is_of_this_account_provider_and_secret(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        found = {}
        for name, changed in {
            "account": {"account": "accounts/other"},
            "provider": {"provider": "openrouter"},
            "secret": {},
        }.items():
            other = FakeBrowser(vaulted.stub, **changed)
            other.keys = browser.keys
            await other.seal(OPENROUTER_KEY if name == "provider" else OTHER_KEY)
            request = opening(browser)
            request.sealed_key.CopyFrom(other.sealed)
            found[name] = await refused(vaulted, request)

        assert found == {
            "account": ("SEALED_KEY_REFUSED", "OTHER_ACCOUNT"),
            "provider": ("SEALED_KEY_REFUSED", "OTHER_PROVIDER"),
            "secret": ("SEALED_KEY_REFUSED", "OTHER_SECRET"),
        }
        assert await refused(vaulted, opening(browser, provider="openrouter")) == (
            "SEALED_KEY_REFUSED",
            "OTHER_PROVIDER",
        )

    async def test_a_changed_or_foreign_blob_is_refused(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        wrong = {
            name: opening(browser)
            for name in ("first byte", "last byte", "short", "long", "key", "number", "none")
        }
        blob = browser.sealed.blob
        wrong["first byte"].sealed_key.blob = bytes([blob[0] ^ 1]) + blob[1:]
        wrong["last byte"].sealed_key.blob = blob[:-1] + bytes([blob[-1] ^ 1])
        wrong["short"].sealed_key.blob = blob[:40]
        wrong["long"].sealed_key.blob = bytes(20_481)
        wrong["key"].sealed_key.sealing_key = "sealingKeys/x25519-2"
        wrong["number"].sealed_key.sealing_key = "sealingKeys/x25519-01"
        wrong["none"].ClearField("sealed_key")

        found = {name: (await refused(vaulted, request))[1] for name, request in wrong.items()}
        assert found == {
            "first byte": "NOT_AUTHENTIC",
            "last byte": "NOT_AUTHENTIC",
            "short": "NOT_AUTHENTIC",
            "long": "MALFORMED",
            "key": "SEALING_KEY_GONE",
            "number": "MALFORMED",
            "none": "MISSING",
        }

    async def test_a_refused_request_leaves_its_proof_unspent(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        request = opening(browser)
        broken = service_pb2.OpenSealedKeyRequest()
        broken.CopyFrom(request)
        broken.sealed_key.blob = bytes(100)
        await refused(vaulted, broken)

        assert (await opened(vaulted, request)).secret == OPENAI_KEY


@pytest.mark.requirement("K10", "K13")
class TestReleases:
    async def test_each_opening_is_audited_before_it_is_answered(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        request = opening(browser)
        await opened(vaulted, request)
        await refused(vaulted, request)
        listed = service_pb2.ListAuditEventsRequest(parent="accounts/demo")
        events = (await vaulted.stub.ListAuditEvents(listed)).audit_events

        release = audit_pb2.AUDIT_ACTION_RELEASE
        assert [(event.action, event.details.get("purpose")) for event in events] == [
            (release, "open"),
            (audit_pb2.AUDIT_ACTION_CREATE, None),
            (release, "test"),
        ]
        assert (events[0].key, events[0].version) == (MAIN, 1)
        assert (events[0].actor, events[0].request_id) == ("router", request.request_id)

    async def test_nothing_leaves_where_the_release_cannot_be_written(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        async with database(vaulted.dsn) as connection:
            await connection.execute("ALTER TABLE audit_events RENAME TO elsewhere")
            status = await refusal(opened(vaulted, opening(browser)))
            spent = await connection.fetchval("SELECT count(*) FROM used_proofs")
            await connection.execute("ALTER TABLE elsewhere RENAME TO audit_events")

        assert status.reason == "INTERNAL"
        assert spent == 1, "the creation's alone: the proof and the release are one commit"

    async def test_a_jobs_proof_serves_that_job_beyond_its_expiry_for_a_day(
        self, vaulted: RunningKeyvault
    ) -> None:
        browser = await hold(vaulted)
        request = opening(browser, job=JOB)
        first, second = [await opened(vaulted, request) for _ in range(2)]
        async with database(vaulted.dsn) as connection:
            kept = await connection.fetchval(
                "SELECT reuse_until - clock_timestamp() FROM used_proofs"
                " WHERE reuse_until IS NOT NULL"
            )
            await connection.execute("UPDATE used_proofs SET reuse_until = now() - interval '1 s'")

        assert first.secret == second.secret == OPENAI_KEY
        assert timedelta(hours=23) < kept <= timedelta(hours=24)
        assert await refused(vaulted, request) == ("PROOF_REFUSED", "REPLAYED")

    async def test_proofs_past_their_time_are_forgotten(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        async with database(vaulted.dsn) as connection:
            for _ in range(3):
                await opened(vaulted, opening(browser))
            await connection.execute("UPDATE used_proofs SET keep_until = now() - interval '1 s'")
            await opened(vaulted, opening(browser))
            left = await connection.fetchval("SELECT count(*) FROM used_proofs")

        assert left == 1


@pytest.mark.requirement("K10")
class TestMoving:
    async def test_a_key_moves_either_way_without_being_typed_again(
        self, on_each_kek: RunningKeyvault
    ) -> None:
        vaulted = on_each_kek
        await vaulted.create(key_id="main", always_use=True, order=7)
        browser = FakeBrowser(vaulted.stub)
        moved = await vaulted.stub.MoveKey(moving(HELD, browser))
        browser.sealed = moved.sealed_key
        answer = await opened(vaulted, opening(browser))
        back = await vaulted.stub.MoveKey(moving(SERVER, browser))
        [account] = (await vaulted.resolve()).accounts

        assert (moved.key.residence, moved.key.version) == (HELD, 2)
        assert (moved.key.always_use, moved.key.order) == (True, 7)
        assert answer.secret == OPENAI_KEY
        assert (back.key.residence, back.key.version) == (SERVER, 3)
        assert not back.HasField("sealed_key")
        assert account.keys[0].secret == OPENAI_KEY
        assert len(vaulted.router.asked) == 1, "a move tests nothing"
        assert await refused(vaulted, opening(browser)) == ("WRONG_RESIDENCE", "")

    async def test_the_servers_copy_ends_with_the_overlap_and_a_repeat_gets_it_until_then(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        browser, request_id = FakeBrowser(vaulted.stub), new_request_id()
        moved = await vaulted.stub.MoveKey(moving(HELD, browser, request_id))
        again = await vaulted.stub.MoveKey(moving(HELD, browser, request_id))
        browser.sealed = again.sealed_key
        assert (await opened(vaulted, opening(browser))).secret == OPENAI_KEY
        async with database(vaulted.dsn) as connection:
            await connection.execute("UPDATE key_versions SET expire_time = now()")
        late = await vaulted.stub.MoveKey(moving(HELD, browser, request_id))

        ends_in = moved.key.overlap_end_time.ToDatetime(UTC) - datetime.now(UTC)
        assert timedelta(minutes=9) < ends_in <= timedelta(minutes=10)
        assert again.key.version == late.key.version == 2
        assert not late.HasField("sealed_key")
        stranger = FakeBrowser(vaulted.stub)
        reused = await refusal(vaulted.stub.MoveKey(moving(HELD, stranger, request_id)))
        assert reused.reason == "REQUEST_ID_REUSED"

    async def test_a_move_needs_the_proof_of_the_browser_it_names(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        browser, stranger = FakeBrowser(vaulted.stub), FakeBrowser(vaulted.stub)
        request = moving(HELD, browser)
        request.signing_key = stranger.keys.signing_key
        foreign = await refusal(vaulted.stub.MoveKey(request))
        request.signing_key = b"\x04" + bytes(64)
        no_point = await refusal(vaulted.stub.MoveKey(request))
        request.ClearField("proof")
        unproven = await refusal(vaulted.stub.MoveKey(request))
        where_it_is = await refusal(vaulted.stub.MoveKey(moving(SERVER, browser)))

        assert (foreign.reason, foreign.metadata["fault"]) == ("PROOF_REFUSED", "SIGNATURE")
        assert (no_point.reason, no_point.metadata["fault"]) == ("SEALED_KEY_REFUSED", "MALFORMED")
        assert (unproven.reason, unproven.metadata["fault"]) == ("PROOF_REFUSED", "MISSING")
        assert where_it_is.reason == "WRONG_RESIDENCE"

    async def test_moves_and_what_they_destroy_are_audited(self, vaulted: RunningKeyvault) -> None:
        browser = await hold(vaulted)
        await vaulted.stub.MoveKey(moving(SERVER, browser))
        listed = service_pb2.ListAuditEventsRequest(parent="accounts/demo")
        events = (await vaulted.stub.ListAuditEvents(listed)).audit_events

        moves = [event for event in events if event.action == audit_pb2.AUDIT_ACTION_MOVE]
        assert [(event.version, event.details["residence"]) for event in moves] == [(2, "SERVER")]


@pytest.mark.requirement("K8", "K10")
async def test_the_secret_is_in_no_answer_row_or_log(
    vaulted: RunningKeyvault, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = "sk-proj-canary0123456789-abcdefghijklmnopWXYZ"
    browser = await hold(vaulted, canary)
    request = opening(browser)
    answers = [
        str(await vaulted.stub.TestKey(service_pb2.TestKeyRequest(name=MAIN, **browser.bring())))
    ]
    await opened(vaulted, request)
    answers.append(str(await refusal(opened(vaulted, request))))
    moved = await vaulted.stub.MoveKey(moving(SERVER, browser))
    back = await vaulted.stub.MoveKey(moving(HELD, browser))
    answers += [str(moved), str(back)]
    async with database(vaulted.dsn) as connection:
        tables = await connection.fetch(
            "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
        )
        rows = [
            str(row)
            for table in tables
            for row in await connection.fetch(f"SELECT t::text FROM {table['name']} t")  # noqa: S608
        ]

    written = capsys.readouterr()
    assert "rpc" in written.out
    for place in (*answers, *rows, written.out, written.err):
        assert "canary" not in place
        assert b"canary".hex() not in place
