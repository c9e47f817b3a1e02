# SPDX-License-Identifier: Apache-2.0
"""The wiring: the only place that knows every part of the router."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
from ownkey.router.v1 import router_service_pb2_grpc

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.keyvault_client import GrpcKeys
from services.router.adapters.ledger_client import GrpcLedger
from services.router.adapters.price_library import PriceLibrary
from services.router.adapters.transport import AiohttpTransport
from services.router.config import RouterConfig
from services.router.providers.registry import DIALECTS
from services.router.rpc.policy import POLICY, SERVICE
from services.router.rpc.servicer import RouterServicer, UseCases
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.attempt import Caller
from services.router.usecases.engine import Engine
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
    async with AsyncExitStack() as stack:
        transport = AiohttpTransport()
        stack.push_async_callback(transport.close)
        await transport.open()
        ledger_channel = open_channel(config.ledger_address)
        stack.push_async_callback(ledger_channel.close)
        keyvault_channel = open_channel(config.keyvault_address)
        stack.push_async_callback(keyvault_channel.close)
        keys = GrpcKeys(keyvault_channel, token=token, clock=clock)
        stack.push_async_callback(keys.close)
        await keys.open()
        ledger = GrpcLedger(ledger_channel, token=token)
        work = BackgroundWork()
        stack.push_async_callback(work.drain)
        engine = Engine(
            keys=keys,
            ledger=ledger,
            caller=Caller(dialects=DIALECTS, base_urls=base_urls, transport=transport, clock=clock),
            settler=Settler(ledger, work),
            work=work,
            catalogue=catalogue,
            clock=clock,
            chance=random.random,
            new_claimant=lambda: secrets.token_hex(CLAIMANT_BYTES),
            fingerprint_key=fingerprint_key,
        )
        servicer = RouterServicer(
            UseCases(
                generate=GenerateText(engine),
                explain=Explain(engine),
                probe=ProbeKey(
                    dialects=DIALECTS,
                    base_urls=base_urls,
                    transport=transport,
                    catalogue=catalogue,
                    clock=clock,
                ),
                catalogue=catalogue,
                tokens=PageTokens(fingerprint_key.reveal_bytes()),
            )
        )
        yield _spec(config, servicer, clock)


def _spec(config: RouterConfig, servicer: RouterServicer, clock: Clock) -> ServerSpec:
    def register(server: grpc.aio.Server) -> None:
        router_service_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)

    return ServerSpec(
        listen=config.listen,
        services=[SERVICE],
        register=register,
        boundary=Boundary(
            table=STATUS_TABLE,
            authenticator=TokenAuthenticator(config.tokens_dir),
            policy=POLICY,
            clock=clock,
            request_bytes_max=REQUEST_BYTES_MAX,
        ),
        drain_seconds=config.drain_seconds,
    )
