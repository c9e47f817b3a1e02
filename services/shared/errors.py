# SPDX-License-Identifier: Apache-2.0
"""
Failures that reach a caller.

One class per failure. A message is a sentence for a person: what is wrong, where, what to do next.
The gRPC code and the reason for programs stand in each service's status table, not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """
    One fault of one request field.

    Args:
        field: Path of the field, for example `key.label`.
        description: What is wrong with it and what is allowed.
    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """
    One budget that a request would exceed.

    Args:
        subject: Whose budget, as a resource name.
        description: How much is left and when there is more.
    """

    subject: str
    description: str


class ServiceError(Exception):
    """
    Base of every failure that a caller may see; never raised directly.

    Args:
        message: The sentence for a person.
        metadata: Every dynamic part of the message, for programs.
        retry_after_seconds: When trying again can help.
        fields: Faults by field path.
        quotas: Budgets that stood in the way.
        details: Further messages for the status, for example the attempts made.
    """

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        fields: Sequence[FieldViolation] = (),
        quotas: Sequence[QuotaViolation] = (),
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds
        self.fields = tuple(fields)
        self.quotas = tuple(quotas)
        self.details = tuple(details)


class InvalidArgumentError(ServiceError):
    """A request that is wrong whatever the state of the system."""

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgumentError:
        """
        Build the error for a single field.

        Args:
            field: Path of the field.
            description: What is wrong with it and what is allowed.
        """
        return cls(
            f"{field}: {description}",
            metadata={"field": field},
            fields=[FieldViolation(field, description)],
        )


class UnauthenticatedError(ServiceError):
    """The caller presented a credential that is not known."""


class CertificateEndedError(UnauthenticatedError):
    """The caller's certificate was good at the handshake and has ended since."""


class AccessDeniedError(ServiceError):
    """The caller's identity may not call this RPC, or not for this account."""


class OverloadedError(ServiceError):
    """A bounded queue or the in-flight budget is full."""


class DeadlineTooShortError(ServiceError):
    """The caller's deadline leaves no time to try."""


class StoreUnavailableError(ServiceError):
    """The database cannot be reached now."""


class OutcomeUnknownError(StoreUnavailableError):
    """The database was lost while it committed: what was to be written may be on record."""


class PeerUnavailableError(ServiceError):
    """Another service that this one needs cannot be reached now."""


class InternalError(ServiceError):
    """A bug: the details are in the log, never in the answer."""
