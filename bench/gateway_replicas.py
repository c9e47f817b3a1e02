# SPDX-License-Identifier: Apache-2.0
"""
What a request costs where several replicas of each service share the load.

Routers take turns among the ledgers and keyvaults behind one name, by gRPC's round robin; callers
take turns among the routers. Every router has as many callers as one alone, so that batches are
filled alike. All groups stand from the beginning and are measured in turn; what they take at rest,
for the routers' watch on keyvault and the health checks, is told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from bench import processor
from bench.figures import Figure
from bench.load import Shape, send
from bench.routing import PARTS, Routing
from deploy.local.processes import Process, free_port, grpc_serving
from services.shared.identity import OPERATOR

GATEWAY_CORE, REST_CORE = 0, 1
COUNTS = (1, 2, 4)
CALLERS_PER_ROUTER = 16
REST_SECONDS = 2.0
BAR_RATIO = 1.1
MICROS = 1e6


@dataclass(frozen=True, slots=True)
class Replica:
    """
    One process of a service.

    Args:
        process: It.
        address: Where it listens.
    """

    process: int
    address: str


@dataclass(frozen=True, slots=True)
class Costs:
    """
    Processor time.

    Args:
        router: Seconds of its router for one request.
        suite: Seconds of all parts for one request.
        at_rest: Cores that all parts take while nobody calls.
    """

    router: float
    suite: float
    at_rest: float


@dataclass(frozen=True, slots=True)
class Group:
    """
    So many replicas of each service.

    Args:
        routers: What is called.
        behind: What they call.
    """

    routers: list[Replica]
    behind: list[Replica]

    def processor_seconds(self, database: int) -> tuple[float, float]:
        """Give the processor time so far of the routers, and of all parts with the database."""
        routers = sum(processor.seconds(one.process) for one in self.routers)
        behind = sum(processor.seconds(one.process) for one in self.behind)
        return routers, routers + behind + processor.seconds(database)


async def measure_replicas(routed: Routing, *, rounds: int, seconds: float) -> list[Figure]:
    """Measure groups of 1, 2 and 4 replicas in turn."""
    found: dict[int, list[Costs]] = {count: [] for count in COUNTS}
    async with _groups(routed) as groups:
        for _ in range(rounds):
            for count, group in groups.items():
                found[count].append(await _costs(routed, group, seconds))
    routers = {count: statistics.median(one.router for one in found[count]) for count in COUNTS}
    suites = {count: statistics.median(one.suite for one in found[count]) for count in COUNTS}
    figures = []
    for count in COUNTS:
        name = f"of_{count}_replicas"
        at_rest = statistics.median(one.at_rest for one in found[count])
        figures.append(Figure(f"router_time_{name}", routers[count] * MICROS, "us/request"))
        figures.append(Figure(f"suite_time_{name}", suites[count] * MICROS, "us/request"))
        figures.append(Figure(f"at_rest_{name}", at_rest, "cores"))
    for count in COUNTS[1:]:
        for part, costs in (("router", routers), ("suite", suites)):
            ratio = costs[count] / costs[1]
            name = f"{part}_time_of_{count}_replicas_to_one"
            figures.append(Figure(name, ratio, "ratio", BAR_RATIO, lower_is_better=True))
    return figures


async def _costs(routed: Routing, group: Group, seconds: float) -> Costs:
    """Measure a group at rest, then under load."""
    addresses = ",".join(one.address for one in group.routers)
    target = replace(routed.target(), address=addresses)
    callers = CALLERS_PER_ROUTER * len(group.routers)
    database = routed.database_process()
    await send(target, Shape(callers=callers, seconds=1.0), core=REST_CORE)
    before = group.processor_seconds(database)
    await asyncio.sleep(REST_SECONDS)
    rested = group.processor_seconds(database)
    began = time.perf_counter()
    shape = Shape(callers=callers, seconds=seconds, warm_up_seconds=0.0)
    report = await send(target, shape, core=REST_CORE)
    lasted = time.perf_counter() - began
    after = group.processor_seconds(database)
    at_rest = [(end - begin) / REST_SECONDS for begin, end in zip(before, rested, strict=True)]
    router, suite = (
        (end - begin - rate * lasted) / report.calls
        for begin, end, rate in zip(rested, after, at_rest, strict=True)
    )
    return Costs(router, suite, at_rest[1])


@contextlib.asynccontextmanager
async def _groups(routed: Routing) -> AsyncIterator[dict[int, Group]]:
    """Yield the groups: what stands behind grows, each has routers of its own."""
    behind = {part: [_own(routed, part)] for part in PARTS if part != "router"}
    groups = {}
    async with contextlib.AsyncExitStack() as stack:
        for count in COUNTS:
            for part, replicas in behind.items():
                while len(replicas) < count:
                    number = len(replicas) + 1
                    replicas.append(
                        await stack.enter_async_context(_beside(routed, part, number, REST_CORE))
                    )
            settings = {
                f"{part.upper()}_ADDRESS": "ipv4:" + ",".join(one.address for one in replicas)
                for part, replicas in behind.items()
            }
            routers = [
                await stack.enter_async_context(
                    _beside(routed, "router", f"{count}-{number}", GATEWAY_CORE, **settings)
                )
                for number in range(count)
            ]
            groups[count] = Group(routers, [one for some in behind.values() for one in some])
        yield groups


def _own(routed: Routing, part: str) -> Replica:
    address: str = getattr(routed.suite.addresses, part)
    return Replica(routed.process(part), address)


@contextlib.asynccontextmanager
async def _beside(
    routed: Routing, part: str, number: object, core: int, **settings: str
) -> AsyncIterator[Replica]:
    """Yield one more process of a service, beside the suite's own."""
    address = f"127.0.0.1:{free_port()}"
    command, prefix = routed.suite.process(part).command, f"OWNKEY_{part.upper()}_"
    own = {"LISTEN": address, **settings}
    if part == "router":
        own["HTTP_LISTEN"] = f"127.0.0.1:{free_port()}"
    environ = {**command.environ, **{prefix + name: value for name, value in own.items()}}
    process = Process(
        replace(command, name=f"{part}-{number}", environ=environ),
        log_folder=routed.suite.state.logs,
    )
    try:
        process.start()
        probe = grpc_serving(address, routed.suite.tls_files(OPERATOR))
        await asyncio.to_thread(process.wait_ready, probe)
        processor.pin(process.pid, core)
        yield Replica(process.pid, address)
    finally:
        await asyncio.to_thread(process.stop)
