# SPDX-License-Identifier: Apache-2.0
"""
Holds Replicate's recordings against what their collection expects: predictions, refusals, streams
of events, and plain objects.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from services.router.domain.media_types import (
    HEAD_BYTES,
    audio_type,
    container_type,
    image_type,
)
from services.router.providers.base import ProviderError
from services.router.providers.jobs import JobPhase
from services.router.providers.replicate_prediction import (
    Prediction,
    read_prediction,
    read_refusal,
    report,
)
from services.router.providers.sse import SSEParser
from tests.samples.recordings import Exchange

__all__ = ["check_replicate"]

_NOW = datetime(2026, 9, 1, tzinfo=UTC)
_CUTS = (1, 7, 1024 * 1024)
_ERRORS_FROM = 400
_UNPROCESSABLE = 422
_ENDED = {"succeeded", "failed", "canceled", "aborted"}
_NAMES_A_MODEL = {"model_not_found", "not_found"}


def check_replicate(exchange: Exchange, expected: dict[str, Any]) -> list[str]:
    """
    Decode one recording; give what differs.
    """
    status = exchange.status or int(expected.get("status") or 200)
    if status >= _ERRORS_FROM:
        return _refusal_differences(exchange, expected, status)
    if "prediction" in expected:
        return _prediction_differences(exchange, expected, status)
    if expected.get("stream") == "sse":
        return _stream_differences(exchange, expected)
    if not exchange.body or _is_file(exchange):
        return []
    body = msgspec.json.decode(exchange.body)
    # A list's keys are those of each of its objects.
    missing = set(expected.get("keys") or ()) - set(body[0] if isinstance(body, list) else body)
    return [f"keys that are missing: {', '.join(sorted(missing))}"] if missing else []


def _is_file(exchange: Exchange) -> bool:
    """
    Tell whether an answer is a delivered file, by its first bytes.
    """
    head = exchange.body[:HEAD_BYTES]
    return bool(image_type(head) or audio_type(head) or container_type(head))


def _refusal_differences(exchange: Exchange, expected: dict[str, Any], status: int) -> list[str]:
    error = read_refusal(status, exchange.headers, exchange.body, now=_NOW)
    wanted, got = expected.get("error_class"), error.outcome.value
    found = []
    # What is not there may be told by either word; 422 also stands for a version that is not there.
    alike = {wanted, got} <= _NAMES_A_MODEL | (
        {"invalid_request"} if status == _UNPROCESSABLE else set()
    )
    if wanted is not None and wanted != got and not alike:
        found.append(f"outcome: expected {wanted}, got {got}")
    told = expected.get("error")
    detail = told.get("detail") if isinstance(told, dict) else None
    if detail and str(detail) in str(error):
        found.append("the provider's own text is in the error")
    wait = told.get("retry_after") if isinstance(told, dict) else None
    if wait is not None and error.retry_after_seconds != wait:
        found.append(f"retry_after: expected {wait}, got {error.retry_after_seconds}")
    return found


def _prediction_differences(exchange: Exchange, expected: dict[str, Any], status: int) -> list[str]:
    wanted = expected["prediction"]
    try:
        prediction = read_prediction(status, exchange.headers, exchange.body, now=_NOW)
        told = report(prediction, http_status=status, now=_NOW)
    except ProviderError as error:
        return [f"expected a prediction, got {error.outcome}"]
    found = []
    if wanted.get("status") not in (None, prediction.status):
        found.append(f"status: expected {wanted['status']}, got {prediction.status}")
    if "has_output" in expected and expected["has_output"] is not prediction.has_output:
        found.append(f"has_output: expected {expected['has_output']}, got {prediction.has_output}")
    if not _same_output(expected.get("output"), prediction):
        found.append(f"output: expected {expected['output']!r}, got {prediction.output!r}")
    seconds = (wanted.get("metrics") or {}).get("predict_time")
    if seconds is not None and told.busy_milliseconds != round(seconds * 1000):
        found.append(f"predict_time: expected {seconds}, got {told.busy_milliseconds} ms")
    ended = prediction.status in _ENDED or prediction.has_output
    if told.phase.ended is not ended:
        found.append(f"phase {told.phase} does not fit status {prediction.status}")
    if (told.failure is not None) is not (told.phase is JobPhase.FAILED):
        found.append("a failure goes with a prediction that failed, and with no other")
    return found


def _same_output(wanted: object, prediction: Prediction) -> bool:
    """
    Tell whether an output is the expected one, whole or with its pieces joined.
    """
    return wanted is None or wanted in (prediction.output, prediction.output_text)


def _stream_differences(exchange: Exchange, expected: dict[str, Any]) -> list[str]:
    """
    Hold a stream of events: `output` carries text in pieces, `done` ends it.
    """
    seen = set()
    for cut in _CUTS:
        parser = SSEParser()
        events = [
            event
            for start in range(0, len(exchange.body), cut)
            for event in parser.feed(exchange.body[start : start + cut])
        ]
        events += parser.finish()
        text = "".join(event.data.decode() for event in events if event.event == b"output")
        seen.add((text, tuple(event.event for event in events)))
    if len(seen) != 1:
        return ["the stream is decoded otherwise when cut otherwise"]
    text, names = seen.pop()
    found = []
    if expected.get("events") not in (None, len(names)):
        found.append(f"events: expected {expected['events']}, got {len(names)}")
    if expected.get("text") not in (None, text):
        found.append(f"text: expected {expected['text']!r}, got {text!r}")
    if not {b"done", b"error"} & set(names):
        found.append("the stream ends neither with done nor with error")
    return found
