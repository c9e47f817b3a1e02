# SPDX-License-Identifier: Apache-2.0
"""
Replicate's prediction object and its refusals: https://replicate.com/docs/reference/http .

1. `output` is a text, a list, an object or nothing; a list of texts that are no addresses is one
   text that came in pieces.
2. With `Prefer: wait` the output may be there while `status` still says `processing`: the output
   tells (https://replicate.com/docs/topics/predictions/create-a-prediction#sync-mode).
3. `metrics.predict_time` is what hardware is billed by, also of a cancelled prediction
   (https://replicate.com/docs/topics/billing).
4. `input` repeats the prompt and is never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from services.router.domain.outcomes import Outcome
from services.router.providers.base import ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorRule,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.jobs import JobPhase, JobReport, OutputAddress, OutputData

__all__ = ["OUTPUTS_MAX", "TABLE", "Prediction", "read_prediction", "read_refusal", "report"]

OUTPUTS_MAX = 64
"""Addresses of one output that are kept."""
_DEPTH_MAX = 8
_LIFECYCLE = "https://replicate.com/docs/topics/predictions/lifecycle"
_ERRORS = "https://replicate.com/docs/reference/error-codes"
_RATES = "https://replicate.com/docs/topics/predictions/rate-limits"
_FLAGGED = r"nsfw|\(E005\)|flagged as sensitive|content (?:policy|moderation|filter)|safety filter"

TABLE = ErrorTable(
    title="Replicate",
    rules=(
        ErrorRule(outcome=Outcome.INVALID_KEY, source=_ERRORS, code=("unauthenticated",)),
        ErrorRule(outcome=Outcome.INSUFFICIENT_CREDIT, source=_ERRORS, status=(402,)),
        ErrorRule(
            outcome=Outcome.INSUFFICIENT_CREDIT,
            source=_ERRORS,
            text=r"insufficient credit|spend(?:ing)? limit|billing (?:is )?not set up",
            status=(402, 403, 429),
        ),
        ErrorRule(outcome=Outcome.RATE_LIMITED, source=_RATES, status=(429,)),
        ErrorRule(outcome=Outcome.CONTENT_FILTERED, source=_ERRORS, text=_FLAGGED),
        # A version or a model that is not there, or not for this account.
        ErrorRule(
            outcome=Outcome.MODEL_NOT_FOUND,
            source="https://replicate.com/docs/reference/http#predictions.create",
            status=(404, 422),
            text=r"invalid version or not permitted|model (?:was )?not found|version .*not exist"
            r"|requested resource could not be found",
        ),
        ErrorRule(outcome=Outcome.MODEL_NOT_FOUND, source=_ERRORS, status=(404,)),
    ),
)

_PHASES = {
    "starting": JobPhase.QUEUED,
    "queued": JobPhase.QUEUED,
    "processing": JobPhase.RUNNING,
    "succeeded": JobPhase.SUCCEEDED,
    "successful": JobPhase.SUCCEEDED,
    "failed": JobPhase.FAILED,
    "canceled": JobPhase.CANCELLED,
    # Ended before it began, for example past its deadline.
    "aborted": JobPhase.CANCELLED,
}
_SUCCESS = (200, 201, 202)


class _Metrics(msgspec.Struct):
    predict_time: float | None = None


class Prediction(msgspec.Struct, kw_only=True):
    """
    What is read of a prediction.
    """

    id: str
    status: str
    output: Any = None
    error: Any = None
    metrics: _Metrics | None = None
    data_removed: bool = False

    @property
    def has_output(self) -> bool:
        """
        Tell whether it holds any output.
        """
        return self.output is not None and self.output not in ([], "")

    @property
    def output_text(self) -> str:
        """
        Give output that is text, its pieces joined; "" for any other.
        """
        if isinstance(self.output, str):
            return self.output
        if isinstance(self.output, list) and all(isinstance(item, str) for item in self.output):
            return "".join(self.output)
        return ""


_decode = msgspec.json.Decoder(Prediction).decode


def read_prediction(
    status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Prediction:
    """
    Read a prediction.

    Raises:
        ProviderError: Replicate refused, or its answer is not to be understood.
    """
    if status not in _SUCCESS:
        raise read_refusal(status, headers, body, now=now)
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(TABLE, http_status=status, cut=False) from None


def read_refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    table: ErrorTable = TABLE,
) -> ProviderError:
    """
    Classify a problem, `{title, detail, status}` (RFC 9457); a 429 holds `retry_after` in seconds.
    """
    fields = decode_object(body)
    wait = fields.get("retry_after")
    facts = ErrorFacts(
        status=status,
        codes=frozenset({str(fields.get("title") or "").lower()}),
        text=f"{fields.get('title') or ''} {fields.get('detail') or ''}",
        delay=f"{wait}s" if isinstance(wait, int | float) and wait >= 0 else "",
        headers=headers,
    )
    return classify(table, facts, http_status=status, now=now)


def report(prediction: Prediction, *, http_status: int, now: datetime) -> JobReport:
    """
    Say in our words how a prediction stands.

    Raises:
        ProviderError: Its status is none that is documented.
    """
    phase = _PHASES.get(prediction.status)
    if phase is None:
        raise broken(TABLE, http_status=http_status, cut=False)
    if phase in (JobPhase.QUEUED, JobPhase.RUNNING) and prediction.has_output:
        phase = JobPhase.SUCCEEDED
    failure = _failure(prediction, http_status, now) if phase is JobPhase.FAILED else None
    seconds = prediction.metrics.predict_time if prediction.metrics else None
    return JobReport(
        provider_job=prediction.id,
        phase=phase,
        outputs=_outputs(prediction) if phase is JobPhase.SUCCEEDED else (),
        busy_milliseconds=None if seconds is None else max(0, round(seconds * 1000)),
        failure=failure,
    )


def _failure(prediction: Prediction, http_status: int, now: datetime) -> ProviderError:
    """
    Classify the error of a prediction that failed while it ran.
    """
    text = prediction.error if isinstance(prediction.error, str) else ""
    facts = ErrorFacts(status=500, text=text, inside_answer=True)
    return classify(TABLE, facts, http_status=http_status, now=now)


def _outputs(prediction: Prediction) -> tuple[OutputAddress | OutputData, ...]:
    addresses = [text for text in _texts(prediction.output, 0) if _is_address(text)]
    if addresses:
        return tuple(OutputAddress(url) for url in addresses[:OUTPUTS_MAX])
    if not prediction.has_output:
        return ()
    if prediction.output_text:
        return (OutputData(prediction.output_text.encode(), "text/plain"),)
    return (OutputData(msgspec.json.encode(prediction.output), "application/json"),)


def _texts(value: object, depth: int) -> Iterator[str]:
    """
    Find every text of an output, in order; some models name their files inside objects.
    """
    if isinstance(value, str):
        yield value
    elif depth < _DEPTH_MAX and isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)


def _is_address(text: str) -> bool:
    return text.startswith("https://")
