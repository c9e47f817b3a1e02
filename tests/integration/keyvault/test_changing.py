# SPDX-License-Identifier: Apache-2.0
"""Changing, switching, choosing, replacing, deleting and listing keys."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import field_mask_pb2
from ownkey.keyvault.v1 import audit_pb2, key_pb2, live_test_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from tests.support.keyvault import (
    OPENAI_KEY,
    OPENROUTER_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
)

MAIN = "accounts/demo/keys/main"
SETTINGS = "accounts/demo/settings"
NEW_KEY = "sk-proj-newnewnewnewnewnewnewnew0123456789ABCD"


def mask(*paths: str) -> field_mask_pb2.FieldMask:
    return field_mask_pb2.FieldMask(paths=paths)


async def update(vaulted: RunningKeyvault, *paths: str, **values: Any) -> key_pb2.Key:
    request = service_pb2.UpdateKeyRequest(
        key=key_pb2.Key(name=MAIN, **values), update_mask=mask(*paths or values.keys())
    )
    return (await vaulted.stub.UpdateKey(request)).key


async def names(vaulted: RunningKeyvault, **arguments: Any) -> list[str]:
    request = service_pb2.ListKeysRequest(parent="accounts/demo", **arguments)
    return [key.name.rpartition("/")[2] for key in (await vaulted.stub.ListKeys(request)).keys]


async def delete(vaulted: RunningKeyvault, name: str = MAIN, **arguments: Any) -> None:
    request_id = arguments.pop("request_id", "") or new_request_id()
    request = service_pb2.DeleteKeyRequest(name=name, request_id=request_id, **arguments)
    await vaulted.stub.DeleteKey(request)


async def settings(vaulted: RunningKeyvault) -> key_pb2.Settings:
    return (await vaulted.stub.GetSettings(service_pb2.GetSettingsRequest(name=SETTINGS))).settings


@pytest.mark.requirement("K1", "K5")
class TestUpdateKey:
    async def test_only_what_the_mask_names_changes(self, vaulted: RunningKeyvault) -> None:
        created = (await vaulted.create(key_id="main", label="Old", order=1)).key
        changed = await update(
            vaulted,
            "default_model",
            "allowed_models",
            "always_use",
            default_model="openai/gpt-4o-mini",
            allowed_models=["openai/gpt-4o-mini"],
            always_use=True,
            label="ignored",
        )

        assert (changed.label, changed.order) == ("Old", 1)
        assert changed.default_model == "openai/gpt-4o-mini"
        assert changed.allowed_models == ["openai/gpt-4o-mini"]
        assert changed.always_use
        assert changed.etag != created.etag
        assert [request.check_only for request in vaulted.router.asked] == [False, True]
        [account] = (await vaulted.resolve()).accounts
        assert account.keys[0].key == changed

    @pytest.mark.requirement("L8")
    async def test_a_spending_limit_is_set_raised_and_lifted_and_reaches_the_router(
        self, vaulted: RunningKeyvault
    ) -> None:
        created = (await vaulted.create(key_id="main", monthly_limit_nano_usd=1)).key
        assert created.monthly_limit_nano_usd == 1
        raised = await update(vaulted, "monthly_limit_nano_usd", monthly_limit_nano_usd=10**18)
        [account] = (await vaulted.resolve()).accounts
        assert account.keys[0].key == raised
        assert raised.monthly_limit_nano_usd == 10**18
        assert raised.etag != created.etag

        kept = await update(vaulted, "label", label="New")
        assert kept.monthly_limit_nano_usd == 10**18
        lifted = await update(vaulted, "monthly_limit_nano_usd")
        assert not lifted.HasField("monthly_limit_nano_usd")

    async def test_an_old_etag_is_refused(self, vaulted: RunningKeyvault) -> None:
        created = (await vaulted.create(key_id="main")).key
        await update(vaulted, label="New")
        status = await refusal(update(vaulted, "label", label="Newer", etag=created.etag))

        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "ETAG_MISMATCH",
        )

    @pytest.mark.parametrize(
        ("paths", "values", "reason"),
        [
            ((), {}, "INVALID_ARGUMENT"),
            (("*",), {}, "INVALID_ARGUMENT"),
            (("provider",), {"provider": "gemini"}, "INVALID_ARGUMENT"),
            (("active",), {"active": True}, "INVALID_ARGUMENT"),
            (("monthly_limit_nano_usd",), {"monthly_limit_nano_usd": 0}, "INVALID_ARGUMENT"),
            (("label",), {"label": "x" * 101}, "INVALID_ARGUMENT"),
            (("default_model",), {"default_model": "openai/other"}, "INVALID_ARGUMENT"),
        ],
    )
    async def test_what_may_not_be_changed_is_refused(
        self, vaulted: RunningKeyvault, paths: tuple[str, ...], values: Any, reason: str
    ) -> None:
        before = (await vaulted.create(key_id="main")).key
        request = service_pb2.UpdateKeyRequest(
            key=key_pb2.Key(name=MAIN, **values), update_mask=mask(*paths)
        )

        assert (await refusal(vaulted.stub.UpdateKey(request))).reason == reason
        after = await vaulted.stub.GetKey(service_pb2.GetKeyRequest(name=MAIN))
        assert after.key == before

    async def test_an_unknown_key_is_named(self, vaulted: RunningKeyvault) -> None:
        status = await refusal(update(vaulted, label="x"))

        assert (status.code, status.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
        assert status.metadata["key"] == MAIN


@pytest.mark.requirement("K5", "K6")
class TestSwitches:
    async def test_a_disabled_key_keeps_everything_but_its_use(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main", label="Mine")
        disabled = await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        [account] = (await vaulted.resolve()).accounts

        assert disabled.key.state == key_pb2.KEY_STATE_DISABLED
        assert disabled.key.active
        assert [(item.key.label, item.secret) for item in account.keys] == [("Mine", "")]

        await vaulted.stub.EnableKey(service_pb2.EnableKeyRequest(name=MAIN))
        [account] = (await vaulted.resolve()).accounts
        assert [item.secret for item in account.keys] == [OPENAI_KEY]

    async def test_activating_moves_the_place_within_the_provider(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(key_id="second")
        await vaulted.create(OPENROUTER_KEY, provider="openrouter", key_id="third")
        request = service_pb2.ActivateKeyRequest(name="accounts/demo/keys/second")
        for _ in range(2):
            assert (await vaulted.stub.ActivateKey(request)).key.active

        listed = await vaulted.stub.ListKeys(service_pb2.ListKeysRequest(parent="accounts/demo"))
        assert [key.active for key in listed.keys] == [False, True, True]

    async def test_a_disabled_key_cannot_become_active(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="first")
        await vaulted.create(key_id="main")
        await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=MAIN))
        status = await refusal(vaulted.stub.ActivateKey(service_pb2.ActivateKeyRequest(name=MAIN)))

        assert status.reason == "KEY_DISABLED"

    async def test_settings_choose_the_provider_and_the_backups(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(OPENROUTER_KEY, provider="openrouter")
        before = await settings(vaulted)
        request = service_pb2.UpdateSettingsRequest(
            settings=key_pb2.Settings(
                name=SETTINGS, active_provider="openrouter", use_backups=True, etag=before.etag
            ),
            update_mask=mask("active_provider", "use_backups"),
            request_id=new_request_id(),
        )
        after = (await vaulted.stub.UpdateSettings(request)).settings

        assert (after.active_provider, after.use_backups) == ("openrouter", True)
        assert (await vaulted.stub.UpdateSettings(request)).settings == after
        request.request_id = new_request_id()
        assert (await refusal(vaulted.stub.UpdateSettings(request))).reason == "ETAG_MISMATCH"
        request.settings.etag = ""
        request.settings.active_provider = "gemini"
        status = await refusal(vaulted.stub.UpdateSettings(request))
        assert status.reason == "PROVIDER_WITHOUT_KEY"


@pytest.mark.requirement("K7")
class TestReplaceKey:
    async def test_the_new_secret_serves_and_the_old_one_is_gone_at_once(
        self, vaulted: RunningKeyvault
    ) -> None:
        vaulted.router.finds("NO_CREDIT")
        await vaulted.create(key_id="main", label="Mine")
        vaulted.router.finds("VALID")
        request = service_pb2.ReplaceKeyRequest(
            name=MAIN, secret=f" {NEW_KEY}\n", request_id=new_request_id()
        )
        replaced = await vaulted.stub.ReplaceKey(request)

        assert (replaced.key.version, replaced.key.label) == (2, "Mine")
        assert replaced.key.hint == "sk-proj-…ABCD"
        assert [health.state for health in replaced.key.health] == [key_pb2.HEALTH_STATE_ACTIVE]
        assert replaced.test.result == live_test_pb2.TEST_RESULT_VALID
        [account] = (await vaulted.resolve()).accounts
        assert [item.secret for item in account.keys] == [NEW_KEY]
        async with database(vaulted.dsn) as connection:
            assert await connection.fetch("SELECT version FROM key_secrets") == [(2,)]
        assert await vaulted.stub.ReplaceKey(request) == replaced

    async def test_a_refused_secret_leaves_the_old_one_in_place(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        vaulted.router.finds("INVALID")
        request = service_pb2.ReplaceKeyRequest(
            name=MAIN, secret=NEW_KEY, request_id=new_request_id()
        )

        assert (await refusal(vaulted.stub.ReplaceKey(request))).reason == "KEY_INVALID"
        [account] = (await vaulted.resolve()).accounts
        assert [item.secret for item in account.keys] == [OPENAI_KEY]

    async def test_of_two_at_once_one_wins_and_the_row_opens(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        secrets = [f"{NEW_KEY}{number}" for number in range(4)]
        outcomes = await asyncio.gather(
            *(
                vaulted.stub.ReplaceKey(
                    service_pb2.ReplaceKeyRequest(
                        name=MAIN, secret=secret, request_id=new_request_id()
                    )
                )
                for secret in secrets
            ),
            return_exceptions=True,
        )

        [account] = (await vaulted.resolve()).accounts
        [item] = account.keys
        assert item.secret in secrets
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert item.key.version == 1 + len(won)


@pytest.mark.requirement("K7", "K13")
class TestDeleteKey:
    async def test_nothing_of_the_secret_stays_but_the_audit_trail_does(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        request_id = new_request_id()
        await delete(vaulted, request_id=request_id)
        await delete(vaulted, request_id=request_id)

        async with database(vaulted.dsn) as connection:
            for table in ("keys", "key_versions", "key_secrets", "key_health"):
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
        events = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/demo")
        )
        assert [event.action for event in events.audit_events] == [
            audit_pb2.AUDIT_ACTION_DELETE,
            audit_pb2.AUDIT_ACTION_CREATE,
        ]
        assert events.audit_events[0].request_id == request_id
        assert (await refusal(delete(vaulted))).reason == "KEY_NOT_FOUND"

    async def test_the_last_key_of_the_active_provider_gives_the_place_up(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(OPENROUTER_KEY, provider="openrouter")
        await delete(vaulted)

        assert (await settings(vaulted)).active_provider == "openrouter"

    async def test_an_old_etag_is_refused(self, vaulted: RunningKeyvault) -> None:
        created = (await vaulted.create(key_id="main")).key
        await update(vaulted, label="New")

        assert (await refusal(delete(vaulted, etag=created.etag))).reason == "ETAG_MISMATCH"


@pytest.mark.requirement("K5", "K13", "O3")
class TestLists:
    async def test_keys_come_in_order_page_by_page(self, vaulted: RunningKeyvault) -> None:
        for key_id, order in (("c", 1), ("a", 2), ("b", 1), ("d", 0)):
            await vaulted.create(key_id=key_id, order=order)
        assert await names(vaulted) == ["d", "c", "b", "a"]

        pages, token = [], ""
        while True:
            page = await vaulted.stub.ListKeys(
                service_pb2.ListKeysRequest(parent="accounts/demo", page_size=2, page_token=token)
            )
            pages.append([key.name.rpartition("/")[2] for key in page.keys])
            token = page.next_page_token
            if not token:
                break
        assert pages == [["d", "c"], ["b", "a"]]
        assert await names(vaulted, provider="gemini") == []

    async def test_a_token_of_another_list_is_refused(self, vaulted: RunningKeyvault) -> None:
        for _ in range(2):
            await vaulted.create()
        page = await vaulted.stub.ListKeys(
            service_pb2.ListKeysRequest(parent="accounts/demo", page_size=1)
        )
        status = await refusal(
            vaulted.stub.ListKeys(
                service_pb2.ListKeysRequest(
                    parent="accounts/other", page_size=1, page_token=page.next_page_token
                )
            )
        )
        assert status.metadata["field"] == "page_token"

    async def test_the_audit_trail_comes_newest_first_page_by_page(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.resolve()
        await update(vaulted, label="x")
        first = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/demo", page_size=2)
        )
        rest = await vaulted.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(
                parent="accounts/demo", page_size=2, page_token=first.next_page_token
            )
        )

        assert [event.action for event in (*first.audit_events, *rest.audit_events)] == [
            audit_pb2.AUDIT_ACTION_UPDATE,
            audit_pb2.AUDIT_ACTION_RELEASE,
            audit_pb2.AUDIT_ACTION_CREATE,
        ]
        assert [event.actor for event in first.audit_events] == ["anonymous", "router"]
        assert rest.next_page_token == ""

    async def test_the_trail_cannot_be_rewritten(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create()
        async with database(vaulted.dsn) as connection:
            for statement in (
                "UPDATE audit_events SET actor = 'nobody'",
                "DELETE FROM audit_events",
                "TRUNCATE audit_events",
            ):
                with pytest.raises(asyncpg.RaiseError, match="append-only"):
                    await connection.execute(statement)
