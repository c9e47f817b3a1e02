# SPDX-License-Identifier: Apache-2.0
"""Wire the ledger: the only place where its parts meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc.aio
from ownkey.ledger.v1 import ledger_service_pb2_grpc as pb_grpc

from services.ledger.adapters.chains import PostgresChainStore
from services.ledger.adapters.condition import PostgresCondition
from services.ledger.adapters.metrics import PrometheusMeter
from services.ledger.adapters.plan_file import load_plans
from services.ledger.adapters.reader import PostgresLedgerReader
from services.ledger.adapters.retention import PostgresRetention
from services.ledger.adapters.store import PostgresLedgerStore
from services.ledger.config import LedgerConfig
from services.ledger.rpc.policy import DESCRIPTOR, SERVICE
from services.ledger.rpc.servicer import LedgerServicer
from services.ledger.rpc.status import TABLE
from services.ledger.usecases.accounts import Accounts
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.chain import Chains
from services.ledger.usecases.lanes import LaneLimits
from services.ledger.usecases.metering import MeteredStore, Watch
from services.ledger.usecases.retention import Retention
from services.ledger.usecases.sweep import Sweeper
from services.shared.access import Access
from services.shared.boundary import Boundary
from services.shared.clock import Clock, SystemClock
from services.shared.config import read_secret_file
from services.shared.dsn import read_dsn
from services.shared.ids import new_id
from services.shared.metrics import observe_rpc
from services.shared.migrate import check_schema
from services.shared.policy_file import load_policy
from services.shared.postgres import Database
from services.shared.server import ServerSpec

SCHEMA_CODE = 2
"""The newest schema number that this code knows."""

SCHEMA_NEEDED = 2
"""The lowest schema number that this code works on."""

SPARE_CONNECTIONS = 2
"""Connections besides the lanes': for operations, reads and the sweeper."""

MIGRATIONS = Path(__file__).parent / "migrations"


@contextlib.asynccontextmanager
async def ledger(config: LedgerConfig, *, clock: Clock | None = None) -> AsyncIterator[ServerSpec]:
    """
    Open the ledger.

    Args:
        config: Its configuration.
        clock: Time; the machine's if None.

    Yields:
        What to serve. The sweeper runs meanwhile, entries are chained and old rows forgotten.

    Raises:
        ConfigError: If plans, secrets or schema cannot be used.
        StoreUnavailableError: If the database stays away.
    """
    clock = clock or SystemClock()
    plans = load_plans(config.plans_file)
    key = read_secret_file(config.fingerprint_key_file)
    policy = load_policy(config.policy_file, DESCRIPTOR)
    access = Access(policy, tokens_dir=config.tokens_dir, clock=clock)
    certificates = config.certificates(clock=clock)
    database = Database(
        lambda: read_dsn(config.database_dsn_file),
        application_name="ownkey-ledger",
        pool_size=config.lanes + SPARE_CONNECTIONS,
        pooled=config.database_pooler == "pgbouncer",
    )
    await database.open()
    background: list[asyncio.Task[None]] = []
    try:
        await check_schema(database, code=SCHEMA_CODE, needed=SCHEMA_NEEDED)
        meter = PrometheusMeter()
        store = MeteredStore(PostgresLedgerStore(database), meter)
        reader = PostgresLedgerReader(database)
        chains = Chains(store=PostgresChainStore(database), key=key, clock=clock)
        servicer = LedgerServicer(
            store=store,
            reader=reader,
            chains=chains,
            plans=plans,
            attempts=Attempts(
                store=store,
                plans=plans,
                lease=timedelta(seconds=config.lease_seconds),
                limits=_lane_limits(config),
                meter=meter,
            ),
            accounts=Accounts(plans=plans, receipt_key=key, reader=reader),
            key=key,
            new_id=new_id,
        )
        sweeper = Sweeper(store=store, clock=clock, interval_seconds=config.sweep_seconds)
        retention = _retention(config, database, clock)
        watch = Watch(reader=PostgresCondition(database), meter=meter, clock=clock)
        background = [
            asyncio.create_task(watch.run(), name="ledger-watch"),
            asyncio.create_task(retention.run(), name="ledger-retention"),
            asyncio.create_task(sweeper.run(), name="ledger-sweeper"),
            asyncio.create_task(chains.run(), name="ledger-chains"),
        ]

        def register(server: grpc.aio.Server) -> None:
            pb_grpc.add_LedgerServiceServicer_to_server(servicer, server)

        yield ServerSpec(
            listen=config.listen,
            services=[SERVICE],
            register=register,
            boundary=Boundary(table=TABLE, access=access, clock=clock, observe=observe_rpc),
            certificates=certificates,
            health_listen=config.health_listen,
            metrics_listen=config.metrics_listen,
            connection_seconds=config.connection_seconds,
            drain_seconds=config.drain_seconds,
        )
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await database.close()


def _retention(config: LedgerConfig, database: Database, clock: Clock) -> Retention:
    return Retention(
        store=PostgresRetention(database, days=config.retention_days),
        clock=clock,
        interval_seconds=config.retention_seconds,
    )


def _lane_limits(config: LedgerConfig) -> LaneLimits:
    return LaneLimits(
        count=config.lanes,
        queue_max=config.lane_queue,
        batch_max=config.batch_size,
        one_bucket=config.batch_buckets == "one",
    )
