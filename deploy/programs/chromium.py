# SPDX-License-Identifier: Apache-2.0
"""
The browser that the tests of the browser module run in: one on PATH, or Debian's.

It is no build of a module as the other programs are: a browser comes from the system, with the
libraries that it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.programs.go import ProgramMissingError

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
INSTALL_SECONDS_MAX = 15 * 60
ADVICE = "install Chromium 133 or newer, on Debian by `apt-get install chromium`."


@dataclass(frozen=True, slots=True)
class Chromium:
    """
    Chromium.

    Args:
        name: What it is asked for by.
        is_root: Tells whether packages may be installed.
    """

    name: str = "chromium"
    is_root: Callable[[], bool] = lambda: os.geteuid() == 0

    def find(self, environ: Mapping[str, str] = os.environ) -> Path | None:
        """Gives the browser on PATH, if there is one."""
        found = (shutil.which(name, path=environ.get("PATH")) for name in NAMES)
        return next((Path(path) for path in found if path is not None), None)

    def path(
        self, environ: Mapping[str, str] = os.environ, say: Callable[[str], None] = lambda _: None
    ) -> Path:
        """
        Gives the browser's path, installing Debian's where root may and there is none.

        Args:
            environ: Read for PATH.
            say: Told, in one sentence, that an installation begins.

        Raises:
            ProgramMissingError: There is none and it could not be installed.
        """
        found = self.find(environ)
        if found is None:
            self._install(environ, say)
            found = self.find(environ)
        if found is None:
            raise ProgramMissingError(f"Chromium was installed but is not on PATH; {ADVICE}")
        return found

    def _install(self, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        apt = shutil.which("apt-get", path=environ.get("PATH"))
        if apt is None or not self.is_root():
            raise ProgramMissingError(
                f"The browser module's tests need a browser and none is on PATH; {ADVICE}"
            )
        say("Installing Debian's package chromium.")
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            try:
                subprocess.run(
                    [apt, "--quiet", *arguments],
                    env={**environ, "DEBIAN_FRONTEND": "noninteractive"},
                    stdout=subprocess.DEVNULL,
                    timeout=INSTALL_SECONDS_MAX,
                    check=True,
                )
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
                raise ProgramMissingError(
                    f"`apt-get {arguments[0]}` failed; mend that, or {ADVICE}"
                ) from exc
