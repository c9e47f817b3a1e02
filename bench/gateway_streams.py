# SPDX-License-Identifier: Apache-2.0
"""Streams through the gateways: their first token, their punctuality, and chunks for each core."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path

from bench import peers, processor
from bench.figures import Figure
from bench.load import Shape, Target, send
from bench.routing import Pace, Routing, direct

GATEWAY_CORE, REST_CORE = 0, 1
CHUNKS = 50
PAUSE_MILLIS = 20
SECONDS = 4.0
ROUNDS = 3
MANY, MORE = 200, 500
STREAM_CALLERS = 8
MILLIS = 1000.0
BAR_FIRST_MILLIS = 3
BAR_LATE_MILLIS = 50
BAR_CHUNKS = 8


async def measure_streams(
    routed: Routing, folder: Path, upstream: str, *, beside_peers: bool
) -> list[Figure]:
    """Measure streams through the router, and the chunks of LiteLLM beside it."""
    figures = [
        *await _first_token(routed, folder, upstream),
        *await _punctuality(routed, MANY, bar=BAR_LATE_MILLIS),
        *await _punctuality(routed, MORE, bar=None),
    ]
    pace = Pace(CHUNKS, 0)
    router = routed.process("router")
    with contextlib.ExitStack() as stack:
        targets = {"router": (routed.target(pace=pace), router)}
        if beside_peers:
            peer = stack.enter_context(peers.litellm(folder, upstream))
            processor.pin(peer.process, GATEWAY_CORE)
            headers = peer.target.headers
            address = peer.target.address.removeprefix("http://").partition("/")[0]
            targets["litellm"] = direct(folder, address, pace=pace, headers=headers), peer.process
        found: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(ROUNDS):
            for name, (target, process) in targets.items():
                found[name].append(await _chunks(target, process))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    figures += [
        Figure(f"{name}_chunks_per_processor_second", rate, "chunks")
        for name, rate in medians.items()
    ]
    if beside_peers:
        ratio = medians["router"] / medians["litellm"]
        figures.append(Figure("router_chunks_to_litellm", ratio, "ratio", BAR_CHUNKS))
    return figures


async def _first_token(routed: Routing, folder: Path, upstream: str) -> list[Figure]:
    pace = Pace(CHUNKS, 1)
    shape = Shape(callers=1, seconds=SECONDS, chunks=CHUNKS)
    straight = await send(direct(folder, upstream, pace=pace, headers={}), shape, core=REST_CORE)
    through = await send(routed.target(pace=pace), shape, core=REST_CORE)
    added = (through.first.p50 - straight.first.p50) * MILLIS
    return [Figure("first_token_added_p50", added, "ms", BAR_FIRST_MILLIS, lower_is_better=True)]


async def _punctuality(routed: Routing, streams: int, *, bar: float | None) -> list[Figure]:
    """Run so many streams at once: every chunk must come, in order."""
    pace = Pace(CHUNKS, PAUSE_MILLIS)
    lasts = CHUNKS * PAUSE_MILLIS / MILLIS
    shape = Shape(
        callers=streams,
        seconds=SECONDS,
        warm_up_seconds=2 * lasts,
        stagger_seconds=lasts,
        chunks=CHUNKS,
    )
    before = processor.seconds(routed.process("router"))
    report = await send(routed.target(pace=pace), shape, core=REST_CORE)
    spent = processor.seconds(routed.process("router")) - before
    share = spent / (SECONDS + 3 * lasts)
    return [
        Figure(
            f"late_p99_{streams}_streams",
            report.late.p99 * MILLIS,
            "ms",
            bar,
            lower_is_better=True,
        ),
        Figure(f"cores_{streams}_streams", share, "cores"),
    ]


async def _chunks(target: Target, process: int) -> float:
    """Give the chunks relayed for each second of a gateway's processor time."""
    shape = Shape(callers=STREAM_CALLERS, seconds=SECONDS, warm_up_seconds=0.0, chunks=CHUNKS)
    before = processor.seconds(process)
    report = await send(target, shape, core=REST_CORE)
    return report.chunks / (processor.seconds(process) - before)
