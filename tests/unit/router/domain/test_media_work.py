# SPDX-License-Identifier: Apache-2.0
"""Images and speech as planning and money see them: prices, bounds, estimates."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import services.router
from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain import next_step
from services.router.domain.catalogue import Catalogue, Offer
from services.router.domain.media_work import ImageInput, SpeechInput
from services.router.domain.next_step import End, Failure, Try
from services.router.domain.operation import Operation
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.plan import Funding
from services.router.domain.prices import ImagePrice, Price, Rates, cost_nano_usd
from services.router.domain.request import Preferences
from services.router.domain.text import Usage
from services.router.usecases.failures import no_candidate
from services.shared.config import ConfigError
from tests.support.routing import PROVIDERS, account_keys, own_key, planned, request

FILE = Path(services.router.__file__).parent / "catalogue.yaml"
PRICES, NOW = PriceLibrary(), datetime(2026, 11, 21, tzinfo=UTC)
CATALOGUE: Catalogue = load_catalogue(FILE, PRICES, now=NOW)

counts = st.integers(min_value=0, max_value=10**7)
rates = st.integers(min_value=0, max_value=10**12)


def offer(model: str, provider: str) -> Offer:
    [found] = [one for one in CATALOGUE.offers(model) if one.provider == provider]
    return found


class TestPrices:
    @pytest.mark.requirement("R6", "L3")
    @given(st.lists(counts, min_size=6, max_size=6), st.lists(rates, min_size=6, max_size=6))
    def test_a_cost_is_the_exact_rational_rounded_half_to_even(
        self, used: list[int], paid: list[int]
    ) -> None:
        words, drawn, told, made, images, characters = used
        usage = Usage(
            input_tokens=words + drawn,
            output_tokens=told + made,
            image_input_tokens=drawn,
            image_output_tokens=made,
            images=images,
            characters=characters,
        )
        base = Rates(
            input=paid[0],
            cached_input=paid[0],
            cache_write=paid[0],
            output=paid[1],
            image_input=paid[2],
            image_output=paid[3],
            image=paid[4],
            characters=paid[5],
        )
        tokens = words * paid[0] + told * paid[1] + drawn * paid[2] + made * paid[3]
        exact = Fraction(tokens + characters * paid[5], 10**6) + images * paid[4]
        assert cost_nano_usd(Price("x", base), usage) == round(exact)

    @pytest.mark.requirement("R6")
    def test_images_that_have_no_rate_of_their_own_cost_as_words_do(self) -> None:
        base = Rates(input=10**6, cached_input=0, cache_write=0, output=2 * 10**6)
        usage = Usage(input_tokens=5, output_tokens=7, image_input_tokens=5, image_output_tokens=7)
        assert cost_nano_usd(Price("x", base), usage) == 5 + 14

    @pytest.mark.requirement("R6", "L3")
    def test_size_and_quality_pick_the_row_and_none_is_no_price(self) -> None:
        rows = (
            ImagePrice("1024x1024", "standard", 40_000_000),
            ImagePrice("1024x1024", "hd", 80_000_000),
            ImagePrice("1792x1024", "", 120_000_000),
        )
        listed = Price("x", Rates(0, 0, 0, 0), images=rows)
        picked = {
            (size, quality): found.base.image
            for size, quality in [("", ""), ("1024x1024", "hd"), ("1792x1024", "hd")]
            if (found := listed.for_image(size, quality)) is not None
        }
        assert list(picked.values()) == [40_000_000, 80_000_000, 120_000_000]
        assert listed.for_image("256x256", "standard") is None
        unlisted = replace(offer("stability/core", "stability"), price=listed)
        assert ImageInput(prompt="x", size="256x256").priced(unlisted).price is None


class TestWork:
    @pytest.mark.requirement("L3", "R3")
    @pytest.mark.parametrize(
        ("model", "provider", "size", "quality", "tokens"),
        [
            ("openai/gpt-image-1-mini", "openai", "", "", 1056),
            ("openai/gpt-image-1-mini", "openai", "1536x1024", "high", 6208),
            ("google/gemini-2.5-flash-image", "gemini", "", "", 4096),
            ("google/gemini-3.1-flash-image", "google-vertex", "16:9", "4K", 8192),
        ],
    )
    def test_the_worst_case_bounds_every_image_of_the_size(
        self, model: str, provider: str, size: str, quality: str, tokens: int
    ) -> None:
        work = ImageInput(prompt="A boat", count=2, size=size, quality=quality)
        found = work.priced(offer(model, provider))
        assert found.price is not None
        worst = work.worst_case_nano_usd(found, CATALOGUE)
        call = work.call(found, CATALOGUE, stream=True)
        assert worst is not None
        assert call.output_tokens_max == 2 * tokens
        assert worst >= cost_nano_usd(found.price, work.usage_estimate(0, call))

    @pytest.mark.requirement("R3")
    def test_what_is_left_open_is_the_model_s_default(self) -> None:
        call = ImageInput(prompt="x").call(
            offer("openai/gpt-image-1-mini", "openai"), CATALOGUE, stream=False
        )
        assert (call.size, call.quality, call.media_type) == ("1024x1024", "medium", "image/png")
        spoken = SpeechInput(text="x").call(offer("openai/tts-1", "openai"), CATALOGUE, stream=True)
        assert (spoken.voice, spoken.media_type) == ("alloy", "audio/mpeg")

    @pytest.mark.requirement("L3", "R3")
    @pytest.mark.parametrize(("speed", "tokens"), [(None, 8_000), (2.0, 8_000), (0.25, 32_000)])
    def test_slow_speech_is_bounded_by_its_length(self, speed: float | None, tokens: int) -> None:
        work = SpeechInput(text="x" * 1_000, speed=speed)
        found = offer("openai/gpt-4o-mini-tts", "openai")
        worst = work.worst_case_nano_usd(found, CATALOGUE)
        assert worst == (1_000 + 1_024) * 600 + tokens * 12_000

    @pytest.mark.requirement("R5")
    def test_a_model_outside_the_catalogue_passes_as_it_was_asked_for(self) -> None:
        unknown = Offer("openai", "openai/gpt-image-9", "gpt-image-9", None)
        work = ImageInput(prompt="x", size="7x7")
        assert work.worst_case_nano_usd(work.priced(unknown), CATALOGUE) is None
        assert work.call(unknown, CATALOGUE, stream=False).size == "7x7"
        spoken = SpeechInput(text="x")
        assert spoken.worst_case_nano_usd(spoken.priced(unknown), CATALOGUE) is None

    def test_each_kind_is_named_for_its_plan(self) -> None:
        assert ImageInput(prompt="x").operation is Operation.IMAGE
        assert SpeechInput(text="x").operation is Operation.SPEECH

    @pytest.mark.requirement("R11")
    def test_a_faster_model_is_of_the_same_kind(self) -> None:
        assert CATALOGUE.faster_than("stability/ultra") in (
            "stability/core",
            "stability/sd3.5-large-turbo",
        )
        assert "tts" in CATALOGUE.faster_than("openai/tts-1-hd")
        assert "image" in CATALOGUE.faster_than("openai/gpt-image-1.5")


@pytest.mark.requirement("R3", "R8", "R11")
@pytest.mark.parametrize("rate", [1, 10**12])
@pytest.mark.parametrize(
    ("work", "model", "unit"),
    [
        (ImageInput(prompt="A boat"), "stability/ultra", "image"),
        (SpeechInput(text="Hi"), "openai/tts-1", "character"),
    ],
)
def test_a_price_limit_in_tokens_leaves_nobody_who_is_paid_otherwise(
    work: ImageInput | SpeechInput, model: str, unit: str, rate: int
) -> None:
    """Neither an own key nor credits: nothing is dearer than the limit unawares."""
    provider = model.partition("/")[0]
    shared = account_keys(own_key(provider, account="platform"), account="platform")
    asked = request(model=model, input=work, preferences=Preferences(max_output_rate=rate))
    laid_out = planned(
        asked, keys=account_keys(own_key(provider)), shared=shared, catalogue=CATALOGUE
    )
    assert (laid_out.own, laid_out.shared) == ((), ())
    told = no_candidate(asked, laid_out, CATALOGUE)
    assert f"{provider}: is priced by the {unit}, and max_price limits tokens only" in told.message
    assert "relax route.max_price" in told.message
    assert "route.max_price" in told.metadata["field"].split(",")
    assert "cheapest_model" not in told.metadata


@pytest.mark.requirement("R3", "R10")
@pytest.mark.parametrize("may_repeat", [True, False])
def test_media_are_never_repeated_after_a_call_that_may_have_been_billed(
    *, may_repeat: bool
) -> None:
    """Text goes on to the next key; images and speech end there."""
    laid_out = planned(keys=account_keys(own_key(PROVIDERS[0])))
    progress = next_step.begin(laid_out, deadline=100.0, own_only=False, may_repeat=may_repeat)
    step = next_step.decide(progress, now=0.0)
    assert isinstance(step, Try)
    assert step.own is not None
    progress = next_step.granted(progress, step, Funding.OWN_KEY)
    failure = Failure(outcome=Outcome.NETWORK, billed=Billed.MAYBE_BILLED, message="cut")
    progress = next_step.failed(progress, step.own, failure, now=0.0, chance=0.5)
    assert isinstance(next_step.decide(progress, now=0.0), Try if may_repeat else End)


class TestCatalogueFile:
    @pytest.mark.requirement("R5")
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (
                (
                    "capabilities: [image]\n    fast: true\n    image: *stable_image",
                    "capabilities: [text]\n    fast: true\n    image: *stable_image",
                ),
                "the capability image and the section image go together",
            ),
            (("images: [{price: 30000000}]", "images: [{price: 0}]"), "charges nothing"),
            (
                ("images: [{price: 30000000}]", 'images: [{size: "1:1", price: 3}]'),
                "has no price for size '16:9'",
            ),
            (
                ("images: [{price: 30000000}]", 'images: [{size: "16:9", price: 3}, {price: 4}]'),
                "the default's price must come first",
            ),
            (
                ("  speech: openai/gpt-4o-mini-tts", "  speech: openai/gpt-4o-mini"),
                "media.speech: openai/gpt-4o-mini",
            ),
        ],
    )
    def test_what_does_not_fit_together_is_told_at_load(
        self, tmp_path: Path, change: tuple[str, str], problem: str
    ) -> None:
        text = FILE.read_text(encoding="utf-8")
        assert change[0] in text
        path = tmp_path / "catalogue.yaml"
        path.write_text(text.replace(*change, 1), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load_catalogue(path, PRICES, now=NOW)
        assert problem in str(caught.value)
