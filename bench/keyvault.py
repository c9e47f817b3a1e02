# SPDX-License-Identifier: Apache-2.0
"""
Measure keyvault against the gRPC above it and the Vault below it, in one run on one machine.

`make bench-keyvault`; `make bench-keyvault ARGS='--keys 1000000'` for the full key store, which
takes some minutes more to fill. PostgreSQL is embedded, with fsync and synchronous_commit on; Vault
is a real one with TLS; both are in a temporary folder and stop by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc.aio
import msgspec
import psutil
import uvloop
from ownkey.keyvault.v1 import keyvault_service_pb2, resolution_pb2

from bench import keyvault_seed, processor
from bench.figures import Figure
from bench.ledger import connected, free_port, process
from bench.load import account
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.vault import TRANSIT_KEY, TRANSIT_MOUNT, LocalVault
from deploy.programs import VAULT
from services.keyvault.bootstrap import MIGRATIONS
from services.shared.identity import IDENTITIES, OPERATOR, ROUTER, call_metadata
from services.shared.migrate import migrate
from services.shared.secret import Secret

PASSWORD = "for-the-benchmark"  # noqa: S105 - of a server that lives as long as this run
TOKEN = "token-of-the-benchmark-0123456789"  # noqa: S105
SERVICE = "/ownkey.keyvault.v1.KeyvaultService/"
KEK_NAME = f"vault:{TRANSIT_MOUNT}/{TRANSIT_KEY}"
SMALL = 1_000
WARM_ACCOUNTS = 2_000
ACCOUNTS_PER_COLD_CALL = 64
COLD_CALLS_AT_ONCE = 8
DIRECT_RECORDS = 10_000
RATE_MAX = 100_000
CALL_SECONDS = 600.0
MEBIBYTE = 1024 * 1024
MICROS = 1e6

BAR_RESOLVE = 0.6
BAR_REWRAP = 0.5
BAR_SPREAD = 0.15

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Options:
    """
    What to measure.

    Args:
        keys: Keys of the large key store.
        runs: Interleaved runs, of which the median counts.
        calls: Calls of each timed part of ResolveKeys.
        callers: Calls under way at the same time.
    """

    keys: int
    runs: int
    calls: int
    callers: int


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.keyvault", description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=128)
    return Options(**vars(parser.parse_args(arguments)))


@dataclass(slots=True)
class Rates:
    """Rates of each run, records a second."""

    direct: list[float] = field(default_factory=list)
    small: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Keyvault:
    """
    A keyvault in a process of its own.

    Args:
        channel: To it.
        process_id: Its process.
    """

    channel: grpc.aio.Channel
    process_id: int

    async def rewrap(self) -> tuple[int, float]:
        """Rewrap everything; return the records done and the seconds it took."""
        request = keyvault_service_pb2.RewrapKeysRequest(records_per_second_max=RATE_MAX)
        method: Any = self.channel.unary_stream(
            SERVICE + "RewrapKeys",
            request_serializer=keyvault_service_pb2.RewrapKeysRequest.SerializeToString,
            response_deserializer=keyvault_service_pb2.RewrapKeysResponse.FromString,
        )
        began, progress = time.perf_counter(), None
        async for answer in method(request, timeout=CALL_SECONDS, metadata=identity(OPERATOR)):
            progress = answer.progress
        seconds = time.perf_counter() - began
        if progress is None or progress.failed_count:
            message = f"the run failed: {progress}"
            raise RuntimeError(message)
        return progress.done_count, seconds

    def memory_bytes(self) -> int:
        """Return what it holds of the machine's memory."""
        return int(psutil.Process(self.process_id).memory_info().rss)


def identity(name: str) -> Metadata:
    """Return what shows an identity."""
    return tuple(call_metadata(Secret(f"{name}-{TOKEN}")))


@contextlib.asynccontextmanager
async def serving(folder: Path, dsn: str, vault: LocalVault) -> AsyncIterator[Keyvault]:
    """Yield a keyvault on a Vault."""
    folder.mkdir()
    tokens = folder / "tokens"
    tokens.mkdir()
    for name in IDENTITIES:
        _secret(tokens / name, f"{name}-{TOKEN}")
    port = free_port()
    settings = {
        "LISTEN": f"127.0.0.1:{port}",
        "DATABASE_DSN_FILE": _secret(folder / "dsn", dsn),
        "TOKENS_DIR": str(tokens),
        "FINGERPRINT_KEY_FILE": _secret(folder / "key", TOKEN),
        "KEK": "vault",
        "VAULT_ADDRESS": vault.address,
        "VAULT_CA_FILE": str(vault.ca_file),
        "VAULT_ROLE_ID_FILE": str(vault.role_id_file),
        "VAULT_SECRET_ID_FILE": str(vault.secret_id_file),
        "CACHE_SECONDS": "3600",
        "CACHE_KEYS": "1000000",
    }
    environ = {f"OWNKEY_KEYVAULT_{name}": value for name, value in settings.items()}
    before = _children()
    with process("services.keyvault", "serve", environ=environ, log=folder / "keyvault.log"):
        [child] = _children() - before
        async with connected(port) as channel:
            yield Keyvault(channel, child)


