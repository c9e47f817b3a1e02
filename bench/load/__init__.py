# SPDX-License-Identifier: Apache-2.0
"""
Both ends of a gateway under test, in Go: its upstream, and the callers that call it.

Bodies are templates: `REQUEST_ID` becomes another id in each request, and `ACCOUNT` one of the
accounts `account(0)` and up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from deploy.programs.go import GoProgram
from services.shared.certificates import TlsFiles

REQUEST_ID = "00000000-0000-4000-8000-000000000000"
STOP_SECONDS = 10.0
_SOURCE = Path(__file__).parent


def account(number: int) -> str:
    """Return the id of the n-th account."""
    return f"bench-{number:08d}"


ACCOUNT = account(0)


def _version() -> str:
    """Give another one to another source, so that what was built before is not taken for it."""
    files = sorted((*_SOURCE.glob("*.go"), *_SOURCE.glob("go.*")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


LOAD = GoProgram(
    name="ownkey-bench-load",
    title="the load generator",
    version=_version(),
    source=_SOURCE,
    go="1.24",
    takes="half a minute",
    timeout_seconds=10 * 60,
)


class Quantiles(msgspec.Struct):
    """Seconds at quantiles."""

    p50: float
    p90: float
    p99: float
    max: float


class Report(msgspec.Struct):
    """What a load came to; only calls that began and ended in the counted time are in it."""

    calls: int
    failures: int
    reasons: dict[str, int]
    seconds: float
    per_second: float
    latency: Quantiles
    first: Quantiles
    """To the first chunk of a stream."""
    late: Quantiles
    """How long after the upstream sent it each chunk came."""
    chunks: int


class LoadFailedError(Exception):
    """Calls failed: what was measured is not what was meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    What is called.

    Args:
        protocol: `http` or `grpc`.
        address: URL, or `host:port`, or several of them parted by commas.
        body: File with the template of the request.
        stream_body: The same for streams.
        method: Full gRPC method name, and the one of streams.
        stream_method: The one of streams.
        headers: HTTP headers or gRPC metadata.
        accounts: How many accounts the requests are spread over.
        files: The certificate that is shown, where TLS is spoken.
    """

    protocol: str
    address: str
    body: Path
    stream_body: Path
    method: str = ""
    stream_method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    accounts: int = 1
    files: TlsFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """
    How it is called.

    Args:
        callers: Calls under way at the same time.
        seconds: Counted.
        warm_up_seconds: Not counted.
        stagger_seconds: Time over which the callers begin.
        chunks: Chunks that each stream must bring, in order; 0 for whole answers.
        failures_max: Share of calls that may fail.
    """

    callers: int = 32
    seconds: float = 5.0
    warm_up_seconds: float = 1.0
    stagger_seconds: float = 0.0
    chunks: int = 0
    failures_max: float = 0.0


@contextlib.contextmanager
def upstream(files: TlsFiles | None = None, *, core: int | None = None) -> Iterator[str]:
    """Yield the address, `host:port`, of an upstream that answers at once, as OpenAI does."""
    shown = (
        [] if files is None else ["-certificate", str(files.certificate), "-key", str(files.key)]
    )
    command = [*_on(core), str(LOAD.path(say=print)), "upstream", *shown]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child.stdout.readline().strip()
        finally:
            child.terminate()
            child.wait(STOP_SECONDS)


async def send(target: Target, shape: Shape, *, core: int | None = None) -> Report:
    """
    Send a load and return what it came to.

    Raises:
        LoadFailedError: More calls failed than may, or none ended.
    """
    streams = shape.chunks > 0
    arguments = {
        "address": target.address,
        "method": target.stream_method if streams else target.method,
        "body": str(target.stream_body if streams else target.body),
        "headers": json.dumps(dict(target.headers)),
        "accounts": str(target.accounts),
        "callers": str(shape.callers),
        "duration": f"{shape.seconds}s",
        "warm-up": f"{shape.warm_up_seconds}s",
        "stagger": f"{shape.stagger_seconds}s",
        "chunks": str(shape.chunks),
        "stream": "true" if streams else "false",
        **_shown(target.files),
    }
    flags = [f"-{name}={value}" for name, value in arguments.items()]
    program = await asyncio.to_thread(LOAD.path, say=print)
    child = await asyncio.create_subprocess_exec(
        *_on(core), str(program), target.protocol, *flags, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    if child.returncode != 0:
        raise LoadFailedError("the load generator failed; what it printed says why")
    report = msgspec.json.decode(output, type=Report)
    if not report.calls or report.failures > shape.failures_max * report.calls:
        raise LoadFailedError(f"{report.failures} calls failed: {report.reasons}")
    return report


def _shown(files: TlsFiles | None) -> dict[str, str]:
    if files is None:
        return {}
    return {
        "ca": str(files.ca),
        "certificate": str(files.certificate),
        "key": str(files.key),
    }


def _on(core: int | None) -> Sequence[str]:
    return () if core is None else ("taskset", "--cpu-list", str(core))
