# SPDX-License-Identifier: Apache-2.0
"""
Calls with a deadline, repeated where the service says that waiting helps.

1. A call is repeated on UNAVAILABLE with RetryInfo only, at most ATTEMPTS_MAX times in all, and
   never where the hint is longer than WAIT_SECONDS_MAX.
2. Every repeat sends the same message, so its request_id is the first one's and nothing happens
   twice.
3. A stream is repeated only while nothing of it has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from client.ownkey_client.failure import CallError, Failure, read_error

ATTEMPTS_MAX = 4
WAIT_SECONDS_MAX = 5.0
CALL_SECONDS_MAX = 60.0
"""Longer than any answer takes that is not generated; live tests of keys included."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Calls:
    """
    Makes calls.

    Args:
        token: Shows who calls; empty to call as anybody on this machine.
        on_wait: Told why and how many seconds a call waits before it is repeated.
        sleep: Waits.
    """

    def __init__(
        self,
        *,
        token: str = "",
        on_wait: Callable[[Failure, float], None] = lambda _failure, _seconds: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._on_wait = on_wait
        self._sleep = sleep

    def unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS_MAX,
    ) -> Response:
        """
        Make a call with one answer.

        Raises:
            CallError: It failed, and repeating it did not help or could not.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return method(request, timeout=timeout_seconds, metadata=self._metadata)
            except grpc.RpcError as exc:
                self._wait_or_raise(exc, request, attempt)

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_seconds: float,
    ) -> Iterator[Response]:
        """
        Make a call with a stream of answers; leaving the iteration cancels it.

        Raises:
            CallError: It failed, and repeating it did not help or could not.
        """
        attempt = 0
        while True:
            attempt += 1
            call: Any = method(request, timeout=timeout_seconds, metadata=self._metadata)
            begun = False
            try:
                for message in call:
                    begun = True
                    yield message
            except grpc.RpcError as exc:
                self._wait_or_raise(exc, request, ATTEMPTS_MAX if begun else attempt)
            else:
                return
            finally:
                call.cancel()

    def _wait_or_raise(self, error: grpc.RpcError, request: Message, attempt: int) -> None:
        failure = read_error(error, service_of(request))
        seconds = failure.retry_after_seconds
        if (
            attempt >= ATTEMPTS_MAX
            or failure.code is not grpc.StatusCode.UNAVAILABLE
            or seconds is None
            or seconds > WAIT_SECONDS_MAX
        ):
            raise CallError(failure) from error
        self._on_wait(failure, seconds)
        self._sleep(seconds)


def service_of(message: Message) -> str:
    """The service whose contract has a message: `ledger` for one of ownkey.ledger.v1."""
    return message.DESCRIPTOR.file.package.split(".")[1]
