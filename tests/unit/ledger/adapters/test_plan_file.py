# SPDX-License-Identifier: Apache-2.0
"""The plans file: every contradiction is refused at load, with its place and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.ledger.adapters.plan_file import load_plans
from services.ledger.domain.modes import BillingMode, Operation
from services.ledger.errors import ModeNotAllowedError, PlanNotFoundError
from services.shared.config import ConfigError
from tests.support.source import ROOT

GOOD = """
plans:
  - id: paid
    allowed_modes: [OWN_KEY_ONLY, CREDITS]
    default_mode: CREDITS
    credit_value_nano_usd: 10_000_000
    markup_parts_per_million: 1_200_000
    operation_prices: {IMAGE: 4_000_000_000}
  - id: trial
    allowed_modes: [CREDITS]
    default_mode: CREDITS
    credit_value_nano_usd: 10_000_000
    markup_parts_per_million: 0
"""


def problems(folder: Path, text: str) -> str:
    """Return what is wrong with a plans file."""
    path = folder / "plans.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_plans(path)
    return str(caught.value)


@pytest.mark.requirement("L1")
class TestLoading:
    def test_plans_are_read_with_their_prices(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(GOOD)
        book = load_plans(path)
        paid, trial = book.all()
        assert paid.allowed_modes == (BillingMode.CREDITS, BillingMode.OWN_KEY_ONLY)
        assert paid.price_terms(Operation.IMAGE).credit_price(1) == 4_000_000_000
        assert paid.price_terms(Operation.TEXT).credit_price(10_000_000) == 1_200_000_000
        assert trial.title == ""

    def test_the_plans_of_make_run_are_usable(self) -> None:
        assert load_plans(ROOT / "deploy" / "local" / "plans.yaml").all()

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (("default_mode: CREDITS", "default_mode: OWN_KEY_FIRST"), "not among allowed_modes"),
            (("[OWN_KEY_ONLY, CREDITS]", "[]"), "allowed_modes is empty"),
            (("[OWN_KEY_ONLY, CREDITS]", "[FREE]"), "must be one of"),
            (("[OWN_KEY_ONLY, CREDITS]", "CREDITS"), "must be a list"),
            (("10_000_000", "0"), "more than zero"),
            (("10_000_000", "1"), "would pass"),
            (("10_000_000", "1.5"), "whole number"),
            (("1_200_000", "-1"), "zero or more"),
            (("4_000_000_000", "-1"), "price of IMAGE"),
            (("IMAGE", "DANCE"), "must be one of"),
            (("id: paid", "id: Paid"), "plans/{plan}"),
            (("id: trial", "id: paid"), "used by another plan"),
            (("    markup_parts_per_million: 0", ""), "markup_parts_per_million is missing"),
            (("    markup_parts_per_million: 0", "    fee: {}"), "not served yet"),
            (("id: paid", "id: paid\n    discount: 3"), "discount is not a field"),
            (("plans:", "plans: 3\nothers:"), "must hold one mapping"),
            (("plans:", "plans: ["), "is not YAML: line"),
        ],
    )
    def test_a_contradiction_is_refused_with_its_reason(
        self, tmp_path: Path, change: tuple[str, str], problem: str
    ) -> None:
        assert problem in problems(tmp_path, GOOD.replace(*change, 1))

    def test_all_problems_are_told_at_once(self, tmp_path: Path) -> None:
        found = problems(tmp_path, GOOD.replace("10_000_000", "0"))
        assert "plans[0]" in found
        assert "plans[1]" in found


@pytest.mark.requirement("L1")
class TestPlanBook:
    def test_a_forbidden_mode_names_the_plans_that_allow_it(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(GOOD)
        book = load_plans(path)
        with pytest.raises(ModeNotAllowedError, match="allowed on plans/paid"):
            book.require_mode(book.get("trial"), BillingMode.OWN_KEY_ONLY)
        with pytest.raises(ModeNotAllowedError, match="no plan allows it"):
            book.require_mode(book.get("trial"), BillingMode.OWN_KEY_FIRST)

    def test_an_unknown_plan_names_the_known_ones(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(GOOD)
        with pytest.raises(PlanNotFoundError, match="plans/paid, plans/trial"):
            load_plans(path).get("gold")
