# SPDX-License-Identifier: Apache-2.0
"""
Faults, chosen by the text of a key, by the name of a model, or over the control API.

The words and what they do are listed in README.md beside this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum

__all__ = ["Fault", "FaultKind", "HintForm", "fault_in_key", "fault_in_model", "parse_fault"]


class FaultKind(StrEnum):
    """
    What goes wrong.
    """

    REVOKED = "revoked"
    NO_CREDIT = "nocredit"
    RATE_LIMITED = "ratelimited"
    FORBIDDEN = "forbidden"
    NO_LIST = "nolist"
    """The key may generate but not make the free call."""
    ERROR = "error500"
    OVERLOADED = "overloaded"
    SLOW = "slow"
    STALL = "stall"
    """A stream pauses in its middle; an answer that is no stream is not touched."""
    CUT = "cut"
    MIDSTREAM = "midstream"
    EMPTY = "empty"
    FILTERED = "filtered"
    GONE = "gone"
    """A job's output is no longer at its address."""
    DOWN = "down"


class HintForm(StrEnum):
    """
    In which form a rate limit says how long to wait.
    """

    NATURAL = ""
    """The form the provider itself uses."""
    SECONDS = "seconds"
    DATE = "date"
    MILLISECONDS = "ms"
    TEXT = "text"
    BODY = "body"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One fault.
    """

    kind: FaultKind
    generations_only: bool = False
    hint: HintForm = HintForm.NATURAL
    wait: int = 1
    """The wait that the hint names: seconds, but milliseconds with `ms`."""

    def headers(self, natural: HintForm, *, now: datetime) -> dict[str, str]:
        """
        Give the hint's headers, if its form has any.
        """
        form = self.form(natural)
        if form is HintForm.SECONDS:
            return {"Retry-After": str(self.wait)}
        if form is HintForm.MILLISECONDS:
            return {"retry-after-ms": str(self.wait)}
        if form is HintForm.DATE:
            moment = now.astimezone(UTC) + timedelta(seconds=self.wait)
            return {"Retry-After": format_datetime(moment, usegmt=True)}
        return {}

    def form(self, natural: HintForm) -> HintForm:
        """
        Give the hint's form; `natural` is the provider's own.
        """
        return natural if self.hint is HintForm.NATURAL else self.hint

    def sentence(self, natural: HintForm) -> str:
        """
        Give the hint as text, empty in other forms.
        """
        if self.form(natural) is not HintForm.TEXT:
            return ""
        return f" Please try again in {self.wait}s."


_KINDS = "|".join(kind.value for kind in FaultKind)
_HINTS = "|".join(form.value for form in HintForm if form.value)
_FAULT = rf"(?P<kind>{_KINDS})(?P<gen>-gen)?(?:-(?P<hint>{_HINTS})(?P<wait>\d{{1,6}})?)?"
_WHOLE = re.compile(_FAULT)
_IN_KEY = re.compile(rf"-{_FAULT}(?:-|$)")
_IN_MODEL = re.compile(rf"^(?P<model>.+)-fault-(?:(?P<status>\d{{3}})|{_FAULT})$")
_BY_STATUS = {
    "401": FaultKind.REVOKED,
    "402": FaultKind.NO_CREDIT,
    "403": FaultKind.FORBIDDEN,
    "429": FaultKind.RATE_LIMITED,
    "500": FaultKind.ERROR,
    "503": FaultKind.OVERLOADED,
    "529": FaultKind.OVERLOADED,
}


def parse_fault(text: str) -> Fault:
    """
    Read a fault as it stands in a key, without the dashes around it.

    Raises:
        ValueError: There is no such fault.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise ValueError(f"no fault {text!r}: the words are {_KINDS.replace('|', ', ')}")
    return _fault(found)


def fault_in_key(key: str) -> Fault | None:
    """
    Find the fault that a key asks for.
    """
    found = _IN_KEY.search(key)
    return None if found is None else _fault(found)


def fault_in_model(model: str) -> tuple[str, Fault | None]:
    """
    Split a model's name into the model and the fault it asks for.
    """
    found = _IN_MODEL.match(model)
    if found is None:
        return model, None
    if found["status"]:
        kind = _BY_STATUS.get(found["status"])
        return (model, None) if kind is None else (found["model"], Fault(kind=kind))
    return found["model"], _fault(found)


def _fault(found: re.Match[str]) -> Fault:
    return Fault(
        kind=FaultKind(found["kind"]),
        generations_only=bool(found["gen"]),
        hint=HintForm(found["hint"] or ""),
        wait=int(found["wait"] or 1),
    )
