# SPDX-License-Identifier: Apache-2.0
"""The process: `python -m services.router serve`."""

from __future__ import annotations

import os
import sys

from services.router.bootstrap import router
from services.router.config import read_config
from services.shared import logging
from services.shared.server import run, serve_until_stopped

USAGE = "usage: python -m services.router serve"
EXIT_USAGE = 64  # EX_USAGE of sysexits.h


async def _serve() -> None:
    config = read_config(os.environ)
    logging.configure(service="router", style=config.log_format)
    async with router(config) as spec:
        await serve_until_stopped(spec)


def main(arguments: list[str]) -> None:
    """Run the command named by the arguments."""
    if arguments != ["serve"]:
        sys.stderr.write(f"{USAGE}\n")
        sys.exit(EXIT_USAGE)
    run(_serve)


if __name__ == "__main__":
    main(sys.argv[1:])
