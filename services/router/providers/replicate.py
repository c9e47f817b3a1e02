# SPDX-License-Identifier: Apache-2.0
"""
Replicate: https://replicate.com/docs/reference/http .

1. An official model is named `owner/name` and has an address of its own; any other is named with
   its version, `owner/name:version`, and the version is sent.
2. Output lies at `replicate.delivery` for an hour, without a key; the key goes to
   `api.replicate.com` alone (https://replicate.com/docs/topics/predictions/output-files).
3. A webhook only says that a prediction has ended; it is asked for by `webhook_events_filter`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from services.router.domain.job_work import JobCall, NativeInput, VideoInput
from services.router.providers.base import Credential, HTTPRequest
from services.router.providers.classify import broken
from services.router.providers.hosts import address
from services.router.providers.jobs import JobHandle, JobReport, delivery_host
from services.router.providers.replicate_prediction import TABLE, read_prediction, report

__all__ = [
    "API_HOST",
    "DATA_URL_BYTES_MAX",
    "PROVIDER",
    "REPLICATE_JOBS",
    "headers",
    "start",
    "start_body",
]

PROVIDER = "replicate"
API_HOST = "api.replicate.com"
DATA_URL_BYTES_MAX = 256 * 1024
"""Files may be sent inside the input up to this
(https://replicate.com/docs/topics/predictions/input-files)."""

_DELIVERY_HOSTS = ("replicate.delivery", ".replicate.delivery")


def headers(credential: Credential) -> dict[str, str]:
    """
    Give the headers that every request to the API carries.
    """
    return {"authorization": f"Bearer {credential.secret.reveal()}"}


def start(
    model: str,
    fields: Mapping[str, Any] | msgspec.Raw,
    credential: Credential,
    *,
    base_url: str,
    wait_seconds: int = 0,
    webhook_url: str = "",
) -> HTTPRequest:
    """
    Build the request that starts a prediction.

    Args:
        model: `owner/name`, or `owner/name:version`.
        fields: The model's input.
        credential: Who asks.
        base_url: The API's address.
        wait_seconds: How long Replicate may hold the answer back for the output, 1 to 60; 0 not
            at all.
        webhook_url: Where Replicate says that it has ended; "" for nowhere.
    """
    path, body = start_body(model, fields, webhook_url=webhook_url)
    sent = {**headers(credential), "content-type": "application/json"}
    if wait_seconds:
        sent["prefer"] = f"wait={wait_seconds}"
    return HTTPRequest("POST", address(base_url, API_HOST) + path, sent, body)


def start_body(
    model: str, fields: Mapping[str, Any] | msgspec.Raw, *, webhook_url: str = ""
) -> tuple[str, bytes]:
    """
    Give the path and the body that start a prediction.
    """
    name, _, version = model.partition(":")
    body: dict[str, Any] = {"input": fields}
    path = "/v1/predictions"
    if version:
        body["version"] = version
    else:
        path = f"/v1/models/{quote(name, safe='/')}/predictions"
    if webhook_url:
        body |= {"webhook": webhook_url, "webhook_events_filter": ["completed"]}
    return path, msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class ReplicateJobs:
    """
    Predictions as jobs.
    """

    provider: str = PROVIDER
    answer_bytes_max: int = 4 * 1024 * 1024
    """Output that is no file stands in the prediction."""

    def unsupported(self, call: JobCall) -> list[str]:
        """
        Name the fields of a call that Replicate does not take.
        """
        image = call.input.image if isinstance(call.input, VideoInput) else None
        if image is not None and len(image.data) > DATA_URL_BYTES_MAX:
            return [f"video.image of more than {DATA_URL_BYTES_MAX} bytes"]
        return []

    def build_start(
        self, call: JobCall, credential: Credential, *, base_url: str, webhook_url: str = ""
    ) -> HTTPRequest:
        """
        Build the request that starts a prediction.
        """
        fields = (
            msgspec.Raw(call.input.input_json)
            if isinstance(call.input, NativeInput)
            else _video(call.input)
        )
        return start(call.model, fields, credential, base_url=base_url, webhook_url=webhook_url)

    def build_poll(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest:
        """
        Build the request that asks how a prediction stands.
        """
        return HTTPRequest("GET", _address(handle, base_url), headers(credential))

    def build_cancel(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest | None:
        """
        Build the request that cancels a prediction.
        """
        return HTTPRequest("POST", f"{_address(handle, base_url)}/cancel", headers(credential))

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> JobReport:
        """
        Read a prediction.

        Raises:
            ProviderError: Replicate refused, or its answer is not to be understood.
        """
        prediction = read_prediction(status, headers, body, now=now)
        if not prediction.id:
            raise broken(TABLE, http_status=status, cut=False)
        return report(prediction, http_status=status, now=now)

    def build_fetch(self, url: str, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request that fetches an output, without the key.

        Raises:
            OutputAddressError: The address is not Replicate's own.
        """
        del credential
        host = delivery_host(url, _DELIVERY_HOSTS, provider=PROVIDER)
        return HTTPRequest("GET", address(base_url, host) + url.removeprefix(f"https://{host}"), {})


REPLICATE_JOBS = ReplicateJobs()


def _address(handle: JobHandle, base_url: str) -> str:
    job = quote(handle.provider_job, safe="")
    return f"{address(base_url, API_HOST)}/v1/predictions/{job}"


def _video(video: VideoInput) -> dict[str, Any]:
    """
    Give the input of a video model, by the names its families share
    (https://replicate.com/google/veo-3.1/api/schema).
    """
    fields: dict[str, Any] = {"prompt": video.prompt}
    if video.length_seconds is not None:
        fields["duration"] = video.length_seconds
    if video.aspect_ratio:
        fields["aspect_ratio"] = video.aspect_ratio
    if video.image is not None:
        data = base64.b64encode(video.image.data).decode()
        fields["image"] = f"data:{video.image.media_type};base64,{data}"
    return fields
