# SPDX-License-Identifier: Apache-2.0
"""Keys under their lease: what may be used when, and how old it was, as a metric."""

from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import REGISTRY

from services.router.adapters.key_copies import KeyCopies, Position
from services.router.adapters.keyvault_client import ResolvedKeys, _Held
from services.shared.secret import Secret
from tests.support.clock import ManualClock
from tests.support.routing import account_keys, own_key

NAME = "ownkey_router_key_lease_age_seconds"
KEY = own_key("openai", "main")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def held(clock: ManualClock) -> _Held:
    """One account's keys, asked for at the clock's zero."""
    copies: KeyCopies[ResolvedKeys] = KeyCopies()
    resolved = ResolvedKeys(account_keys(KEY), (Secret("s"),))
    ticket = copies.resolving("accounts/demo", now=clock.monotonic())
    copy = copies.resolved(ticket, resolved, Position("lineage", 1))
    return _Held(copy, copies, resolved.keys, clock)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.requirement("K15", "O6")
class TestMeasure:
    def test_each_use_is_measured_by_the_age_of_what_vouched_for_it(
        self, held: _Held, clock: ManualClock
    ) -> None:
        count, total = sample(f"{NAME}_count"), sample(f"{NAME}_sum")
        clock.advance(0.25)
        assert held.usable()
        clock.advance(0.25)
        assert held.usable()

        assert sample(f"{NAME}_count") == count + 2
        assert sample(f"{NAME}_sum") - total == pytest.approx(0.75)

    def test_no_use_is_older_than_the_lease(self, held: _Held, clock: ManualClock) -> None:
        ended = sample("ownkey_router_key_leases_ended_total")
        clock.advance(0.9)
        assert not held.usable()

        assert sample("ownkey_router_key_leases_ended_total") == ended + 1
        within = sample(f"{NAME}_bucket", le="0.9")
        assert within == sample(f"{NAME}_count")


@pytest.mark.requirement("K7", "K15")
def test_a_version_in_its_overlap_is_used_until_that_ends_and_no_longer(
    held: _Held, clock: ManualClock
) -> None:
    before = dataclasses.replace(KEY, ends_at=0.5)
    clock.advance(0.4)
    assert held.may_use(before)
    clock.advance(0.1)
    assert not held.may_use(before)
    assert held.may_use(KEY)
