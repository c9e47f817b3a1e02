# SPDX-License-Identifier: Apache-2.0
"""
From a provider's refusal to one outcome: tables of rules, and the one place that reads them.

Each dialect brings its rules as data, each with the page it rests on, and extracts the facts
of a refusal. The first rule that fits decides; where none fits, the status does. What a
provider wrote is searched, never quoted: it may echo keys and prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec

from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Usage
from services.router.providers.base import ProviderBrokenError, ProviderError
from services.router.providers.retry_hint import retry_after_seconds

__all__ = [
    "ErrorFacts",
    "ErrorRule",
    "ErrorTable",
    "broken",
    "classify",
    "decode_object",
    "find_outcome",
]

SEARCHED_TEXT_MAX = 4096
"""How many characters of a provider's message are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRule:
    """
    One row of a provider's error table. Every condition that is given must hold.
    """

    outcome: Outcome
    source: str
    """The page or the public report that the rule rests on."""
    status: tuple[int, ...] = ()
    code: tuple[str, ...] = ()
    """Any of the machine-readable words of the error, in lower case."""
    text: str = ""
    """A regular expression searched for in the error's message, ignoring case."""
    retryable: bool = True
    missing_permission: str = ""
    """The permission that the rule's text names."""

    def matches(self, facts: ErrorFacts) -> bool:
        """
        Tell whether the rule fits the facts.
        """
        if self.status and facts.status not in self.status:
            return False
        if self.code and not facts.codes.intersection(self.code):
            return False
        text = facts.text[:SEARCHED_TEXT_MAX]
        return not self.text or re.search(self.text, text, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFacts:
    """
    What a refusal says, taken out of a provider's envelope.
    """

    status: int
    """The HTTP status, or the status the error itself names where it came inside a 200."""
    codes: frozenset[str] = frozenset()
    text: str = field(default="", repr=False)
    delay: str = ""
    """A duration to wait that the body gives."""
    reset: str = ""
    """A point in time to wait for that the body gives."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    inside_answer: bool = False
    """The error came in a body or stream of status 200, so work had begun."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    """
    How one provider names itself to people, and its rules, most specific first.
    """

    title: str
    rules: tuple[ErrorRule, ...]


_BY_STATUS = {
    # RFC 9110 section 15; 422 RFC 9110; 429 RFC 6585; 529 is Anthropic's own.
    401: Outcome.INVALID_KEY,
    402: Outcome.INSUFFICIENT_CREDIT,
    403: Outcome.PERMISSION_DENIED,
    404: Outcome.NOT_FOUND,
    408: Outcome.TIMEOUT,
    429: Outcome.RATE_LIMITED,
    503: Outcome.OVERLOADED,
    504: Outcome.TIMEOUT,
    529: Outcome.OVERLOADED,
}
_SERVER_ERRORS_FROM = HTTPStatus.INTERNAL_SERVER_ERROR
_REFUSED_SERVER_STATUSES = frozenset({503, 529})
"""Server-side statuses that say the request was turned away before any work."""

_SENTENCES = {
    Outcome.INVALID_KEY: "{title} does not accept this key: check that it was copied whole and "
    "has not been revoked, or make a new one",
    Outcome.EXPIRED_CREDENTIALS: "{title} says this key has expired: make a new one",
    Outcome.PERMISSION_DENIED: "{title} knows this key but does not permit the request: check the "
    "key's permissions, its network and region restrictions",
    Outcome.INSUFFICIENT_CREDIT: "{title} reports that no credit is left behind this key: top up "
    "or raise the spending limit in the {title} account",
    Outcome.RATE_LIMITED: "{title} limits the rate of this key at the moment: wait, or raise the "
    "limits in the {title} account",
    Outcome.OVERLOADED: "{title} is overloaded at the moment: try again shortly or use another "
    "model",
    Outcome.SERVER_ERROR: "{title} failed while serving the request: try again or use another "
    "model",
    Outcome.INVALID_REQUEST: "{title} does not accept the request as it stands: check its "
    "parameters against the model",
    Outcome.CONTEXT_LENGTH: "the request is longer than the model's context at {title}: shorten "
    "it, lower the maximum of output tokens, or use a model with a larger context",
    Outcome.MODEL_NOT_FOUND: "{title} has no such model for this key: check the model's name and "
    "the key's access to it",
    Outcome.NOT_FOUND: "{title} does not know the address of the request: check the base address",
    Outcome.CONTENT_FILTERED: "{title} refused the content by its own usage policy: change the "
    "request",
    Outcome.NETWORK: "the connection to {title} failed or was cut before the answer was whole: "
    "try again",
    Outcome.TIMEOUT: "{title} did not answer in time: try again or use a faster model",
}


def decode_object(body: bytes) -> dict[str, Any]:
    """
    Give a body's JSON object; empty where the body is anything else.

    Decided by content, not by `content-type`: DeepSeek sends JSON errors as octet-stream, and
    Google wraps an error of a streaming method in an array.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


def find_outcome(rules: tuple[ErrorRule, ...], facts: ErrorFacts) -> ErrorRule:
    """
    Give the first rule that fits, or one made from the status alone.
    """
    for rule in rules:
        if rule.matches(facts):
            return rule
    if facts.status in _BY_STATUS:
        outcome = _BY_STATUS[facts.status]
    elif HTTPStatus.BAD_REQUEST <= facts.status < _SERVER_ERRORS_FROM:
        outcome = Outcome.INVALID_REQUEST
    else:
        outcome = Outcome.SERVER_ERROR
    return ErrorRule(outcome=outcome, source="https://www.rfc-editor.org/rfc/rfc9110#section-15")


def classify(
    table: ErrorTable, facts: ErrorFacts, *, http_status: int, now: datetime
) -> ProviderError:
    """
    Make the error of a refusal.

    Args:
        table: The provider's table.
        facts: What the refusal says.
        http_status: The status on the wire.
        now: An aware time, when the answer arrived.
    """
    rule = find_outcome(table.rules, facts)
    sentence = _SENTENCES[rule.outcome].format(title=table.title)
    missing = rule.missing_permission
    return ProviderError(
        outcome=rule.outcome,
        safe_message=f"{sentence} (it lacks {missing})" if missing else sentence,
        billed=_billed(facts),
        http_status=http_status,
        retry_after_seconds=retry_after_seconds(
            facts.headers,
            now=now,
            text=facts.text[:SEARCHED_TEXT_MAX],
            delay=facts.delay,
            reset=facts.reset,
        ),
        retryable=rule.retryable,
        missing_permission=missing,
        usage=facts.usage,
    )


def broken(
    table: ErrorTable, *, http_status: int, cut: bool, usage: Usage | None = None
) -> ProviderBrokenError:
    """
    Make the error of an answer that cannot be read, or of a stream that was cut.
    """
    outcome = Outcome.NETWORK if cut else Outcome.SERVER_ERROR
    reason = "the stream ended without its end" if cut else "the answer is not in its format"
    return ProviderBrokenError(
        outcome=outcome,
        safe_message=f"{_SENTENCES[outcome].format(title=table.title)} ({reason})",
        billed=Billed.MAYBE_BILLED,
        http_status=http_status,
        usage=usage,
    )


def _billed(facts: ErrorFacts) -> Billed:
    if facts.inside_answer or facts.status == HTTPStatus.REQUEST_TIMEOUT:
        return Billed.MAYBE_BILLED
    if facts.status < _SERVER_ERRORS_FROM or facts.status in _REFUSED_SERVER_STATUSES:
        return Billed.REFUSED
    return Billed.MAYBE_BILLED
