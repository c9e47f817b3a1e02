# SPDX-License-Identifier: Apache-2.0
"""
Serves the simulator: `python -m simulator --listen 127.0.0.1:7190`.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import signal
import sys
from datetime import UTC, datetime

from aiohttp import web

from simulator.api import Settings
from simulator.app import build_app


def main() -> int:
    """
    Serve until SIGINT or SIGTERM.
    """
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument(
        "--listen",
        type=_address,
        default="127.0.0.1:7190",
        metavar="HOST:PORT",
        help="a loopback address; port 0 takes any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--slow-seconds",
        type=float,
        default=5.0,
        help="how long slow and stall keys keep one waiting (default: %(default)s)",
    )
    parser.add_argument(
        "--job-seconds",
        type=float,
        default=1.0,
        help="how long predictions and videos take (default: %(default)s)",
    )
    parser.add_argument(
        "--webhook-address",
        default="",
        metavar="URL",
        help="where webhooks are sent in place of the host they name; none by default",
    )
    arguments = parser.parse_args()
    host, port = arguments.listen
    settings = Settings(
        now=lambda: datetime.now(UTC),
        slow_seconds=arguments.slow_seconds,
        job_seconds=arguments.job_seconds,
        webhook_address=arguments.webhook_address,
    )
    try:
        asyncio.run(_serve(host, port, settings))
    except OSError as error:
        sys.stderr.write(f"the simulator cannot listen on {host}:{port}: {error.strerror}\n")
        return 1
    return 0


async def _serve(host: str, port: int, settings: Settings) -> None:
    runner = web.AppRunner(build_app(settings), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        sys.stdout.write(f"simulator listening on {bound_host}:{bound_port}\n")
        sys.stdout.flush()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        await runner.cleanup()


def _address(text: str) -> tuple[str, int]:
    """
    Read a loopback address; the simulator takes any key and serves nobody else.
    """
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no loopback address with a port")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
