# SPDX-License-Identifier: Apache-2.0
"""What this process found out about keys and keyvault has not told back yet."""

from __future__ import annotations

import pytest

from services.router.adapters.local_health import LocalHealth
from services.router.domain.keys import HealthMark, HealthState
from services.router.domain.outcomes import Outcome
from tests.support.routing import account_keys, own_key

KEY = own_key("openai")


def limited(health: LocalHealth, model: str, hint: float, now: float) -> None:
    """Note a 429."""
    health.note(KEY, Outcome.RATE_LIMITED, model=model, retry_after=hint, now=now)


def marks(health: LocalHealth) -> tuple[HealthMark, ...]:
    """Give what stands in the key's way."""
    return health.over(account_keys(KEY)).keys[0].health


@pytest.mark.requirement("R10", "K14")
def test_a_later_hint_extends_a_cooldown_and_never_shortens_it() -> None:
    health = LocalHealth()
    limited(health, "m", 30.0, 0.0)
    limited(health, "m", 5.0, 10.0)
    assert marks(health) == (HealthMark(HealthState.COOLING, "m", 30.0),)
    limited(health, "m", 60.0, 10.0)
    assert marks(health) == (HealthMark(HealthState.COOLING, "m", 70.0),)


@pytest.mark.requirement("R10", "K14")
def test_each_model_on_a_key_cools_by_itself() -> None:
    health = LocalHealth()
    limited(health, "m", 30.0, 0.0)
    limited(health, "n", 5.0, 0.0)
    assert {mark.model: mark.until for mark in marks(health)} == {"m": 30.0, "n": 5.0}


@pytest.mark.requirement("K14")
def test_what_keyvault_decides_is_not_noted_here() -> None:
    """A 401 is confirmed by one shared probe before it stands in any key's way."""
    health = LocalHealth()
    health.note(KEY, Outcome.INVALID_KEY, model="", retry_after=None, now=0.0)
    assert marks(health) == ()


@pytest.mark.requirement("K16", "R10", "K14")
def test_one_request_without_credit_takes_out_an_own_key_and_no_shared_one() -> None:
    """Every customer would feel it; that key is keyvault's to test first."""
    health, shared = LocalHealth(), own_key("openai", account="platform")
    for key in (KEY, shared):
        health.note(key, Outcome.INSUFFICIENT_CREDIT, model="", retry_after=None, now=0.0)
    assert [mark.state for mark in marks(health)] == [HealthState.NO_CREDIT]
    assert health.over(account_keys(shared)).keys[0].health == ()


@pytest.mark.requirement("K14")
def test_success_wipes_the_notes() -> None:
    health = LocalHealth()
    limited(health, "m", 30.0, 0.0)
    health.note(KEY, None, model="", retry_after=None, now=1.0)
    assert marks(health) == ()
