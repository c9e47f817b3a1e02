# SPDX-License-Identifier: Apache-2.0
"""What a job uses and costs at most, by its input and what the catalogue knows of its model."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from services.router.domain.catalogue import (
    Capability,
    Catalogue,
    CreditDefaults,
    JobTraits,
    Offer,
)
from services.router.domain.job_work import NativeInput, VideoInput
from services.router.domain.operation import Operation
from services.router.domain.prices import ImagePrice, Price, Rates, VideoPrice

pytestmark = pytest.mark.requirement("R3", "L3")

NOTHING = Rates(input=0, cached_input=0, cache_write=0, output=0)
CATALOGUE = Catalogue(
    providers={}, models={}, credits=CreditDefaults(default="", quality="", speed="")
)
BY_SECOND = Price(
    "p",
    NOTHING,
    videos=(VideoPrice("", 400), VideoPrice("4k", 600), VideoPrice("", 200, silent=True)),
)
BY_IMAGE = Price("p", NOTHING, images=(ImagePrice("", "", 3_000_000),))
BY_MACHINE = Price("p", dataclasses.replace(NOTHING, machine_second=975_000))
VIDEO = JobTraits(lengths=(8, 6, 4))


def native(**fields: Any) -> NativeInput:
    """A provider's own input."""
    return NativeInput(input_json=json.dumps(fields).encode())


def cost(
    work: VideoInput | NativeInput, price: Price | None, *, provider: str = "replicate"
) -> int | None:
    """The most that a job could cost at a price."""
    offer = work.priced(Offer(provider, "vendor/model", "m", price))
    return work.worst_case_nano_usd(offer, CATALOGUE)


def test_a_video_costs_its_seconds_and_without_a_length_the_models_default() -> None:
    work = VideoInput(prompt="x")
    assert cost(work.with_traits(VIDEO), BY_SECOND) == 8 * 400
    asked = dataclasses.replace(work, length_seconds=4).with_traits(VIDEO)
    assert cost(asked, BY_SECOND) == 4 * 400
    assert work.operation is Operation.JOB
    assert work.needs() == ((Capability.VIDEO, "requests for video"),)


@pytest.mark.parametrize(
    ("provider", "fields", "wanted"),
    [
        ("replicate", {}, 8 * 400),
        ("replicate", {"duration": 6}, 6 * 400),
        ("replicate", {"duration": "6"}, 6 * 400),
        ("replicate", {"duration": 5.5}, 6 * 400),
        ("replicate", {"duration": True}, 8 * 400),
        ("gemini", {"parameters": {"durationSeconds": 4, "sampleCount": 2}}, 2 * 4 * 400),
        ("replicate", {"resolution": "4K"}, 8 * 600),
        ("gemini", {"parameters": {"resolution": "8k"}}, None),
        ("replicate", {"generate_audio": False}, 8 * 200),
        ("gemini", {"parameters": {"generateAudio": False}}, 8 * 200),
        ("replicate", {"generate_audio": True}, 8 * 400),
        ("replicate", {"generate_audio": False, "resolution": "4k"}, None),
        # A provider passes over what it does not know, so that it decides no price.
        ("replicate", {"generateAudio": False, "durationSeconds": 1}, 8 * 400),
        ("replicate", {"parameters": {"duration": 1, "generate_audio": False}}, 8 * 400),
        ("google-vertex", {"durationSeconds": 1, "generateAudio": False}, 8 * 400),
        ("google-vertex", {"parameters": {"generateAudio": True, "generate_audio": False}}, 3200),
        ("replicate", {"durationSeconds": 1, "duration": 8}, 8 * 400),
        ("gemini", {"parameters": "none"}, 8 * 400),
    ],
)
def test_a_native_input_is_priced_by_what_it_asks_for(
    provider: str, fields: dict[str, Any], wanted: int | None
) -> None:
    """A resolution that the list leaves out has no price: credits refuse it."""
    work = native(**fields).with_traits(VIDEO)
    assert cost(work, BY_SECOND, provider=provider) == wanted


def test_images_cost_their_number() -> None:
    traits = JobTraits(makes_images=True)
    assert cost(native(num_outputs=3).with_traits(traits), BY_IMAGE) == 9_000_000
    assert cost(native(num_outputs=0).with_traits(traits), BY_IMAGE) == 3_000_000


def test_hardware_is_held_for_the_longest_run() -> None:
    traits = JobTraits(makes_images=True, machine_seconds_max=120)
    assert cost(native().with_traits(traits), BY_MACHINE) == 120 * 975_000


def test_without_a_price_there_is_no_bound() -> None:
    assert cost(native(), None) is None


def test_no_prompt_and_no_input_is_in_a_repr() -> None:
    work = (VideoInput(prompt="a secret wish"), native(prompt="a secret wish"))
    assert "secret" not in repr(work)
