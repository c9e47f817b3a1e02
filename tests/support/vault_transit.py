# SPDX-License-Identifier: Apache-2.0
"""Keyvault's adapter on the tests' Vault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from deploy.local.vault import TRANSIT_KEY, TRANSIT_MOUNT, LocalVault
from services.keyvault.adapters.vault_http import VaultSettings
from services.keyvault.adapters.vault_login import AppRole
from services.keyvault.adapters.vault_transit import VaultTransit
from services.shared.clock import Clock, SystemClock


def vault_transit(vault: LocalVault, *, clock: Clock | None = None, **changes: Any) -> VaultTransit:
    """Make an adapter for a Vault, on the system's clock; `changes` are other settings."""
    settings = VaultSettings(
        address=vault.address,
        ca_file=vault.ca_file,
        namespace="",
        transit_mount=TRANSIT_MOUNT,
        transit_key=TRANSIT_KEY,
        login=AppRole(
            "approle", role_id_file=vault.role_id_file, secret_id_file=vault.secret_id_file
        ),
        call_seconds=5.0,
        connections=4,
    )
    return VaultTransit(replace(settings, **changes), clock=clock or SystemClock())


def vault_environ(vault: LocalVault) -> dict[str, str]:
    """Return the settings of a keyvault on a Vault."""
    return {
        "KEK": "vault",
        "VAULT_ADDRESS": vault.address,
        "VAULT_CA_FILE": str(vault.ca_file),
        "VAULT_ROLE_ID_FILE": str(vault.role_id_file),
        "VAULT_SECRET_ID_FILE": str(vault.secret_id_file),
        "VAULT_TRANSIT_MOUNT": TRANSIT_MOUNT,
        "VAULT_TRANSIT_KEY": TRANSIT_KEY,
    }
