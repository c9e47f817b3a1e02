# SPDX-License-Identifier: Apache-2.0
"""
The plans file: YAML, read once at start and refused as a whole if anything in it is wrong.

    plans:
      - id: standard
        title: Standard
        allowed_modes: [CREDITS, OWN_KEY_FIRST, OWN_KEY_ONLY]
        default_mode: CREDITS
        credit_value_nano_usd: 10_000_000        # one credit is worth a cent
        markup_parts_per_million: 1_200_000      # 20 % on top of the vendor cost
        operation_prices: {IMAGE: 4_000_000_000} # optional: four credits an image
        model_prices: {acme/film: 9_000_000_000} # optional: nine credits, whatever the operation
        monthly_grant_nano_credits: 0            # optional: for each month, expiring at its end
        overdraft_nano_credits: 0                # optional
        shared_part_per_million: 200_000         # optional: of a shared key's minute, one account
        fee:                                     # optional: on own-key use
          basis: CREDIT_PRICE                    # or VENDOR_COST
          rate_parts_per_million: 50_000         # 5 %
          source: INVOICE                        # or CREDITS
          free_request_count: 1000               # optional: free requests of a UTC month
          cap_nano_credits: {acme/film: 1_000_000_000} # optional: dearest fee, by model
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from services.ledger.domain.fees import Fee, FeeBasis, FeeSource
from services.ledger.domain.modes import BillingMode, Operation
from services.ledger.domain.plans import SHARED_PART_MAX, Plan, PlanBook
from services.shared.config import ConfigError
from services.shared.errors import InvalidArgumentError
from services.shared.names import ResourceName

FILE_BYTES_MAX = 1024 * 1024
PLANS_MAX = 100
PLAN_NAME = ResourceName("plans/{plan}")

E = TypeVar("E", bound=StrEnum)

_REQUIRED = {
    "id",
    "allowed_modes",
    "default_mode",
    "credit_value_nano_usd",
    "markup_parts_per_million",
}
_OPTIONAL = {
    "title",
    "operation_prices",
    "model_prices",
    "monthly_grant_nano_credits",
    "overdraft_nano_credits",
    "shared_part_per_million",
    "fee",
}
_FEE_REQUIRED = {"basis", "rate_parts_per_million", "source"}
_FEE_OPTIONAL = {"free_request_count", "cap_nano_credits"}
_MODEL = re.compile(r"[a-z0-9._-]{1,99}/[A-Za-z0-9._:-]{1,100}")


class _Loader(yaml.SafeLoader):
    """Reads YAML in which no mapping names a key twice."""

    def construct_mapping(  # PyYAML's signature
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002
    ) -> dict[Any, Any]:
        """Return a mapping; PyYAML itself would keep the last of two."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                message = f"{key.value} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_plans(path: Path) -> PlanBook:
    """
    Read the plans file.

    Raises:
        ConfigError: With every problem in it, each with its place.
    """
    try:
        raw = path.read_bytes()
        # A SafeLoader: it makes plain values only.
        content = yaml.load(raw, _Loader) if len(raw) <= FILE_BYTES_MAX else None  # noqa: S506
    except OSError as fault:
        raise ConfigError([f"the plans file {path} cannot be read: {fault.strerror}"]) from fault
    except yaml.YAMLError as fault:
        raise ConfigError([f"the plans file {path} is not YAML: {_place(fault)}"]) from fault
    known = isinstance(content, dict) and content.keys() == {"plans"}
    listed: Any = content["plans"] if known and content else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= PLANS_MAX:
        problem = (
            f"the plans file {path} must hold one mapping `plans:` with a list of 1 to {PLANS_MAX} "
            f"plans, in at most {FILE_BYTES_MAX} bytes"
        )
        raise ConfigError([problem])
    plans: dict[str, Plan] = {}
    problems: list[str] = []
    for index, item in enumerate(listed):
        place = f"{path}: plans[{index}]"
        plan, found = _plan(item)
        if plan is not None and plan.plan_id in plans:
            found.append(f"id {plan.plan_id} is used by another plan")
        if plan is not None:
            plans[plan.plan_id] = plan
        problems += [f"{place}: {problem}" for problem in found]
    if problems:
        raise ConfigError(problems)
    return PlanBook(plans)


