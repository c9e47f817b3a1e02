# SPDX-License-Identifier: Apache-2.0
"""A real HashiCorp Vault for tests, started for the run and thrown away after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.vault import LocalVault
from deploy.vault.binary import VaultMissingError, find_vault


@contextmanager
def vault_for_tests(folder: Path) -> Iterator[LocalVault]:
    """
    A server set up as the keyvault service needs it.

    Raises:
        VaultMissingError: There is no Vault yet; a test's time is too short to build one.
    """
    binary = find_vault()
    if binary is None:
        raise VaultMissingError("The tests run on a real HashiCorp Vault; run `make vault` first.")
    with LocalVault(folder / "vault", log_folder=folder / "logs", binary=binary) as vault:
        yield vault
