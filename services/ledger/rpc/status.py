# SPDX-License-Identifier: Apache-2.0
"""Every failure of the ledger with its gRPC code and reason."""

from __future__ import annotations

from grpc import StatusCode

from services.ledger import errors
from services.shared.status import StatusTable

_CODES: dict[type[errors.Refusal], StatusCode] = {
    errors.AccountExistsError: StatusCode.ALREADY_EXISTS,
}

TABLE = StatusTable(
    "ledger.ownkey",
    {
        errors.AccountNotFoundError: (StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
        errors.AuthorizationNotFoundError: (StatusCode.NOT_FOUND, "AUTHORIZATION_NOT_FOUND"),
        errors.RequestIdReusedError: (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
        errors.RequestInProgressError: (StatusCode.UNAVAILABLE, "REQUEST_IN_PROGRESS"),
        errors.SequenceOutOfOrderError: (
            StatusCode.FAILED_PRECONDITION,
            "SEQUENCE_OUT_OF_ORDER",
        ),
        errors.AlreadySettledError: (StatusCode.FAILED_PRECONDITION, "ALREADY_SETTLED"),
        errors.LeaseLapsedError: (StatusCode.FAILED_PRECONDITION, "LEASE_LAPSED"),
        errors.OwnKeysUnknownError: (StatusCode.UNAVAILABLE, "OWN_KEYS_UNKNOWN"),
        # A recorded refusal never passes by itself, so its code never invites a blind retry.
        **{
            cls: (_CODES.get(cls, StatusCode.FAILED_PRECONDITION), cls.reason)
            for cls in errors.REFUSALS.values()
        },
    },
)
