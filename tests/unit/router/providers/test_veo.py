# SPDX-License-Identifier: Apache-2.0
"""Veo at both doors: what is sent, what an operation means, where its bytes come from."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from services.router.domain.job_work import JobCall, NativeInput, VideoInput
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import ImagePart
from services.router.providers.base import APIKeyCredential, ProviderError
from services.router.providers.hosts import ANY_HOST
from services.router.providers.jobs import (
    JobHandle,
    JobPhase,
    OutputAddress,
    OutputAddressError,
    OutputData,
)
from services.router.providers.veo import GEMINI_JOBS, VERTEX_JOBS
from services.shared.secret import Secret
from tests.support.clock import EPOCH
from tests.support.simulated_providers import KEYS

pytestmark = pytest.mark.requirement("R3", "R4")

KEY = APIKeyCredential(Secret("AIzaSy0123456789"))
ACCOUNT = APIKeyCredential(Secret(KEYS["google-vertex"]))
GEMINI = "https://generativelanguage.googleapis.com"
NAME = "models/veo-3.1-generate-preview/operations/op1"
URI = f"{GEMINI}/v1beta/files/f1:download?alt=media"
WORK = VideoInput(
    prompt="x", image=ImagePart("image/png", b"png"), length_seconds=8, aspect_ratio="16:9"
)


def read(jobs: Any = GEMINI_JOBS, **fields: Any) -> Any:
    """Read an operation."""
    return jobs.read(200, {}, json.dumps({"name": NAME, **fields}).encode(), now=EPOCH)


def test_gemini_starts_and_asks_with_the_key_in_its_header() -> None:
    call = JobCall(model="veo-3.1-generate-preview", input=WORK)
    sent = GEMINI_JOBS.build_start(call, KEY, base_url=GEMINI)
    assert sent.url == f"{GEMINI}/v1beta/models/veo-3.1-generate-preview:predictLongRunning"
    assert json.loads(sent.body) == {
        "instances": [
            {
                "prompt": "x",
                "image": {
                    "bytesBase64Encoded": base64.b64encode(b"png").decode(),
                    "mimeType": "image/png",
                },
            }
        ],
        "parameters": {"sampleCount": 1, "durationSeconds": 8, "aspectRatio": "16:9"},
    }
    poll = GEMINI_JOBS.build_poll(JobHandle(NAME, "m"), KEY, base_url=GEMINI)
    assert poll.url == f"{GEMINI}/v1beta/{NAME}"
    assert poll.headers["x-goog-api-key"] == "AIzaSy0123456789"


def test_vertex_asks_by_fetch_predict_operation_in_its_region() -> None:
    handle = JobHandle("projects/p/operations/op1", "veo-3.1-generate-001")
    poll = VERTEX_JOBS.build_poll(handle, ACCOUNT, base_url=ANY_HOST)
    assert poll.url == (
        "https://us-central1-aiplatform.googleapis.com/v1/projects/simulated-project/locations/"
        "us-central1/publishers/google/models/veo-3.1-generate-001:fetchPredictOperation"
    )
    assert json.loads(poll.body) == {"operationName": "projects/p/operations/op1"}


def test_native_input_is_the_body_itself() -> None:
    call = JobCall(model="m", input=NativeInput(input_json=b'{"instances":[]}'))
    assert GEMINI_JOBS.build_start(call, KEY, base_url=GEMINI).body == b'{"instances":[]}'


def test_there_is_no_way_to_cancel() -> None:
    assert GEMINI_JOBS.build_cancel(JobHandle(NAME, "m"), KEY, base_url=GEMINI) is None


def test_an_operation_runs_until_it_is_done() -> None:
    report = read(metadata={"progressPercent": 30})
    assert (report.phase, report.progress_percent, report.provider_job) == (
        JobPhase.RUNNING,
        30,
        NAME,
    )


def test_geminis_video_is_an_address_of_its_files() -> None:
    samples = {"generatedSamples": [{"video": {"uri": URI}}]}
    report = read(done=True, response={"generateVideoResponse": samples})
    assert report.outputs == (OutputAddress(URI),)
    fetch = GEMINI_JOBS.build_fetch(URI, KEY, base_url=GEMINI)
    assert (fetch.url, "x-goog-api-key" in fetch.headers) == (URI, True)


def test_vertexs_video_stands_in_the_answer() -> None:
    video = {"bytesBase64Encoded": base64.b64encode(b"mp4").decode(), "mimeType": "video/mp4"}
    report = read(VERTEX_JOBS, done=True, response={"videos": [video]})
    assert report.outputs == (OutputData(b"mp4", "video/mp4"),)
    assert "data" not in repr(report.outputs)


def test_a_video_in_the_callers_bucket_is_fetched_from_google_storage() -> None:
    report = read(VERTEX_JOBS, done=True, response={"videos": [{"gcsUri": "gs://bucket/a/b.mp4"}]})
    assert report.outputs == (OutputAddress("gs://bucket/a/b.mp4"),)
    fetch = VERTEX_JOBS.build_fetch("gs://bucket/a/b.mp4", ACCOUNT, base_url=ANY_HOST)
    assert fetch.url == ("https://storage.googleapis.com/storage/v1/b/bucket/o/a%2Fb.mp4?alt=media")


@pytest.mark.requirement("R16")
@pytest.mark.parametrize(
    ("jobs", "url"),
    [
        (GEMINI_JOBS, "https://generativelanguage.googleapis.com.evil.example/v1beta/files/x"),
        (GEMINI_JOBS, "https://storage.googleapis.com/x"),
        (GEMINI_JOBS, "http://generativelanguage.googleapis.com/x"),
        (VERTEX_JOBS, "https://storage.googleapis.com/x"),
        (VERTEX_JOBS, "gs://bucket"),
        (VERTEX_JOBS, "gs:///name"),
    ],
)
def test_an_address_that_is_not_googles_gets_no_key(jobs: Any, url: str) -> None:
    with pytest.raises(OutputAddressError):
        jobs.build_fetch(url, KEY if jobs is GEMINI_JOBS else ACCOUNT, base_url=ANY_HOST)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (3, Outcome.INVALID_REQUEST),
        (7, Outcome.PERMISSION_DENIED),
        (8, Outcome.RATE_LIMITED),
        (13, Outcome.SERVER_ERROR),
        (14, Outcome.OVERLOADED),
        ("x", Outcome.SERVER_ERROR),
    ],
)
def test_an_operations_error_is_classified(code: Any, outcome: Outcome) -> None:
    report = read(done=True, error={"code": code, "message": "secret text"})
    assert report.phase is JobPhase.FAILED
    assert report.failure.outcome is outcome
    assert report.failure.billed is Billed.MAYBE_BILLED
    assert "secret text" not in str(report.failure)


def test_a_cancelled_operation_is_cancelled() -> None:
    assert read(done=True, error={"code": 1}).phase is JobPhase.CANCELLED


def test_a_video_held_back_is_filtered_and_says_so() -> None:
    told = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": ["secret reason"]}
    report = read(done=True, response={"generateVideoResponse": told})
    assert report.failure.outcome is Outcome.CONTENT_FILTERED
    assert "secret" not in str(report.failure.safe_message)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"done": True},
        {"done": True, "response": {"videos": [{}]}},
        {"done": True, "response": {"videos": [{"bytesBase64Encoded": "%"}]}},
    ],
)
def test_what_is_no_operation_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        read(**fields)


def test_a_refusal_is_googles_own() -> None:
    body = json.dumps({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}).encode()
    with pytest.raises(ProviderError) as caught:
        GEMINI_JOBS.read(429, {}, body, now=EPOCH)
    assert caught.value.outcome is Outcome.RATE_LIMITED
