# SPDX-License-Identifier: Apache-2.0
"""
What the page may call: these RPCs, for the one account, in the JSON of the protos.

1. The table below is all there is; it is also the `web` identity's part of the services' policies.
2. Every account that a request names, in whatever field, must be the configured one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any, Self

import grpc.aio
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from ownkey.keyvault.v1 import keyvault_service_pb2, keyvault_service_pb2_grpc
from ownkey.ledger.v1 import ledger_service_pb2, ledger_service_pb2_grpc
from ownkey.router.v1 import router_service_pb2, router_service_pb2_grpc

from client.ownkey_client.failure import Failure, read_error
from services.shared.certificates import Certificates
from services.shared.channel import open_channel
from services.shared.identity import call_metadata
from services.shared.policy import Policy, account_paths
from services.shared.secret import Secret

CALL_SECONDS_MAX = 60.0
"""Longer than any answer takes that is not generated; live tests of keys included."""
STREAM_SECONDS_MAX = 600.0

ALLOWED: Mapping[str, Sequence[str]] = {
    "keyvault": (
        "CreateKey",
        "ListKeys",
        "UpdateKey",
        "ReplaceKey",
        "MoveKey",
        "DeleteKey",
        "TestKey",
        "ActivateKey",
        "EnableKey",
        "DisableKey",
        "GetSettings",
        "UpdateSettings",
        "GetSealingKey",
    ),
    "router": ("StreamText", "Explain", "ListProviders", "ListModels"),
    "ledger": ("GetAccount", "ListPlans", "GetBalance", "GetUsage", "SetBillingMode"),
}

_SERVICES: Mapping[str, tuple[ServiceDescriptor, Any]] = {
    "keyvault": (
        keyvault_service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"],
        keyvault_service_pb2_grpc.KeyvaultServiceStub,
    ),
    "router": (
        router_service_pb2.DESCRIPTOR.services_by_name["RouterService"],
        router_service_pb2_grpc.RouterServiceStub,
    ),
    "ledger": (
        ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"],
        ledger_service_pb2_grpc.LedgerServiceStub,
    ),
}
_PAGE = "the page"


class RefusedError(Exception):
    """A call that the page may not make; its sentence says why."""


class BrokenRequestError(Exception):
    """A request that is no message of the contract; its sentence says which, never its text."""


class FailedError(Exception):
    """
    A call failed.

    Args:
        failure: What it told.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason or failure.code.name)
        self.failure = failure


class Calls:
    """
    Makes the page's calls; an asynchronous context manager.

    Args:
        account: The one account, `accounts/{account}`.
        addresses: gRPC target of each service.
        certificates: Show who calls over TLS; None for plain text.
        token: Shows who calls in plain text.
    """

    def __init__(
        self,
        *,
        account: str,
        addresses: Mapping[str, str],
        certificates: Certificates | None,
        token: Secret | None,
    ) -> None:
        self._addresses = addresses
        self._certificates = certificates
        self._metadata = call_metadata(token)
        self._policy = page_policy(account)
        self._stubs: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for service, (_, stub) in _SERVICES.items():
            channel = open_channel(self._addresses[service], self._certificates)
            self._stubs[service] = stub(await self._stack.enter_async_context(channel))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def streams(self, service: str, method: str) -> bool:
        """
        Tell whether an RPC answers with a stream.

        Raises:
            RefusedError: The page may not call it.
        """
        return _method(service, method).server_streaming

    async def unary(self, service: str, method: str, text: str) -> str:
        """
        Make a call with one answer, from JSON to JSON.

        Raises:
            RefusedError: The page may not make it.
            BrokenRequestError: It is no request of this RPC.
            FailedError: It failed.
        """
        request = self._read(service, method, text)
        call = getattr(self._stubs[service], method)
        try:
            answer = await call(request, timeout=CALL_SECONDS_MAX, metadata=self._metadata)
        except grpc.aio.AioRpcError as fault:
            raise FailedError(read_error(fault, service)) from fault
        return _to_json(answer)

    async def stream(self, service: str, method: str, text: str) -> AsyncGenerator[str, None]:
        """
        Make a call with a stream of answers; leaving the iteration cancels it. Raises as `unary`.
        """
        request = self._read(service, method, text)
        call: Any = getattr(self._stubs[service], method)(
            request, timeout=STREAM_SECONDS_MAX, metadata=self._metadata
        )
        try:
            async for answer in call:
                yield _to_json(answer)
        except grpc.aio.AioRpcError as fault:
            raise FailedError(read_error(fault, service)) from fault
        finally:
            call.cancel()

    def _read(self, service: str, method: str, text: str) -> Message:
        descriptor = _method(service, method)
        request: Message = message_factory.GetMessageClass(descriptor.input_type)()
        try:
            json_format.Parse(text, request)
        except (json_format.ParseError, RecursionError):
            # The parser's own words quote the request, and there may be a key in it.
            raise BrokenRequestError(
                f"The page sent what is no {descriptor.input_type.name}; reload it, it may be of "
                "an earlier version."
            ) from None
        rpc = _rpc(descriptor)
        denial = self._policy.denial(_PAGE, rpc, self._policy.accounts_in(rpc, request))
        if denial is not None:
            raise RefusedError(f"This page acts for its own account only: {denial.advice}.")
        return request


def page_policy(account: str) -> Policy:
    """Give the rules that every call of the page is held against."""
    methods = [_method(service, name) for service, names in ALLOWED.items() for name in names]
    paths = {_rpc(method): account_paths(method.input_type) for method in methods}
    return Policy(
        grants={(_PAGE, rpc): (account,) if named else None for rpc, named in paths.items()},
        account_paths=paths,
    )


def failure_document(failure: Failure) -> dict[str, Any]:
    """Give a failure in JSON, for the page to show."""
    return {
        "service": failure.service,
        "code": failure.code.name,
        "reason": failure.reason,
        "message": failure.message,
        "metadata": failure.metadata,
        "retryAfterSeconds": failure.retry_after_seconds,
        "fields": [asdict(one) for one in failure.fields],
        "attempts": [json_format.MessageToDict(one) for one in failure.attempts],
    }


def _method(service: str, name: str) -> MethodDescriptor:
    if name not in ALLOWED.get(service, ()):
        raise RefusedError("The page calls no such thing.")
    return _SERVICES[service][0].methods_by_name[name]


def _rpc(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _to_json(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None)
