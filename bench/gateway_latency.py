# SPDX-License-Identifier: Apache-2.0
"""What the suite adds to the time of one call, and which part of it takes how much."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.figures import Figure
from bench.load import Report, Shape, Target, send
from bench.routing import Routing

SECONDS = 4.0
MILLIS = 1000.0
BAR_P50_MILLIS = 3
BAR_P99_MILLIS = 9


class _Line(msgspec.Struct):
    """A line of a service's log."""

    event: str
    rpc: str = ""
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """
    At one connection.

    Args:
        direct: Of calls straight to the upstream.
        routed: Of calls through the router.
        authorize_millis: Median that the ledger took to authorize, its commit included.
        capture_millis: The same to capture.
        serving_millis: Median from the call's arrival in the router to its end.
    """

    direct: Report
    routed: Report
    authorize_millis: float
    capture_millis: float
    serving_millis: float

    def figures(self) -> list[Figure]:
        """Name the figures and hold them to their bars."""
        direct, routed = self.direct.latency, self.routed.latency
        added = (routed.p50 - direct.p50) * MILLIS
        upstream = direct.p50 * MILLIS
        own = self.serving_millis - self.authorize_millis - self.capture_millis - upstream
        return [
            Figure("added_p50", added, "ms", BAR_P50_MILLIS, lower_is_better=True),
            Figure(
                "added_p99",
                (routed.p99 - direct.p99) * MILLIS,
                "ms",
                BAR_P99_MILLIS,
                lower_is_better=True,
            ),
            Figure("added_by_authorize", self.authorize_millis, "ms"),
            Figure("added_by_capture", self.capture_millis, "ms"),
            Figure("added_by_router", own, "ms"),
            Figure("added_by_grpc", routed.p50 * MILLIS - self.serving_millis, "ms"),
        ]


async def measure_latency(routed: Routing, straight: Target, *, core: int) -> Latencies:
    """Call one after the other, straight and through the router, and read what the logs tell."""
    shape = Shape(callers=1, seconds=SECONDS)
    target = routed.target()
    await send(target, Shape(callers=1, seconds=1.0), core=core)
    ledger, router = (routed.suite.state.logs / f"{name}.log" for name in ("ledger", "router"))
    from_ledger, from_router = ledger.stat().st_size, router.stat().st_size
    report = await send(target, shape, core=core)
    return Latencies(
        direct=await send(straight, shape, core=core),
        routed=report,
        authorize_millis=_median(ledger, from_ledger, "BatchAuthorize"),
        capture_millis=_median(ledger, from_ledger, "BatchSettle"),
        serving_millis=_median(router, from_router, "GenerateText"),
    )


def _median(log: Path, start: int, rpc: str) -> float:
    return statistics.median(
        line.duration_ms for line in _lines(log, start) if line.rpc.endswith(f"/{rpc}")
    )


def _lines(log: Path, start: int) -> Iterator[_Line]:
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n") and line.startswith(b"{"):
                yield msgspec.json.decode(line, type=_Line)
