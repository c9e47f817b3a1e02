# SPDX-License-Identifier: Apache-2.0
"""
What a job came to, as attempts and a receipt, and as the error its caller reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router import errors
from services.router.domain.attempts import (
    CANCELLED,
    OK,
    AttemptBilled,
    AttemptRecord,
    PriceUsed,
    Receipt,
)
from services.router.domain.jobs import START_UNKNOWN, JobState
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import Funding

if TYPE_CHECKING:
    from services.router.domain.jobs import Job


def job_error(job: Job) -> errors.GenerationError | None:
    """
    Give the error of a job that failed or was cancelled; None for any other.
    """
    failure = job.failure
    if failure is None:
        return None
    metadata = {"job": job.name, "outcome": failure.outcome, "provider": job.provider}
    cls: type[errors.GenerationError] = errors.JobFailedError
    if failure.outcome == START_UNKNOWN:
        cls = errors.JobStartUnknownError
    elif job.state is JobState.CANCELLED:
        cls = errors.JobCancelledError
    return cls(failure.message, attempts=(*job.earlier, job_attempt(job)), metadata=metadata)


def job_receipt(job: Job) -> Receipt | None:
    """
    Give the receipt of a job that has ended; None before.
    """
    terms = job.settlement
    if terms is None:
        return None
    price = job.price
    used = None
    if price is not None:
        used = PriceUsed(price_id=price.price_id, rates=price.rates_for(0))
    return Receipt(
        attempts=(*job.earlier, job_attempt(job)),
        price=used,
        settled=job.is_settled,
        notes=job.notes,
        finish_reason=None,
    )


def job_attempt(job: Job) -> AttemptRecord:
    """
    Give the attempt that started a job, as far as it has come.
    """
    own = job.funding is Funding.OWN_KEY
    terms = job.settlement
    seconds = (job.end_time - job.create_time).total_seconds() if job.end_time else 0.0
    return AttemptRecord(
        provider=job.provider,
        model=job.model,
        provider_model=job.provider_model,
        funding=job.funding,
        key=job.key if own else "",
        key_hint=job.key_hint if own else "",
        outcome=_outcome(job),
        billed=terms.billed if terms else AttemptBilled.MAYBE,
        latency_seconds=seconds,
        fallback=job.fallback,
        usage=terms.usage if terms else None,
        basis=terms.basis if terms else None,
        cost_nano_usd=terms.cost_nano_usd if terms else None,
        charged_nano_credits=(terms.charged_nano_credits or 0) if terms else 0,
    )


def _outcome(job: Job) -> str:
    if job.failure is None:
        return OK
    if job.state is JobState.CANCELLED:
        return CANCELLED
    known = {str(outcome) for outcome in Outcome}
    # Of a start whose fate is unknown nothing came back.
    return job.failure.outcome if job.failure.outcome in known else Outcome.NETWORK
