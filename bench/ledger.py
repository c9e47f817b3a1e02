# SPDX-License-Identifier: Apache-2.0
"""
Measure the ledger against the PostgreSQL below it and the gRPC above it, in one run on one machine.

`make bench-ledger`; `make bench-ledger ARGS='--accounts 1000000 --entries 10000000'` for the full
database, which takes some minutes more to fill. Everything runs on an embedded PostgreSQL with
fsync and synchronous_commit on, in a temporary folder, and stops by itself.

The ledger runs one process a replica and is scaled by replicas, so its pairs are measured through
one and through two of them. pgbench, the ledger, PostgreSQL and the sender share the machine's
cores in every part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc.aio
import uvloop

from bench import ledger_seed, processor
from bench.figures import Figure
from bench.ledger_load import Client, Pair, UnaryRates, account_name, make_pair, spread
from bench.ledger_plans import scanning
from deploy.local.postgres import EmbeddedPostgres, PostgresServer, binaries
from services.ledger.bootstrap import MIGRATIONS
from services.shared.channel import OPTIONS
from services.shared.identity import IDENTITIES, ROUTER, call_metadata
from services.shared.migrate import migrate
from services.shared.secret import Secret

PASSWORD = "for-the-benchmark"  # noqa: S105 - of a server that lives as long as this run
TOKEN = "token-of-the-benchmark-0123456789"  # noqa: S105
PGBENCH_CLIENTS = (4, 8, 16, 32, 64)
PGBENCH_SCALE = 10
PGBENCH_SECONDS = 4
BATCH_SIZE = 256
FEW_ACCOUNTS = 2_000
START_SECONDS = 30.0

BAR_PAIRS = 1.5
BAR_UNARY = 0.6
BAR_HOT = 0.5
BAR_FULL = 0.6

SHOWN_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "wal_level",
    "max_wal_size",
)


@dataclass(frozen=True, slots=True)
class Options:
    """
    What to measure.

    Args:
        accounts: Accounts of the filled database.
        entries: Entries of the filled database.
        pairs: Pairs of each timed part.
        callers: Batch calls under way at the same time.
        unary_callers: Unary callers at the same time.
        lanes: The ledger's lanes.
    """

    accounts: int
    entries: int
    pairs: int
    callers: int
    unary_callers: int
    lanes: int


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.ledger", description=__doc__)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--unary-callers", type=int, default=128)
    parser.add_argument("--lanes", type=int, default=2)
    return Options(**vars(parser.parse_args(arguments)))


def pgbench(server: PostgresServer) -> float:
    """Return pgbench's transactions a second at its best client count."""
    dsn = server.create_database("pgbench", password=PASSWORD)
    run = [str(binaries() / "pgbench"), "--no-vacuum"]
    subprocess.run([*run, "-i", "-q", "-s", str(PGBENCH_SCALE), dsn], check=True, stderr=-3)
    best = 0.0
    for clients in PGBENCH_CLIENTS:
        timed = ["-N", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(PGBENCH_SECONDS)]
        output = subprocess.run([*run, *timed, dsn], check=True, capture_output=True, text=True)
        found = re.search(r"tps = ([0-9.]+)", output.stdout)
        assert found is not None, output.stdout
        rate = float(found.group(1))
        print(f"pgbench -N -M prepared, {clients} clients: {rate:.0f} transactions/s")
        best = max(best, rate)
    server.drop_database("pgbench")
    return best


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def process(module: str, *arguments: str, environ: dict[str, str], log: Path) -> Iterator[int]:
    """Run a module in a process of its own meanwhile, and yield its number."""
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **environ},
            stdout=output,
            stderr=output,
        )
        try:
            yield child.pid
        finally:
            child.terminate()
            child.wait(START_SECONDS)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a server that has started."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        async with asyncio.timeout(START_SECONDS):
            await channel.channel_ready()
        yield channel


@dataclass(frozen=True, slots=True)
class Replica:
    """
    A ledger that serves.

    Args:
        client: Sends to it.
        process: Its process's number.
    """

    client: Client
    process: int


async def settle(replicas: list[Replica], pairs: list[Pair], options: Options) -> float:
    """Settle pairs through the Batch RPCs of all replicas; return pairs a second."""
    count = len(replicas)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, replica in enumerate(replicas):
            sending = replica.client.batches(
                pairs[number::count], size=BATCH_SIZE, callers=options.callers // count
            )
            group.create_task(sending)
    return len(pairs) / (time.perf_counter() - started)


