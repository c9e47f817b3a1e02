# SPDX-License-Identifier: Apache-2.0
"""
The router's own failures.

A failure after an attempt at a provider carries the attempts; `rpc/status.py` turns them into a
detail of the status. No text of a provider is in any message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shared.errors import InvalidArgumentError, PeerUnavailableError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.router.domain.attempts import AttemptRecord


class NotServedError(ServiceError):
    """A part of the contract that this version does not serve."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is part of the contract but not served by this version; nothing was done",
            metadata={"what": what},
        )


class ModelNotCuratedError(InvalidArgumentError):
    """A stored default that is not on its provider's curated list."""

    def __init__(self, model: str, *, provider: str, curated: tuple[str, ...]) -> None:
        super().__init__(
            f"'{model}' cannot be the default model of a key for {provider}; "
            f"choose one of {', '.join(curated)}",
            metadata={"model": model, "provider": provider, "curated": ",".join(curated)},
        )


class ModelNotFoundError(ServiceError):
    """A model that nobody here serves."""


class AnswerNotKeptError(ServiceError):
    """A repeat of a request that was served, through the HTTP door: its text is not kept."""


class NoCandidateError(ServiceError):
    """The preferences or the request's needs leave no provider."""


class GenerationError(ServiceError):
    """
    Base of the failures of a generation; never raised directly.

    Args:
        message: The sentence for a person.
        attempts: Every attempt made, in order.
        metadata: Every dynamic part of the message.
        retry_after_seconds: When trying again can help.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: tuple[AttemptRecord, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, retry_after_seconds=retry_after_seconds)
        self.attempts = attempts


class KeyInvalidError(GenerationError):
    """The provider does not know the own key, or it has expired."""


class SealedKeyRefusedError(GenerationError):
    """A client-held key was not brought, or not as keyvault takes it."""


class ProofRefusedError(GenerationError):
    """The proof beside a client-held key is not fresh or not for this request."""


class KeyNoCreditError(GenerationError):
    """The own key is out of money at its provider."""


class KeyForbiddenError(GenerationError):
    """The own key may not do this."""


class RateLimitedError(GenerationError):
    """The own key is rate-limited."""


class ProviderBadRequestError(GenerationError):
    """The provider refused the request itself."""


class ContextTooLongError(GenerationError):
    """The input is longer than the model takes."""


class ProviderModelNotFoundError(GenerationError):
    """The provider does not serve the model to this key."""


class ContentFilteredError(GenerationError):
    """The provider refused the content."""


class ProviderTimeoutError(GenerationError):
    """The provider did not answer in time."""


class ProviderDownError(GenerationError):
    """The provider failed or could not be reached."""


class StreamBrokenError(GenerationError):
    """The answer broke off after it had begun."""


class ServiceCapacityError(GenerationError):
    """The product's own shared keys cannot serve now."""


class SharedKeysUnavailableError(GenerationError):
    """Keyvault cannot open the product's own shared keys, and credits would have to pay."""


class PeerLostError(GenerationError, PeerUnavailableError):
    """Keyvault or the ledger went away after an attempt was made."""


class RequestAbandonedError(GenerationError):
    """The caller left before the end of an earlier run of this request."""


class KeyChangedError(GenerationError):
    """The key was withdrawn or changed again and again while the request ran."""


class LedgerRefusalError(GenerationError):
    """Base of what the ledger refuses, told one to one; never raised directly."""


class AccountNotFoundError(LedgerRefusalError):
    """The ledger knows no such account."""


class RequestIdReusedError(LedgerRefusalError):
    """The request_id was used with another body."""


class RequestInProgressError(LedgerRefusalError):
    """Another run works on this request."""


class SourceNotAllowedError(LedgerRefusalError):
    """The billing mode does not allow the source."""

    def __init__(
        self,
        message: str,
        *,
        attempts: tuple[AttemptRecord, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(
            message,
            attempts=attempts,
            metadata={"field": "source", **(metadata or {})},
            retry_after_seconds=retry_after_seconds,
        )


class NoUsableOwnKeyError(LedgerRefusalError):
    """Only an own key may pay and none serves."""


class OwnKeysUnknownError(LedgerRefusalError):
    """Whether an own key serves could not be found out."""


class FallbackNotAllowedError(LedgerRefusalError):
    """No consent to fall back to credits."""


class FallbackCapReachedError(LedgerRefusalError):
    """The daily cap on fallbacks is reached."""


class InsufficientCreditsError(LedgerRefusalError):
    """Less is available than the worst case needs."""


class CreditsNotPossibleError(LedgerRefusalError):
    """Credits would pay, but nothing that they can pay for serves the request."""


class PriceRequiredError(LedgerRefusalError):
    """The model has no price and the plan takes a fee."""


class OwnKeyLimitReachedError(LedgerRefusalError):
    """The own key's monthly spending limit leaves no room for the request."""


class FieldNotSupportedError(LedgerRefusalError):
    """A field whose effect is not served yet."""


class JobStartUnknownError(GenerationError):
    """Whether the provider began the job is not known; it was not sent again."""


class JobFailedError(GenerationError):
    """The provider ended the job without its output."""


class JobCancelledError(GenerationError):
    """The job was cancelled."""


class JobNotFoundError(ServiceError):
    """There is no such job, or it is forgotten."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no job {name}: check the name; a job is forgotten an hour after its end",
            metadata={"name": name},
        )


class JobNotDoneError(ServiceError):
    """The output of a job was asked for that has none."""

    def __init__(self, name: str, *, state: str) -> None:
        super().__init__(
            f"{name} is {state}, so it has no output: wait for it with WaitJob, or read its error",
            metadata={"name": name, "state": state},
        )


class JobOutputGoneError(ServiceError):
    """The provider no longer serves a job's output, or what it serves is not media."""

    def __init__(self, name: str, *, why: str) -> None:
        super().__init__(
            f"the output of {name} cannot be read: {why}; output is kept by the provider for an "
            "hour at most, start the job again under a new request id",
            metadata={"name": name},
        )


class JobWaitEndedError(ServiceError):
    """The job went on for longer than one wait."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} goes on for longer than one wait: wait again",
            metadata={"name": name},
            retry_after_seconds=1.0,
        )


class TooManyJobsError(ServiceError):
    """So many of the account's jobs have not ended."""

    def __init__(self, account: str, *, active_max: int) -> None:
        super().__init__(
            f"{active_max} jobs of {account} have not ended, which is the most at a time: wait for "
            "one to end, or cancel one",
            metadata={"account": account, "active_max": str(active_max)},
            retry_after_seconds=10.0,
        )
