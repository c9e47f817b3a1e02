# SPDX-License-Identifier: Apache-2.0
"""
Measure the suite beside the gateways that people would pick instead, in one run on one machine.

`make bench-gateways`; `make bench-gateways ARGS='--rounds 5 --seconds 10'` for steadier figures,
`ARGS='--soak-seconds 600 --many-accounts 1000000'` for the longest load and the most accounts.
The router has its customers' own keys resolved, its credits authorized and captured durably, its
metrics and logs on; the others have nothing of that to do. Every gateway calls the same compiled
upstream with the same prompt, is called by the same compiled load generator, has one core to itself
and leaves all else the other one; runs are interleaved, and medians are told with their spread.

A machine that others use at the same time takes turns of the gateway's core away: so each rate
stands beside the requests for each second of processor time that the gateway took.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import peers, processor, results
from bench.figures import Figure
from bench.gateway_accounts import measure_accounts, measure_known_accounts
from bench.gateway_footprint import measure_footprint
from bench.gateway_latency import Latencies, measure_latency
from bench.gateway_replicas import measure_replicas
from bench.gateway_streams import measure_streams
from bench.load import LOAD, Shape, Target, send, upstream
from bench.routing import Routing, direct, routing

GATEWAY_CORE, REST_CORE = 0, 1
WARM_UP_SECONDS = 1.0
BAR_RATE = 2_000
BAR_PORTKEY = 1.25
BAR_LITELLM = 12
BAR_CREDITS = 0.85
BAR_SUITE = 5


@dataclass(frozen=True, slots=True)
class Options:
    """
    What to measure.

    Args:
        rounds: Interleaved rounds, of which the median counts.
        seconds: Each load of a round.
        callers: Calls under way at the same time.
        accounts: Accounts with keys and credits.
        many_accounts: How many there are where a request's cost is compared.
        soak_seconds: Load under which the router's memory must not grow.
        peers: Whether the other gateways are measured too.
        results: Takes the figures and plots.
    """

    rounds: int
    seconds: float
    callers: int
    accounts: int
    many_accounts: int
    soak_seconds: float
    peers: bool
    results: Path


def read_options(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.gateways", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--many-accounts", type=int, default=100_000)
    parser.add_argument("--soak-seconds", type=float, default=60.0)
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    return Options(**vars(parser.parse_args(arguments)))


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One load of one round.

    Args:
        per_second: Requests a second.
        per_processor_second: Requests for each second of the gateway's processor time; None where
            it has no process of its own.
    """

    per_second: float
    per_processor_second: float | None


Measure = Callable[[], Awaitable[Sample]]


@dataclass(slots=True)
class Series:
    """What the rounds came to, by gateway."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Give the median requests a second."""
        return statistics.median(sample.per_second for sample in self.samples[name])

    def efficiency(self, name: str) -> float:
        """Give the median requests for each second of processor time."""
        found = [s.per_processor_second for s in self.samples[name] if s.per_processor_second]
        return statistics.median(found) if found else float("nan")

    def spread(self, name: str) -> float:
        """Give the range of the rates as a share of the median."""
        rates = [sample.per_second for sample in self.samples[name]]
        return (max(rates) - min(rates)) / self.rate(name)


async def measure_rates(measures: Mapping[str, Measure], *, rounds: int) -> Series:
    """Take the measures in turn, as often as there are rounds."""
    series = Series({name: [] for name in measures})
    for number in range(rounds):
        for name, measure in measures.items():
            sample = await measure()
            series.samples[name].append(sample)
            spent = sample.per_processor_second
            beside = "" if spent is None else f", {spent:.0f} for a second of processor time"
            print(f"round {number + 1}: {name}: {sample.per_second:.0f} requests/s{beside}")
    return series


def loading(target: Target, options: Options, *, process: int | None) -> Measure:
    """Give the measure of a gateway."""

    async def measure() -> Sample:
        shape = Shape(
            callers=options.callers, seconds=options.seconds, warm_up_seconds=WARM_UP_SECONDS
        )
        before = 0.0 if process is None else processor.seconds(process)
        report = await send(target, shape, core=REST_CORE)
        if process is None:
            return Sample(report.per_second, None)
        spent = processor.seconds(process) - before
        share = options.seconds / (options.seconds + WARM_UP_SECONDS)
        return Sample(report.per_second, report.calls / (spent * share))

    return measure


def on_one_core(routed: Routing, options: Options) -> Measure:
    """Give the measure of the whole suite on one core."""
    measure = loading(routed.target(), options, process=None)

    async def measured() -> Sample:
        routed.pin(router=GATEWAY_CORE, rest=GATEWAY_CORE)
        before = sum(routed.processor_seconds().values())
        sample = await measure()
        spent = sum(routed.processor_seconds().values()) - before
        routed.pin(router=GATEWAY_CORE, rest=REST_CORE)
        whole = options.seconds + WARM_UP_SECONDS
        return Sample(sample.per_second, sample.per_second * whole / spent)

    return measured


@dataclass(slots=True)
class Measured:
    """Everything that one run has measured."""

    rates: Series
    latencies: Latencies
    streams: list[Figure]
    growth: list[Figure]
    """What replicas and accounts do to the cost of a request."""
    tls: Series
    footprint: list[Figure]


