# SPDX-License-Identifier: Apache-2.0
"""
Programs that the project's tools need and that Go builds from their published modules, once.

One on PATH is taken as it is. Otherwise it is built, pinned by go.sum, into a cache outside the
checkout: `$OWNKEY_CACHE/<name>-<version>/<name>`, by default below `~/.cache/ownkey`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class ProgramMissingError(Exception):
    """A program is not here and could not be built; the message says what to do."""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Gives the folder outside the checkout where what was built or fetched is kept."""
    return Path(environ.get("OWNKEY_CACHE") or Path.home() / ".cache" / "ownkey")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoProgram:
    """
    A program.

    Args:
        name: Of its file.
        title: What people call it.
        version: The one that is built.
        source: Folder of the module that pins it.
        package: The package that is built: that module's own, whose `main` is the program's
            command, or the program's, where that is no library.
        go: The Go that its module asks for.
        takes: How long a first build takes on two cores, in words.
        timeout_seconds: Past that a build is taken for a hung one.
    """

    name: str
    title: str
    version: str
    source: Path
    go: str
    takes: str
    timeout_seconds: float
    package: str = "."

    def find(self, environ: Mapping[str, str] = os.environ) -> Path | None:
        """Gives the program on PATH, else the one built before, if there is either."""
        on_path = shutil.which(self.name, path=environ.get("PATH"))
        if on_path is not None:
            return Path(on_path)
        built = self._built(environ)
        return built if built.exists() else None

    def path(
        self, environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = lambda _: None
    ) -> Path:
        """
        Gives the program's path, building it first where there is none.

        Two callers at once build once: the second waits for the first one's result.

        Args:
            environ: Read for PATH and OWNKEY_CACHE.
            say: Told, in one sentence, that a build begins.

        Raises:
            ProgramMissingError: Go is missing or the build failed.
        """
        found = self.find(environ)
        if found is not None:
            return found
        binary = self._built(environ)
        binary.parent.mkdir(parents=True, exist_ok=True)
        with (binary.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not binary.exists():
                self._build(binary, environ, say)
        return binary

    def _built(self, environ: Mapping[str, str]) -> Path:
        return cache_folder(environ) / f"{self.name}-{self.version}" / self.name

    def _build(self, binary: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        go = shutil.which("go", path=environ.get("PATH"))
        if go is None:
            raise ProgramMissingError(
                f"{self.title} is needed and neither `{self.name}` nor `go` is on PATH; "
                f"install {self.title}, or Go {self.go} or newer to build it."
            )
        say(
            f"Building {self.title} {self.version} once into {binary.parent}; "
            f"this takes about {self.takes} on two cores."
        )
        unfinished = binary.with_name(f"{self.name}.{os.getpid()}")
        log = binary.with_name("build.log")
        command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(unfinished)]
        command.append(self.package)
        try:
            with log.open("w") as output:
                subprocess.run(
                    command,
                    cwd=self.source,
                    env={**environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout_seconds,
                    check=True,
                )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            unfinished.unlink(missing_ok=True)
            raise ProgramMissingError(
                f"Building {self.title} {self.version} failed; {log} says why. "
                f"Mend that, or put a `{self.name}` on PATH."
            ) from exc
        unfinished.rename(binary)
