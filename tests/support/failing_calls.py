# SPDX-License-Identifier: Apache-2.0
"""Calls that fail as a service makes them fail, for what stands on the other side of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

# Where gRPC carries a google.rpc.Status: https://grpc.io/docs/guides/error/#richer-error-model
DETAILS_METADATA_KEY = "grpc-status-details-bin"


class FailedCall(grpc.RpcError):
    """
    What gRPC raises for a failed call.

    Args:
        code: The gRPC code.
        message: The sentence.
        details: Details of its rich status; none gives a status without one.
    """

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self._code = code
        self._message = message
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        if not self._details:
            return ()
        status = status_pb2.Status(code=self._code.value[0], message=self._message)
        for detail in self._details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return ((DETAILS_METADATA_KEY, status.SerializeToString()),)


def away(*, retry_seconds: float | None = 0.5) -> FailedCall:
    """A service whose store is away, with a hint when to try again."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason="STORE_UNAVAILABLE", domain="ledger.ownkey")
    ]
    if retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(retry_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return FailedCall(grpc.StatusCode.UNAVAILABLE, "the database is away", *details)


class ScriptedMethod:
    """
    A method of a stub that answers by script and keeps what it was sent.

    Args:
        *script: For each call an answer, a list of answers for a stream, or a failure. A list may
            end in a failure.
    """

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self.requests: list[bytes] = []
        self.metadata: list[Any] = []
        self.cancelled = 0

    def __call__(self, request: Message, *, timeout: float, metadata: Any) -> Any:
        self.requests.append(request.SerializeToString())
        self.metadata.append(metadata)
        outcome = self._script.pop(0)
        if isinstance(outcome, list):
            return _Stream(outcome, self)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _Stream:
    def __init__(self, messages: list[Any], method: ScriptedMethod) -> None:
        self._messages = messages
        self._method = method

    def __iter__(self) -> Iterator[Any]:
        for message in self._messages:
            if isinstance(message, Exception):
                raise message
            yield message

    def cancel(self) -> None:
        self._method.cancelled += 1