@contextlib.asynccontextmanager
async def gateways(
    folder: Path, address: str, options: Options, routed: Routing
) -> AsyncIterator[dict[str, Measure]]:
    """Yield the measures of all gateways."""
    router = routed.process("router")
    measures = {
        "direct": loading(direct(folder, address, headers={}), options, process=None),
        "router": loading(routed.target(), options, process=router),
        "router_credits": loading(routed.target(on_credits=True), options, process=router),
        "suite_on_one_core": on_one_core(routed, options),
    }
    with contextlib.ExitStack() as stack:
        if options.peers:
            for start in (peers.litellm, peers.portkey):
                peer = stack.enter_context(start(folder, address))
                processor.pin(peer.process, GATEWAY_CORE)
                measures[peer.name] = loading(peer.target, options, process=peer.process)
            measures["tensorzero"] = embedded(folder, address, options)
        yield measures


def embedded(folder: Path, address: str, options: Options) -> Measure:
    """Give the measure of TensorZero, which calls itself."""

    async def measure() -> Sample:
        rate = peers.tensorzero(
            folder, address, core=GATEWAY_CORE, callers=options.callers, seconds=options.seconds
        )
        return Sample(rate, None)

    return measure


async def measure(folder: Path, options: Options) -> Measured:
    """Measure everything."""
    with upstream(core=REST_CORE) as address:
        async with routing(folder / "plain", address, accounts=options.accounts) as routed:
            routed.pin(router=GATEWAY_CORE, rest=REST_CORE)
            latencies = await measure_latency(
                routed, direct(folder, address, headers={}), core=REST_CORE
            )
            async with gateways(folder, address, options, routed) as measures:
                rates = await measure_rates(measures, rounds=options.rounds)
            streams = await measure_streams(routed, folder, address, beside_peers=options.peers)
            growth = [
                *await measure_replicas(routed, rounds=options.rounds, seconds=options.seconds),
                *await measure_accounts(
                    routed,
                    accounts=options.many_accounts,
                    rounds=options.rounds,
                    seconds=options.seconds,
                ),
                measure_known_accounts(),
            ]
        async with routing(folder / "tls", address, accounts=options.accounts, tls=True) as routed:
            routed.pin(router=GATEWAY_CORE, rest=REST_CORE)
            secured = {
                "router_tls": loading(routed.target(), options, process=routed.process("router"))
            }
            tls = await measure_rates(secured, rounds=options.rounds)
    footprint = await measure_footprint(
        folder,
        accounts=options.accounts,
        soak_seconds=options.soak_seconds,
        core=GATEWAY_CORE,
    )
    return Measured(rates, latencies, streams, growth, tls, footprint)


def figures_of(found: Measured, options: Options) -> list[Figure]:
    """Name the figures and hold them to their bars."""
    rates = found.rates
    figures = []
    for name in rates.samples:
        figures.append(Figure(f"{name}_rate", rates.rate(name), "requests/s", _bar(name)))
        figures.append(Figure(f"{name}_spread", rates.spread(name), "of the median"))
        if any(sample.per_processor_second for sample in rates.samples[name]):
            figures.append(
                Figure(f"{name}_per_processor_second", rates.efficiency(name), "requests")
            )
    figures.append(
        Figure("credits_to_own", _ratio(rates, "router_credits", "router"), "ratio", BAR_CREDITS)
    )
    figures.append(Figure("router_tls_rate", found.tls.rate("router_tls"), "requests/s"))
    figures.append(
        Figure("router_tls_per_processor_second", found.tls.efficiency("router_tls"), "requests")
    )
    if options.peers:
        for ours, peer, bar in (
            ("router", "portkey", BAR_PORTKEY),
            ("router", "litellm", BAR_LITELLM),
            ("suite_on_one_core", "litellm", BAR_SUITE),
        ):
            by_time = rates.efficiency(ours) / rates.efficiency(peer)
            figures.append(Figure(f"{ours}_to_{peer}", _ratio(rates, ours, peer), "ratio", bar))
            figures.append(Figure(f"{ours}_to_{peer}_by_processor_time", by_time, "ratio", bar))
    return [
        *figures,
        *found.latencies.figures(),
        *found.streams,
        *found.growth,
        *found.footprint,
    ]


def _ratio(rates: Series, ours: str, theirs: str) -> float:
    return rates.rate(ours) / rates.rate(theirs)


def _bar(name: str) -> float | None:
    return BAR_RATE if name == "router" else None


def main() -> None:
    """Measure, print, and fail if a bar is missed."""
    options = read_options(sys.argv[1:])
    LOAD.path(say=print)
    with tempfile.TemporaryDirectory(prefix="ownkey-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        found = uvloop.run(measure(folder, options))
    figures, rates = figures_of(found, options), found.rates
    results.write("gateways", figures, folder=options.results, versions=peers.versions())
    results.plot_rates(
        {name: [s.per_second for s in rows] for name, rows in rates.samples.items()},
        folder=options.results,
    )
    results.write_table(
        {name: (rates.rate(name), rates.efficiency(name)) for name in rates.samples},
        folder=options.results,
    )
    for figure in figures:
        print(figure.line())
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