@contextlib.asynccontextmanager
async def serving(folder: Path, dsn: str, options: Options) -> AsyncIterator[Replica]:
    """Yield a ledger in a process of its own."""
    folder.mkdir()
    tokens = folder / "tokens"
    tokens.mkdir()
    for identity in IDENTITIES:
        _secret(tokens / identity, f"{identity}-{TOKEN}")
    (folder / "plans.yaml").write_text(ledger_seed.PLANS)
    port = free_port()
    environ = {
        "OWNKEY_LEDGER_DATABASE_DSN_FILE": _secret(folder / "dsn", dsn),
        "OWNKEY_LEDGER_PLANS_FILE": str(folder / "plans.yaml"),
        "OWNKEY_LEDGER_TOKENS_DIR": str(tokens),
        "OWNKEY_LEDGER_FINGERPRINT_KEY_FILE": _secret(folder / "key", TOKEN),
        "OWNKEY_LEDGER_LISTEN": f"127.0.0.1:{port}",
        "OWNKEY_LEDGER_LANES": str(options.lanes),
    }
    log = folder / "ledger.log"
    with process("services.ledger", "serve", environ=environ, log=log) as number:
        async with connected(port) as channel:
            client = Client(channel, call_metadata(Secret(f"{ROUTER}-{TOKEN}")))
            yield Replica(client, number)


def _secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


