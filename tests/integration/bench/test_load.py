# SPDX-License-Identifier: Apache-2.0
"""Both ends of the benchmarks' gateways: what they send, count and refuse to count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import LOAD, LoadFailedError, Shape, Target, send, upstream
from bench.routing import Pace, direct

CHUNKS = 20
SHORT = 0.3


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where an upstream listens."""
    LOAD.path()
    with upstream() as found:
        yield found


def target(folder: Path, address: str) -> Target:
    return direct(folder, address, pace=Pace(CHUNKS, 1), headers={})


async def test_whole_answers_are_counted(tmp_path: Path, address: str) -> None:
    """Calls that ended in time are told, with their times in order."""
    shape = Shape(callers=4, seconds=SHORT, warm_up_seconds=0.0)

    report = await send(target(tmp_path, address), shape)

    assert report.calls > 0
    assert report.failures == 0
    assert 0 < report.latency.p50 <= report.latency.p99 <= report.latency.max


async def test_every_chunk_of_a_stream_is_counted(tmp_path: Path, address: str) -> None:
    """A stream brings as many chunks as were asked for, each with how late it came."""
    shape = Shape(callers=4, seconds=SHORT, warm_up_seconds=0.0, chunks=CHUNKS)

    report = await send(target(tmp_path, address), shape)

    assert report.chunks == report.calls * CHUNKS
    assert report.late.p50 > 0
    assert 0 < report.first.p50 <= report.latency.p50


async def test_a_lost_chunk_fails_the_load(tmp_path: Path, address: str) -> None:
    """Fewer chunks than were sent is no figure but a failure, in words."""
    shape = Shape(callers=1, seconds=SHORT, warm_up_seconds=0.0, chunks=CHUNKS + 1)

    with pytest.raises(LoadFailedError, match=f"{CHUNKS} chunks came, {CHUNKS + 1} were sent"):
        await send(target(tmp_path, address), shape)
