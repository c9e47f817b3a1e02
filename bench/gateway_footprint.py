# SPDX-License-Identifier: Apache-2.0
"""What the services take to start, and what the router takes of memory."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import Figure
from bench.load import Shape, send, upstream
from bench.routing import PARTS, Pace, Routing, routing
from deploy.local.certificates import write_loopback_certificate

REST_CORE = 1
STARTS = 3
FEW, MANY = 50, 250
PAUSE_MILLIS = 100
CHUNKS = 50
SETTLED_SECONDS = 3.0
SOAK_CALLERS = 8
MEGABYTE, KILOBYTE = 1e6, 1e3
BAR_START_SECONDS = 1.5
BAR_IDLE_MEGABYTES = 110
BAR_STREAM_KILOBYTES = 120
BAR_GROWTH = 0.05


async def measure_footprint(
    folder: Path, *, accounts: int, soak_seconds: float, core: int
) -> list[Figure]:
    """Measure a suite of its own, whose upstream speaks TLS."""
    files = write_loopback_certificate(
        folder / "upstream-tls", organisation="Ownkey benchmark", now=datetime.now(UTC)
    )
    # What OpenSSL trusts by default, for this process and the services that it starts.
    os.environ["SSL_CERT_FILE"] = str(files.ca)
    with upstream(files, core=REST_CORE) as address:
        async with routing(
            folder / "footprint", address, accounts=accounts, scheme="https"
        ) as routed:
            starts = _starts(routed)
            routed.pin(router=core, rest=REST_CORE)
            idle = routed.memory_bytes()
            per_stream = await _stream_bytes(routed)
            growth = await _growth(routed, soak_seconds)
    return [
        *(
            Figure(f"{part}_start", seconds, "s", BAR_START_SECONDS, lower_is_better=True)
            for part, seconds in starts.items()
        ),
        Figure(
            "router_idle_memory", idle / MEGABYTE, "MB", BAR_IDLE_MEGABYTES, lower_is_better=True
        ),
        Figure(
            "router_memory_per_tls_stream",
            per_stream / KILOBYTE,
            "KB",
            BAR_STREAM_KILOBYTES,
            lower_is_better=True,
        ),
        Figure(
            f"router_growth_in_{soak_seconds:.0f}_s",
            growth,
            "of the memory at a fifth of it",
            BAR_GROWTH,
            lower_is_better=True,
        ),
    ]


def _starts(routed: Routing) -> dict[str, float]:
    """Give the seconds from a process's start until it serves, the router's last."""
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(STARTS):
        for part in PARTS:
            routed.suite.process(part).stop()
            began = time.perf_counter()
            routed.suite.start_part(part)
            found[part].append(time.perf_counter() - began)
    return {part: statistics.median(seconds) for part, seconds in found.items()}


async def _stream_bytes(routed: Routing) -> float:
    """Give the bytes that one more stream takes, by the memory with few and with many."""
    with_few = await _memory_with(routed, FEW)
    with_many = await _memory_with(routed, MANY)
    return (with_many - with_few) / (MANY - FEW)


async def _memory_with(routed: Routing, streams: int) -> int:
    lasts = CHUNKS * PAUSE_MILLIS / 1000
    shape = Shape(callers=streams, seconds=lasts, warm_up_seconds=lasts, chunks=CHUNKS)
    target = routed.target(pace=Pace(CHUNKS, PAUSE_MILLIS))
    load = asyncio.create_task(send(target, shape, core=REST_CORE))
    await asyncio.sleep(SETTLED_SECONDS)
    held = routed.memory_bytes()
    await load
    return held


async def _growth(routed: Routing, seconds: float) -> float:
    """Give how much the memory grows under load, from a fifth of the time to its end."""
    shape = Shape(callers=SOAK_CALLERS, seconds=seconds, warm_up_seconds=0.0)
    load = asyncio.create_task(send(routed.target(), shape, core=REST_CORE))
    await asyncio.sleep(seconds / 5)
    before = routed.memory_bytes()
    await asyncio.sleep(seconds * 3 / 4)
    after = routed.memory_bytes()
    await load
    return after / before - 1