async def echo_rate(folder: Path, options: Options) -> float:
    """Return the calls a second of a gRPC server that does nothing, for the same callers."""
    port = free_port()
    log = folder / "echo.log"
    pairs = [make_pair(account_name(0), own_key=False) for _ in range(options.pairs // 2)]
    with process("bench.echo", str(port), environ={}, log=log):
        async with connected(port) as channel:
            client = Client(channel, call_metadata(Secret(TOKEN)))
            await client.unary(pairs[:500], callers=options.unary_callers)
            return (await client.unary(pairs, callers=options.unary_callers)).calls


_NOT_MEASURED = UnaryRates(0.0, 0.0)


@dataclass(slots=True)
class Measured:
    """Rates, times and sizes of one run."""

    pairs: float = 0.0
    two_replicas: float = 0.0
    hot: float = 0.0
    unary: UnaryRates = _NOT_MEASURED
    p99_seconds: float = 0.0
    full: float = 0.0
    whole_scans: int = 0
    wal_bytes: float = 0.0
    stored_bytes: float = 0.0
    ledger_seconds: float = 0.0
    postgres_seconds: float = 0.0


async def _sizes(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT pg_current_wal_insert_lsn() - '0/0' AS wal, "
        "pg_database_size(current_database()) AS stored"
    )
    assert row is not None
    return int(row["wal"]), int(row["stored"])


async def measure(
    folder: Path, postgres: EmbeddedPostgres, options: Options, found: Measured
) -> None:
    """Measure the ledger on a nearly empty database."""
    chance = random.Random(1)  # noqa: S311 - the same load in every run
    dsn = postgres.server.create_database("empty", password=PASSWORD)
    await migrate(dsn, MIGRATIONS)
    connection = await asyncpg.connect(dsn)
    await ledger_seed.fill(connection, accounts=FEW_ACCOUNTS, entries=FEW_ACCOUNTS)
    postgres.server.execute("CHECKPOINT")
    # The first line of the file is the server's own process.
    server_process = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
    async with serving(folder / "one", dsn, options) as one:
        await settle([one], spread(FEW_ACCOUNTS, options.pairs // 4, chance=chance), options)
        # As autovacuum does within a minute of the first rows.
        await connection.execute("ANALYZE")
        load = spread(FEW_ACCOUNTS, options.pairs, chance=chance)
        sizes = await _sizes(connection)
        spent = processor.seconds(one.process), processor.seconds(server_process)
        found.pairs = await settle([one], load, options)
        found.ledger_seconds = (processor.seconds(one.process) - spent[0]) / options.pairs
        found.postgres_seconds = (processor.seconds(server_process) - spent[1]) / options.pairs
        after = await _sizes(connection)
        found.wal_bytes = (after[0] - sizes[0]) / options.pairs
        found.stored_bytes = (after[1] - sizes[1]) / options.pairs
        print(f"pairs over {FEW_ACCOUNTS} accounts: {found.pairs:.0f}/s")
        hot = [make_pair(account_name(0), own_key=False) for _ in range(options.pairs // 2)]
        found.hot = await settle([one], hot, options)
        print(f"pairs on one account: {found.hot:.0f}/s")
        load = spread(FEW_ACCOUNTS, options.pairs // 4, chance=chance)
        found.unary = await one.client.unary(load, callers=options.unary_callers)
        authorize, capture = found.unary
        print(f"unary: {authorize:.0f} Authorize/s, {capture:.0f} Capture/s")
        load = spread(FEW_ACCOUNTS, options.pairs // 8, chance=chance)
        seconds = await one.client.latencies(load, pairs_per_second=found.unary.calls / 4)
        found.p99_seconds = sorted(seconds)[len(seconds) * 99 // 100]
        async with serving(folder / "two", dsn, options) as two:
            await settle([two], spread(FEW_ACCOUNTS, options.pairs // 4, chance=chance), options)
            load = spread(FEW_ACCOUNTS, options.pairs, chance=chance)
            found.two_replicas = await settle([one, two], load, options)
            print(f"pairs over {FEW_ACCOUNTS} accounts, two replicas: {found.two_replicas:.0f}/s")
    await connection.close()


async def measure_full(
    folder: Path, postgres: EmbeddedPostgres, options: Options, found: Measured
) -> None:
    """Measure the ledger on a full database."""
    chance = random.Random(2)  # noqa: S311 - the same load in every run
    dsn = postgres.server.create_database("filled", password=PASSWORD)
    await migrate(dsn, MIGRATIONS)
    connection = await asyncpg.connect(dsn)
    started = time.perf_counter()
    await ledger_seed.fill(connection, accounts=options.accounts, entries=options.entries)
    print(f"{options.entries} entries filled in {time.perf_counter() - started:.0f} s")
    postgres.server.execute("CHECKPOINT")
    async with serving(folder / "filled", dsn, options) as one:
        warm = spread(options.accounts, options.pairs // 4, chance=chance)
        await settle([one], warm, options)
        await connection.execute("ANALYZE")
        load = spread(options.accounts, options.pairs, chance=chance)
        found.full = await settle([one], load, options)
        print(f"pairs over {options.accounts} accounts: {found.full:.0f}/s")
    scanned = scanning(postgres.server, "filled")
    found.whole_scans = len(scanned)
    print(f"statements that read a whole table: {', '.join(scanned) or 'none'}")
    await connection.close()


def settings(server: PostgresServer) -> None:
    """Print the server's settings that matter."""
    for name in SHOWN_SETTINGS:
        print(f"{name} = {server.execute(f'SHOW {name}')}")


async def run(options: Options) -> list[Figure]:
    """Measure everything and return the figures."""
    with tempfile.TemporaryDirectory(prefix="ownkey-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedPostgres(folder / "postgres", log_folder=folder / "logs") as postgres:
            settings(postgres.server)
            transactions = pgbench(postgres.server)
            echo = await echo_rate(folder, options)
            print(f"empty gRPC echo: {echo:.0f} calls/s")
            found = Measured()
            await measure(folder, postgres, options, found)
            await measure_full(folder, postgres, options, found)
    return [
        Figure("pgbench", transactions, "transactions/s"),
        Figure("echo", echo, "calls/s"),
        Figure("pairs", found.pairs, "pairs/s"),
        Figure("pairs_to_pgbench", found.pairs / transactions, "ratio", BAR_PAIRS),
        Figure("pairs_two_replicas", found.two_replicas, "pairs/s"),
        Figure(
            "pairs_two_replicas_to_pgbench", found.two_replicas / transactions, "ratio", BAR_PAIRS
        ),
        Figure("unary_authorize", found.unary.authorize, "calls/s"),
        Figure("unary_capture", found.unary.capture, "calls/s"),
        Figure("unary_to_echo", found.unary.calls / echo, "ratio", BAR_UNARY),
        Figure("hot_account_to_spread", found.hot / found.pairs, "ratio", BAR_HOT),
        Figure("pair_p99_at_half_load", found.p99_seconds * 1000, "ms"),
        Figure(
            f"full_to_empty_{options.accounts}_accounts_{options.entries}_entries",
            found.full / found.pairs,
            "ratio",
            BAR_FULL,
        ),
        Figure(
            "statements_scanning_tables", found.whole_scans, "statements", 0, lower_is_better=True
        ),
        Figure("ledger_processor_time_per_pair", found.ledger_seconds * 1e6, "us"),
        Figure("postgres_processor_time_per_pair", found.postgres_seconds * 1e6, "us"),
        Figure("wal_per_pair", found.wal_bytes, "bytes"),
        Figure("stored_per_pair", found.stored_bytes, "bytes"),
    ]


def main() -> None:
    """Measure, print, and fail if a bar is missed."""
    figures = uvloop.run(run(read_options(sys.argv[1:])))
    for figure in figures:
        print(figure.line())
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
