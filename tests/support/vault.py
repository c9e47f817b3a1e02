# SPDX-License-Identifier: Apache-2.0
"""A real HashiCorp Vault for tests, started for the run and thrown away after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.vault import LocalVault
from deploy.programs import VAULT, ProgramMissingError


@contextmanager
def vault_for_tests(folder: Path) -> Iterator[LocalVault]:
    """
    A server set up as the keyvault service needs it.

    Raises:
        ProgramMissingError: There is no Vault yet; a test's time is too short to build one.
    """
    binary = VAULT.find()
    if binary is None:
        raise ProgramMissingError("The tests run on a real HashiCorp Vault; run `make vault`.")
    with LocalVault(folder / "vault", log_folder=folder / "logs", binary=binary) as vault:
        yield vault