async def call_rate(
    channel: grpc.aio.Channel, path: str, requests: Sequence[bytes], *, callers: int
) -> float:
    """Send serialized requests as the router and return answers a second."""
    method: Any = channel.unary_unary(path)
    work, metadata = list(requests), identity(ROUTER)

    async def caller() -> None:
        while work:
            await method(work.pop(), timeout=CALL_SECONDS, metadata=metadata)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return len(requests) / (time.perf_counter() - began)


def resolve_request(numbers: Sequence[int]) -> bytes:
    """Return a request for accounts, serialized."""
    accounts = [f"accounts/{account(number)}" for number in numbers]
    return resolution_pb2.ResolveKeysRequest(accounts=accounts).SerializeToString()


async def measure_resolve(folder: Path, keyvault: Keyvault, options: Options) -> list[Figure]:
    """
    Compare warm ResolveKeys with an empty gRPC echo, each alone on the same core.

    The client and what keyvault calls have the machine's other cores.
    """
    path = f"{SERVICE}ResolveKeys"
    cold = [
        resolve_request(range(first, min(first + ACCOUNTS_PER_COLD_CALL, options.keys)))
        for first in range(0, options.keys, ACCOUNTS_PER_COLD_CALL)
    ]
    before = keyvault.memory_bytes()
    rate = await call_rate(keyvault.channel, path, cold, callers=COLD_CALLS_AT_ONCE)
    memory = keyvault.memory_bytes() - before
    print(f"cold: {rate * ACCOUNTS_PER_COLD_CALL:.0f} accounts/s through {len(cold)} calls")
    chance = random.Random(1)  # noqa: S311 - the same load in every run
    warm = [
        resolve_request([chance.randrange(min(WARM_ACCOUNTS, options.keys))])
        for _ in range(options.calls)
    ]
    own_core, others = _split_cores()
    for child in _children():
        _pin(child, others)
    _pin(os.getpid(), others)
    port = free_port()
    with process("bench.echo", str(port), environ={}, log=folder / "echo.log"):
        async with connected(port) as channel:
            [echo_process] = [child for child in _children() if _is_echo(child)]
            for child in _children():
                _pin(child, own_core if child == echo_process else others)
            _pin(keyvault.process_id, own_core)
            pairs, echo_times, resolve_times = [], [], []
            for _ in range(options.runs):
                spent = processor.seconds(echo_process)
                echo = await call_rate(channel, path, warm, callers=options.callers)
                echo_times.append(processor.seconds(echo_process) - spent)
                spent = processor.seconds(keyvault.process_id)
                resolve = await call_rate(keyvault.channel, path, warm, callers=options.callers)
                resolve_times.append(processor.seconds(keyvault.process_id) - spent)
                print(f"echo: {echo:.0f} calls/s, warm ResolveKeys: {resolve:.0f} calls/s")
                pairs.append((echo, resolve))
    echo_time, resolve_time = (
        statistics.median(times) / options.calls * MICROS for times in (echo_times, resolve_times)
    )
    return [
        Figure("echo", statistics.median(echo for echo, _ in pairs), "calls/s"),
        Figure("resolve_warm", statistics.median(rate for _, rate in pairs), "calls/s"),
        Figure(
            "resolve_to_echo",
            statistics.median(rate / echo for echo, rate in pairs),
            "ratio",
            BAR_RESOLVE,
        ),
        # The caller is slower than an echo, so the rates alone flatter whatever is no faster.
        Figure("echo_processor_time", echo_time, "us/call"),
        Figure("resolve_processor_time", resolve_time, "us/call"),
        Figure(f"memory_of_{options.keys}_cached_keys", memory / MEBIBYTE, "MiB"),
    ]


