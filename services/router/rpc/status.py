# SPDX-License-Identifier: Apache-2.0
"""Failures of the router: class to gRPC code and reason, and the attempts as a detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from services.router import errors
from services.router.rpc.mapping_receipt import attempt_list
from services.shared.status import StatusTable

if TYPE_CHECKING:
    from google.rpc import status_pb2

    from services.shared.errors import ServiceError

_Code = grpc.StatusCode

ROWS: dict[type[ServiceError], tuple[grpc.StatusCode, str]] = {
    errors.NotServedError: (_Code.UNIMPLEMENTED, "NOT_SERVED"),
    errors.ModelNotCuratedError: (_Code.INVALID_ARGUMENT, "MODEL_NOT_CURATED"),
    errors.ModelNotFoundError: (_Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    errors.NoCandidateError: (_Code.FAILED_PRECONDITION, "NO_CANDIDATE"),
    errors.KeyInvalidError: (_Code.FAILED_PRECONDITION, "KEY_INVALID"),
    errors.SealedKeyRefusedError: (_Code.INVALID_ARGUMENT, "SEALED_KEY_REFUSED"),
    errors.ProofRefusedError: (_Code.FAILED_PRECONDITION, "PROOF_REFUSED"),
    errors.KeyNoCreditError: (_Code.FAILED_PRECONDITION, "KEY_NO_CREDIT"),
    errors.KeyForbiddenError: (_Code.FAILED_PRECONDITION, "KEY_FORBIDDEN"),
    errors.RateLimitedError: (_Code.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    errors.ProviderBadRequestError: (_Code.INVALID_ARGUMENT, "PROVIDER_BAD_REQUEST"),
    errors.ContextTooLongError: (_Code.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"),
    errors.ProviderModelNotFoundError: (_Code.NOT_FOUND, "MODEL_NOT_FOUND"),
    errors.ContentFilteredError: (_Code.INVALID_ARGUMENT, "CONTENT_FILTERED"),
    errors.ProviderTimeoutError: (_Code.UNAVAILABLE, "PROVIDER_TIMEOUT"),
    errors.ProviderDownError: (_Code.UNAVAILABLE, "PROVIDER_DOWN"),
    errors.StreamBrokenError: (_Code.UNAVAILABLE, "STREAM_BROKEN"),
    errors.ServiceCapacityError: (_Code.UNAVAILABLE, "SERVICE_CAPACITY"),
    errors.SharedKeysUnavailableError: (_Code.UNAVAILABLE, "PEER_UNAVAILABLE"),
    errors.RequestAbandonedError: (_Code.FAILED_PRECONDITION, "REQUEST_ABANDONED"),
    errors.KeyChangedError: (_Code.UNAVAILABLE, "KEY_CHANGED"),
    errors.AccountNotFoundError: (_Code.NOT_FOUND, "ACCOUNT_NOT_FOUND"),
    errors.RequestIdReusedError: (_Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
    errors.AnswerNotKeptError: (_Code.ALREADY_EXISTS, "ANSWER_NOT_KEPT"),
    errors.RequestInProgressError: (_Code.UNAVAILABLE, "REQUEST_IN_PROGRESS"),
    errors.SourceNotAllowedError: (_Code.FAILED_PRECONDITION, "SOURCE_NOT_ALLOWED"),
    errors.NoUsableOwnKeyError: (_Code.FAILED_PRECONDITION, "NO_USABLE_OWN_KEY"),
    errors.OwnKeysUnknownError: (_Code.UNAVAILABLE, "OWN_KEYS_UNKNOWN"),
    errors.FallbackNotAllowedError: (_Code.FAILED_PRECONDITION, "FALLBACK_NOT_ALLOWED"),
    errors.FallbackCapReachedError: (_Code.FAILED_PRECONDITION, "FALLBACK_CAP_REACHED"),
    errors.InsufficientCreditsError: (_Code.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"),
    errors.CreditsNotPossibleError: (_Code.FAILED_PRECONDITION, "CREDITS_NOT_POSSIBLE"),
    errors.PriceRequiredError: (_Code.FAILED_PRECONDITION, "PRICE_REQUIRED"),
    errors.OwnKeyLimitReachedError: (_Code.FAILED_PRECONDITION, "OWN_KEY_LIMIT_REACHED"),
    errors.FieldNotSupportedError: (_Code.FAILED_PRECONDITION, "FIELD_NOT_SUPPORTED"),
    errors.JobStartUnknownError: (_Code.FAILED_PRECONDITION, "JOB_START_UNKNOWN"),
    errors.JobFailedError: (_Code.FAILED_PRECONDITION, "JOB_FAILED"),
    errors.JobCancelledError: (_Code.FAILED_PRECONDITION, "JOB_CANCELLED"),
    errors.JobNotFoundError: (_Code.NOT_FOUND, "JOB_NOT_FOUND"),
    errors.JobNotDoneError: (_Code.FAILED_PRECONDITION, "JOB_NOT_DONE"),
    errors.JobOutputGoneError: (_Code.FAILED_PRECONDITION, "JOB_OUTPUT_GONE"),
    errors.JobWaitEndedError: (_Code.UNAVAILABLE, "JOB_WAIT_ENDED"),
    errors.TooManyJobsError: (_Code.RESOURCE_EXHAUSTED, "TOO_MANY_JOBS"),
}


class RouterStatusTable(StatusTable):
    """The router's failures; those of a generation carry its attempts."""

    def to_status(self, error: ServiceError) -> status_pb2.Status:
        """Return the whole status of a failure."""
        status = super().to_status(error)
        if isinstance(error, errors.GenerationError) and error.attempts:
            status.details.add().Pack(attempt_list(error.attempts))
        return status


STATUS_TABLE = RouterStatusTable("router.ownkey", ROWS)
