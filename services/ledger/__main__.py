# SPDX-License-Identifier: Apache-2.0
"""`python -m services.ledger serve` and `python -m services.ledger migrate`."""

from __future__ import annotations

import os
import sys

from services.ledger.bootstrap import MIGRATIONS, ledger
from services.ledger.config import read_config
from services.shared import tracing
from services.shared.logging import configure
from services.shared.migrate import run_migrations
from services.shared.server import run, serve_until_stopped

COMMANDS = ("serve", "migrate")


async def _serve() -> None:
    config = read_config(os.environ)
    configure(service="ledger", style=config.log_format)
    with tracing.traced(config, service="ledger"):
        async with ledger(config) as spec:
            await serve_until_stopped(spec)


async def _migrate() -> None:
    await run_migrations("ledger", MIGRATIONS, os.environ)


def main() -> None:
    """Run the command that was named."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:  # noqa: PLR2004 - one command
        sys.exit(f"usage: python -m services.ledger {{{'|'.join(COMMANDS)}}}")
    run(_serve if sys.argv[1] == "serve" else _migrate)


if __name__ == "__main__":
    main()
