# SPDX-License-Identifier: Apache-2.0
"""
Google's Veo, through the Gemini API (https://ai.google.dev/gemini-api/docs/video) and Vertex AI
(https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/veo-video-generation).

1. `predictLongRunning` gives an operation's name. Gemini's is asked for by GET, Vertex's by
   `fetchPredictOperation`.
2. Gemini keeps a video at an address of its files, fetched with the key; Vertex puts its bytes into
   the answer, or into the caller's own bucket where the input names one, fetched with the token.
3. A video that Google's filters hold back is counted in `raiMediaFilteredCount` and not charged
   (https://ai.google.dev/gemini-api/docs/video#limitations).
4. Neither page documents a way to cancel: a job that is cancelled ends here, at its estimate, and
   Google goes on with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from services.router.domain.job_work import JobCall, NativeInput
from services.router.domain.outcomes import Outcome
from services.router.providers.base import Credential, HTTPRequest
from services.router.providers.classify import ErrorFacts, ErrorTable, broken, classify
from services.router.providers.gemini import GEMINI, parse_generate_error
from services.router.providers.hosts import address
from services.router.providers.jobs import (
    JobHandle,
    JobPhase,
    JobReport,
    OutputAddress,
    OutputAddressError,
    OutputData,
    delivery_host,
)
from services.router.providers.vertex import VERTEX
from services.router.providers.vertex_credential import read_service_account

__all__ = ["GEMINI_JOBS", "VERTEX_JOBS"]

_HTTP_OK = 200
_FILTERED = "the video was held back by Google's filters: change the prompt"
_RPC_STATUSES = {
    # https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
    1: (499, "cancelled"),
    3: (400, "invalid_argument"),
    4: (504, "deadline_exceeded"),
    5: (404, "not_found"),
    7: (403, "permission_denied"),
    8: (429, "resource_exhausted"),
    9: (400, "failed_precondition"),
    13: (500, "internal"),
    14: (503, "unavailable"),
    16: (401, "unauthenticated"),
}
_CANCELLED = 1
_FILES_HOST = "generativelanguage.googleapis.com"
_STORAGE_HOST = "storage.googleapis.com"
_BUCKET_SCHEME = "gs://"


class _Media(msgspec.Struct, rename="camel"):
    uri: str = ""
    gcs_uri: str = ""
    bytes_base64_encoded: str = ""
    encoded_video: str = ""
    mime_type: str = ""
    encoding: str = ""


class _Sample(msgspec.Struct):
    video: _Media | None = None


class _Videos(msgspec.Struct, rename="camel"):
    generated_samples: list[_Sample] | None = None
    videos: list[_Media] | None = None
    rai_media_filtered_count: int = 0


class _Response(_Videos, rename="camel"):
    generate_video_response: _Videos | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    progress_percent: int | None = None


class _Operation(msgspec.Struct):
    name: str
    done: bool = False
    error: dict[str, Any] | None = None
    response: _Response | None = None
    metadata: _Metadata | None = None


_decode = msgspec.json.Decoder(_Operation, strict=False).decode


def _body(call: JobCall) -> bytes:
    if isinstance(call.input, NativeInput):
        return call.input.input_json
    video = call.input
    instance: dict[str, Any] = {"prompt": video.prompt}
    if video.image is not None:
        data = base64.b64encode(video.image.data).decode()
        instance["image"] = {"bytesBase64Encoded": data, "mimeType": video.image.media_type}
    parameters: dict[str, Any] = {"sampleCount": 1}
    if video.length_seconds is not None:
        parameters["durationSeconds"] = video.length_seconds
    if video.aspect_ratio:
        parameters["aspectRatio"] = video.aspect_ratio
    return msgspec.json.encode({"instances": [instance], "parameters": parameters})


def _read(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> JobReport:
    """
    Read an operation.

    Raises:
        ProviderError: Google refused, or its answer is not to be understood.
    """
    if status != _HTTP_OK:
        raise parse_generate_error(table, status, headers, body, now=now)
    try:
        operation = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise broken(table, http_status=status, cut=False) from None
    if not operation.name:
        raise broken(table, http_status=status, cut=False)
    if not operation.done:
        progress = operation.metadata.progress_percent if operation.metadata else None
        return JobReport(
            provider_job=operation.name, phase=JobPhase.RUNNING, progress_percent=progress
        )
    if operation.error is not None:
        return _ended_badly(table, operation.name, operation.error, now)
    return _ended_well(table, operation, now)


def _ended_badly(
    table: ErrorTable, name: str, error: Mapping[str, Any], now: datetime
) -> JobReport:
    code = error.get("code")
    if code == _CANCELLED:
        return JobReport(provider_job=name, phase=JobPhase.CANCELLED)
    status, word = _RPC_STATUSES.get(code if isinstance(code, int) else 0, (500, "internal"))
    facts = ErrorFacts(
        status=status,
        codes=frozenset({word}),
        text=str(error.get("message") or ""),
        inside_answer=True,
    )
    failure = classify(table, facts, http_status=_HTTP_OK, now=now)
    return JobReport(provider_job=name, phase=JobPhase.FAILED, failure=failure)


def _ended_well(table: ErrorTable, operation: _Operation, now: datetime) -> JobReport:
    response = operation.response or _Response()
    videos = response.generate_video_response or response
    media = [sample.video for sample in videos.generated_samples or () if sample.video is not None]
    media += videos.videos or []
    try:
        outputs = tuple(_output(item) for item in media)
    except (binascii.Error, ValueError):
        raise broken(table, http_status=_HTTP_OK, cut=False) from None
    if outputs:
        return JobReport(provider_job=operation.name, phase=JobPhase.SUCCEEDED, outputs=outputs)
    if not videos.rai_media_filtered_count:
        raise broken(table, http_status=_HTTP_OK, cut=False)
    facts = ErrorFacts(status=_HTTP_OK, codes=frozenset({"prompt_blocked"}), inside_answer=True)
    failure = classify(table, facts, http_status=_HTTP_OK, now=now)
    failure.outcome, failure.safe_message = Outcome.CONTENT_FILTERED, _FILTERED
    return JobReport(provider_job=operation.name, phase=JobPhase.FAILED, failure=failure)


def _output(media: _Media) -> OutputAddress | OutputData:
    data = media.bytes_base64_encoded or media.encoded_video
    if data:
        media_type = media.mime_type or media.encoding or "video/mp4"
        return OutputData(base64.b64decode(data, validate=True), media_type)
    url = media.uri or media.gcs_uri
    if not url:
        raise ValueError("a video without an address")
    return OutputAddress(url)


@dataclass(frozen=True, slots=True, kw_only=True)
class VeoJobs:
    """
    Veo at one of its two doors.
    """

    provider: str
    table: ErrorTable
    answer_bytes_max: int
    start_url: Callable[[str, Credential, str], str]
    """Address of a method of a model, by model, credential and base address."""
    poll: Callable[[JobHandle, Credential, str], HTTPRequest]
    fetch: Callable[[str, Credential, str], HTTPRequest]
    headers: Callable[[Credential], dict[str, str]]

    def unsupported(self, call: JobCall) -> list[str]:
        """
        Name nothing: what a model does not take, Google refuses.
        """
        del call
        return []

    def build_start(
        self, call: JobCall, credential: Credential, *, base_url: str, webhook_url: str = ""
    ) -> HTTPRequest:
        """
        Build the request that starts an operation; Veo calls no webhook.
        """
        del webhook_url
        url = f"{self.start_url(call.model, credential, base_url)}:predictLongRunning"
        headers = {**self.headers(credential), "content-type": "application/json"}
        return HTTPRequest("POST", url, headers, _body(call))

    def build_poll(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest:
        """
        Build the request that asks how an operation stands.
        """
        return self.poll(handle, credential, base_url)

    def build_cancel(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest | None:
        """
        Give None: there is no documented way.
        """
        del handle, credential, base_url
        return None

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> JobReport:
        """
        Read an operation.

        Raises:
            ProviderError: Google refused, or its answer is not to be understood.
        """
        return _read(self.table, status, headers, body, now=now)

    def build_fetch(self, url: str, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request that fetches a video.

        Raises:
            OutputAddressError: The address is not Google's own.
        """
        return self.fetch(url, credential, base_url)


