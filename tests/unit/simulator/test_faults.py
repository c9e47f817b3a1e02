# SPDX-License-Identifier: Apache-2.0
"""Faults as they are asked for by keys, models and the control API."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from simulator.control import FAULTS_MAX, RECORDS_MAX, Control, key_digest
from simulator.faults import (
    Fault,
    FaultKind,
    HintForm,
    fault_in_key,
    fault_in_model,
    parse_fault,
)

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
SLOW = Fault(kind=FaultKind.SLOW)


class TestKeys:
    @pytest.mark.parametrize(
        "key", ["sk-proj-good-123", "AIzaSyrevoked123", "sk-or-v1-revokedx-1", ""]
    )
    def test_a_key_without_the_words_is_good(self, key: str) -> None:
        assert fault_in_key(key) is None

    @pytest.mark.parametrize("kind", FaultKind)
    def test_every_word_is_found_inside_and_at_the_end(self, kind: FaultKind) -> None:
        assert fault_in_key(f"sk-proj-sim-{kind.value}-0123") == Fault(kind=kind)
        assert fault_in_key(f"AQ.sim-{kind.value}") == Fault(kind=kind)

    def test_limits_say_what_they_hit_and_how_they_hint(self) -> None:
        assert fault_in_key("sk-ant-api03-ratelimited-gen-ms174-x") == Fault(
            kind=FaultKind.RATE_LIMITED,
            generations_only=True,
            hint=HintForm.MILLISECONDS,
            wait=174,
        )


class TestModels:
    @pytest.mark.parametrize(
        ("name", "model", "kind"),
        [
            ("gpt-4o-mini-fault-500", "gpt-4o-mini", FaultKind.ERROR),
            ("a/b-fault-529", "a/b", FaultKind.OVERLOADED),
            ("m-fault-cut", "m", FaultKind.CUT),
        ],
    )
    def test_a_suffix_asks_for_a_fault(self, name: str, model: str, kind: FaultKind) -> None:
        assert fault_in_model(name) == (model, Fault(kind=kind))

    @pytest.mark.parametrize("name", ["gpt-4o", "m-fault-999", "m-fault-", "-fault-500"])
    def test_other_names_are_models(self, name: str) -> None:
        assert fault_in_model(name) == (name, None)


class TestHints:
    def test_headers_follow_the_form(self) -> None:
        def headers(text: str, natural: HintForm = HintForm.SECONDS) -> dict[str, str]:
            return parse_fault(text).headers(natural, now=NOW)

        assert headers("ratelimited") == {"Retry-After": "1"}
        assert headers("ratelimited", HintForm.BODY) == {}
        assert headers("ratelimited-seconds3") == {"Retry-After": "3"}
        assert headers("ratelimited-ms174") == {"retry-after-ms": "174"}
        assert headers("ratelimited-date60") == {"Retry-After": "Tue, 01 Sep 2026 12:01:00 GMT"}
        assert headers("ratelimited-none") == headers("ratelimited-text5") == {}

    def test_text_follows_the_form(self) -> None:
        assert parse_fault("ratelimited-text5").sentence(HintForm.BODY).endswith("in 5s.")
        assert parse_fault("ratelimited").sentence(HintForm.BODY) == ""

    @pytest.mark.parametrize("text", ["", "nonsense", "slow-", "-slow", "ratelimited-ms-1"])
    def test_what_is_no_fault_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="no fault"):
            parse_fault(text)


class TestControl:
    def test_a_fault_holds_until_it_is_cleared(self) -> None:
        control = Control()
        control.set_fault(key_digest("k"), SLOW, None)
        assert [control.take_fault("k", generation=True) for _ in range(2)] == [SLOW, SLOW]
        assert control.take_fault("other", generation=True) is None
        control.clear_fault(key_digest("k"))
        assert control.take_fault("k", generation=True) is None

    def test_a_counted_fault_ends_by_itself(self) -> None:
        control = Control()
        control.set_fault(key_digest("k"), SLOW, 2)
        taken = [control.take_fault("k", generation=True) for _ in range(3)]
        assert taken == [SLOW, SLOW, None]

    def test_a_fault_of_generations_lets_free_calls_pass_uncounted(self) -> None:
        control = Control()
        fault = Fault(kind=FaultKind.RATE_LIMITED, generations_only=True)
        control.set_fault(key_digest("k"), fault, 1)
        assert control.take_fault("k", generation=False) is None
        assert control.take_fault("k", generation=True) == fault

    def test_what_is_kept_is_bounded(self) -> None:
        control = Control()
        for number in range(FAULTS_MAX + 1):
            control.set_fault(key_digest(str(number)), SLOW, None)
        for number in range(RECORDS_MAX + 1):
            control.record({"number": number})
        assert control.take_fault("0", generation=True) is None
        assert control.take_fault("1", generation=True) == SLOW
        assert len(control.records()) == RECORDS_MAX
        assert control.records()[0] == {"number": 1}
