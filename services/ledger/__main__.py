# SPDX-License-Identifier: Apache-2.0
"""`python -m services.ledger serve` and `python -m services.ledger migrate`."""

from __future__ import annotations

import gc
import os
import sys

from services.ledger.bootstrap import MIGRATIONS, ledger
from services.ledger.config import read_config
from services.shared.config import read_secret_file
from services.shared.logging import configure
from services.shared.migrate import migrate
from services.shared.server import run, serve_until_stopped

GC_THRESHOLDS = (200_000, 20, 100)

COMMANDS = ("serve", "migrate")


async def _serve() -> None:
    config = read_config(os.environ)
    configure(service="ledger", style=config.log_format)
    # A batch makes tens of thousands of values that live for milliseconds and hold no cycles: to
    # look through them as often as Python does by default costs a sixth of the throughput.
    gc.set_threshold(*GC_THRESHOLDS)
    async with ledger(config) as spec:
        # What is there at the start stays: collections need not look at it.
        gc.collect()
        gc.freeze()
        await serve_until_stopped(spec)


async def _migrate() -> None:
    config = read_config(os.environ)
    configure(service="ledger", style=config.log_format)
    await migrate(read_secret_file(config.database_dsn_file).reveal(), MIGRATIONS)


def main() -> None:
    """Run the command that was named."""
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:  # noqa: PLR2004 - one command
        sys.exit(f"usage: python -m services.ledger {{{'|'.join(COMMANDS)}}}")
    run(_serve if sys.argv[1] == "serve" else _migrate)


if __name__ == "__main__":
    main()
