# SPDX-License-Identifier: Apache-2.0
"""Links and heads: their bytes are fixed for ever, and each field counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.keyvault.domain.audit_chain import (
    GENESIS,
    ChainEnd,
    Head,
    WrittenEvent,
    extend_chain,
    link_event,
    parse_head,
)
from services.shared.secret import Secret

KEY = Secret(bytes(range(32)))
EVENT = WrittenEvent(
    account="demo",
    number=7,
    event_time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    actor="operator",
    action="CREATE",
    key_id="main",
    version=1,
    request_id="",
    details='{"provider": "openai", "a": "ü"}',
)
MAC_GOLDEN = "ae0480e5447039ab53595b2e772b0e24f8fcd5ba6ee7abf5ebd70de2373b01e6"
SIGNATURE_GOLDEN = "7345b7d601af1ed5a27d30866dc2b422a7f8a0e32c8ae17547691bc9065cb7aa"


def head() -> Head:
    return extend_chain(KEY, None, [EVENT])[1]


@pytest.mark.requirement("K13")
class TestLinks:
    def test_a_link_and_a_head_keep_their_golden_bytes(self) -> None:
        assert link_event(KEY, EVENT, sequence=1, previous=GENESIS).mac.hex() == MAC_GOLDEN
        assert head().signature.hex() == SIGNATURE_GOLDEN

    def test_the_layout_of_json_does_not_count(self) -> None:
        other = replace(EVENT, details='{"a":"ü",  "provider":"openai"}')

        assert link_event(KEY, other, sequence=1, previous=GENESIS).mac.hex() == MAC_GOLDEN

    @pytest.mark.parametrize(
        "change",
        [
            {"account": "other"},
            {"number": 8},
            {"event_time": EVENT.event_time + timedelta(microseconds=1)},
            {"actor": "operato"},
            {"action": "DELETE"},
            {"key_id": "mai"},
            {"version": 2},
            {"request_id": "x"},
            {"details": '{"provider": "openai"}'},
        ],
    )
    def test_every_field_counts(self, change: dict[str, Any]) -> None:
        changed = link_event(KEY, replace(EVENT, **change), sequence=1, previous=GENESIS)

        assert changed.mac.hex() != MAC_GOLDEN

    def test_place_predecessor_and_key_count(self) -> None:
        macs = {
            link_event(KEY, EVENT, sequence=1, previous=GENESIS).mac,
            link_event(KEY, EVENT, sequence=2, previous=GENESIS).mac,
            link_event(KEY, EVENT, sequence=1, previous=bytes([1] * 32)).mac,
            link_event(Secret(bytes(32)), EVENT, sequence=1, previous=GENESIS).mac,
        }
        assert len(macs) == 4

    def test_a_chain_extended_in_steps_is_the_chain_made_at_once(self) -> None:
        events = [replace(EVENT, number=number) for number in range(1, 6)]
        links, end = extend_chain(KEY, None, events)
        first, between = extend_chain(KEY, None, events[:2])
        second, last = extend_chain(KEY, between, events[2:])

        assert (first + second, last) == (links, end)


@pytest.mark.requirement("K13")
class TestHeads:
    def test_a_head_is_read_back_from_its_text(self) -> None:
        assert parse_head("demo", str(head())) == head()
        assert not replace(head(), account="other").is_genuine(KEY)

    @pytest.mark.parametrize("text", ["", "1.2.3.4", "x", "0.1." + "0" * 64 + "." + "0" * 64])
    def test_what_is_no_head_is_none(self, text: str) -> None:
        assert parse_head("demo", text) is None

    def test_only_an_end_that_agrees_with_its_head_is_continued(self) -> None:
        [link], end = extend_chain(KEY, None, [EVENT])

        assert ChainEnd(None, None).fits(KEY)
        assert ChainEnd(end, link).fits(KEY)
        for unfit in (
            ChainEnd(None, link),
            ChainEnd(end, None),
            ChainEnd(end, replace(link, sequence=2)),
            ChainEnd(end, replace(link, mac=GENESIS)),
            ChainEnd(replace(end, signature=GENESIS), link),
        ):
            assert not unfit.fits(KEY)
