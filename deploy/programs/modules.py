# SPDX-License-Identifier: Apache-2.0
"""
Files that others publish in their Go modules, fetched once and pinned by each module's hash.

They lie in a cache outside the checkout, `$OWNKEY_CACHE/<name>-<pins>/`, by default below
`~/.cache/ownkey`; other pins are another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.programs.go import ProgramMissingError, cache_folder

DOWNLOAD_SECONDS_MAX = 5 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """
    A published version of a module.

    Args:
        path: Its path, as Go names it.
        version: Its version.
        sum: Hash of its content, as in go.sum: https://go.dev/ref/mod#go-sum-files
        files: Which of its files are wanted, as a pattern for `Path.glob`.
    """

    path: str
    version: str
    sum: str
    files: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFiles:
    """
    Files out of modules.

    Args:
        name: What they are asked for by.
        title: What people call them.
        modules: Where they are.
    """

    name: str
    title: str
    modules: tuple[GoModule, ...]

    def find(self, environ: Mapping[str, str] = os.environ) -> Path | None:
        """Gives the folder with the files fetched before, if there is one."""
        folder = self._folder(environ)
        return folder if folder.is_dir() else None

    def path(
        self, environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = lambda _: None
    ) -> Path:
        """
        Gives the folder with the files, fetching them first where they are not here.

        Args:
            environ: Read for PATH and OWNKEY_CACHE.
            say: Told, in one sentence, that they are fetched.

        Raises:
            ProgramMissingError: Go is missing, a module cannot be had, or is not the pinned one.
        """
        found = self.find(environ)
        if found is not None:
            return found
        folder = self._folder(environ)
        say(f"Fetching {self.title} once into {folder}.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as name:
            fetched = Path(name) / "files"
            fetched.mkdir(mode=0o755)
            for module in self.modules:
                for file in self._download(module, environ).glob(module.files):
                    shutil.copyfile(file, fetched / file.name)
            # Two callers at once fetch the same: whoever comes second leaves the first one's.
            if not folder.is_dir():
                fetched.rename(folder)
        return folder

    def _folder(self, environ: Mapping[str, str]) -> Path:
        pins = hashlib.sha256("\n".join(map(repr, self.modules)).encode()).hexdigest()[:12]
        return cache_folder(environ) / f"{self.name}-{pins}"

    def _download(self, module: GoModule, environ: Mapping[str, str]) -> Path:
        """Has Go fetch a module; gives the folder where Go keeps it."""
        go = shutil.which("go", path=environ.get("PATH"))
        if go is None:
            raise ProgramMissingError(
                f"{self.title} come from Go modules and `go` is not on PATH; install Go 1.24 or "
                "newer from go.dev."
            )
        pinned = f"{module.path}@{module.version}"
        try:
            done = subprocess.run(
                [go, "mod", "download", "-json", pinned],
                # Outside any module: nothing but the pin decides.
                cwd=Path(os.sep),
                env=dict(environ),
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS_MAX,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            raise ProgramMissingError(
                f"The Go module {pinned} cannot be had; see that Go reaches its module proxy."
            ) from exc
        told = json.loads(done.stdout)
        if told["Sum"] != module.sum:
            raise ProgramMissingError(
                f"The Go module {pinned} is not the one that is pinned: its hash is "
                f"{told['Sum']}, not {module.sum}. Nothing of it was taken."
            )
        return Path(told["Dir"])
