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
    model_prices: {acme/draft: 70}
    monthly_grant_nano_credits: 100
    fee:
      basis: CREDIT_PRICE
      rate_parts_per_million: 50_000
      source: INVOICE
      cap_nano_credits: {acme/film: 1_000_000_000}
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
        assert paid.price_terms(Operation.IMAGE, "acme/any").credit_price(1) == 4_000_000_000
        assert (
            paid.price_terms(Operation.TEXT, "acme/any").credit_price(10_000_000) == 1_200_000_000
        )
        assert paid.price_terms(Operation.IMAGE, "acme/draft").credit_price(1) == 70
        assert (paid.monthly_grant_nano_credits, trial.monthly_grant_nano_credits) == (100, 0)
        assert trial.title == ""
        assert trial.fee is None
        assert paid.fee is not None
        assert paid.fee.terms("acme/film").cap_nano_credits == 1_000_000_000
        assert paid.fee.terms("acme/song").cap_nano_credits is None
        assert paid.fee.free_request_count == 0

    def test_the_plans_of_make_run_are_usable(self) -> None:
        assert load_plans(ROOT / "deploy" / "local" / "plans.yaml").all()

    @pytest.mark.parametrize(
        "preset",
        [
            "own_key_replaces_credits",
            "own_key_pauses_credits",
            "percentage_fee_with_free_allowance",
            "paid_plans_only",
            "capped_percentage_fee",
        ],
    )
    def test_every_named_policy_is_a_preset(self, preset: str) -> None:
        book = load_plans(ROOT / "deploy" / "plans" / "presets.yaml")
        assert book.get(preset.replace("_", "-")).title

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
            (("draft: 70", "draft: -70"), "price of acme/draft"),
            (("acme/draft", "Draft"), "Draft is not a model"),
            (("nano_credits: 100", "nano_credits: -1"), "monthly_grant_nano_credits must be 0"),
            (
                ("    monthly_grant_nano_credits: 100", "    shared_part_per_million: 0"),
                "shared_part_per_million must be 1",
            ),
            (("IMAGE", "DANCE"), "must be one of"),
            (("id: paid", "id: Paid"), "plans/{plan}"),
            (("id: trial", "id: paid"), "used by another plan"),
            (("    markup_parts_per_million: 0", ""), "markup_parts_per_million is missing"),
            (("id: paid", "id: paid\n    discount: 3"), "discount is not known"),
            (("id: paid", "id: paid\n    id: paid"), "line 4, column 5"),
            (("source: INVOICE", "source: CREDITS"), "contradicts allowed_modes OWN_KEY_ONLY"),
            (("[OWN_KEY_ONLY, CREDITS]", "[CREDITS]"), "no fee would ever be due"),
            (("source: INVOICE", "source: GIFT"), "must be one of"),
            (("basis: CREDIT_PRICE", "basis: PRICE"), "must be one of"),
            (("50_000", "0"), "rate_parts_per_million must be 1"),
            (("50_000", "1_000_001"), "rate_parts_per_million must be 1"),
            (("50_000", "0.05"), "whole number"),
            (("      basis: CREDIT_PRICE\n", ""), "basis is missing"),
            (("fee:", "fee: 5\n    x:"), "x is not known"),
            (("source: INVOICE", "source: INVOICE\n      free: 1"), "free is not known"),
            (
                ("source: INVOICE", "source: INVOICE\n      free_request_count: -1"),
                "free_request_count must be 0",
            ),
            (("film: 1_000_000_000", "film: -1"), "fee cap of acme/film must be 0"),
            (("acme/film", "film"), "film is not a model"),
            (("{acme/film: 1_000_000_000}", "3"), "mapping of models"),
            (
                (
                    (
                        "1_200_000\n    operation_prices: {IMAGE: 4_000_000_000}\n"
                        "    model_prices: {acme/draft: 70}"
                    ),
                    "0",
                ),
                "share of nothing",
            ),
            (("plans:", "plans: 3\nothers:"), "must hold one mapping"),
            (("plans:", "plans: ["), "is not YAML: line"),
        ],
    )
    def test_a_contradiction_is_refused_with_its_reason(
        self, tmp_path: Path, change: tuple[str, str], problem: str
    ) -> None:
        assert problem in problems(tmp_path, GOOD.replace(*change, 1))

    def test_a_fee_on_the_vendor_cost_is_bounded_whatever_the_markup(self, tmp_path: Path) -> None:
        text = GOOD.replace("10_000_000", "1").replace("1_200_000", "0", 1)
        text = text.replace("basis: CREDIT_PRICE", "basis: VENDOR_COST")
        assert "the fee on the dearest attempt" in problems(tmp_path, text)

    def test_a_fee_that_is_no_mapping_is_refused(self, tmp_path: Path) -> None:
        head = GOOD.partition("    fee:")[0]
        assert "fee: must be a mapping" in problems(tmp_path, head + "    fee: 5\n")

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
