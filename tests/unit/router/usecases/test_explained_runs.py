# SPDX-License-Identifier: Apache-2.0
"""Whatever the account, its keys and the outcomes: a run walks the way that Explain told."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ownkey.router.v1 import explain_pb2

from services.ledger.domain.modes import BillingMode, FallbackConsent
from services.router.domain.keys import HealthMark, HealthState, OwnKey
from services.router.domain.plan import Candidate, ExclusionReason, Funding
from services.router.domain.request import Request, Source, TextInput
from services.router.domain.text import Message, Role, TextPart
from services.router.rpc import mapping_catalogue
from services.router.usecases.engine import Started
from services.router.usecases.explain import Explain, Explanation
from services.router.usecases.generate import GenerateText
from services.router.usecases.ports import PLATFORM
from services.shared.errors import ServiceError
from tests.support.deciding_ledger import DecidingLedger, PassingClock
from tests.support.engine import FakeAnswer, FakeKeys, FakeTransport, engine
from tests.support.routing import account_keys, own_key
from tests.support.stage import DEADLINE, DOWN, MODEL, SERVED, UNKNOWN_KEY, openai_catalogue

LONG = {"retry-after": "1000"}
LIMITED = FakeAnswer(429, (b'{"error":{"code":"rate_limit_exceeded"}}',), LONG)
POOR = FakeAnswer(429, (b'{"error":{"code":"insufficient_quota"}}',))
WRONG = FakeAnswer(400, (b'{"error":{"message":"x","type":"invalid_request_error"}}',))
OTHERS = {"poor": POOR, "unknown": UNKNOWN_KEY, "down": DOWN, "wrong": WRONG}


@dataclass(frozen=True, kw_only=True)
class Account:
    """
    An account and what it may use.
    """

    own: tuple[OwnKey, ...]
    shared: tuple[OwnKey, ...]
    mode: BillingMode
    consent: FallbackConsent
    source: Source
    use_backups: bool
    full: frozenset[str]

    def request(self) -> Request:
        """Give its request."""
        return Request(
            account="accounts/demo",
            request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
            model=MODEL,
            source=self.source,
            input=TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),)),
            stream=True,
        )


marks = st.lists(
    st.builds(
        HealthMark,
        st.sampled_from(
            [s for s in HealthState if s not in (HealthState.NOT_BROUGHT, HealthState.ACTIVE)]
        ),
        st.just(""),
        st.sampled_from([0.0, 1.0, 1.8, 20.0, 1000.0]),
    ),
    max_size=1,
).map(tuple)


def keys_of(account: str) -> st.SearchStrategy[tuple[OwnKey, ...]]:
    """Give up to four keys of an account."""
    key = st.builds(
        own_key,
        st.just("openai"),
        st.sampled_from("abcd"),
        account=st.just(account),
        active=st.booleans(),
        enabled=st.sampled_from([True, True, True, False]),
        always_use=st.sampled_from([False, False, False, True]),
        order=st.integers(0, 3),
        health=marks,
    )
    return st.lists(key, max_size=4, unique_by=lambda k: k.name).map(tuple)


accounts = st.builds(
    Account,
    own=keys_of("demo"),
    shared=keys_of("platform"),
    mode=st.sampled_from(list(BillingMode)),
    consent=st.sampled_from(list(FallbackConsent)),
    source=st.sampled_from(list(Source)),
    use_backups=st.booleans(),
    full=st.frozensets(st.sampled_from("abcd").map("accounts/demo/keys/{}".format), max_size=2),
)


class Trial:
    """
    One account on fresh surroundings, where every call is answered alike.
    """

    def __init__(self, account: Account, answer: FakeAnswer) -> None:
        keys = FakeKeys(
            account_keys(*account.own, use_backups=account.use_backups),
            account_keys(*account.shared, account="platform"),
        )
        self._ledger = DecidingLedger(mode=account.mode, consent=account.consent, full=account.full)
        self._transport = FakeTransport(answer)
        built = engine(openai_catalogue(), keys, self._ledger, self._transport, PassingClock())
        # Shared keys are spread by chance, which Explain does not draw.
        self._engine = dataclasses.replace(built, chance=lambda: 0.0)
        self._request = account.request()

    async def explained(self) -> Explanation:
        """Explain the request."""
        told = await Explain(self._engine)(self._request, deadline=DEADLINE)
        assert self._transport.sent == []
        assert all(ask.dry_run for ask in self._ledger.asks)
        return told

    async def run(self) -> tuple[list[str], ServiceError | Started]:
        """Run the request; gives the keys that reached the provider, each once, and the end."""
        ended: ServiceError | Started | None = None
        try:
            async for event in GenerateText(self._engine)(self._request, deadline=DEADLINE):
                ended = event if isinstance(event, Started) else ended
        except ServiceError as error:
            ended = error
        await self._engine.work.drain(1)
        assert ended is not None
        bearers = (r.headers["authorization"] for r in self._transport.sent)
        names = (bearer.removeprefix("Bearer ").removesuffix("@1") for bearer in bearers)
        return list(dict.fromkeys(names)), ended


async def compare(account: Account) -> None:
    """Compare what is told with what each outcome comes to."""
    told = await Trial(account, SERVED).explained()
    way = [turn.candidate.key.name for turn in told.turns]
    assert len(set(way)) == len(way)
    assert (told.refusal is None) is bool(way) is (told.grant is not None)

    tried, ended = await Trial(account, LIMITED).run()
    assert tried == way
    if told.refusal is not None:
        assert isinstance(ended, ServiceError)
        assert (type(ended), ended.message) == (type(told.refusal), told.refusal.message)

    tried, ended = await Trial(account, SERVED).run()
    assert tried == way[:1]
    if told.grant is not None:
        assert isinstance(ended, Started)
        assert (ended.payer, ended.fallback) == (told.grant.funding, told.grant.fallback)

    for answer in OTHERS.values():
        tried, _ = await Trial(account, answer).run()
        left = iter(way)
        assert tried[:1] == way[:1]
        assert all(name in left for name in tried), (way, tried)
    check_exclusions(account, told, set(way))


def check_exclusions(account: Account, told: Explanation, way: set[str]) -> None:
    """Nothing is told both ways, and what the plan holds and nobody tries is told with its why."""
    every: tuple[Candidate, ...] = (*told.plan.own, *told.plan.shared)
    excluded = {(e.funding, e.key): e.reason for e in told.exclusions}
    healthy = {HealthState.ACTIVE, HealthState.SUSPECT}
    for candidate in every if way else ():
        own = candidate.funding is Funding.OWN_KEY
        name = candidate.key.name
        reason = excluded.get((candidate.funding, name if own else ""))
        if name not in way and candidate.health.state in healthy:
            full = own and name in account.full and reason is ExclusionReason.LIMIT_REACHED
            assert full or reason is ExclusionReason.PAYER
        if own and name in way:
            assert reason is None


@pytest.mark.requirement("R13", "R7", "R8", "R9")
@settings(max_examples=60)
@given(account=accounts)
def test_a_run_goes_the_way_that_was_told(account: Account) -> None:
    """
    Rate-limited everywhere, exactly that way; served, its first step; otherwise a part of it, in
    that order. What is refused is refused in the same words.
    """
    asyncio.run(compare(account))


@pytest.mark.requirement("R13", "L8")
async def test_a_key_at_its_limit_is_told_as_such_and_the_next_one_pays() -> None:
    account = Account(
        own=(own_key("openai", "a"), own_key("openai", "b", order=1)),
        shared=(),
        mode=BillingMode.OWN_KEY_FIRST,
        consent=FallbackConsent.NEVER,
        source=Source.AUTO,
        use_backups=True,
        full=frozenset({"accounts/demo/keys/a"}),
    )
    told = await Trial(account, SERVED).explained()
    assert [turn.candidate.key.name for turn in told.turns] == ["accounts/demo/keys/b"]
    [full] = [e for e in told.exclusions if e.reason is ExclusionReason.LIMIT_REACHED]
    assert full.key == "accounts/demo/keys/a"
    message = mapping_catalogue.explanation(told)
    assert [candidate.key for candidate in message.candidates] == ["accounts/demo/keys/b"]
    assert explain_pb2.EXCLUSION_REASON_LIMIT_REACHED in {e.reason for e in message.exclusions}
    assert told.grant is not None
    assert told.grant.funding is Funding.OWN_KEY


@pytest.mark.requirement("R13", "R9", "R10")
async def test_without_consent_a_cooling_key_is_told_to_be_waited_for() -> None:
    mark = HealthMark(HealthState.COOLING, "", 20.0)
    account = Account(
        own=(own_key("openai", "a", health=(mark,)),),
        shared=(own_key("openai", "s", account=PLATFORM.partition("/")[2]),),
        mode=BillingMode.OWN_KEY_FIRST,
        consent=FallbackConsent.NEVER,
        source=Source.AUTO,
        use_backups=False,
        full=frozenset(),
    )
    told = await Trial(account, SERVED).explained()
    [turn] = told.turns
    assert (turn.candidate.key.name, turn.wait_seconds) == ("accounts/demo/keys/a", 20.0)
    assert told.refusal is None
    [shared] = [e for e in told.exclusions if e.funding is Funding.CREDITS]
    assert shared.reason is ExclusionReason.PAYER
    message = mapping_catalogue.explanation(told)
    assert [candidate.wait.seconds for candidate in message.candidates] == [20]
    # What is waited for is tried, so it is not told among what is not.
    assert [e.reason for e in message.exclusions] == [explain_pb2.EXCLUSION_REASON_PAYER]


@pytest.mark.requirement("R13")
@pytest.mark.parametrize("reason", ExclusionReason)
def test_every_reason_has_a_word_of_the_contract(reason: ExclusionReason) -> None:
    assert f"EXCLUSION_REASON_{reason.name}" in explain_pb2.ExclusionReason.keys()  # noqa: SIM118