def _plan(item: Any) -> tuple[Plan | None, list[str]]:
    """Return a plan, or None, and what is wrong with it."""
    if not isinstance(item, dict):
        return None, ["must be a mapping"]
    fields = _Fields(item, required=_REQUIRED, optional=_OPTIONAL)
    if fields.problems:
        return None, fields.problems
    read = fields.read
    values = {
        "plan_id": read("id", _plan_id),
        "title": read("title", _text, default=""),
        "allowed_modes": read("allowed_modes", _modes),
        "default_mode": read("default_mode", lambda value: _word(BillingMode, value)),
        "credit_value_nano_usd": read("credit_value_nano_usd", _whole),
        "markup_parts_per_million": read("markup_parts_per_million", _whole),
        "operation_prices": read("operation_prices", _prices, default={}),
        "model_prices": read("model_prices", _by_model, default={}),
        "monthly_grant_nano_credits": read("monthly_grant_nano_credits", _whole, default=0),
        "overdraft_nano_credits": read("overdraft_nano_credits", _whole, default=0),
        "shared_part_per_million": read("shared_part_per_million", _whole, default=SHARED_PART_MAX),
        "fee": read("fee", _fee) if "fee" in item else None,
    }
    if fields.problems:
        return None, fields.problems
    plan = Plan(**values)
    return plan, plan.problems()


class _Fields:
    """
    The fields of one mapping.

    Args:
        item: The mapping.
        required: Names it must have.
        optional: Names it may have.
    """

    def __init__(self, item: dict[Any, Any], *, required: set[str], optional: set[str]) -> None:
        self._item = item
        self.problems = [f"{name} is missing" for name in sorted(required - item.keys())]
        known = ", ".join(sorted(required | optional))
        self.problems += [
            f"{name} is not known here; the fields are {known}"
            for name in sorted(map(str, item.keys() - required - optional))
        ]

    def read(self, name: str, parse: Callable[[Any], Any], default: Any = None) -> Any:
        """Return a field's value, or None with one problem more."""
        try:
            return parse(self._item.get(name, default))
        except (ValueError, TypeError) as fault:
            self.problems.append(f"{name}: {fault}")
            return None


def _fee(item: Any) -> Fee:
    if not isinstance(item, dict):
        message = "must be a mapping"
        raise TypeError(message)
    fields = _Fields(item, required=_FEE_REQUIRED, optional=_FEE_OPTIONAL)
    if not fields.problems:
        read = fields.read
        fee = Fee(
            basis=read("basis", lambda value: _word(FeeBasis, value)),
            rate_parts_per_million=read("rate_parts_per_million", _whole),
            source=read("source", lambda value: _word(FeeSource, value)),
            free_request_count=read("free_request_count", _whole, default=0),
            cap_nano_credits=read("cap_nano_credits", _by_model, default={}),
        )
    if fields.problems:
        raise ValueError("; ".join(fields.problems))
    return fee


def _place(fault: yaml.YAMLError) -> str:
    mark = getattr(fault, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unreadable"


def _plan_id(value: Any) -> str:
    try:
        return PLAN_NAME.parse(f"plans/{value}", "id")["plan"]
    except InvalidArgumentError as fault:
        raise ValueError(fault.message) from fault


def _text(value: Any) -> str:
    if not isinstance(value, str):
        message = "must be text"
        raise TypeError(message)
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        message = "must be a whole number"
        raise TypeError(message)
    return value


def _word(words: type[E], value: Any) -> E:
    try:
        return words(value)
    except ValueError as fault:
        message = f"must be one of {', '.join(words)}"
        raise ValueError(message) from fault


def _modes(value: Any) -> tuple[BillingMode, ...]:
    if not isinstance(value, list):
        message = "must be a list of billing modes"
        raise TypeError(message)
    chosen = {_word(BillingMode, mode) for mode in value}
    return tuple(mode for mode in BillingMode if mode in chosen)


def _prices(value: Any) -> dict[Operation, int]:
    if not isinstance(value, dict):
        message = "must be a mapping of operations to nano-credits"
        raise TypeError(message)
    return {_word(Operation, name): _whole(price) for name, price in value.items()}


def _by_model(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        message = "must be a mapping of models to nano-credits"
        raise TypeError(message)
    for model in value:
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            message = f"{model} is not a model such as vendor/model"
            raise ValueError(message)
    return {model: _whole(price) for model, price in value.items()}
