# SPDX-License-Identifier: Apache-2.0
"""What the media of a call become in each dialect: nothing that was asked for is left out."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from services.router.domain.job_work import JobCall, VideoInput
from services.router.domain.media import ImageCall
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import ImagePart
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.registry import DIALECTS, JOB_DIALECTS
from tests.support.provider_streams import NOW, credential
from tests.support.simulated_providers import KEYS

pytestmark = pytest.mark.requirement("R3", "R4")

FLUX = "black-forest-labs/flux-schnell"
FRAME = ImagePart("image/png", b"frame")


def built(provider: str, **fields: Any) -> Any:
    call = ImageCall(**{"model": FLUX, "prompt": "A boat", "count": 1, **fields})
    dialect = DIALECTS[provider]
    base_url = dialect.default_base_url
    return dialect.build_request(call, credential(KEYS[provider]), base_url=base_url)


def prediction(**fields: Any) -> bytes:
    return msgspec.json.encode({"id": "p", "status": "succeeded", **fields})


class TestReplicate:
    def test_every_choice_is_sent(self) -> None:
        request = built("replicate", size="16:9", count=2, media_type="image/jpeg", seed=7)
        assert msgspec.json.decode(request.body)["input"] == {
            "prompt": "A boat",
            "aspect_ratio": "16:9",
            "num_outputs": 2,
            "output_format": "jpg",
            "seed": 7,
        }

    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize(
        ("fields", "outcome"),
        [
            ({"status": "failed", "error": "NSFW content detected"}, Outcome.CONTENT_FILTERED),
            ({"status": "failed", "error": "CUDA out of memory"}, Outcome.SERVER_ERROR),
            ({"status": "processing"}, Outcome.TIMEOUT),
        ],
    )
    def test_an_image_that_did_not_come_is_told(
        self, fields: dict[str, Any], outcome: Outcome
    ) -> None:
        call = ImageCall(model=FLUX, prompt="A boat", count=1)
        with pytest.raises(ProviderError) as failed:
            DIALECTS["replicate"].parse_images(call, {}, prediction(**fields), now=NOW)
        assert (failed.value.outcome, failed.value.billed) == (outcome, Billed.MAYBE_BILLED)

    def test_an_answer_without_an_image_is_broken(self) -> None:
        call = ImageCall(model=FLUX, prompt="A boat", count=1)
        with pytest.raises(ProviderBrokenError):
            DIALECTS["replicate"].parse_images(call, {}, prediction(output="words"), now=NOW)


@pytest.mark.parametrize(
    ("model", "path"), [("core", "/generate/core"), ("sd3.5-medium", "/generate/sd3")]
)
def test_stability_is_sent_every_choice(model: str, path: str) -> None:
    request = built("stability", model=model, size="16:9", seed=7, media_type="image/jpeg")
    assert request.url.endswith(path)
    sent = request.body.decode()
    for name, value in (("aspect_ratio", "16:9"), ("seed", "7"), ("output_format", "jpeg")):
        assert f'name="{name}"\r\n\r\n{value}\r\n' in sent
    assert ('name="model"\r\n\r\nsd3.5-medium\r\n' in sent) is (model != "core")


@pytest.mark.parametrize("provider", ["gemini", "google-vertex"])
def test_google_is_sent_every_choice(provider: str) -> None:
    model = "gemini-3.1-flash-image"
    request = built(
        provider, model=model, size="16:9", quality="2K", seed=7, output_tokens_max=2000
    )
    config = msgspec.json.decode(request.body)["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "16:9", "imageSize": "2K"}
    assert (config["seed"], config["maxOutputTokens"]) == (7, 2000)


@pytest.mark.parametrize("provider", sorted(JOB_DIALECTS))
@pytest.mark.parametrize("bare", [False, True], ids=["every choice", "none"])
def test_a_video_is_asked_for_with_what_was_chosen(provider: str, *, bare: bool) -> None:
    choices: dict[str, Any] = {"image": FRAME, "length_seconds": 6, "aspect_ratio": "9:16"}
    video = VideoInput(prompt="A boat", **({} if bare else choices))
    call = JobCall(model="google/veo-3.1", input=video)
    jobs, base_url = JOB_DIALECTS[provider], DIALECTS[provider].default_base_url
    request = jobs.build_start(call, credential(KEYS[provider]), base_url=base_url)
    sent = request.body.decode()
    assert "A boat" in sent
    for piece in (base64.b64encode(FRAME.data).decode(), ":6", "9:16"):
        assert (piece in sent) is not bare
