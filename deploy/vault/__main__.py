# SPDX-License-Identifier: Apache-2.0
"""`python -m deploy.vault`: makes sure that a Vault binary is here and names it."""

from __future__ import annotations

import sys

from deploy.vault.binary import VaultMissingError, vault_binary


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Finds or builds Vault; gives the exit code."""
    try:
        _say(f"vault: {vault_binary(say=_say)}")
    except VaultMissingError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
