# SPDX-License-Identifier: Apache-2.0
"""Replicate's predictions: what is sent, what every documented answer means, who gets the key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.router.domain.job_work import JobCall, NativeInput, VideoInput
from services.router.domain.media import ImageCall
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
from services.router.providers.replicate import DATA_URL_BYTES_MAX, REPLICATE_JOBS
from services.router.providers.replicate_dialect import PROBE_MODEL, REPLICATE
from services.shared.secret import Secret
from tests.support.clock import EPOCH

pytestmark = pytest.mark.requirement("R4", "R3")

CREDENTIAL = APIKeyCredential(Secret("r8_0123456789012345678901234567890123456"))
FLUX = "black-forest-labs/flux-schnell"
URL = "https://replicate.delivery/pbxt/abc/out-0.png"


def answer(**fields: Any) -> bytes:
    """A prediction's body."""
    body = {"id": "p1", "status": "starting", "input": {"prompt": "secret prompt"}, **fields}
    return json.dumps(body).encode()


def read(http_status: int = 200, /, **fields: Any) -> Any:
    """Read a prediction."""
    return REPLICATE_JOBS.read(http_status, {}, answer(**fields), now=EPOCH)


class TestRequests:
    def test_an_official_model_has_an_address_of_its_own(self) -> None:
        call = JobCall(model=FLUX, input=NativeInput(input_json=b'{"prompt":"x"}'))
        sent = REPLICATE_JOBS.build_start(call, CREDENTIAL, base_url=ANY_HOST)
        assert sent.url == f"https://api.replicate.com/v1/models/{FLUX}/predictions"
        assert json.loads(sent.body) == {"input": {"prompt": "x"}}
        assert sent.headers["authorization"].startswith("Bearer r8_")

    def test_a_version_is_sent_in_the_body_with_the_webhook(self) -> None:
        call = JobCall(model="a/b:" + "0" * 64, input=NativeInput(input_json=b"{}"))
        sent = REPLICATE_JOBS.build_start(
            call, CREDENTIAL, base_url=ANY_HOST, webhook_url="https://h.example/webhooks/replicate"
        )
        assert sent.url == "https://api.replicate.com/v1/predictions"
        assert json.loads(sent.body) == {
            "version": "0" * 64,
            "input": {},
            "webhook": "https://h.example/webhooks/replicate",
            "webhook_events_filter": ["completed"],
        }

    def test_a_video_is_sent_by_the_shared_names(self) -> None:
        work = VideoInput(
            prompt="x",
            image=ImagePart("image/png", b"\x89PNG"),
            length_seconds=6,
            aspect_ratio="9:16",
        )
        call = JobCall(model="google/veo-3.1", input=work)
        sent = REPLICATE_JOBS.build_start(call, CREDENTIAL, base_url=ANY_HOST)
        fields = json.loads(sent.body)["input"]
        assert fields["image"].startswith("data:image/png;base64,")
        assert (fields["duration"], fields["aspect_ratio"]) == (6, "9:16")

    def test_a_frame_too_large_for_a_data_url_is_refused_before_it_is_sent(self) -> None:
        for size, lacking in ((DATA_URL_BYTES_MAX, 0), (DATA_URL_BYTES_MAX + 1, 1)):
            work = VideoInput(prompt="x", image=ImagePart("image/png", bytes(size)))
            call = JobCall(model="google/veo-3.1", input=work)
            assert len(REPLICATE_JOBS.unsupported(call)) == lacking

    def test_a_job_is_asked_for_and_cancelled_by_its_id(self) -> None:
        handle = JobHandle("a/b", FLUX)
        poll = REPLICATE_JOBS.build_poll(handle, CREDENTIAL, base_url=ANY_HOST)
        cancel = REPLICATE_JOBS.build_cancel(handle, CREDENTIAL, base_url=ANY_HOST)
        assert poll.url == "https://api.replicate.com/v1/predictions/a%2Fb"
        assert cancel is not None
        assert (cancel.method, cancel.url) == ("POST", f"{poll.url}/cancel")


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "phase"),
        [
            ("starting", JobPhase.QUEUED),
            ("processing", JobPhase.RUNNING),
            ("succeeded", JobPhase.SUCCEEDED),
            ("failed", JobPhase.FAILED),
            ("canceled", JobPhase.CANCELLED),
            ("aborted", JobPhase.CANCELLED),
        ],
    )
    def test_every_documented_status_has_its_phase(self, status: str, phase: JobPhase) -> None:
        assert read(status=status).phase is phase

    def test_output_tells_the_end_while_the_status_still_says_processing(self) -> None:
        assert read(201, status="processing", output=["a", "b"]).phase is JobPhase.SUCCEEDED
        assert read(201, status="processing", output=[]).phase is JobPhase.RUNNING

    @pytest.mark.parametrize(
        "output", [URL, [URL], {"image": URL}, [{"file": URL}], {"files": [URL], "seed": 3}]
    )
    def test_addresses_are_found_in_every_shape(self, output: Any) -> None:
        assert read(status="succeeded", output=output).outputs == (OutputAddress(URL),)

    def test_pieces_of_text_are_one_text(self) -> None:
        assert read(status="succeeded", output=["he", "llo"]).outputs == (
            OutputData(b"hello", "text/plain"),
        )

    def test_any_other_output_is_given_as_json(self) -> None:
        (medium,) = read(status="succeeded", output={"score": 1}).outputs
        assert (medium.media_type, json.loads(medium.data)) == ("application/json", {"score": 1})

    def test_the_machines_time_is_told_also_after_a_cancel(self) -> None:
        assert read(status="canceled", metrics={"predict_time": 1.2345}).busy_milliseconds == 1234

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            ("NSFW content detected. Try running it again.", Outcome.CONTENT_FILTERED),
            ("The input was flagged as sensitive. (E005)", Outcome.CONTENT_FILTERED),
            ("CUDA out of memory", Outcome.SERVER_ERROR),
            (None, Outcome.SERVER_ERROR),
        ],
    )
    def test_a_failed_prediction_says_why_without_its_text(
        self, error: str | None, outcome: Outcome
    ) -> None:
        failure = read(status="failed", error=error).failure
        assert (failure.outcome, failure.billed) == (outcome, Billed.MAYBE_BILLED)
        assert not error or error not in str(failure)

    @pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":"","status":"starting"}', b"\xff"])
    def test_an_answer_that_is_no_prediction_is_an_error(self, body: bytes) -> None:
        with pytest.raises(ProviderError) as caught:
            REPLICATE_JOBS.read(200, {}, body, now=EPOCH)
        assert caught.value.billed is Billed.MAYBE_BILLED

    def test_an_unknown_status_is_an_error(self) -> None:
        with pytest.raises(ProviderError):
            read(status="dancing")

    def test_the_prompt_that_is_repeated_is_in_no_report(self) -> None:
        assert "secret prompt" not in repr(read(status="succeeded", output=URL))

    @pytest.mark.requirement("R10", "R11")
    @pytest.mark.parametrize(
        ("status", "body", "outcome", "wait"),
        [
            (401, {"title": "Unauthenticated"}, Outcome.INVALID_KEY, None),
            (402, {"title": "Insufficient credit"}, Outcome.INSUFFICIENT_CREDIT, None),
            (429, {"detail": "Request was throttled.", "retry_after": 5}, Outcome.RATE_LIMITED, 5),
            (429, {"detail": "Your rate limit resets in ~3s."}, Outcome.RATE_LIMITED, 3),
            (422, {"detail": "- input.prompt: required"}, Outcome.INVALID_REQUEST, None),
            (422, {"title": "Invalid version or not permitted"}, Outcome.MODEL_NOT_FOUND, None),
            (404, {"title": "Not found"}, Outcome.MODEL_NOT_FOUND, None),
            (500, {}, Outcome.SERVER_ERROR, None),
        ],
    )
    def test_refusals(
        self, status: int, body: dict[str, Any], outcome: Outcome, wait: float | None
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            REPLICATE_JOBS.read(status, {}, json.dumps(body).encode(), now=EPOCH)
        assert (caught.value.outcome, caught.value.retry_after_seconds) == (outcome, wait)


@pytest.mark.requirement("R16")
class TestOutputAddresses:
    def test_output_is_fetched_without_the_key(self) -> None:
        sent = REPLICATE_JOBS.build_fetch(URL, CREDENTIAL, base_url=ANY_HOST)
        assert (sent.url, dict(sent.headers)) == (URL, {})

    @pytest.mark.parametrize(
        "url",
        [
            "http://replicate.delivery/x",
            "https://replicate.delivery.example/x",
            "https://evilreplicate.delivery/x",
            "https://replicate.delivery:8443/x",
            "https://user@replicate.delivery/x",
            "https://replicate.delivery\\@evil.example/x",
            "https://169.254.169.254/latest",
            "https://replicate.delivery/x?a=\x00",
            "https://api.replicate.com/v1/account",
        ],
    )
    def test_any_other_address_is_refused(self, url: str) -> None:
        with pytest.raises(OutputAddressError):
            REPLICATE_JOBS.build_fetch(url, CREDENTIAL, base_url=ANY_HOST)


class TestImages:
    CALL = ImageCall(model=FLUX, prompt="x", count=2, size="16:9", output_tokens_max=0, seed=7)

    def test_an_image_is_waited_for(self) -> None:
        sent = REPLICATE.build_request(self.CALL, CREDENTIAL, base_url=ANY_HOST)
        assert sent.url == f"https://api.replicate.com/v1/models/{FLUX}/predictions"
        assert sent.headers["prefer"] == "wait=60"
        assert json.loads(sent.body)["input"] == {
            "prompt": "x",
            "aspect_ratio": "16:9",
            "num_outputs": 2,
            "seed": 7,
        }

    def test_images_are_given_by_their_addresses_and_counted(self) -> None:
        body = answer(status="processing", output=[URL, URL])
        read = REPLICATE.parse_images(self.CALL, {}, body, now=EPOCH)
        assert [medium.url for medium in read.media] == [URL, URL]
        assert read.usage is not None
        assert read.usage.images == 2

    def test_an_image_that_is_not_done_in_time_may_be_billed(self) -> None:
        with pytest.raises(ProviderError) as caught:
            REPLICATE.parse_images(self.CALL, {}, answer(status="processing"), now=EPOCH)
        assert (caught.value.outcome, caught.value.billed) == (
            Outcome.TIMEOUT,
            Billed.MAYBE_BILLED,
        )


@pytest.mark.requirement("K3")
class TestProbe:
    def test_a_token_with_credit_runs_the_smallest_model_and_says_what_it_cost(self) -> None:
        probe = REPLICATE.probe(CREDENTIAL, base_url=ANY_HOST)
        first = probe.next_request()
        assert first is not None
        assert first.url == "https://api.replicate.com/v1/account"
        probe.feed(200, {}, b'{"type":"user"}', now=EPOCH)
        second = probe.next_request()
        assert second is not None
        assert json.loads(second.body)["version"] == PROBE_MODEL.partition(":")[2]
        body = answer(status="succeeded", output="hello Hi", metrics={"predict_time": 0.2})
        probe.feed(201, {}, body, now=EPOCH)
        result = probe.result()
        assert (result.outcome, result.credit_checked, result.cost_nano_usd) == (None, True, 20_000)

    @pytest.mark.parametrize(
        ("status", "outcome", "checked"),
        [
            (402, Outcome.INSUFFICIENT_CREDIT, True),
            (429, Outcome.RATE_LIMITED, False),
            (422, None, False),
            (500, Outcome.SERVER_ERROR, False),
        ],
    )
    def test_the_prediction_decides(
        self, status: int, outcome: Outcome | None, checked: bool
    ) -> None:
        probe = REPLICATE.probe(CREDENTIAL, base_url=ANY_HOST)
        probe.feed(200, {}, b"{}", now=EPOCH)
        probe.feed(status, {}, b"{}", now=EPOCH)
        result = probe.result()
        assert (result.outcome, result.credit_checked) == (outcome, checked)

    def test_an_unknown_token_ends_at_the_free_call(self) -> None:
        probe = REPLICATE.probe(CREDENTIAL, base_url=ANY_HOST)
        probe.feed(401, {}, b'{"title":"Unauthenticated"}', now=EPOCH)
        assert probe.next_request() is None
        assert probe.result().outcome is Outcome.INVALID_KEY
