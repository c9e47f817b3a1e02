# SPDX-License-Identifier: Apache-2.0
"""Plans: what an account may do and what it pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.ledger.domain.fees import Fee, FeeBasis, FeeSource
from services.ledger.domain.modes import BillingMode, Operation
from services.ledger.domain.money import COST_NANO_USD_MAX, CREDITS_MAX, PriceTerms
from services.ledger.errors import ModeNotAllowedError, PlanNotFoundError

SHARED_PART_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A plan.

    Args:
        plan_id: Its id in `plans/{plan}`.
        title: For people.
        allowed_modes: Modes an account on it may choose.
        default_mode: Mode of an account created without one.
        credit_value_nano_usd: What one credit is worth.
        markup_parts_per_million: On the vendor cost; 1,000,000 charges the cost itself.
        operation_prices: Fixed prices in nano-credits, which win over the markup.
        model_prices: Fixed prices in nano-credits by `vendor/model`, which win over both.
        monthly_grant_nano_credits: Granted for each month of an account; zero for none.
        overdraft_nano_credits: How far a capture past its hold may take the balance below zero.
        fee: On own-key use; None for none.
        shared_part_per_million: Largest part of a shared key's minute that one account may use;
            1,000,000 for no cap.
    """

    plan_id: str
    title: str
    allowed_modes: tuple[BillingMode, ...]
    default_mode: BillingMode
    credit_value_nano_usd: int
    markup_parts_per_million: int
    operation_prices: Mapping[Operation, int]
    model_prices: Mapping[str, int]
    monthly_grant_nano_credits: int
    overdraft_nano_credits: int
    fee: Fee | None
    shared_part_per_million: int = SHARED_PART_MAX

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"plans/{self.plan_id}"

    def price_terms(self, operation: Operation, model: str) -> PriceTerms:
        """Return how this plan prices a kind of work on a model."""
        fixed = self.model_prices.get(model, self.operation_prices.get(operation))
        return PriceTerms(
            credit_value_nano_usd=self.credit_value_nano_usd,
            markup_parts_per_million=self.markup_parts_per_million,
            fixed_nano_credits=fixed,
        )

    def problems(self) -> list[str]:
        """Return every contradiction in it, one sentence each; none if it can be used."""
        found = []
        if not self.allowed_modes:
            found.append("allowed_modes is empty: an account on it could never do anything")
        if self.default_mode not in self.allowed_modes:
            found.append(f"default_mode {self.default_mode} is not among allowed_modes")
        if self.credit_value_nano_usd <= 0:
            found.append("credit_value_nano_usd must be more than zero")
        if self.markup_parts_per_million < 0:
            found.append("markup_parts_per_million must be zero or more")
        if not 0 <= self.overdraft_nano_credits <= CREDITS_MAX:
            found.append(f"overdraft_nano_credits must be 0 to {CREDITS_MAX}")
        found += [
            f"the price of {priced} must be 0 to {CREDITS_MAX} nano-credits"
            for priced, price in (*self.operation_prices.items(), *self.model_prices.items())
            if not 0 <= price <= CREDITS_MAX
        ]
        if not 1 <= self.shared_part_per_million <= SHARED_PART_MAX:
            found.append(f"shared_part_per_million must be 1 to {SHARED_PART_MAX}")
        if not 0 <= self.monthly_grant_nano_credits <= CREDITS_MAX:
            found.append(f"monthly_grant_nano_credits must be 0 to {CREDITS_MAX}")
        if not found and self._dearest() > CREDITS_MAX:
            found.append(
                "credit_value_nano_usd is so small or markup_parts_per_million so large that the "
                f"dearest attempt ({COST_NANO_USD_MAX} nano-USD) would pass {CREDITS_MAX} "
                "nano-credits"
            )
        if not found and self.fee is not None:
            found += self.fee.problems(self.credit_value_nano_usd)
            found += self._fee_contradictions(self.fee)
        return found

    def _fee_contradictions(self, fee: Fee) -> list[str]:
        found = []
        if set(self.allowed_modes) == {BillingMode.CREDITS}:
            found.append("fee: own keys are never used on this plan, so no fee would ever be due")
        if fee.source is FeeSource.CREDITS and BillingMode.OWN_KEY_ONLY in self.allowed_modes:
            found.append(
                "fee.source CREDITS contradicts allowed_modes OWN_KEY_ONLY: credits are paused "
                "there, so no fee can be taken from them; take it from INVOICE, or leave the mode "
                "out"
            )
        prices = (*self.operation_prices.values(), *self.model_prices.values())
        free = not self.markup_parts_per_million and not any(prices)
        if fee.basis is FeeBasis.CREDIT_PRICE and free:
            found.append(
                "fee.basis CREDIT_PRICE is a share of nothing: markup and every price are zero"
            )
        return found

    def _dearest(self) -> int:
        terms = PriceTerms(self.credit_value_nano_usd, self.markup_parts_per_million, None)
        return terms.credit_price(COST_NANO_USD_MAX)


class PlanBook:
    """
    The plans of the plans file.

    Args:
        plans: At least one, with different ids, none with problems.
    """

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = dict(sorted(plans.items()))

    def all(self) -> list[Plan]:
        """Return every plan, by id."""
        return list(self._plans.values())

    def find(self, plan_id: str) -> Plan | None:
        """Return a plan; None if there is none of this id."""
        return self._plans.get(plan_id)

    def get(self, plan_id: str) -> Plan:
        """
        Return a plan.

        Raises:
            PlanNotFoundError: If there is none of this id.
        """
        plan = self._plans.get(plan_id)
        if plan is None:
            names = ", ".join(known.name for known in self._plans.values())
            message = f"there is no plan plans/{plan_id}; the plans are {names}"
            raise PlanNotFoundError(
                message, metadata={"plan": f"plans/{plan_id}", "plans": names.replace(" ", "")}
            )
        return plan

    def require_mode(self, plan: Plan, mode: BillingMode) -> None:
        """
        Hold an account to its plan's modes.

        Raises:
            ModeNotAllowedError: Naming the plans that allow the mode.
        """
        if mode in plan.allowed_modes:
            return
        others = [known.name for known in self._plans.values() if mode in known.allowed_modes]
        remedy = f"it is allowed on {', '.join(others)}" if others else "no plan allows it"
        message = f"{plan.name} does not allow billing mode {mode}; {remedy}"
        raise ModeNotAllowedError(
            message,
            metadata={
                "billing_mode": mode.value,
                "plan": plan.name,
                "allowed_plans": ",".join(others),
            },
        )
