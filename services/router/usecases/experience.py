# SPDX-License-Identifier: Apache-2.0
"""
What this process learns from its calls: breakers, speeds, retry tokens, and who is whose trial.
Breakers that it opens are told to the other replicas, and theirs to it.

In memory and bounded: what was not used for longest is forgotten first, which reads as healthy,
unmeasured, or with all tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from services.router.domain import breaker
from services.router.domain.breaker import Breaker
from services.router.domain.conditions import OPEN_GATE, Gate
from services.router.domain.next_step import TRANSIENT
from services.router.domain.outcomes import Outcome
from services.router.domain.plan import Funding
from services.router.domain.retry_tokens import RetryTokens
from services.router.domain.speed import Average, Speed
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from services.router.domain.catalogue import Offer
    from services.router.domain.keys import OwnKey
    from services.router.domain.next_step import Failure
    from services.router.domain.plan import Candidate

BREAKERS_MAX = 10_000
SPEEDS_MAX = 10_000
ACCOUNTS_MAX = 100_000
OUTAGE_SECONDS_MIN = 1.0
"""An outage told to last no longer than was known, give or take this, is the one already known."""
SILENCE_SECONDS_MIN = 10.0
"""A timeout sooner than this is the caller's haste, no sign of an outage."""
OUTPUT_TOKENS_MIN = 8
"""A shorter answer says nothing about throughput."""

log = get_logger()

Name = TypeVar("Name")
State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """
    How long an attempt took.
    """

    seconds: float
    first_content_seconds: float | None = None
    """Of a stream; None for a whole answer."""
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Outage:
    """
    A provider's model on a host that is passed over.
    """

    name: tuple[str, str, str]
    """Provider, host, model."""
    until: float
    """Monotonic seconds."""


