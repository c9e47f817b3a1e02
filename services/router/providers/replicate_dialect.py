# SPDX-License-Identifier: Apache-2.0
"""
Replicate behind the port that every provider stands behind: FLUX images while the caller waits, and
the live test of a key. Its long jobs are in `replicate`.

1. An image is asked for with `Prefer: wait`; one that is not there after a minute is an error, as
   nobody asks for it again (https://replicate.com/docs/topics/predictions/create-a-prediction).
2. GET /v1/account tells whether a token is known, but not whether there is credit: the smallest
   public model, a fraction of a second on a CPU, is run to find out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.router.domain.media import ImageCall, MediaAnswer, Medium
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Usage
from services.router.domain.work import Call
from services.router.providers.base import (
    Credential,
    HTTPRequest,
    Probe,
    ProbeResult,
    ProviderError,
)
from services.router.providers.classify import ErrorTable, broken
from services.router.providers.dialect import HTTPDialect
from services.router.providers.hosts import ANY_HOST, address
from services.router.providers.jobs import JobPhase, OutputAddress
from services.router.providers.media_format import ImageFormat, MediaBody, MediaFormats
from services.router.providers.no_text import (
    refuse_text,
    refuse_text_answer,
    refuse_text_call,
    refuse_text_stream,
)
from services.router.providers.probe import FreeCallFinding, ProbePlan
from services.router.providers.replicate import (
    API_HOST,
    PROVIDER,
    REPLICATE_JOBS,
    headers,
    start,
    start_body,
)
from services.router.providers.replicate_prediction import (
    TABLE,
    read_prediction,
    read_refusal,
    report,
)

__all__ = ["REPLICATE", "ReplicateDialect"]

WAIT_SECONDS = 60
"""The longest that Replicate holds an answer back."""
PROBE_WAIT_SECONDS = 5
PROBE_MODEL = (
    "replicate/hello-world:5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
)
CPU_NANO_USD_PER_SECOND = 100_000
"""https://replicate.com/pricing , hardware `CPU`, read 2026-11-21."""

_HTTP_CREATED = 201
_FORMATS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_ONE_IMAGE = "pro"
"""FLUX's pro models make one image at a time and name no number."""


def _unsupported(call: ImageCall) -> list[str]:
    """
    Name what FLUX models do not take: https://replicate.com/black-forest-labs .
    """
    asked = (
        ("count", call.count > 1 and _ONE_IMAGE in call.model),
        ("images", bool(call.images)),
        ("quality", bool(call.quality)),
        ("size", bool(call.size) and ":" not in call.size),
        ("media_type", bool(call.media_type) and call.media_type not in _FORMATS),
    )
    return [field for field, lacking in asked if lacking]


def _build(call: ImageCall) -> MediaBody:
    fields: dict[str, Any] = {"prompt": call.prompt}
    if call.size:
        fields["aspect_ratio"] = call.size
    if call.count > 1:
        fields["num_outputs"] = call.count
    if call.media_type:
        fields["output_format"] = _FORMATS[call.media_type]
    if call.seed is not None:
        fields["seed"] = call.seed
    path, body = start_body(call.model, fields)
    return MediaBody(path, "application/json", body, {"prefer": f"wait={WAIT_SECONDS}"})


def _parse(
    table: ErrorTable,
    call: ImageCall,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
) -> MediaAnswer:
    """
    Read a prediction that was waited for.

    Raises:
        ProviderError: It failed, or is not done yet.
    """
    prediction = read_prediction(_HTTP_CREATED, headers, body, now=now)
    found = report(prediction, http_status=_HTTP_CREATED, now=now)
    if found.failure is not None:
        raise found.failure
    if found.phase is not JobPhase.SUCCEEDED:
        raise ProviderError(
            outcome=Outcome.TIMEOUT,
            safe_message=f"{table.title} was not done after {WAIT_SECONDS} seconds: use a faster "
            "model, or start a job, which may take longer",
            billed=Billed.MAYBE_BILLED,
            http_status=_HTTP_CREATED,
        )
    media = tuple(Medium("", url=o.url) for o in found.outputs if isinstance(o, OutputAddress))
    if not media:
        raise broken(table, http_status=_HTTP_CREATED, cut=False)
    usage = Usage(input_tokens=0, output_tokens=0, images=len(media))
    return MediaAnswer(media=media, usage=usage, model=call.model)


