# SPDX-License-Identifier: Apache-2.0
"""The wiring: the only place that knows every part of the router."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio
from ownkey.router.v1 import router_service_pb2_grpc

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.keyvault_client import GrpcKeys
from services.router.adapters.keyvault_sharing import GrpcSharedLimits, OutageExchange
from services.router.adapters.ledger_client import GrpcLedger
from services.router.adapters.ledger_tariffs import GrpcTariffs
from services.router.adapters.postgres_jobs import PostgresJobs
from services.router.adapters.price_library import PriceLibrary
from services.router.adapters.provider_metrics import (
    ObservedCalls,
    ObservedJobCalls,
    breaker_counter,
)
from services.router.adapters.transport import AiohttpTransport
from services.router.config import RouterConfig
from services.router.http.door import Door
from services.router.http.serving import serving
from services.router.http.webhooks import webhook_app
from services.router.providers.base import Dialect
from services.router.providers.bedrock import BEDROCK
from services.router.providers.hosts import HOST
from services.router.providers.registry import DIALECTS, JOB_DIALECTS
from services.router.providers.replicate_webhook import webhook_key
from services.router.rpc.policy import DESCRIPTOR, SERVICE
from services.router.rpc.servicer import JobUseCases, RouterServicer, UseCases
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.access import AccessTokens
from services.router.usecases.allotments import Allotments
from services.router.usecases.attempt import Caller
from services.router.usecases.byte_budget import ByteBudget
from services.router.usecases.engine import Engine
from services.router.usecases.estimate_cost import EstimateCost
from services.router.usecases.experience import Experience
from services.router.usecases.explain import Explain
from services.router.usecases.generate import GenerateText
from services.router.usecases.job_guard import JobGuard
from services.router.usecases.job_keys import StoredJobKeys
from services.router.usecases.job_output import ReadJobOutput
from services.router.usecases.job_runner import JobRunner, StepTimes
from services.router.usecases.media_answer import MediaReader
from services.router.usecases.price_book import PriceBook
from services.router.usecases.probe_key import ProbeKey
from services.router.usecases.read_jobs import ReadJobs
from services.router.usecases.settlement import BackgroundWork, Settler
from services.router.usecases.start_job import StartJob
from services.router.usecases.take_webhook import TakeWebhook
from services.shared.access import Access
from services.shared.boundary import Boundary
from services.shared.certificates import Certificates
from services.shared.channel import open_channel
from services.shared.clock import Clock, SystemClock
from services.shared.config import ConfigError, read_secret_file
from services.shared.dsn import read_dsn
from services.shared.identity import ROUTER
from services.shared.metrics import observe_rpc
from services.shared.migrate import check_schema
from services.shared.paging import PageTokens
from services.shared.policy_file import load_policy
from services.shared.postgres import Database
from services.shared.server import ServerSpec, Stop

REQUEST_BYTES_MAX = 32 * 1024 * 1024
MEDIA_BYTES_MAX = 512 * 1024 * 1024
"""Bytes of media in flight, in and out, that one process holds."""
CLAIMANT_BYTES = 16
APPLICATION_NAME = "ownkey-router"
MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA_CODE = 1
SCHEMA_NEEDED = 1


@asynccontextmanager
async def router(config: RouterConfig, *, clock: Clock | None = None) -> AsyncIterator[ServerSpec]:
    """
    Build the service; everything opened is closed at the end, in reverse order.

    Args:
        config: How it runs.
        clock: Time; the system's by default.

    Raises:
        ConfigError: If the catalogue or a file does not fit.
    """
    clock = clock or SystemClock()
    listed = PriceLibrary()
    catalogue = load_catalogue(config.catalogue_file, listed, now=clock.now())
    prices = PriceBook(catalogue, listed, clock=clock)
    unspoken = sorted(set(catalogue.providers) - set(DIALECTS))
    if unspoken:
        raise ConfigError([f"the catalogue names providers without a dialect: {unspoken}"])
    policy = load_policy(config.policy_file, DESCRIPTOR)
    access = Access(policy, tokens_dir=config.tokens_dir, clock=clock)
    certificates = config.certificates(clock=clock)
    token = config.token(ROUTER)
    fingerprint_key = read_secret_file(config.fingerprint_key_file)
    base_urls = config.provider_base_urls or {}
    dialects = _dialects(config)
    _check_base_urls(base_urls, dialects)
    on_stop: list[Stop] = []
    async with AsyncExitStack() as stack:
        transport = AiohttpTransport()
        stack.push_async_callback(transport.close)
        await transport.open()
        ledger_channel = open_channel(config.ledger_address, certificates)
        stack.push_async_callback(ledger_channel.close)
        keyvault_channel = open_channel(config.keyvault_address, certificates)
        stack.push_async_callback(keyvault_channel.close)
        tokens = AccessTokens(transport=transport, clock=clock)
        stack.push_async_callback(tokens.close)
        keys = GrpcKeys(keyvault_channel, token=token, clock=clock)
        stack.push_async_callback(keys.close)
        await keys.open()
        ledger = GrpcLedger(ledger_channel, token=token)
        work = BackgroundWork()
        stack.push_async_callback(work.drain)
        media_bytes = ByteBudget(MEDIA_BYTES_MAX)
        caller = Caller(
            dialects=dialects,
            base_urls=base_urls,
            transport=transport,
            tokens=tokens,
            media=MediaReader(transport=transport, budget=media_bytes, clock=clock),
            clock=clock,
            timeouts={provider.id: provider.timeouts for provider in catalogue.providers.values()},
        )
        experience = Experience(
            caller.host,
            failures_to_open=config.breaker_failures,
            turned=breaker_counter(catalogue.providers),
        )
        outages = OutageExchange(keyvault_channel, token=token, experience=experience, clock=clock)
        stack.push_async_callback(outages.close)
        outages.open()
        engine = Engine(
            keys=keys,
            ledger=ledger,
            caller=ObservedCalls(caller, models=catalogue.models, clock=clock),
            settler=Settler(ledger, work, clock=clock),
            work=work,
            experience=experience,
            allotments=Allotments(
                GrpcSharedLimits(keyvault_channel, token=token, clock=clock), clock=clock
            ),
            prices=prices,
            clock=clock,
            chance=random.random,
            new_claimant=lambda: secrets.token_hex(CLAIMANT_BYTES),
            fingerprint_key=fingerprint_key,
        )
        generate = GenerateText(engine)
        servicer = RouterServicer(
            UseCases(
                generate=generate,
                explain=Explain(engine),
                estimate=EstimateCost(prices, keys, GrpcTariffs(ledger_channel, token=token)),
                probe=ProbeKey(
                    dialects=dialects,
                    base_urls=base_urls,
                    transport=transport,
                    prices=prices,
                    clock=clock,
                ),
                jobs=await _jobs(config, engine, caller=caller, stack=stack, on_stop=on_stop),
                media_bytes=media_bytes,
                prices=prices,
                tokens=PageTokens(fingerprint_key.reveal_bytes()),
            )
        )
        if config.http_listen is not None:
            door = Door(
                generate=generate,
                catalogue=catalogue,
                access=access,
                clock=clock,
            )
            listening = serving(
                door.app(),
                config.http_listen,
                certificates=certificates,
                drain_seconds=config.drain_seconds,
            )
            on_stop.append(await stack.enter_async_context(listening))
        yield _spec(
            config, servicer, access=access, certificates=certificates, clock=clock, on_stop=on_stop
        )


async def _jobs(
    config: RouterConfig,
    engine: Engine,
    *,
    caller: Caller,
    stack: AsyncExitStack,
    on_stop: list[Stop],
) -> JobUseCases | None:
    """
    Build what long jobs need; None where there is no database to keep them in.

    Raises:
        ConfigError: The database or the webhooks' settings do not fit.
    """
    if config.database_dsn_file is None:
        return None
    dsn_file = config.database_dsn_file
    database = Database(lambda: read_dsn(dsn_file), application_name=APPLICATION_NAME)
    stack.push_async_callback(database.close)
    await database.open()
    await check_schema(database, code=SCHEMA_CODE, needed=SCHEMA_NEEDED)
    # Starts under way write down what became of them before the database is closed.
    stack.push_async_callback(engine.work.drain)
    clock, owner = engine.clock, f"{config.instance}-{secrets.token_hex(CLAIMANT_BYTES // 2)}"
    store = PostgresJobs(database, owner=owner)
    calls = ObservedJobCalls(
        jobs=JOB_DIALECTS,
        dialects=caller.dialects,
        base_urls=caller.base_urls,
        transport=caller.transport,
        tokens=caller.tokens,
        budget=caller.media.budget,
        clock=clock,
    )
    keys, times = StoredJobKeys(engine.keys), StepTimes(config.job_lease_seconds)
    guard = JobGuard(store=store, calls=calls, keys=keys, clock=clock)
    stack.push_async_callback(guard.close)
    guard.start()
    runner = JobRunner(
        store=store,
        calls=calls,
        keys=keys,
        ledger=engine.ledger,
        guard=guard,
        clock=clock,
        times=times,
    )
    stack.push_async_callback(runner.close)
    runner.start()
    await _listen_for_webhooks(config, store, clock=clock, stack=stack, on_stop=on_stop)
    read = ReadJobs(store, runner, clock=clock)
    start = StartJob(
        engine,
        store=store,
        calls=calls,
        guard=guard,
        times=times,
        active_max=config.jobs_active_max,
        webhook_url=config.webhook_url if config.webhook_listen else "",
    )
    return JobUseCases(start=start, read=read, output=ReadJobOutput(read, calls=calls, keys=keys))


async def _listen_for_webhooks(
    config: RouterConfig,
    store: PostgresJobs,
    *,
    clock: Clock,
    stack: AsyncExitStack,
    on_stop: list[Stop],
) -> None:
    """
    Listen for providers' webhooks, if set up.

    Raises:
        ConfigError: A setting is missing or does not fit.
    """
    if config.webhook_listen is None:
        return
    if config.webhook_secret_file is None or not config.webhook_url.startswith("https://"):
        problem = (
            "OWNKEY_ROUTER_WEBHOOK_LISTEN needs OWNKEY_ROUTER_WEBHOOK_URL, which begins with "
            "https://, and OWNKEY_ROUTER_WEBHOOK_SECRET_FILE"
        )
        raise ConfigError([problem])
    try:
        key = webhook_key(read_secret_file(config.webhook_secret_file))
    except ValueError as fault:
        raise ConfigError([f"OWNKEY_ROUTER_WEBHOOK_SECRET_FILE {fault}"]) from None
    listening = serving(
        webhook_app(TakeWebhook(store, key=key, clock=clock)),
        config.webhook_listen,
        certificates=config.certificates(clock=clock),
        drain_seconds=config.drain_seconds,
    )
    on_stop.append(await stack.enter_async_context(listening))


def _dialects(config: RouterConfig) -> dict[str, Dialect]:
    bedrock = replace(BEDROCK, default_region=config.bedrock_region)
    return {**DIALECTS, bedrock.provider: bedrock}


def _check_base_urls(base_urls: Mapping[str, str], dialects: Mapping[str, Dialect]) -> None:
    """
    Refuse an address that hides to which host a credential is bound.

    Raises:
        ConfigError: Naming each provider.
    """
    problems = [
        f"the address of {provider} must hold {HOST}, such as http://127.0.0.1:7190/azure/{HOST}"
        for provider, url in base_urls.items()
        if provider in dialects and HOST in dialects[provider].default_base_url and HOST not in url
    ]
    if problems:
        raise ConfigError(problems)


def _spec(
    config: RouterConfig,
    servicer: RouterServicer,
    *,
    access: Access,
    certificates: Certificates | None,
    clock: Clock,
    on_stop: Sequence[Stop],
) -> ServerSpec:
    def register(server: grpc.aio.Server) -> None:
        router_service_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)

    return ServerSpec(
        listen=config.listen,
        services=[SERVICE],
        register=register,
        boundary=Boundary(
            table=STATUS_TABLE,
            access=access,
            clock=clock,
            request_bytes_max=REQUEST_BYTES_MAX,
            observe=observe_rpc,
        ),
        certificates=certificates,
        health_listen=config.health_listen,
        metrics_listen=config.metrics_listen,
        connection_seconds=config.connection_seconds,
        drain_seconds=config.drain_seconds,
        on_stop=on_stop,
    )