class Experience:
    """
    One process's experience.

    Args:
        host_of: Gives the host a provider is called at; empty where each key has its own.
        failures_to_open: Failures in short time that open a breaker; 0 for no breakers.
        turned: Told when a breaker turns: its provider, and the phase that begins.
    """

    def __init__(
        self,
        host_of: Callable[[str], str],
        *,
        failures_to_open: int = breaker.FAILURES_TO_OPEN,
        turned: Callable[[str, breaker.Phase], None] = lambda _provider, _phase: None,
    ) -> None:
        self._host_of = host_of
        self._turned = turned
        self._failures_to_open = failures_to_open
        self._breakers: _Bounded[tuple[str, str, str], Breaker] = _Bounded(BREAKERS_MAX)
        self._first: _Bounded[tuple[str, str], Average] = _Bounded(SPEEDS_MAX)
        self._rate: _Bounded[tuple[str, str], Average] = _Bounded(SPEEDS_MAX)
        self._tokens: _Bounded[str, RetryTokens] = _Bounded(ACCOUNTS_MAX)
        self._trials: dict[str, object] = {}
        self._found: dict[tuple[str, str, str], Outage] = {}
        self._known: _Bounded[tuple[str, str, str], float] = _Bounded(BREAKERS_MAX)
        """Until when outages last that were found or told."""

    # ---- reading

    def at(self, now: float, *, chance: float) -> View:
        """
        Give the conditions of one moment.

        Args:
            now: Monotonic seconds.
            chance: Random number from 0 to 1: whether a ramp lets this request pass.
        """
        return View(self, now, chance)

    def gate(self, key: OwnKey, offer: Offer, now: float, chance: float) -> Gate:
        """
        Tell whether a call may pass.
        """
        state = self._breakers.get(self._name(key, offer))
        if state is None:
            return OPEN_GATE
        trial = ""
        if breaker.phase(state, now) is breaker.Phase.HALF_OPEN:
            trial = "breaker " + " ".join(self._name(key, offer))
        closes = trial in self._trials or chance >= breaker.share(state, now)
        return Gate(closes, state.until, trial)

    def speed(self, offer: Offer, now: float) -> Speed:
        """
        Tell how fast an offer has been.
        """
        name = (offer.provider, offer.model)
        first, rate = self._first.get(name), self._rate.get(name)
        return Speed(
            first_content_seconds=first.known(now) if first else None,
            tokens_per_second=rate.known(now) if rate else None,
        )

    def on_trial(self, name: str) -> bool:
        """
        Tell whether some request is the trial of that name.
        """
        return name in self._trials

    def may_retry(self, account: str, now: float) -> bool:
        """
        Tell whether an account can pay a retry.
        """
        tokens = self._tokens.get(account)
        return tokens is None or tokens.may_retry(now)

    # ---- trials

    def claim(self, names: Iterable[str], holder: object) -> None:
        """
        Make a request the trial of each name that has none.
        """
        for name in names:
            self._trials.setdefault(name, holder)

    def release(self, holder: object) -> None:
        """
        End a request's trials.
        """
        for name in [name for name, held in self._trials.items() if held is holder]:
            del self._trials[name]

    # ---- other replicas

    def outages_found(self, most: int) -> list[Outage]:
        """
        Give what other replicas have not been told of yet, once.
        """
        names = list(self._found)[:most]
        return [self._found.pop(name) for name in names]

    def outages_untold(self, outages: Iterable[Outage]) -> None:
        """
        Take back what could not be told.
        """
        for outage in outages:
            self._found.setdefault(outage.name, outage)

    def outage_told(self, name: tuple[str, str, str], until: float, now: float) -> None:
        """
        Take in an outage that another replica found.
        """
        if not self._failures_to_open or until <= (self._known.get(name) or 0) + OUTAGE_SECONDS_MIN:
            return
        self._known.put(name, until)
        before = self._breakers.get(name) or Breaker(counted_at=now)
        self._turn(name, before, breaker.told(before, until=until, now=now), now)

    # ---- learning

    def retried(self, account: str, now: float) -> None:
        """
        Let an account pay a retry.
        """
        self._tokens.put(account, (self._tokens.get(account) or RetryTokens(at=now)).taken(now))

    def served(self, account: str, candidate: Candidate, timing: Timing, now: float) -> None:
        """
        Take note of an attempt that served.
        """
        tokens = self._tokens.get(account)
        if tokens is not None:
            self._tokens.put(account, tokens.given(now))
        name = self._name(candidate.key, candidate.offer)
        self._decide(name, breaker.Succeeded(), now)
        offer = (candidate.offer.provider, candidate.offer.model)
        if timing.first_content_seconds is not None:
            self._observe(self._first, offer, timing.first_content_seconds, now)
        if timing.output_tokens >= OUTPUT_TOKENS_MIN and timing.seconds > 0:
            self._observe(self._rate, offer, timing.output_tokens / timing.seconds, now)

    def failed(
        self, account: str, candidate: Candidate, failure: Failure, *, seconds: float, now: float
    ) -> None:
        """
        Take note of an attempt that failed; only an outage counts against the provider.
        """
        hasty = failure.outcome is Outcome.TIMEOUT and seconds < SILENCE_SECONDS_MIN
        if failure.outcome not in TRANSIENT or failure.deadline_passed or hasty:
            return
        own = candidate.funding is Funding.OWN_KEY
        witness = account if own else breaker.SHARED_KEY
        self._decide(self._name(candidate.key, candidate.offer), breaker.Failed(witness), now)

    def _decide(self, name: tuple[str, str, str], event: breaker.Event, now: float) -> None:
        if not self._failures_to_open:
            return
        before = self._breakers.get(name) or Breaker(counted_at=now)
        after = breaker.decide(now, before, event, failures_to_open=self._failures_to_open)
        if after.opened and after.until != before.until:
            self._known.put(name, after.until)
            self._found[name] = Outage(name, after.until)
        self._turn(name, before, after, now)

    def _turn(
        self, name: tuple[str, str, str], before: Breaker, after: Breaker, now: float
    ) -> None:
        self._breakers.put(name, after)
        if (turned := breaker.phase(after, now)) is not breaker.phase(before, now):
            provider, host, model = name
            self._turned(provider, turned)
            log.warning("breaker_turned", provider=provider, host=host, model=model, phase=turned)

    def _observe(
        self,
        averages: _Bounded[tuple[str, str], Average],
        offer: tuple[str, str],
        sample: float,
        now: float,
    ) -> None:
        averages.put(offer, (averages.get(offer) or Average()).observed(sample, now))

    def _name(self, key: OwnKey, offer: Offer) -> tuple[str, str, str]:
        # A key with an endpoint of its own stands for its host.
        return offer.provider, self._host_of(offer.provider) or key.name, offer.model


class View:
    """
    The conditions of one moment.
    """

    def __init__(self, experience: Experience, now: float, chance: float) -> None:
        self._experience = experience
        self._now = now
        self._chance = chance

    def gate(self, key: OwnKey, offer: Offer) -> Gate:
        """
        Tell whether a call on a key to an offer may pass.
        """
        return self._experience.gate(key, offer, self._now, self._chance)

    def speed(self, offer: Offer) -> Speed:
        """
        Tell how fast an offer has been.
        """
        return self._experience.speed(offer, self._now)

    def on_trial(self, name: str) -> bool:
        """
        Tell whether another request is the trial of that name just now.
        """
        return self._experience.on_trial(name)


class _Bounded(Generic[Name, State]):
    """
    States by name; the one not touched for longest goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._states: OrderedDict[Name, State] = OrderedDict()

    def get(self, name: Name) -> State | None:
        return self._states.get(name)

    def put(self, name: Name, state: State) -> None:
        self._states[name] = state
        self._states.move_to_end(name)
        while len(self._states) > self._most:
            self._states.popitem(last=False)
