# SPDX-License-Identifier: Apache-2.0
"""
What a failed call tells: the reason for programs, the sentence for people, when to try again.

A service's status carries exactly one `ErrorInfo` (https://google.aip.dev/193). A status without
one was made on the way: nobody answered, or not in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from ownkey.router.v1 import attempt_pb2

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class FieldFault:
    """
    One fault of one request field.

    Args:
        field: Its path, for example `key.label`.
        description: What is wrong with it.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """
    A failed call, read.

    Args:
        service: Who was called, for example `ledger`.
        code: The gRPC code.
        reason: The ErrorInfo reason; empty if the service itself did not answer.
        message: The sentence for people.
        metadata: The ErrorInfo metadata.
        retry_after_seconds: From RetryInfo; None if waiting is not known to help.
        fields: Faults by field.
        attempts: What the router tried at providers.
    """

    service: str
    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_seconds: float | None = None
    fields: tuple[FieldFault, ...] = ()
    attempts: tuple[attempt_pb2.Attempt, ...] = ()


class CallError(Exception):
    """
    A call failed.

    Args:
        failure: What it told.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason or failure.code.name}: {failure.message}")
        self.failure = failure


def read_error(error: grpc.RpcError, service: str) -> Failure:
    """Read what a call raised; it was made to `service`."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it is a grpc.Call too
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return read_status(status, service)


def read_status(status: status_pb2.Status, service: str) -> Failure:
    """Read a status; details of unknown types are left out."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    tried = attempt_pb2.AttemptList()
    present = set()
    for detail in status.details:
        for known in (info, request, retry, tried):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
                present.add(known.DESCRIPTOR.name)
    return Failure(
        service=service,
        code=_CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        reason=info.reason,
        message=status.message,
        metadata=dict(info.metadata),
        retry_after_seconds=(
            retry.retry_delay.ToMilliseconds() / 1000 if "RetryInfo" in present else None
        ),
        fields=tuple(FieldFault(one.field, one.description) for one in request.field_violations),
        attempts=tuple(tried.attempts),
    )
