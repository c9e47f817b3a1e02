# SPDX-License-Identifier: Apache-2.0
"""What a request costs the router where there are many accounts, and what knowing them takes."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import replace

import asyncpg
import psutil
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import resolution_pb2 as pb

from bench import keyvault_seed, ledger_seed, processor
from bench.figures import Figure
from bench.load import Shape, account, send
from bench.routing import Routing
from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.domain.envelope import DataKey
from services.router.adapters.key_copies import KeyCopies, Position
from services.router.adapters.keyvault_client import ResolvedKeys, resolved_keys

REST_CORE = 1
CALLERS = 32
KNOWN_ACCOUNTS = 100_000
SECRET_CHARACTERS = 64
PLAN = "standard"
BAR_RATIO = 1.15
BAR_KNOWN_MEGABYTES = 100
MEGABYTE, MICROS = 1e6, 1e6


async def measure_accounts(
    routed: Routing, *, accounts: int, rounds: int, seconds: float
) -> list[Figure]:
    """
    Measure the router's time for a request, spread over few accounts and over many, in turn.

    Args:
        routed: The suite; its accounts are the few.
        accounts: How many there are then; those that are missing are copied into the databases.
        rounds: Interleaved rounds.
        seconds: Each load of a round.
    """
    await _fill(routed, accounts)
    found: dict[int, list[float]] = {routed.accounts: [], accounts: []}
    for _ in range(rounds):
        for count, costs in found.items():
            costs.append(await _cost(routed, count, seconds))
    few, many = (statistics.median(costs) for costs in found.values())
    return [
        Figure(f"router_time_{routed.accounts}_accounts", few * MICROS, "us/request"),
        Figure(f"router_time_{accounts}_accounts", many * MICROS, "us/request"),
        Figure(
            f"router_time_{routed.accounts}_to_{accounts}_accounts",
            many / few,
            "ratio",
            BAR_RATIO,
            lower_is_better=True,
        ),
    ]


def measure_known_accounts() -> Figure:
    """Give what a router's memory grows by with the keys of many accounts, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        grown = pool.apply(_memory_of, (KNOWN_ACCOUNTS,))
    return Figure(
        f"memory_of_{KNOWN_ACCOUNTS}_known_accounts",
        grown / MEGABYTE,
        "MB",
        BAR_KNOWN_MEGABYTES,
        lower_is_better=True,
    )


async def _cost(routed: Routing, accounts: int, seconds: float) -> float:
    """Give the router's processor seconds of one request."""
    target, router = replace(routed.target(), accounts=accounts), routed.process("router")
    await send(target, Shape(callers=CALLERS, seconds=1.0), core=REST_CORE)
    before = processor.seconds(router)
    shape = Shape(callers=CALLERS, seconds=seconds, warm_up_seconds=0.0)
    report = await send(target, shape, core=REST_CORE)
    return (processor.seconds(router) - before) / report.calls


async def _fill(routed: Routing, accounts: int) -> None:
    """Copy accounts with a key and credits into the databases, up to so many."""
    state = routed.suite.state
    connection = await asyncpg.connect(state.dsn_file("ledger").read_text().strip())
    await ledger_seed.fill(
        connection,
        accounts=accounts,
        entries=accounts,
        first=routed.accounts,
        name=account,
        plan=PLAN,
    )
    await connection.close()
    keyring = LocalKeyring(state.keyring)

    async def data_keys(contexts: Sequence[bytes]) -> list[DataKey]:
        return [await keyring.generate_data_key(context) for context in contexts]

    connection = await asyncpg.connect(state.dsn_file("keyvault").read_text().strip())
    await keyvault_seed.fill(connection, data_keys, keys=accounts, first=routed.accounts)
    await connection.close()


def _memory_of(accounts: int) -> int:
    """Give the bytes by which this process grows as it takes in so many accounts' keys."""
    copies: KeyCopies[ResolvedKeys] = KeyCopies(accounts_max=accounts)
    copies.watch_opened()
    place = Position("bench", 1)
    copies.answered(copies.question_sent(now=0.0), (), resync=False, position=place)
    process = psutil.Process()
    gc.collect()
    before = int(process.memory_info().rss)
    for number in range(accounts):
        ticket = copies.resolving(f"accounts/{account(number)}", now=0.0)
        answer = pb.AccountKeys.FromString(_answer(number))
        copies.resolved(ticket, resolved_keys(ticket.account, answer, asked_at=0.0, now=0.0), place)
    gc.collect()
    return int(process.memory_info().rss) - before


def _answer(number: int) -> bytes:
    """Give what keyvault sends of an account with one key."""
    name = f"accounts/{account(number)}"
    key = key_pb2.Key(
        name=f"{name}/keys/main",
        provider="openai",
        hint=f"sk-proj-…{number % 10_000:04d}",
        version=1,
        etag="1-1",
        state=key_pb2.KEY_STATE_ENABLED,
        active=True,
        health=[key_pb2.KeyHealth(state=key_pb2.HEALTH_STATE_ACTIVE)],
    )
    settings = key_pb2.Settings(name=f"{name}/settings", active_provider="openai", etag="1")
    secret = f"sk-proj-{number:0{SECRET_CHARACTERS}d}"
    keys = [pb.ResolvedKey(key=key, secret=secret)]
    return pb.AccountKeys(account=name, settings=settings, keys=keys).SerializeToString()