async def measure_direct(transit: keyvault_seed.Transit) -> float:
    """Return what Vault rewraps a second when its batches are sent to it ready-made."""
    numbers = range(DIRECT_RECORDS)
    contexts = [keyvault_seed.binding_of(number).context() for number in numbers]
    wrapped = await transit.wrap([(os.urandom(32), context) for context in contexts])
    items = [
        {"ciphertext": ciphertext.decode(), "context": base64.b64encode(context).decode()}
        for ciphertext, context in zip(wrapped, contexts, strict=True)
    ]
    size = keyvault_seed.KEYS_PER_CALL
    bodies = [
        msgspec.json.encode({"batch_input": items[first : first + size]})
        for first in range(0, len(items), size)
    ]

    async def work() -> None:
        while bodies:
            await transit.post("rewrap", bodies.pop())

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(keyvault_seed.CALLS_AT_ONCE):
            group.create_task(work())
    return DIRECT_RECORDS / (time.perf_counter() - began)


async def measure_rewrap(
    vault: LocalVault,
    transit: keyvault_seed.Transit,
    *,
    small: Keyvault,
    large: Keyvault,
    runs: int,
) -> Rates:
    """Rewrap both key stores again and again, and call Vault directly between."""
    rotate = vault.admin().secrets.transit.rotate_key
    rates = Rates()
    for _ in range(runs):
        await asyncio.to_thread(rotate, TRANSIT_KEY)
        rates.direct.append(await measure_direct(transit))
        for keyvault, found in ((small, rates.small), (large, rates.large)):
            done, seconds = await keyvault.rewrap()
            found.append(done / seconds)
        print(
            f"rewrap: {rates.direct[-1]:.0f}/s directly, {rates.small[-1]:.0f}/s of {SMALL}, "
            f"{rates.large[-1]:.0f}/s of the large key store"
        )
    return rates


async def run(options: Options) -> list[Figure]:
    """Measure everything and return the figures."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ownkey-bench-")))
        folder.chmod(0o755)
        postgres = stack.enter_context(
            EmbeddedPostgres(folder / "postgres", log_folder=folder / "logs")
        )
        vault = stack.enter_context(
            LocalVault(folder / "vault", log_folder=folder / "logs", binary=VAULT.path())
        )
        transit = await stack.enter_async_context(_transit(vault))
        keyvaults = {}
        for name, keys in (("small", SMALL), ("large", options.keys)):
            dsn = postgres.server.create_database(name, password=PASSWORD)
            await migrate(dsn, MIGRATIONS)
            connection = await asyncpg.connect(dsn)
            began = time.perf_counter()
            await keyvault_seed.fill(connection, transit.data_keys, keys=keys)
            print(f"{keys} keys stored in {time.perf_counter() - began:.1f} s")
            await connection.close()
            keyvaults[name] = await stack.enter_async_context(serving(folder / name, dsn, vault))
        postgres.server.execute("CHECKPOINT")
        small, large = keyvaults["small"], keyvaults["large"]
        rates = await measure_rewrap(vault, transit, small=small, large=large, runs=options.runs)
        figures = await measure_resolve(folder, large, options)
    ratios = [large / direct for direct, large in zip(rates.direct, rates.large, strict=True)]
    spread = [abs(1 - s / n) for s, n in zip(rates.small, rates.large, strict=True)]
    return [
        *figures,
        Figure("rewrap_directly", statistics.median(rates.direct), "records/s"),
        Figure(f"rewrap_{SMALL}", statistics.median(rates.small), "records/s"),
        Figure(f"rewrap_{options.keys}", statistics.median(rates.large), "records/s"),
        Figure("rewrap_to_vault", statistics.median(ratios), "ratio", BAR_REWRAP),
        Figure(
            f"rewrap_spread_{SMALL}_to_{options.keys}",
            statistics.median(spread),
            "ratio",
            BAR_SPREAD,
            lower_is_better=True,
        ),
    ]


@contextlib.asynccontextmanager
async def _transit(vault: LocalVault) -> AsyncIterator[keyvault_seed.Transit]:
    trust = ssl.create_default_context(cafile=str(vault.ca_file))
    connector = aiohttp.TCPConnector(ssl=trust)
    headers = {"X-Vault-Token": vault.admin().token}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        address = f"{vault.address}/v1/{TRANSIT_MOUNT}"
        yield keyvault_seed.Transit(session, address, TRANSIT_KEY, KEK_NAME)


def _secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _is_echo(process_id: int) -> bool:
    return "bench.echo" in psutil.Process(process_id).cmdline()


def _split_cores() -> tuple[list[int], list[int]]:
    """Return the core of what is measured, and those of everything else."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[:1], cores[1:] or cores


def _pin(process_id: int, cores: list[int]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(process_id).cpu_affinity(cores)


def main() -> None:
    """Measure, print, and fail if a bar is missed."""
    figures = uvloop.run(run(read_options(sys.argv[1:])))
    for figure in figures:
        print(figure.line())
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
