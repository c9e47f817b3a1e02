# SPDX-License-Identifier: Apache-2.0
"""
The router's own failures.

A failure after an attempt at a provider carries the attempts; `rpc/status.py` turns them into a
detail of the status. No text of a provider is in any message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shared.errors import InvalidArgumentError, ServiceError

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


class RequestAbandonedError(GenerationError):
    """The caller left before the end of an earlier run of this request."""


class KeyChangedError(ServiceError):
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


class FieldNotSupportedError(LedgerRefusalError):
    """A field whose effect is not served yet."""
