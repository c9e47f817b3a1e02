# SPDX-License-Identifier: Apache-2.0
"""The process: `python -m services.keyvault serve`, or `migrate` for its database."""

from __future__ import annotations

import os
import sys

from services.keyvault.bootstrap import MIGRATIONS, keyvault
from services.keyvault.config import read_config
from services.shared import logging, tracing
from services.shared.migrate import run_migrations
from services.shared.server import run, serve_until_stopped

USAGE = "usage: python -m services.keyvault serve|migrate"
EXIT_USAGE = 64  # EX_USAGE of sysexits.h


async def _serve() -> None:
    config = read_config(os.environ)
    logging.configure(service="keyvault", style=config.log_format)
    with tracing.traced(config, service="keyvault"):
        async with keyvault(config) as spec:
            await serve_until_stopped(spec)


async def _migrate() -> None:
    await run_migrations("keyvault", MIGRATIONS, os.environ)


def main(arguments: list[str]) -> None:
    """Run the command named by the arguments."""
    commands = {"serve": _serve, "migrate": _migrate}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(f"{USAGE}\n")
        sys.exit(EXIT_USAGE)
    run(commands[arguments[0]])


if __name__ == "__main__":
    main(sys.argv[1:])
