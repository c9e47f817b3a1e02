# SPDX-License-Identifier: Apache-2.0
"""
From the end of a request that failed to the error its caller gets: one reason, one sentence that
says what to do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain.keys import HealthState
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import ExclusionReason, Funding
from services.shared.errors import DeadlineTooShortError, PeerUnavailableError, ServiceError

if TYPE_CHECKING:
    from services.router.domain.attempts import AttemptRecord
    from services.router.domain.catalogue import Catalogue, Offer
    from services.router.domain.next_step import End, Failure
    from services.router.domain.plan import Candidate, Plan
    from services.router.domain.request import Request

CAPACITY_RETRY_SECONDS = 5.0
KEYVAULT_RETRY_SECONDS = 1.0
KEY_CHANGED_RETRY_SECONDS = 1.0
RETRY_SECONDS_MIN = 0.05
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
    candidate = end.candidate
    if end.failure is None:
        if candidate is not None and candidate.health.state is HealthState.NOT_BROUGHT:
            return _not_brought(candidate)
        return refusal or _untried(end, now)
    assert candidate is not None, "a failure is some candidate's"
    if end.failure.content_sent and not end.failure.deadline_passed:
        return _broken(candidate, end.failure, attempts)
    if end.funding is Funding.CREDITS and end.failure.outcome in _KEY_TROUBLE:
        return _capacity(attempts, _wait(end, now) or end.failure.retry_after_seconds)
    if end.failure.outcome is Outcome.TIMEOUT:
        return timeout_error(candidate, attempts, catalogue)
    return _by_outcome(candidate, end, attempts, refusal, now)


def shared_keys_unavailable(attempts: tuple[AttemptRecord, ...]) -> errors.GenerationError:
    """
    Give the error of a request that credits would have to pay, whose keys keyvault cannot open.
    """
    return errors.SharedKeysUnavailableError(
        "credits would have to pay for this request, and keyvault cannot open the service's own "
        "keys now; try again shortly, or use an own key",
        attempts=attempts,
        metadata={"peer": "keyvault"},
        retry_after_seconds=KEYVAULT_RETRY_SECONDS,
    )


def peer_lost(
    away: PeerUnavailableError, attempts: tuple[AttemptRecord, ...]
) -> errors.GenerationError:
    """
    Give the error of a request whose peer went away after an attempt was made.
    """
    return errors.PeerLostError(
        f"{away.metadata['peer']} went away while this request ran; {_again(attempts)}",
        attempts=attempts,
        metadata=away.metadata,
        retry_after_seconds=away.retry_after_seconds,
    )


def key_changed(attempts: tuple[AttemptRecord, ...]) -> errors.GenerationError:
    """
    Give the error of a request whose key did not stay the same for long enough to be used.
    """
    return errors.KeyChangedError(
        "the key was changed again and again while the request ran, and nothing was sent on it "
        f"since; {_again(attempts)}",
        attempts=attempts,
        retry_after_seconds=KEY_CHANGED_RETRY_SECONDS,
    )


def _again(attempts: tuple[AttemptRecord, ...]) -> str:
    if any(attempt.may_be_billed for attempt in attempts):
        return (
            "a provider may bill an attempt made before, and a repeat under this request id may "
            "only be told so again: ask under a new one, whose attempts may be billed as well"
        )
    return "no attempt was billed: try again shortly with the same request id"


def no_candidate(request: Request, plan: Plan, catalogue: Catalogue) -> ServiceError:
    """
    Give the error of a plan without any candidate.
    """
    reasons = ", ".join(f"{e.provider}: {e.detail}" for e in plan.exclusions)
    if request.model and request.model not in catalogue.models:
        message = (
            f"nobody here serves '{request.model}'; ListModels lists the models, and an own key "
            f"may name any model of its provider"
        )
        return errors.ModelNotFoundError(message, metadata={"model": request.model})
    excluded = ",".join(sorted({f"{e.provider}:{e.reason}" for e in plan.exclusions}))
    fields = sorted({e.field for e in plan.exclusions if e.field})
    message = (
        f"no provider is left for this request ({reasons}); relax "
        f"{', '.join(fields) or 'what leaves them out'}"
    )
    metadata = {"model": request.model, "excluded": excluded, "field": ",".join(fields)}
    cheapest = _cheapest(plan)
    if cheapest is not None and cheapest.price is not None:
        rates = cheapest.price.base
        message += (
            f"; the cheapest that route.max_price excludes is {cheapest.model} at "
            f"{cheapest.provider}, at {rates.input} nano-USD per million input tokens and "
            f"{rates.output} per million output tokens"
        )
        metadata |= {"cheapest_model": cheapest.model, "cheapest_provider": cheapest.provider}
    return errors.NoCandidateError(message, metadata=metadata)


def _cheapest(plan: Plan) -> Offer | None:
    """
    Name the cheapest offer, of those priced by tokens, that the price limit alone leaves out.
    """
    dear = (e.offer for e in plan.exclusions if e.reason is ExclusionReason.PRICE)
    by_tokens = [offer for offer in dear if offer and offer.price and not offer.price.unit]
    return min(by_tokens, key=_rates, default=None)


def _rates(offer: Offer) -> int:
    return offer.price.base.input + offer.price.base.output if offer.price else 0


def _untried(end: End, now: float) -> ServiceError:
    candidate = end.candidate
    if end.funding is Funding.CREDITS or candidate is None:
        return _capacity((), _wait(end, now))
    mark = candidate.health
    outcome = _BY_HEALTH.get(mark.state)
    if outcome is None:
        message = "too little of the deadline is left to try; allow more time"
        return DeadlineTooShortError(message)
    wait = _wait(end, now) if outcome is Outcome.RATE_LIMITED else None
    return _key_error(_CLASSES[outcome], candidate, _UNTRIED[outcome], (), wait)


def _wait(end: End, now: float) -> float | None:
    return None if end.ready_at is None else max(RETRY_SECONDS_MIN, end.ready_at - now)


def _not_brought(candidate: Candidate) -> errors.GenerationError:
    return errors.SealedKeyRefusedError(
        f"{_label(candidate)} is held by the customer's browser, and this request does not bring "
        "it: send it in client_held_keys with a proof, or move the key to the server",
        metadata={"key": candidate.key.name, "fault": "MISSING"},
    )


def _by_outcome(
    candidate: Candidate,
    end: End,
    attempts: tuple[AttemptRecord, ...],
    refusal: errors.LedgerRefusalError | None,
    now: float,
) -> errors.GenerationError:
    failure = end.failure
    assert failure is not None, "something was tried"
    cls = _CLASSES[failure.outcome]
    retry_after = None
    if cls in _RETRY_SECONDS:
        retry_after = failure.retry_after_seconds or _RETRY_SECONDS[cls]
    if cls is errors.RateLimitedError:
        retry_after = _wait(end, now) or retry_after
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
    if cls is errors.RateLimitedError and retry_after_seconds is not None:
        what = f"{what}; trying again can help in {math.ceil(retry_after_seconds)} s"
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


def timeout_error(
    candidate: Candidate, attempts: tuple[AttemptRecord, ...], catalogue: Catalogue
) -> errors.GenerationError:
    """
    Give the error of an answer that did not come, or did not end, in time.
    """
    offer = candidate.offer
    faster = catalogue.faster_than(offer.model)
    advice = f"try a faster model: {faster}" if faster else "allow more time"
    return errors.ProviderTimeoutError(
        f"{offer.provider} did not finish an answer on {offer.model} in time; {advice}",
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