def _gemini_url(model: str, credential: Credential, base_url: str) -> str:
    del credential
    return f"{base_url.rstrip('/')}/v1beta/models/{quote(model, safe='')}"


def _gemini_poll(handle: JobHandle, credential: Credential, base_url: str) -> HTTPRequest:
    url = f"{base_url.rstrip('/')}/v1beta/{quote(handle.provider_job, safe='/')}"
    return HTTPRequest("GET", url, GEMINI.headers(credential))


def _gemini_fetch(url: str, credential: Credential, base_url: str) -> HTTPRequest:
    """
    Fetch from Gemini's files with the key, as documented, at no other host.
    """
    delivery_host(url, (_FILES_HOST,), provider=GEMINI.provider)
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return HTTPRequest(
        "GET", f"{base_url.rstrip('/')}{parts.path}{query}", GEMINI.headers(credential)
    )


def _vertex_url(model: str, credential: Credential, base_url: str) -> str:
    account = read_service_account(credential)
    location = f"/v1/projects/{quote(account.project, safe=':')}/locations/{account.region}"
    path = f"{location}/publishers/google/models/{quote(model, safe='@')}"
    return address(base_url, account.host) + path


def _vertex_poll(handle: JobHandle, credential: Credential, base_url: str) -> HTTPRequest:
    url = f"{_vertex_url(handle.model, credential, base_url)}:fetchPredictOperation"
    body = msgspec.json.encode({"operationName": handle.provider_job})
    return HTTPRequest("POST", url, {"content-type": "application/json"}, body)


def _vertex_fetch(url: str, credential: Credential, base_url: str) -> HTTPRequest:
    """
    Fetch from the caller's own bucket, with the token:
    https://cloud.google.com/storage/docs/json_api/v1/objects/get .
    """
    del credential
    bucket, _, name = url.removeprefix(_BUCKET_SCHEME).partition("/")
    if not url.startswith(_BUCKET_SCHEME) or not bucket or not name:
        raise OutputAddressError(VERTEX.provider)
    path = f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}?alt=media"
    return HTTPRequest("GET", address(base_url, _STORAGE_HOST) + path, {})


def _no_headers(credential: Credential) -> dict[str, str]:
    del credential
    return {}


GEMINI_JOBS = VeoJobs(
    provider=GEMINI.provider,
    table=GEMINI.table,
    answer_bytes_max=1024 * 1024,
    start_url=_gemini_url,
    poll=_gemini_poll,
    fetch=_gemini_fetch,
    headers=GEMINI.headers,
)
VERTEX_JOBS = VeoJobs(
    provider=VERTEX.provider,
    table=VERTEX.table,
    answer_bytes_max=32 * 1024 * 1024,
    start_url=_vertex_url,
    poll=_vertex_poll,
    fetch=_vertex_fetch,
    headers=_no_headers,
)
