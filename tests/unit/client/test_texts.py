# SPDX-License-Identifier: Apache-2.0
"""Amounts stay exact, times are UTC, and text of others cannot steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ownkey.keyvault.v1 import key_pb2
from ownkey.ledger.v1 import account_pb2

from client.ownkey_cli.texts import (
    NANO,
    NONE,
    brief,
    clean,
    credits_number,
    in_credits,
    in_percent,
    in_usd,
    parse_credits,
    parse_day,
    parse_time,
    parse_usd,
    seconds_text,
    short,
    time_text,
    word,
)

pytestmark = pytest.mark.requirement("O4")


class TestAmounts:
    @pytest.mark.parametrize(
        ("nano", "text"),
        [
            (0, "0 credits"),
            (1, "0.000000001 credits"),
            (NANO, "1 credit"),
            (-NANO, "-1 credit"),
            (1_234_500_000_000, "1,234.5 credits"),
            (-500_000_000, "-0.5 credits"),
        ],
    )
    def test_credits_show_every_digit_and_no_more(self, nano: int, text: str) -> None:
        assert in_credits(nano) == text

    @pytest.mark.parametrize(
        ("nano", "text"),
        [(0, "$0.00"), (NANO, "$1.00"), (150_000_000, "$0.15"), (1, "$0.000000001")],
    )
    def test_dollars_have_two_places_at_least(self, nano: int, text: str) -> None:
        assert in_usd(nano) == text

    def test_dollars_below_zero_have_the_sign_first(self) -> None:
        assert in_usd(-NANO) == "-$1.00"

    @pytest.mark.parametrize(
        ("parts", "text"),
        [(50_000, "5 %"), (1_200_000, "120 %"), (1_000_000, "100 %"), (1, "0.0001 %")],
    )
    def test_percentages_come_from_parts_per_million(self, parts: int, text: str) -> None:
        assert in_percent(parts) == text

    @given(st.integers(min_value=-(10**18), max_value=10**18))
    def test_what_is_shown_is_read_back_as_it_was(self, nano: int) -> None:
        assert parse_credits(credits_number(nano)) == nano

    @pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "-Infinity", "1.0000000001", "1 2"])
    def test_what_is_no_exact_number_of_nano_credits_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="credit"):
            parse_credits(text)

    @pytest.mark.parametrize(("text", "nano"), [("20", 20 * 10**9), ("$1,000.50", 1000_500000000)])
    def test_dollars_may_bring_their_sign(self, text: str, nano: int) -> None:
        assert parse_usd(text) == nano


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2026-11-21", 1_795_219_200),
            ("2026-11-21T01:00:00", 1_795_222_800),
            ("2026-11-21T01:00:00Z", 1_795_222_800),
            ("2026-11-21T02:00:00+01:00", 1_795_222_800),
        ],
    )
    def test_a_time_without_a_zone_is_utc(self, text: str, seconds: int) -> None:
        assert parse_time(text).ToSeconds() == seconds

    @pytest.mark.parametrize("text", ["", "yesterday", "21.11.2026", "2026-13-01"])
    def test_other_texts_are_refused_with_an_example(self, text: str) -> None:
        with pytest.raises(ValueError, match="2026-11-21"):
            parse_time(text)
        with pytest.raises(ValueError, match="2026-11-21"):
            parse_day(text)

    def test_a_day_has_one_spelling(self) -> None:
        assert parse_day("2026-11-21") == "2026-11-21"
        with pytest.raises(ValueError, match="day"):
            parse_day("20261121")

    def test_an_unset_time_is_shown_as_none(self) -> None:
        key = key_pb2.Key(create_time=parse_time("2026-11-21T07:30:05Z"))
        assert time_text(key, "create_time") == "2026-11-21 07:30:05Z"
        assert time_text(key, "update_time") == NONE

    @pytest.mark.parametrize(
        ("seconds", "text"), [(3, "3 s"), (1.5, "1.5 s"), (60, "1 min"), (125, "2 min 5 s")]
    )
    def test_spans_are_short(self, seconds: float, text: str) -> None:
        assert seconds_text(seconds) == text


class TestWords:
    def test_an_enum_value_is_shown_as_options_spell_it(self) -> None:
        mode = account_pb2.BILLING_MODE_OWN_KEY_ONLY
        assert word(account_pb2.BillingMode, mode) == "own-key-only"

    def test_an_unset_value_and_one_of_a_newer_service_are_shown_too(self) -> None:
        assert word(account_pb2.BillingMode, 0) == NONE
        assert word(account_pb2.BillingMode, 99) == "99"

    def test_a_name_is_shown_by_its_last_id(self) -> None:
        assert short("accounts/demo/keys/main") == "main"
        assert short("") == NONE
        assert brief("accounts/demo/grants/g2613d964-62ab-43e5") == "g2613d964-6…"
        assert brief("accounts/demo/grants/first") == "first"


class TestClean:
    @pytest.mark.parametrize(
        "text", ["\x1b[2J", "\x07", "a\rb", "\x9b31m", "\u202eabc", "\u2028", "\x00"]
    )
    def test_what_steers_a_terminal_is_replaced(self, text: str) -> None:
        cleaned = clean(text)
        assert "\ufffd" in cleaned
        assert not set(cleaned) & set("\x1b\x07\r\x9b\u202e\u2028\x00")

    @pytest.mark.parametrize("text", ["Grüße\n\tdas", "क्\u200dष", "👩\u200d🚀", "…"])
    def test_text_of_all_scripts_stays(self, text: str) -> None:
        assert clean(text) == text
