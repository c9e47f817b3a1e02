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
        overdraft_nano_credits: 0                # optional
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from services.ledger.domain.modes import BillingMode, Operation
from services.ledger.domain.plans import Plan, PlanBook
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
_OPTIONAL = {"title", "operation_prices", "overdraft_nano_credits"}


def load_plans(path: Path) -> PlanBook:
    """
    Read the plans file.

    Raises:
        ConfigError: With every problem in it, each with its place.
    """
    try:
        raw = path.read_bytes()
        content = yaml.safe_load(raw) if len(raw) <= FILE_BYTES_MAX else None
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
    problems = [f"{name} is missing" for name in sorted(_REQUIRED - item.keys())]
    problems += [_unknown(str(name)) for name in item.keys() - _REQUIRED - _OPTIONAL]
    if problems:
        return None, problems

    def read(name: str, parse: Callable[[Any], Any], default: Any = None) -> Any:
        try:
            return parse(item.get(name, default))
        except (ValueError, TypeError) as fault:
            problems.append(f"{name}: {fault}")
            return None

    values = {
        "plan_id": read("id", _plan_id),
        "title": read("title", _text, default=""),
        "allowed_modes": read("allowed_modes", _modes),
        "default_mode": read("default_mode", lambda value: _word(BillingMode, value)),
        "credit_value_nano_usd": read("credit_value_nano_usd", _whole),
        "markup_parts_per_million": read("markup_parts_per_million", _whole),
        "operation_prices": read("operation_prices", _prices, default={}),
        "overdraft_nano_credits": read("overdraft_nano_credits", _whole, default=0),
    }
    if problems:
        return None, problems
    plan = Plan(**values)
    return plan, plan.problems()


def _unknown(name: str) -> str:
    if name == "fee":
        return "fee: fees on own-key use are not served yet; take it out, nothing would be charged"
    known = ", ".join(sorted(_REQUIRED | _OPTIONAL))
    return f"{name} is not a field of a plan; the fields are {known}"


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
