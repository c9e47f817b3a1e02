# SPDX-License-Identifier: Apache-2.0
"""Which request an HTTP call repeats."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from services.router.http import repeats
from services.router.http.repeats import Repeats, not_heard
from services.shared.ids import parse_uuid
from tests.support.clock import ManualClock

pytestmark = pytest.mark.requirement("O9", "R14")

BODY = b'{"model":"m"}'


def call(tries: int = 0, **headers: str) -> web.Request:
    """Give a call as an SDK makes it, after so many tries."""
    found = {"X-Ownkey-Account": "accounts/demo", "x-stainless-retry-count": str(tries)}
    found |= {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("POST", "/v1/audio/speech", headers=found)


def broke_off(known: Repeats, request: web.Request, body: bytes = BODY) -> str:
    """Let an answer break off; gives the call's id."""
    request_id = known.name(request, body)
    not_heard(request)
    known.ended(request, request_id, cancelled=False)
    return request_id


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def known(clock: ManualClock) -> Repeats:
    return Repeats(clock)


def test_a_try_after_an_answer_that_broke_off_repeats_it_once(known: Repeats) -> None:
    first = broke_off(known, call())
    assert known.name(call(1), BODY) == first
    assert known.name(call(2), BODY) != first


def test_a_try_that_breaks_off_too_is_repeated_by_the_next(known: Repeats) -> None:
    first = broke_off(known, call())
    assert broke_off(known, call(1)) == first
    assert known.name(call(2), BODY) == first


def test_a_caller_that_left_before_an_answer_is_not_heard_either(known: Repeats) -> None:
    request = call()
    first = known.name(request, BODY)
    known.ended(request, first, cancelled=True)
    assert known.name(call(1), BODY) == first


def test_what_was_heard_is_not_repeated(known: Repeats) -> None:
    request = call()
    first = known.name(request, BODY)
    known.ended(request, first, cancelled=False)
    assert known.name(call(1), BODY) != first


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (call(), BODY),
        (call(1), b"{}"),
        (call(1, X_Ownkey_Account="accounts/other"), BODY),
        (call(1, X_Ownkey_Source="credits"), BODY),
    ],
)
def test_another_call_repeats_nothing(known: Repeats, request_: web.Request, body: bytes) -> None:
    """The first try of a call is never a repeat, however equal."""
    first = broke_off(known, call())
    assert known.name(request_, body) != first


def test_of_equal_calls_that_broke_off_each_is_repeated_once(known: Repeats) -> None:
    broken = [broke_off(known, call()), broke_off(known, call())]
    assert [known.name(call(1), BODY), known.name(call(1), BODY)] == broken


def test_it_is_forgotten_in_time(known: Repeats, clock: ManualClock) -> None:
    first = broke_off(known, call())
    clock.advance(repeats.UNHEARD_SECONDS_MAX)
    assert known.name(call(1), BODY) != first


def test_so_many_calls_are_remembered_and_no_more(clock: ManualClock) -> None:
    known = Repeats(clock, calls_max=2)
    bodies = [bytes([number]) for number in range(3)]
    ids = [broke_off(known, call(), body) for body in bodies]
    again = [known.name(call(1), body) for body in bodies]
    assert [a == b for a, b in zip(ids, again, strict=True)] == [False, True, True]


def test_an_idempotency_key_names_one_request_of_an_account(known: Repeats) -> None:
    named = known.name(call(Idempotency_Key="order-17"), BODY)
    assert named == Repeats(ManualClock()).name(call(Idempotency_Key="order-17"), BODY)
    assert named == parse_uuid(named, "request_id")
    other = call(Idempotency_Key="order-17", X_Ownkey_Account="accounts/other")
    assert known.name(other, BODY) != named
