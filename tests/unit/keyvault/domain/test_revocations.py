# SPDX-License-Identifier: Apache-2.0
"""Pages of revocations: what their signature covers, and which may be replayed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.keyvault.domain.revocations import Page, RestoreState, Revocation, RevocationKind
from services.keyvault.errors import RestoreRefusedError
from services.shared.secret import Secret

pytestmark = pytest.mark.requirement("O11")

KEY = Secret(b"k" * 32)
NOW = datetime(2026, 5, 4, tzinfo=UTC)
DELETED = Revocation("demo", "main", RevocationKind.DELETED, version=2, sequence=7)
PAGE = Page("5-1-9", after=3, through=9, read_time=NOW, revocations=(DELETED,))
STATE = RestoreState(
    serving=False,
    database="6-1-9",
    accepted_database="5-1-9",
    accept_time=NOW,
    accepted_by="",
    through=5,
    replayed=False,
)


def fault_of(state: RestoreState, page: Page, mac: bytes | None = None) -> str:
    """Why a page is refused; empty if it is not."""
    try:
        state.check_page(page, page.mac(KEY) if mac is None else mac, KEY)
    except RestoreRefusedError as refused:
        return refused.fault
    return ""


class TestSignature:
    @pytest.mark.parametrize(
        "change",
        [
            {"database": "5-2-9"},
            {"after": 2},
            {"through": 10},
            {"read_time": NOW + timedelta(microseconds=1)},
            {"revocations": ()},
            {"revocations": (replace(DELETED, account="other"),)},
            {"revocations": (replace(DELETED, key_id="other"),)},
            {"revocations": (replace(DELETED, kind=RevocationKind.DISABLED),)},
            {"revocations": (replace(DELETED, version=1),)},
            {"revocations": (replace(DELETED, sequence=8),)},
        ],
    )
    def test_it_covers_every_field(self, change: dict[str, Any]) -> None:
        assert fault_of(STATE, replace(PAGE, **change), PAGE.mac(KEY)) == "NOT_GENUINE"

    def test_another_key_s_is_none(self) -> None:
        assert fault_of(STATE, PAGE, PAGE.mac(Secret(b"o" * 32))) == "NOT_GENUINE"


class TestReplay:
    def test_a_page_that_joins_is_taken(self) -> None:
        assert fault_of(STATE, PAGE) == ""
        assert fault_of(replace(STATE, through=20), PAGE) == ""

    @pytest.mark.parametrize(
        ("state", "fault"),
        [
            (replace(STATE, serving=True), "NOT_RESTORED"),
            (replace(STATE, accepted_database="4-1-9"), "OTHER_DATABASE"),
            (replace(STATE, through=2), "PAGES_MISSING"),
        ],
    )
    def test_a_page_that_does_not_fit_is_refused(self, state: RestoreState, fault: str) -> None:
        assert fault_of(state, PAGE) == fault


class TestAcceptance:
    def test_it_follows_a_replay_to_that_number_or_goes_by_name(self) -> None:
        STATE.check_acceptance(None)
        replace(STATE, replayed=True).check_acceptance(5)

    @pytest.mark.parametrize(("replayed", "through"), [(False, 5), (True, 4), (True, 6)])
    def test_after_another_replay_it_is_refused(self, replayed: bool, through: int) -> None:
        with pytest.raises(RestoreRefusedError):
            replace(STATE, replayed=replayed).check_acceptance(through)
