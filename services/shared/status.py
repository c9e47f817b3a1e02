# SPDX-License-Identifier: Apache-2.0
"""
Between our failures and `google.rpc.Status`.

A status always carries exactly one `ErrorInfo` (https://google.aip.dev/193), whose reason is the
value's name in the service's `ErrorReason` enum without the prefix `ERROR_REASON_`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.shared import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

SHARED_ROWS: Mapping[type[errors.ServiceError], tuple[grpc.StatusCode, str]] = {
    errors.InvalidArgumentError: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    errors.UnauthenticatedError: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    errors.AccessDeniedError: (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"),
    errors.OverloadedError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    errors.DeadlineTooShortError: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"),
    errors.StoreUnavailableError: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    errors.PeerUnavailableError: (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE"),
    errors.InternalError: (grpc.StatusCode.INTERNAL, "INTERNAL"),
}


class StatusTable:
    """
    One service's failures: class to gRPC code and reason.

    Args:
        domain: The ErrorInfo domain, for example `ledger.ownkey`.
        rows: The service's own failures; the shared ones are added. A class that has no row of its
            own takes the row of its nearest base.
    """

    def __init__(
        self, domain: str, rows: Mapping[type[errors.ServiceError], tuple[grpc.StatusCode, str]]
    ) -> None:
        self.domain = domain
        self.rows = {**SHARED_ROWS, **rows}

    def row(self, error: errors.ServiceError) -> tuple[grpc.StatusCode, str]:
        """Return the gRPC code and the reason of a failure."""
        for cls in type(error).__mro__:
            if cls in self.rows:
                return self.rows[cls]
        return self.rows[errors.InternalError]

    def to_status(self, error: errors.ServiceError) -> status_pb2.Status:
        """Return the whole status of a failure."""
        code, reason = self.row(error)
        details: list[Message] = [
            error_details_pb2.ErrorInfo(
                reason=reason, domain=self.domain, metadata=dict(error.metadata)
            )
        ]
        if error.retry_after_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(max(0, round(error.retry_after_seconds * 1000)))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if error.fields:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=fault.field, description=fault.description
                )
                for fault in error.fields
            ]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        if error.quotas:
            quotas = [
                error_details_pb2.QuotaFailure.Violation(
                    subject=fault.subject, description=fault.description
                )
                for fault in error.quotas
            ]
            details.append(error_details_pb2.QuotaFailure(violations=quotas))
        details.extend(error.details)
        return status_pb2.Status(
            code=code.value[0], message=error.message, details=[_pack(item) for item in details]
        )


@dataclass(frozen=True, slots=True)
class RichStatus:
    """
    What a client learns from a failed call.

    Args:
        code: The gRPC code.
        reason: The ErrorInfo reason, empty where the peer sent none.
        message: The peer's sentence.
        metadata: The ErrorInfo metadata.
        retry_after_seconds: From RetryInfo.
        status: The whole status, for further details.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_seconds: float | None = None
    status: status_pb2.Status = field(default_factory=status_pb2.Status)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def read_status(status: status_pb2.Status) -> RichStatus:
    """Read a status, for example one item's in a batch result."""
    reason, metadata, retry_after = "", dict[str, str](), None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return RichStatus(code, reason, status.message, metadata, retry_after, status)


def from_rpc_error(error: grpc.aio.AioRpcError) -> RichStatus:
    """Read the status of a failed call; one without details gives an empty reason."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # duck-typed: code, details, trailers
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    return read_status(status)


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
