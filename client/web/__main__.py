# SPDX-License-Identifier: Apache-2.0
"""
The settings page's process: `python -m client.web serve`.

At start, and whenever the link was used, the link that opens the page next goes to the link file
and, where there is none, to standard output.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from client.web.app import Page, serve_app
from client.web.calls import Calls
from client.web.config import PREFIX, read_config
from client.web.door import Door
from services.shared import logging
from services.shared.clock import SystemClock
from services.shared.config import ConfigError
from services.shared.server import run

USAGE = "usage: python -m client.web serve"
EXIT_USAGE = 64  # EX_USAGE of sysexits.h


async def _serve() -> None:
    config = read_config(os.environ)
    logging.configure(service="web", style=config.log_format)
    clock = SystemClock()
    port = int(config.listen.rpartition(":")[2])
    link = f"http://{config.listen}/#token="
    door = Door(clock=clock, on_link=lambda token: _give_out(f"{link}{token}", config.link_file))
    addresses = {
        "keyvault": config.keyvault_address,
        "router": config.router_address,
        "ledger": config.ledger_address,
    }
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Calls(
        account=config.account,
        addresses=addresses,
        certificates=config.certificates(clock=clock),
        token=config.token(),
    ) as calls:
        page = Page(account=config.account, port=port, door=door, calls=calls)
        try:
            await serve_app(page.app(), config.listen, on_serving=door.renew_link, stop=stop)
        except OSError as fault:
            problem = (
                f"cannot listen on {config.listen} ({fault.strerror}); stop the process that has "
                f"the port, or choose another by {PREFIX}LISTEN"
            )
            raise ConfigError([problem]) from fault


def _give_out(link: str, file: Path | None) -> None:
    """Put the newest link where people look for it."""
    if file is None:
        sys.stdout.write(f"Open the settings page once by {link}\n")
        sys.stdout.flush()
        return
    unfinished = file.with_name(f".{file.name}.new")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(f"{link}\n")
        unfinished.replace(file)
    except OSError as fault:
        problem = (
            f"{PREFIX}LINK_FILE ({file}) cannot be written ({fault.strerror}); name a place that "
            "this process may write to"
        )
        raise ConfigError([problem]) from fault


def main(arguments: list[str]) -> None:
    """Run the command that was given."""
    if arguments != ["serve"]:
        sys.stderr.write(f"{USAGE}\n")
        sys.exit(EXIT_USAGE)
    run(_serve)


if __name__ == "__main__":
    main(sys.argv[1:])