def _fetch(url: str, credential: Credential, base_url: str) -> HTTPRequest:
    return REPLICATE_JOBS.build_fetch(url, credential, base_url=base_url)


def _parse_refusal(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    return read_refusal(status, headers, body, now=now, table=table)


class _KeyProbe:
    """
    One test of one token: GET /v1/account, then the smallest prediction.
    """

    def __init__(self, credential: Credential, *, base_url: str) -> None:
        self._smallest = start(
            PROBE_MODEL,
            {"text": "Hi"},
            credential,
            base_url=base_url,
            wait_seconds=PROBE_WAIT_SECONDS,
        )
        account = f"{address(base_url, API_HOST)}/v1/account"
        self._request: HTTPRequest | None = HTTPRequest("GET", account, headers(credential))
        self._runs = False
        self._result: ProbeResult | None = None

    def next_request(self) -> HTTPRequest | None:
        """
        Give the request to send now, or None when the result stands.
        """
        return None if self._result is not None else self._request

    def feed(self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
        """
        Take the answer to the last request.
        """
        try:
            if self._runs:
                self._read_prediction(status, headers, body, now)
            elif status == HTTP_OK:
                self._runs, self._request = True, self._smallest
            else:
                raise read_refusal(status, headers, body, now=now)
        except ProviderError as error:
            self.fail(error)

    def fail(self, error: ProviderError) -> None:
        """
        Take a failure that ends the test; a model that is not there says nothing about the token.
        """
        if self._runs and error.outcome in (Outcome.MODEL_NOT_FOUND, Outcome.INVALID_REQUEST):
            self._end(None, error.http_status, _UNCHECKED, credit_checked=False)
            return
        out_of_credit = error.outcome is Outcome.INSUFFICIENT_CREDIT
        self._end(
            error.outcome,
            error.http_status,
            error.safe_message,
            credit_checked=out_of_credit,
            retry_after_seconds=error.retry_after_seconds,
        )

    def result(self) -> ProbeResult:
        """
        Give the result.

        Raises:
            RuntimeError: A request is still to be sent.
        """
        if self._result is None:
            raise RuntimeError("the probe has not ended: send next_request() first")
        return self._result

    def _read_prediction(
        self, status: int, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> None:
        prediction = read_prediction(status, headers, body, now=now)
        busy = report(prediction, http_status=status, now=now).busy_milliseconds or 0
        cost = -(-busy * CPU_NANO_USD_PER_SECOND // 1000)
        self._end(None, status, _VALID, credit_checked=True, cost_nano_usd=cost)

    def _end(
        self,
        outcome: Outcome | None,
        http_status: int | None,
        detail: str,
        *,
        credit_checked: bool,
        cost_nano_usd: int = 0,
        retry_after_seconds: float | None = None,
    ) -> None:
        self._result = ProbeResult(
            outcome=outcome,
            credit_checked=credit_checked,
            usage=None,
            model=PROBE_MODEL.partition(":")[0] if self._runs else "",
            http_status=http_status,
            detail=detail,
            retry_after_seconds=retry_after_seconds,
            cost_nano_usd=cost_nano_usd,
        )


HTTP_OK = 200
_VALID = "the key works and has credit"
_UNCHECKED = (
    "the key is accepted, but whether it has credit could not be checked: the test's model was not "
    "served"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicateDialect(HTTPDialect):
    """
    One host for the API, others for output, which the address names.
    """

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        return HTTPDialect.build_request(
            self, call, credential, base_url=address(base_url, API_HOST)
        )

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of a token; any model's credit is the account's.
        """
        del models
        return _KeyProbe(credential, base_url=base_url)


def _no_finding(body: bytes) -> FreeCallFinding:
    del body
    return FreeCallFinding()


REPLICATE = ReplicateDialect(
    provider=PROVIDER,
    default_base_url=ANY_HOST,
    table=TABLE,
    path=refuse_text_call,
    headers=headers,
    build_body=refuse_text_call,
    unsupported_fields=refuse_text,
    parse_answer=refuse_text_answer,
    parse_refusal=_parse_refusal,
    make_decoder=refuse_text_stream,
    probe_plan=ProbePlan(
        free_path="/v1/account",
        read_free_call=_no_finding,
        cheap_models=(),
        lowest_effort=lambda _: None,
        generates=False,
    ),
    media=MediaFormats(
        image=ImageFormat(unsupported=_unsupported, build=_build, parse=_parse, fetch=_fetch)
    ),
)
