# SPDX-License-Identifier: Apache-2.0
"""The Vault of `make run` and of the tests is set up as the keyvault service needs it."""

from __future__ import annotations

import base64
import stat
from typing import Any

import hvac
import hvac.exceptions
import psutil
import pytest

from deploy.local.vault import TRANSIT_KEY, LocalVault

CONTEXT = base64.b64encode(b"accounts/demo").decode()


def service(vault: LocalVault) -> Any:
    """A client logged in as the keyvault service."""
    client = hvac.Client(url=vault.address, verify=str(vault.ca_file))
    client.auth.approle.login(vault.role_id_file.read_text(), vault.secret_id_file.read_text())
    return client


def data_key(client: Any, key: str = TRANSIT_KEY) -> Any:
    return client.secrets.transit.generate_data_key(key, "plaintext", context=CONTEXT)["data"]


@pytest.mark.requirement("K9", "O2")
class TestPolicy:
    def test_the_service_wraps_unwraps_and_rewraps(self, vault: LocalVault) -> None:
        client = service(vault)
        key = data_key(client)
        transit = client.secrets.transit
        wrapped = transit.rewrap_data(TRANSIT_KEY, key["ciphertext"], context=CONTEXT)["data"]
        opened = transit.decrypt_data(TRANSIT_KEY, wrapped["ciphertext"], context=CONTEXT)["data"]
        assert opened["plaintext"] == key["plaintext"]
        assert transit.encrypt_data(TRANSIT_KEY, plaintext=CONTEXT, context=CONTEXT)["data"]

    def test_the_service_can_assert_how_the_key_is_set_up(self, vault: LocalVault) -> None:
        client = service(vault)
        key = client.secrets.transit.read_key(TRANSIT_KEY)["data"]
        assert (key["derived"], key["exportable"]) == (True, False)
        assert client.read("transit/config/keys")["data"]["disable_upsert"] is True

    def test_another_context_opens_nothing(self, vault: LocalVault) -> None:
        client = service(vault)
        other = base64.b64encode(b"accounts/other").decode()
        with pytest.raises(hvac.exceptions.InvalidRequest):
            client.secrets.transit.decrypt_data(
                TRANSIT_KEY, data_key(client)["ciphertext"], context=other
            )

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "transit/datakey/plaintext/other"),
            ("PUT", "transit/encrypt/other"),
            ("PUT", "transit/keys/other"),
            ("PUT", f"transit/keys/{TRANSIT_KEY}/rotate"),
            ("PUT", f"transit/keys/{TRANSIT_KEY}/config"),
            ("DELETE", f"transit/keys/{TRANSIT_KEY}"),
            ("GET", f"transit/export/encryption-key/{TRANSIT_KEY}"),
            ("GET", f"transit/backup/{TRANSIT_KEY}"),
            ("LIST", "transit/keys"),
            ("PUT", "transit/config/keys"),
            ("GET", "sys/policies/acl/keyvault"),
        ],
    )
    def test_the_service_may_do_nothing_else(
        self, vault: LocalVault, method: str, path: str
    ) -> None:
        adapter = service(vault).adapter
        with pytest.raises(hvac.exceptions.Forbidden):
            adapter.request(method, f"/v1/{path}", json={"context": CONTEXT, "plaintext": CONTEXT})

    def test_even_an_administrator_makes_no_key_by_a_mistyped_name(self, vault: LocalVault) -> None:
        with pytest.raises(hvac.exceptions.InvalidRequest):
            vault.admin().secrets.transit.encrypt_data(
                "mistyped", plaintext=CONTEXT, context=CONTEXT
            )


@pytest.mark.requirement("O2")
class TestServer:
    def test_keys_survive_a_restart_and_a_seal(self, own_vault: LocalVault) -> None:
        client = service(own_vault)
        key = data_key(client)

        def opened() -> Any:
            transit = client.secrets.transit
            return transit.decrypt_data(TRANSIT_KEY, key["ciphertext"], context=CONTEXT)["data"]

        own_vault.seal()
        with pytest.raises(hvac.exceptions.VaultDown):
            opened()
        own_vault.unseal()
        assert opened()["plaintext"] == key["plaintext"]
        own_vault.stop()
        own_vault.start()
        assert opened()["plaintext"] == key["plaintext"]

    def test_what_opens_it_is_private_and_in_no_process_argument(self, vault: LocalVault) -> None:
        private = [
            vault.folder / "init.json",
            vault.folder / "tls" / "tls.key",
            vault.role_id_file,
            vault.secret_id_file,
        ]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
        secret = vault.secret_id_file.read_text()
        for process in psutil.process_iter(["cmdline"]):
            assert secret not in " ".join(process.info["cmdline"] or [])
