# SPDX-License-Identifier: Apache-2.0
"""Keyvault on a real Vault that is sealed, stopped, brought back and set up wrongly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from deploy.local.vault import TRANSIT_KEY, LocalVault
from services.keyvault.adapters.vault_login import AppRole
from services.keyvault.errors import KekCause, KekUnavailableError
from services.shared.config import ConfigError
from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
    running_keyvault,
)
from tests.support.vault_transit import vault_environ, vault_transit

CONTEXT = b"context"


async def kek_status(vaulted: RunningKeyvault) -> Any:
    request = service_pb2.GetKekStatusRequest()
    return (await vaulted.stub.GetKekStatus(request, metadata=vaulted.as_operator)).status


@pytest.mark.requirement("K9", "K12")
class TestSealedAndAway:
    async def test_reads_go_on_writes_stop_and_all_is_well_after_unsealing(
        self, tmp_path: Path, keyvault_dsn: str, own_vault: LocalVault
    ) -> None:
        settings = vault_environ(own_vault)
        async with running_keyvault(tmp_path, keyvault_dsn, **settings) as vaulted:
            await vaulted.create(key_id="main")
            await vaulted.create(account="cold", key_id="main")
            await vaulted.resolve()
            asked = len(vaulted.router.asked)
            await asyncio.to_thread(own_vault.seal)

            [account] = (await vaulted.resolve()).accounts
            assert account.keys[0].secret == OPENAI_KEY
            assert account.keys[0].unavailable_cause == ""
            warm, cold = (await vaulted.resolve("demo", "cold")).accounts
            assert warm.keys[0].secret == OPENAI_KEY
            assert (cold.keys[0].secret, cold.keys[0].unavailable_cause) == ("", "SEALED")
            assert cold.keys[0].key.state == key_pb2.KEY_STATE_ENABLED
            assert cold.keys[0].key.health[0].state == key_pb2.HEALTH_STATE_ACTIVE
            for call in (
                vaulted.create(),
                vaulted.stub.ReplaceKey(
                    service_pb2.ReplaceKeyRequest(
                        name="accounts/demo/keys/main",
                        secret=OPENAI_KEY + "2",
                        request_id=new_request_id(),
                    )
                ),
            ):
                status = await refusal(call)
                assert (status.code, status.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "KEK_UNAVAILABLE",
                )
                assert status.metadata["cause"] == "SEALED"
                assert "unseal" in status.message
                assert status.retry_after_seconds
            assert len(vaulted.router.asked) == asked
            report = await kek_status(vaulted)
            assert not report.available
            assert "sealed" in report.reason

            await asyncio.to_thread(own_vault.unseal)
            [account] = (await vaulted.resolve("cold")).accounts
            assert account.keys[0].secret == OPENAI_KEY
            await vaulted.create()
            report = await kek_status(vaulted)
            assert (report.kek, report.available, report.current_version) == (
                "vault:transit/ownkey",
                True,
                1,
            )
            async with database(vaulted.dsn) as connection:
                own = await connection.fetchval("SELECT count(*) FROM service_keys")
            assert [(item.version, item.record_count) for item in report.versions] == [(1, 3 + own)]

    async def test_nothing_is_read_from_a_cache_past_its_age(
        self, tmp_path: Path, keyvault_dsn: str, own_vault: LocalVault
    ) -> None:
        settings = {**vault_environ(own_vault), "CACHE_SECONDS": "0"}
        async with running_keyvault(tmp_path, keyvault_dsn, **settings) as vaulted:
            await vaulted.create(key_id="main")
            await vaulted.resolve()
            await asyncio.to_thread(own_vault.stop)
            [account] = (await vaulted.resolve()).accounts
            assert (account.keys[0].secret, account.keys[0].unavailable_cause) == (
                "",
                "UNREACHABLE",
            )

            await asyncio.to_thread(own_vault.start)
            assert (await vaulted.resolve()).accounts[0].keys[0].secret == OPENAI_KEY

    async def test_a_disabled_key_is_not_resolved_while_vault_is_away(
        self, tmp_path: Path, keyvault_dsn: str, own_vault: LocalVault
    ) -> None:
        """Revocation wins over every cache and needs no Vault."""
        async with running_keyvault(tmp_path, keyvault_dsn, **vault_environ(own_vault)) as vaulted:
            await vaulted.create(key_id="main")
            await vaulted.resolve()
            await asyncio.to_thread(own_vault.seal)
            name = "accounts/demo/keys/main"
            await vaulted.stub.DisableKey(service_pb2.DisableKeyRequest(name=name))
            assert [item.secret for item in (await vaulted.resolve()).accounts[0].keys] == [""]
            await vaulted.stub.DeleteKey(
                service_pb2.DeleteKeyRequest(name=name, request_id=new_request_id())
            )
            assert list((await vaulted.resolve()).accounts[0].keys) == []

    async def test_it_waits_for_a_sealed_vault_at_start(self, own_vault: LocalVault) -> None:
        await asyncio.to_thread(own_vault.seal)
        transit = vault_transit(own_vault)
        starting = asyncio.create_task(transit.check_key())
        await asyncio.to_thread(own_vault.unseal)

        await starting
        await transit.close()


@pytest.mark.requirement("K9")
class TestLogin:
    async def test_a_revoked_token_is_replaced_by_one_login_for_all(
        self, vault: LocalVault
    ) -> None:
        transit = vault_transit(vault)
        keys = [await transit.generate_data_key(CONTEXT) for _ in range(4)]
        token = (await transit._login.token()).value
        await asyncio.to_thread(vault.admin().revoke_token, token.reveal())
        opened = await asyncio.gather(*(transit.unwrap(key.wrapped, CONTEXT) for key in keys))

        assert all(secret is not None for secret in opened)
        assert (await transit._login.token()).value.reveal() != token.reveal()
        await transit.close()

    async def test_a_login_that_vault_refuses_says_so(
        self, vault: LocalVault, tmp_path: Path
    ) -> None:
        wrong = tmp_path / "secret_id"
        wrong.touch(mode=0o600)
        wrong.write_text("00000000-0000-0000-0000-000000000000")
        login = AppRole("approle", role_id_file=vault.role_id_file, secret_id_file=wrong)
        transit = vault_transit(vault, login=login)

        with pytest.raises(KekUnavailableError) as refused:
            await transit.generate_data_key(CONTEXT)
        assert refused.value.cause is KekCause.DENIED
        assert "00000000" not in refused.value.message
        await transit.close()

    async def test_a_key_that_the_policy_does_not_name_is_denied_and_not_made(
        self, vault: LocalVault
    ) -> None:
        transit = vault_transit(vault, transit_key="mistyped")

        with pytest.raises(KekUnavailableError) as refused:
            await transit.generate_data_key(CONTEXT)
        assert refused.value.cause is KekCause.DENIED
        keys = await asyncio.to_thread(vault.admin().secrets.transit.list_keys)
        assert keys["data"]["keys"] == [TRANSIT_KEY]
        await transit.close()

    async def test_a_certificate_of_another_authority_is_refused(self, vault: LocalVault) -> None:
        transit = vault_transit(vault, ca_file=None)

        with pytest.raises(KekUnavailableError) as refused:
            await transit.generate_data_key(CONTEXT)
        assert refused.value.cause is KekCause.BROKEN
        await transit.close()


@pytest.mark.requirement("K9")
class TestStartUpAssertion:
    @pytest.mark.parametrize(
        ("key", "config", "told"),
        [
            ({"derived": False}, True, "must be derived"),
            ({"derived": True, "exportable": True}, True, "exportable"),
            ({"derived": True, "key_type": "chacha20-poly1305"}, True, "must be of type"),
            ({"derived": True}, False, "disable_upsert"),
        ],
    )
    async def test_a_key_that_is_not_fit_is_refused(
        self, vault: LocalVault, key: dict[str, Any], config: bool, told: str
    ) -> None:
        mount = f"unfit-{new_request_id()}"

        def set_up() -> None:
            admin = vault.admin()
            admin.sys.enable_secrets_engine("transit", path=mount)
            options = {"key_type": "aes256-gcm96", "exportable": False, **key}
            admin.secrets.transit.create_key(TRANSIT_KEY, mount_point=mount, **options)
            admin.write_data(f"{mount}/config/keys", data={"disable_upsert": config})
            policy = admin.sys.read_policy("keyvault")["data"]["rules"]
            if mount not in policy:
                grant = f'path "{mount}/*" {{ capabilities = ["read"] }}'
                admin.sys.create_or_update_policy("keyvault", f"{policy}\n{grant}")

        await asyncio.to_thread(set_up)
        transit = vault_transit(vault, transit_mount=mount)
        with pytest.raises(ConfigError, match=told):
            await transit.check_key()
        await transit.close()
