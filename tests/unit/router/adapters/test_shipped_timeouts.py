# SPDX-License-Identifier: Apache-2.0
"""The timeouts that are shipped, by provider, and the faster models that a timeout names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.router.adapters.catalogue_file import load_catalogue
from services.router.adapters.price_library import PriceLibrary
from services.router.domain.catalogue import Capability
from services.router.usecases.failures import timeout_error
from tests.support.routing import account_keys, own_key, planned, request, takes_all

SHIPPED = load_catalogue(
    Path("services/router/catalogue.yaml"),
    PriceLibrary(),
    now=datetime(2026, 11, 21, tzinfo=UTC),
)
REQUEST_SECONDS_MAX = 600.0
"""The longest that a request may take."""
FIRST_CONTENT = {"deepseek": 300.0}
"""Where it differs from ninety seconds."""


@pytest.mark.requirement("R11")
@pytest.mark.parametrize("provider", sorted(SHIPPED.providers))
def test_first_content_and_whole_answer_have_their_times(provider: str) -> None:
    timeouts = SHIPPED.providers[provider].timeouts
    assert timeouts.first_content_seconds == FIRST_CONTENT.get(provider, 90.0)
    assert timeouts.first_content_seconds < timeouts.answer_seconds <= REQUEST_SECONDS_MAX


def is_text(model: str) -> bool:
    """Tell whether a model writes text."""
    return Capability.TEXT in SHIPPED.models[model].capabilities


@pytest.mark.requirement("R11")
@pytest.mark.parametrize("model", sorted(name for name in SHIPPED.models if is_text(name)))
def test_a_timeout_names_a_faster_model_that_the_catalogue_serves(model: str) -> None:
    """Of the same vendor where it has one; never the model itself."""
    provider = SHIPPED.offers(model)[0].provider
    [candidate] = planned(
        request(model=model),
        keys=account_keys(own_key(provider)),
        shared=account_keys(account="platform"),
        catalogue=SHIPPED,
        unsupported=takes_all,
    ).own
    error = timeout_error(candidate, (), SHIPPED)
    faster = error.metadata["faster_model"]
    assert faster in SHIPPED.models
    assert faster != model
    assert SHIPPED.models[faster].fast
    assert is_text(faster)
    assert f"try a faster model: {faster}" in error.message
    vendors = {m.id.partition("/")[0] for m in SHIPPED.models.values() if m.fast and m.id != model}
    vendor = model.partition("/")[0]
    assert (faster.partition("/")[0] == vendor) is (vendor in vendors)
