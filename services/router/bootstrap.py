# SPDX-License-Identifier: Apache-2.0
"""The wiring: the only place that knows every part of the router."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc.aio
from ownkey.router.v1 import router_service_pb2_grpc

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.keyvault_client import GrpcKeys
from services.router.adapters.ledger_client import GrpcLedger
from services.router.adapters.ledger_tariffs import GrpcTariffs
from services.router.adapters.price_library import PriceLibrary
from services.router.adapters.transport import AiohttpTransport
from services.router.config import RouterConfig
from services.router.http.door import Door
from services.router.http.serving import serving
from services.router.providers.base import Dialect
from services.router.providers.bedrock import BEDROCK
from services.router.providers.hosts import HOST
from services.router.providers.registry import DIALECTS
from services.router.rpc.policy import POLICY, SERVICE
from services.router.rpc.servicer import RouterServicer, UseCases
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.access import AccessTokens
from services.router.usecases.attempt import Caller
from services.router.usecases.engine import Engine
from services.router.usecases.estimate_cost import EstimateCost
from services.router.usecases.experience import Experience
from services.router.usecases.explain import Explain
from services.router.usecases.generate import GenerateText
from services.router.usecases.probe_key import ProbeKey
from services.router.usecases.settlement import BackgroundWork, Settler
from services.shared.boundary import Boundary
from services.shared.channel import open_channel
from services.shared.clock import Clock, SystemClock
from services.shared.config import ConfigError, read_secret_file
from services.shared.identity import ROUTER, TokenAuthenticator
from services.shared.paging import PageTokens
from services.shared.server import ServerSpec

REQUEST_BYTES_MAX = 32 * 1024 * 1024
CLAIMANT_BYTES = 16


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
    catalogue = load_catalogue(config.catalogue_file, PriceLibrary(now=clock.now()))
    unspoken = sorted(set(catalogue.providers) - set(DIALECTS))
    if unspoken:
        raise ConfigError([f"the catalogue names providers without a dialect: {unspoken}"])
    token = read_secret_file(config.tokens_dir / ROUTER)
    fingerprint_key = read_secret_file(config.fingerprint_key_file)
    base_urls = config.provider_base_urls or {}
    dialects = _dialects(config)
    _check_base_urls(base_urls, dialects)
    async with AsyncExitStack() as stack:
        transport = AiohttpTransport()
        stack.push_async_callback(transport.close)
        await transport.open()
        ledger_channel = open_channel(config.ledger_address)
        stack.push_async_callback(ledger_channel.close)
        keyvault_channel = open_channel(config.keyvault_address)
        stack.push_async_callback(keyvault_channel.close)
        tokens = AccessTokens(transport=transport, clock=clock)
        stack.push_async_callback(tokens.close)
        keys = GrpcKeys(keyvault_channel, token=token, clock=clock)
        stack.push_async_callback(keys.close)
        await keys.open()
        ledger = GrpcLedger(ledger_channel, token=token)
        work = BackgroundWork()
        stack.push_async_callback(work.drain)
        caller = Caller(
            dialects=dialects,
            base_urls=base_urls,
            transport=transport,
            tokens=tokens,
            clock=clock,
        )
        engine = Engine(
            keys=keys,
            ledger=ledger,
            caller=caller,
            settler=Settler(ledger, work),
            work=work,
            experience=Experience(caller.host, failures_to_open=config.breaker_failures),
            catalogue=catalogue,
            clock=clock,
            chance=random.random,
            new_claimant=lambda: secrets.token_hex(CLAIMANT_BYTES),
            fingerprint_key=fingerprint_key,
        )
        generate = GenerateText(engine)
        authenticator = TokenAuthenticator(config.tokens_dir)
        servicer = RouterServicer(
            UseCases(
                generate=generate,
                explain=Explain(engine),
                estimate=EstimateCost(catalogue, keys, GrpcTariffs(ledger_channel, token=token)),
                probe=ProbeKey(
                    dialects=dialects,
                    base_urls=base_urls,
                    transport=transport,
                    catalogue=catalogue,
                    clock=clock,
                ),
                catalogue=catalogue,
                tokens=PageTokens(fingerprint_key.reveal_bytes()),
            )
        )
        if config.http_listen is not None:
            door = Door(
                generate=generate,
                catalogue=catalogue,
                authenticator=authenticator,
                policy=POLICY,
                clock=clock,
            )
            listening = serving(door.app(), config.http_listen, drain_seconds=config.drain_seconds)
            await stack.enter_async_context(listening)
        yield _spec(config, servicer, authenticator, clock)


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
    authenticator: TokenAuthenticator,
    clock: Clock,
) -> ServerSpec:
    def register(server: grpc.aio.Server) -> None:
        router_service_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)

    return ServerSpec(
        listen=config.listen,
        services=[SERVICE],
        register=register,
        boundary=Boundary(
            table=STATUS_TABLE,
            authenticator=authenticator,
            policy=POLICY,
            clock=clock,
            request_bytes_max=REQUEST_BYTES_MAX,
        ),
        drain_seconds=config.drain_seconds,
    )
