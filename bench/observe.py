# SPDX-License-Identifier: Apache-2.0
"""
Measure what metrics, log lines and traces cost: three suites side by side, loaded in turn.

`make bench-observe`. One suite counts, logs and traces nothing; one has all of it on with 1 % of
the requests traced, as it is deployed; one traces all of them. Each request goes through the
router, its own key's provider (simulated) and the ledger, which settles it. Parts of a few seconds
are run in turn, and each figure is the median of the ratios within a turn: the machine's other work
comes and goes, and slows all three.

The simulator and the sender share the cores and take time of their own, which makes throughput
suffer less than a router on a core of its own would: so the processor time that the three services
spend for a request is set beside it, and has the same bar.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import uvloop
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import text_pb2

from bench import processor, results
from bench.figures import Figure
from deploy.local.clients import Clients
from deploy.local.processes import Command
from deploy.local.suite import STORED_IN, Ports, Suite
from services.shared.ids import new_id

OFF, ON, WHOLE = "off", "1 %", "100 %"
RATIOS = {ON: "0.01", WHOLE: "1"}
COST_MAX = 0.10
"""Share of throughput that observation may cost as it is deployed."""
CALL_SECONDS = 30.0
PACKAGES = ("opentelemetry-sdk", "prometheus-client", "structlog")


@dataclass(frozen=True, slots=True)
class Options:
    """
    How long to measure.

    Args:
        turns: Turns; each loads every suite once.
        requests: Requests of one part of a turn.
        callers: Requests under way at the same time.
        results: Takes the figures.
    """

    turns: int
    requests: int
    callers: int
    results: Path


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.observe", description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    return Options(**vars(parser.parse_args(arguments)))


class UnobservedSuite(Suite):
    """A suite whose services neither count nor log."""

    def _service_command(self, service: str, verb: str) -> Command:
        command = super()._service_command(service, verb)
        arguments = [sys.executable, "-m", "bench.unobserved", service, verb]
        return replace(command, arguments=arguments)


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Take traces and throw them away, unread; yields the endpoint."""

    def take(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    export: Any = grpc.unary_unary_rpc_method_handler(take)
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"Export": export})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def suite_of(variant: str, folder: Path, endpoint: str) -> Suite:
    """Return a suite of a variant."""
    if variant == OFF:
        return UnobservedSuite(folder, ports=Ports.any_free())
    traced = {"OTLP_ENDPOINT": endpoint, "TRACE_RATIO": RATIOS[variant]}
    environ = dict.fromkeys(STORED_IN, traced)
    return Suite(folder, ports=Ports.any_free(), metrics=True, environ=environ)


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    A suite with an account on it.

    Args:
        suite: The suite.
        clients: Stubs to it.
        account: Has an own key, which pays.
    """

    suite: Suite
    clients: Clients
    account: str

    async def requests(self, count: int, *, callers: int) -> tuple[float, float]:
        """Send requests; return requests a second, and processor seconds of one."""
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await self.clients.router.GenerateText(self._request(), timeout=CALL_SECONDS)

        spent, started = self._spent(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        seconds = time.perf_counter() - started
        return count / seconds, (self._spent() - spent) / count

    def _request(self) -> text_pb2.GenerateTextRequest:
        message = text_pb2.Message(
            role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text="What is a data key?")]
        )
        return text_pb2.GenerateTextRequest(
            account=self.account,
            request_id=new_id(),
            model="openai/gpt-4o-mini",
            input=text_pb2.TextInput(messages=[message], max_output_tokens=64),
        )

    def _spent(self) -> float:
        return sum(processor.seconds(self.suite.process(name).pid) for name in STORED_IN)


@contextlib.asynccontextmanager
async def loaded(suite: Suite) -> AsyncIterator[Loaded]:
    """Yield a running suite with an account on it, whose own key pays."""
    async with suite.clients() as clients:
        created = await clients.ledger.CreateAccount(
            account_pb2.CreateAccountRequest(
                request_id=new_id(),
                account_id="bench",
                plan="plans/standard",
                billing_mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY,
            ),
            timeout=CALL_SECONDS,
        )
        await clients.keyvault.CreateKey(
            keyvault_service_pb2.CreateKeyRequest(
                parent=created.account.name,
                key=key_pb2.Key(provider="openai"),
                secret=f"sk-proj-bench-{new_id()}",
                request_id=new_id(),
            ),
            timeout=CALL_SECONDS,
        )
        yield Loaded(suite, clients, created.account.name)


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What a variant costs beside the one without observation, turn by turn.

    Args:
        throughput: Ratios of requests a second.
        processor: Ratios of processor time for a request.
    """

    throughput: list[float]
    processor: list[float]


async def measure(running: dict[str, Loaded], options: Options) -> dict[str, Cost]:
    """Load the suites in turn."""
    costs = {variant: Cost([], []) for variant in RATIOS}
    for one in running.values():
        await one.requests(options.requests, callers=options.callers)
    for turn in range(options.turns):
        # Each turn begins with another variant, so that none has the better place.
        order = list(running)[turn % len(running) :] + list(running)[: turn % len(running)]
        found = {
            variant: await running[variant].requests(options.requests, callers=options.callers)
            for variant in order
        }
        rate, spent = found[OFF]
        told = "  ".join(
            f"{variant}: {found[variant][0]:.0f}/s {found[variant][1] * 1e3:.2f} ms"
            for variant in running
        )
        print(f"turn {turn + 1}: {told}")
        for variant, cost in costs.items():
            cost.throughput.append(found[variant][0] / rate)
            cost.processor.append(found[variant][1] / spent)
    return costs


async def run(options: Options, suites: dict[str, Suite]) -> list[Figure]:
    """Measure and return the figures."""
    async with AsyncExitStack() as stack:
        running = {
            variant: await stack.enter_async_context(loaded(suite))
            for variant, suite in suites.items()
        }
        costs = await measure(running, options)
    figures = []
    for variant, cost in costs.items():
        name = "traces_1_percent" if variant == ON else "traces_100_percent"
        deployed = variant == ON
        figures += [
            Figure(
                f"throughput_{name}_to_off",
                statistics.median(cost.throughput),
                "ratio",
                1 - COST_MAX if deployed else None,
            ),
            Figure(
                f"processor_time_{name}_to_off",
                statistics.median(cost.processor),
                "ratio",
                1 / (1 - COST_MAX) if deployed else None,
                lower_is_better=True,
            ),
        ]
    return figures


def main() -> None:
    """Measure, print, and fail if a bar is missed."""
    options = read_options(sys.argv[1:])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ownkey-bench-")))
        folder.chmod(0o755)
        endpoint = stack.enter_context(collector())
        suites = {}
        for number, variant in enumerate((OFF, ON, WHOLE)):
            print(f"starting the suite with {variant} traced")
            suites[variant] = stack.enter_context(suite_of(variant, folder / str(number), endpoint))
        figures = uvloop.run(run(options, suites))
    versions = {name: version(name) for name in PACKAGES}
    results.write("observe", figures, folder=options.results, versions=versions)
    for figure in figures:
        print(figure.line())
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
