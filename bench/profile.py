# SPDX-License-Identifier: Apache-2.0
"""
Draw where the router's time goes: a flame graph of its process under load, by py-spy.

`make profile`; `make profile ARGS='--streams'` for streams, `--part ledger` for another service.
Only the time in which Python runs counts (py-spy's `--gil`), as that is what a core is short of.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import peers
from bench.load import LOAD, Shape, send, upstream
from bench.routing import PARTS, Pace, routing

PY_SPY = "0.4.3"
SAMPLES_PER_SECOND = 250
CALLERS = 32
STREAM_CHUNKS = 50
ACCOUNTS = 50


@dataclass(frozen=True, slots=True)
class Options:
    """
    What to draw.

    Args:
        part: The service.
        streams: Whether streams are the load, in the place of whole answers.
        on_credits: Whether credits pay, in the place of own keys.
        seconds: Time of the load.
        output: The SVG.
    """

    part: str
    streams: bool
    on_credits: bool
    seconds: int
    output: Path


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.profile", description=__doc__)
    parser.add_argument("--part", choices=PARTS, default="router")
    parser.add_argument("--streams", action="store_true")
    parser.add_argument("--on-credits", action="store_true")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("build/profile.svg"))
    return Options(**vars(parser.parse_args(arguments)))


async def profile(folder: Path, options: Options, py_spy: Path) -> None:
    """Load the suite and draw meanwhile."""
    with upstream() as address:
        async with routing(folder, address, accounts=ACCOUNTS) as routed:
            pace = Pace(STREAM_CHUNKS) if options.streams else Pace()
            target = routed.target(on_credits=options.on_credits, pace=pace)
            shape = Shape(
                callers=CALLERS,
                seconds=options.seconds + 1.0,
                chunks=STREAM_CHUNKS if options.streams else 0,
            )
            loading = asyncio.create_task(send(target, shape))
            await asyncio.sleep(shape.warm_up_seconds)
            drawing = await asyncio.create_subprocess_exec(
                str(py_spy),
                "record",
                *("--pid", str(routed.process(options.part))),
                *("--duration", str(options.seconds)),
                *("--rate", str(SAMPLES_PER_SECOND)),
                *("--output", str(options.output)),
                "--gil",
                "--nonblocking",
            )
            failed = await drawing.wait()
            report = await loading
    print(f"{report.per_second:.0f} calls/s while it was drawn: {options.output}")
    if failed:
        sys.exit(failed)


def main() -> None:
    """Draw."""
    options = read_options(sys.argv[1:])
    LOAD.path(say=print)
    py_spy = peers.python_package("py-spy", PY_SPY, "py-spy") / "py-spy"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ownkey-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        uvloop.run(profile(folder, options, py_spy))


if __name__ == "__main__":
    main()
