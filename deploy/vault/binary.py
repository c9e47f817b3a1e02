# SPDX-License-Identifier: Apache-2.0
"""
Finds HashiCorp Vault, or builds it once.

A `vault` on PATH is taken as it is. Otherwise version 1.21.0 is built from its published Go
module (`deploy/vault/build`, pinned by go.sum) into a cache outside the checkout:
`$OWNKEY_CACHE/vault-1.21.0/vault`, by default below `~/.cache/ownkey`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

VERSION = "1.21.0"
BUILD_TIMEOUT_SECONDS = 45 * 60
"""A cold build takes about nine minutes on two cores; five times that is a hung one."""

_SOURCE = Path(__file__).parent / "build"


class VaultMissingError(Exception):
    """Vault is not here and could not be built; the message says what to do."""


def find_vault(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The Vault binary on PATH, else the one built before, if there is either."""
    on_path = shutil.which("vault", path=environ.get("PATH"))
    if on_path is not None:
        return Path(on_path)
    built = _built(environ)
    return built if built.exists() else None


def vault_binary(
    environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = lambda _: None
) -> Path:
    """
    Gives the path of a Vault binary, building it first where there is none.

    Two callers at once build once: the second waits for the first one's result.

    Args:
        environ: Read for PATH and OWNKEY_CACHE.
        say: Told, in one sentence, that a long build begins.

    Raises:
        VaultMissingError: Go is missing or the build failed.
    """
    found = find_vault(environ)
    if found is not None:
        return found
    binary = _built(environ)
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (binary.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _build(binary, environ, say)
    return binary


def _built(environ: Mapping[str, str]) -> Path:
    cache = Path(environ.get("OWNKEY_CACHE") or Path.home() / ".cache" / "ownkey")
    return cache / f"vault-{VERSION}" / "vault"


def _build(binary: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    go = shutil.which("go", path=environ.get("PATH"))
    if go is None:
        raise VaultMissingError(
            "HashiCorp Vault is needed and neither `vault` nor `go` is on PATH; "
            "install Vault, or Go 1.25 or newer to build it."
        )
    say(
        f"Building HashiCorp Vault {VERSION} once into {binary.parent}; "
        "this takes about 9 minutes on two cores."
    )
    unfinished = binary.with_name(f"vault.{os.getpid()}")
    log = binary.with_name("build.log")
    command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(unfinished), "."]
    try:
        with log.open("w") as output:
            subprocess.run(
                command,
                cwd=_SOURCE,
                env={**environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=BUILD_TIMEOUT_SECONDS,
                check=True,
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        unfinished.unlink(missing_ok=True)
        raise VaultMissingError(
            f"Building HashiCorp Vault {VERSION} failed; {log} says why. "
            "Mend that, or put a `vault` on PATH."
        ) from exc
    unfinished.rename(binary)
