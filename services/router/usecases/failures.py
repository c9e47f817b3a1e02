# SPDX-License-Identifier: Apache-2.0
"""
From the end of a request that failed to the error its caller gets: one reason, one sentence that
says what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain.keys import HealthState
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import Funding
from services.shared.errors import DeadlineTooShortError, ServiceError

if TYPE_CHECKING:
    from services.router.domain.attempts import AttemptRecord
    from services.router.domain.catalogue import Catalogue
    from services.router.domain.next_step import End, Failure
    from services.router.domain.plan import Candidate, Plan
    from services.router.domain.request import TextRequest

CAPACITY_RETRY_SECONDS = 5.0
_RETRY_SECONDS: dict[type[errors.GenerationError], float] = {
    errors.RateLimitedError: 1.0,
    errors.ProviderDownError: 2.0,
}
"""When trying again can help, where the provider gave no hint."""

_KEY_TROUBLE = frozenset(
    {
        Outcome.INVALID_KEY,
        Outcome.EXPIRED_CREDENTIALS,
        Outcome.PERMISSION_DENIED,
        Outcome.INSUFFICIENT_CREDIT,
        Outcome.RATE_LIMITED,
    }
)

_CLASSES: dict[Outcome, type[errors.GenerationError]] = {
    Outcome.INVALID_KEY: errors.KeyInvalidError,
    Outcome.EXPIRED_CREDENTIALS: errors.KeyInvalidError,
    Outcome.PERMISSION_DENIED: errors.KeyForbiddenError,
    Outcome.INSUFFICIENT_CREDIT: errors.KeyNoCreditError,
    Outcome.RATE_LIMITED: errors.RateLimitedError,
    Outcome.OVERLOADED: errors.ProviderDownError,
    Outcome.SERVER_ERROR: errors.ProviderDownError,
    Outcome.NETWORK: errors.ProviderDownError,
    Outcome.TIMEOUT: errors.ProviderTimeoutError,
    Outcome.INVALID_REQUEST: errors.ProviderBadRequestError,
    Outcome.CONTEXT_LENGTH: errors.ContextTooLongError,
    Outcome.MODEL_NOT_FOUND: errors.ProviderModelNotFoundError,
    Outcome.NOT_FOUND: errors.ProviderModelNotFoundError,
    Outcome.CONTENT_FILTERED: errors.ContentFilteredError,
}

_UNTRIED: dict[Outcome, str] = {
    Outcome.INVALID_KEY: "it was refused by its provider: replace it, or enable another key",
    Outcome.INSUFFICIENT_CREDIT: "it is out of money at its provider: top up there, or use another "
    "key",
    Outcome.RATE_LIMITED: "it is rate-limited by its provider: wait and try again, or add a backup "
    "key",
}
"""Why a key was not even tried, and what to do."""

_BY_HEALTH: dict[HealthState, Outcome] = {
    HealthState.REJECTED: Outcome.INVALID_KEY,
    HealthState.NO_CREDIT: Outcome.INSUFFICIENT_CREDIT,
    HealthState.COOLING: Outcome.RATE_LIMITED,
}


def failure_error(
    end: End,
    *,
    attempts: tuple[AttemptRecord, ...],
    refusal: errors.LedgerRefusalError | None,
    catalogue: Catalogue,
    now: float,
) -> ServiceError:
    """
    Give the error a caller gets when nothing more is tried.
    """
    if end.failure is None:
        return refusal or _untried(end, now)
    candidate = end.candidate
    assert candidate is not None, "a failure is some candidate's"
    if end.failure.content_sent:
        return _broken(candidate, end.failure, attempts)
    if end.funding is Funding.CREDITS and end.failure.outcome in _KEY_TROUBLE:
        return _capacity(attempts, end.failure.retry_after_seconds)
    if end.failure.outcome is Outcome.TIMEOUT:
        return _timeout(candidate, attempts, catalogue)
    return _by_outcome(candidate, end.failure, attempts, refusal)


def no_candidate(request: TextRequest, plan: Plan, *, known_model: bool) -> ServiceError:
    """
    Give the error of a plan without any candidate.
    """
    reasons = ", ".join(f"{e.provider}: {e.detail}" for e in plan.exclusions)
    if request.model and not known_model:
        message = (
            f"nobody here serves '{request.model}'; ListModels lists the models, and an own key "
            f"may name any model of its provider"
        )
        return errors.ModelNotFoundError(message, metadata={"model": request.model})
    excluded = ",".join(sorted({f"{e.provider}:{e.reason}" for e in plan.exclusions}))
    cheapest = _cheapest(plan)
    message = f"no provider is left for this request ({reasons}); relax what leaves them out"
    return errors.NoCandidateError(
        message + cheapest, metadata={"model": request.model, "excluded": excluded}
    )


def _cheapest(plan: Plan) -> str:
    dear = [e for e in plan.exclusions if e.reason == "price"]
    return f"; the limit must allow at least: {dear[0].detail}" if dear else ""


def _untried(end: End, now: float) -> ServiceError:
    candidate = end.candidate
    if end.funding is Funding.CREDITS or candidate is None:
        return _capacity((), None)
    mark = candidate.health
    outcome = _BY_HEALTH.get(mark.state)
    if outcome is None:
        message = "too little of the deadline is left to try; allow more time"
        return DeadlineTooShortError(message)
    wait = max(0.0, mark.until - now) if outcome is Outcome.RATE_LIMITED else None
    return _key_error(_CLASSES[outcome], candidate, _UNTRIED[outcome], (), wait)


def _by_outcome(
    candidate: Candidate,
    failure: Failure,
    attempts: tuple[AttemptRecord, ...],
    refusal: errors.LedgerRefusalError | None,
) -> errors.GenerationError:
    cls = _CLASSES[failure.outcome]
    retry_after = None
    if cls in _RETRY_SECONDS:
        retry_after = failure.retry_after_seconds or _RETRY_SECONDS[cls]
    error = _key_error(cls, candidate, failure.message, attempts, retry_after)
    if refusal is None:
        return error
    metadata = {**error.metadata, "fallback_refused": _reason_name(refusal)}
    return cls(
        f"{error.message}. Credits did not pay instead: {refusal.message}",
        attempts=attempts,
        metadata=metadata,
        retry_after_seconds=error.retry_after_seconds,
    )


def _key_error(
    cls: type[errors.GenerationError],
    candidate: Candidate,
    what: str,
    attempts: tuple[AttemptRecord, ...],
    retry_after_seconds: float | None,
) -> errors.GenerationError:
    metadata = {"provider": candidate.offer.provider, "model": candidate.offer.model}
    if candidate.funding is Funding.OWN_KEY:
        metadata |= {"key": candidate.key.name, "key_hint": candidate.key.hint}
    return cls(
        f"{_label(candidate)}: {what}",
        attempts=attempts,
        metadata=metadata,
        retry_after_seconds=retry_after_seconds,
    )


def _broken(
    candidate: Candidate, failure: Failure, attempts: tuple[AttemptRecord, ...]
) -> errors.GenerationError:
    return errors.StreamBrokenError(
        f"the answer of {candidate.offer.provider} broke off after it had begun "
        f"({failure.message}); what came so far is not the whole answer: ask again under a new "
        "request id",
        attempts=attempts,
        metadata={"provider": candidate.offer.provider, "model": candidate.offer.model},
    )


def _timeout(
    candidate: Candidate, attempts: tuple[AttemptRecord, ...], catalogue: Catalogue
) -> errors.GenerationError:
    offer = candidate.offer
    faster = catalogue.faster_than(offer.model)
    advice = f"try a faster model: {faster}" if faster else "allow more time"
    return errors.ProviderTimeoutError(
        f"{offer.provider} did not answer on {offer.model} in time; {advice}",
        attempts=attempts,
        metadata={"provider": offer.provider, "model": offer.model, "faster_model": faster},
    )


def _capacity(
    attempts: tuple[AttemptRecord, ...], retry_after_seconds: float | None
) -> errors.GenerationError:
    return errors.ServiceCapacityError(
        "the service has no capacity on its own keys for this right now; nothing is wrong with "
        "your account: try again shortly, or use an own key",
        attempts=attempts,
        retry_after_seconds=retry_after_seconds or CAPACITY_RETRY_SECONDS,
    )


def _label(candidate: Candidate) -> str:
    if candidate.funding is Funding.CREDITS:
        return candidate.offer.provider
    key = candidate.key.name.rpartition("/")[2]
    hint = f" ({candidate.key.hint})" if candidate.key.hint else ""
    return f"your {candidate.offer.provider} key {key}{hint}"


def _reason_name(refusal: errors.LedgerRefusalError) -> str:
    return refusal.metadata.get("ledger_reason", "")
