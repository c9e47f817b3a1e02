# SPDX-License-Identifier: Apache-2.0
"""
The live test of a key, as a state machine without I/O.

1. First the provider's free call. A plain refusal ends the test.
2. Where it cannot show the balance, or answers 403 (a key may lack the right to list models and
   still generate), a minimal generation decides.
3. A model that is not there, or does not take so small a request, says nothing about the key:
   the next candidate is tried, up to `GENERATIONS_MAX` in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Message,
    ReasoningEffort,
    Role,
    TextCall,
    TextPart,
    Usage,
)
from services.router.providers.base import (
    Credential,
    Dialect,
    HTTPRequest,
    ProbeResult,
    ProviderError,
)

__all__ = ["GENERATIONS_MAX", "OUTPUT_TOKENS_MAX", "FreeCallFinding", "KeyProbe", "ProbePlan"]

OUTPUT_TOKENS_MAX = 16
"""The output limit of the test's generation."""
GENERATIONS_MAX = 3
"""How many models are tried before the test says that it cannot tell."""

_HTTP_OK = 200
_SAYS_NOTHING_ABOUT_THE_KEY = frozenset(
    {
        Outcome.MODEL_NOT_FOUND,
        Outcome.NOT_FOUND,
        Outcome.INVALID_REQUEST,
        Outcome.CONTEXT_LENGTH,
        Outcome.CONTENT_FILTERED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeCallFinding:
    """
    What the free call's answer shows.
    """

    models: tuple[str, ...] = ()
    """The model ids the key sees; empty where the call does not list them all."""
    out_of_credit: bool = False
    has_credit: bool = False
    """The call shows that there is money behind the key: no generation needs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """
    How one provider's keys are tested.
    """

    free_path: str
    read_free_call: Callable[[bytes], FreeCallFinding]
    cheap_models: tuple[str, ...]
    """Models for the generation, cheapest first."""
    lowest_effort: Callable[[str], ReasoningEffort | None]
    """The effort at which a model thinks least; None for its default."""
    generates: bool = True
    """Whether a generation may decide what the free call leaves open: one of text is cheap."""


class KeyProbe:
    """
    One test of one key.
    """

    def __init__(
        self,
        dialect: Dialect,
        plan: ProbePlan,
        credential: Credential,
        *,
        base_url: str,
        free_call: HTTPRequest | None,
        models: tuple[str, ...],
    ) -> None:
        self._dialect = dialect
        self._plan = plan
        self._credential = credential
        self._base_url = base_url
        self._models = models
        self._candidates: list[str] = []
        self._model = ""
        self._result: ProbeResult | None = None
        self._usage: Usage | None = None
        if free_call is None:
            self._begin_generations(())
        else:
            self._request = free_call

    def next_request(self) -> HTTPRequest | None:
        """
        Give the request to send now, or None when the result stands.
        """
        return None if self._result is not None else self._request

    def feed(self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
        """
        Take the answer to the last request.
        """
        if self._model:
            self._read_generation(status, headers, body, now)
        elif status == _HTTP_OK:
            finding = self._plan.read_free_call(body)
            if finding.out_of_credit:
                self._end(Outcome.INSUFFICIENT_CREDIT, status, _NO_CREDIT, credit_checked=True)
            elif finding.has_credit:
                self._end(None, status, _VALID, credit_checked=True)
            elif not self._plan.generates:
                self._end(None, status, _UNSEEN, credit_checked=False)
            else:
                self._begin_generations(finding.models)
        else:
            error = self._dialect.parse_error(status, headers, body, now=now)
            if error.outcome is Outcome.PERMISSION_DENIED and self._plan.generates:
                self._begin_generations(())
            else:
                self.fail(error)

    def fail(self, error: ProviderError) -> None:
        """
        Take a failure that ends the test, the transport's own included.
        """
        self._usage = error.usage or self._usage
        self._end(
            error.outcome,
            error.http_status,
            error.safe_message,
            credit_checked=error.outcome is Outcome.INSUFFICIENT_CREDIT,
            error=error,
        )

    def result(self) -> ProbeResult:
        """
        Give the result.

        Raises:
            RuntimeError: A request is still to be sent.
        """
        if self._result is None:
            raise RuntimeError("the probe has not ended: send next_request() first")
        return self._result

    def _begin_generations(self, listed: tuple[str, ...]) -> None:
        wanted = self._models or self._plan.cheap_models
        seen = [model for model in wanted if _is_listed(model, listed)]
        self._candidates = list(seen or wanted)[:GENERATIONS_MAX]
        self._next_generation()

    def _next_generation(self) -> None:
        self._model = self._candidates.pop(0)
        call = TextCall(
            model=self._model,
            messages=(Message(Role.USER, (TextPart("Hi"),)),),
            max_output_tokens=OUTPUT_TOKENS_MAX,
            reasoning_effort=self._plan.lowest_effort(self._model),
        )
        self._request = self._dialect.build_request(call, self._credential, base_url=self._base_url)

    def _read_generation(
        self, status: int, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> None:
        try:
            completion = self._dialect.parse_response(status, headers, body, now=now)
        except ProviderError as error:
            if error.outcome not in _SAYS_NOTHING_ABOUT_THE_KEY:
                self.fail(error)
            elif self._candidates:
                self._next_generation()
            elif self._models and error.outcome is Outcome.MODEL_NOT_FOUND:
                self.fail(error)
            else:
                self._end(None, status, _UNCHECKED, credit_checked=False)
            return
        self._usage = completion.usage
        self._end(None, status, _VALID, credit_checked=True)

    def _end(
        self,
        outcome: Outcome | None,
        http_status: int | None,
        detail: str,
        *,
        credit_checked: bool,
        error: ProviderError | None = None,
    ) -> None:
        self._result = ProbeResult(
            outcome=outcome,
            credit_checked=credit_checked,
            usage=self._usage,
            model=self._model,
            http_status=http_status,
            detail=detail,
            retry_after_seconds=None if error is None else error.retry_after_seconds,
            missing_permission="" if error is None else error.missing_permission,
        )


_VALID = "the key works and has credit"
_NO_CREDIT = "the key works, but its spending limit or its credit is used up: top up or raise it"
_UNSEEN = "the key is accepted, but whether it has credit could not be seen"
_UNCHECKED = (
    "the key is accepted, but whether it has credit could not be checked: "
    "none of the test models served the test request"
)


def _is_listed(model: str, listed: tuple[str, ...]) -> bool:
    """
    Tell whether a list of models holds a model, under its name or with a date behind it.
    """
    return any(name == model or name.startswith(f"{model}-") for name in listed)
