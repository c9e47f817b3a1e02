# SPDX-License-Identifier: Apache-2.0
"""Keyvault's failures as gRPC codes and reasons; what each means stands in error_reason.proto."""

from __future__ import annotations

from grpc import StatusCode

from services.keyvault import errors
from services.shared.status import StatusTable

DOMAIN = "keyvault.ownkey"

STATUS = StatusTable(
    DOMAIN,
    {
        errors.KeyNotFoundError: (StatusCode.NOT_FOUND, "KEY_NOT_FOUND"),
        errors.KeyAlreadyExistsError: (StatusCode.ALREADY_EXISTS, "KEY_ALREADY_EXISTS"),
        errors.RequestIdReusedError: (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
        errors.SecretMalformedError: (StatusCode.INVALID_ARGUMENT, "SECRET_MALFORMED"),
        errors.KeyInvalidError: (StatusCode.INVALID_ARGUMENT, "KEY_INVALID"),
        errors.KeyForbiddenError: (StatusCode.FAILED_PRECONDITION, "KEY_FORBIDDEN"),
        errors.ProviderUnreachableError: (StatusCode.UNAVAILABLE, "PROVIDER_UNREACHABLE"),
        errors.KeyLimitReachedError: (StatusCode.FAILED_PRECONDITION, "KEY_LIMIT_REACHED"),
        errors.EtagMismatchError: (StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH"),
        errors.KeyDisabledError: (StatusCode.FAILED_PRECONDITION, "KEY_DISABLED"),
        errors.ProviderWithoutKeyError: (StatusCode.FAILED_PRECONDITION, "PROVIDER_WITHOUT_KEY"),
        errors.KekUnavailableError: (StatusCode.UNAVAILABLE, "KEK_UNAVAILABLE"),
        errors.KekVersionInUseError: (StatusCode.FAILED_PRECONDITION, "KEK_VERSION_IN_USE"),
        errors.RecordRefusedError: (StatusCode.DATA_LOSS, "RECORD_REFUSED"),
        errors.SealedKeyRefusedError: (StatusCode.INVALID_ARGUMENT, "SEALED_KEY_REFUSED"),
        errors.ProofRefusedError: (StatusCode.FAILED_PRECONDITION, "PROOF_REFUSED"),
        errors.WrongResidenceError: (StatusCode.FAILED_PRECONDITION, "WRONG_RESIDENCE"),
        errors.RestoreNotAcceptedError: (
            StatusCode.FAILED_PRECONDITION,
            "RESTORE_NOT_ACCEPTED",
        ),
        errors.RestoreRefusedError: (StatusCode.FAILED_PRECONDITION, "RESTORE_REFUSED"),
        errors.NotServedError: (StatusCode.UNIMPLEMENTED, "NOT_SERVED"),
    },
)
