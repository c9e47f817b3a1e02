# SPDX-License-Identifier: Apache-2.0
"""What Explain shows is what runs: the same candidates, exclusions and payer, scene by scene."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest

from services.router import errors
from services.router.domain.keys import HealthMark, HealthState, OwnKey
from services.router.domain.plan import ExclusionReason, Funding
from services.router.domain.request import Preferences, Request, Source, TextInput
from services.router.domain.text import Message, Role, TextPart
from services.router.usecases.explain import Explain
from services.router.usecases.generate import GenerateText
from services.router.usecases.ports import PLATFORM, Ask
from services.shared.errors import ServiceError
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.routing import account_keys, own_key
from tests.support.stage import DEADLINE, MODEL, Stage

OUT_OF_MONEY = FakeAnswer(status=429, pieces=(b'{"error":{"code":"insufficient_quota"}}',))
"""Whoever is tried fails, so that every candidate is."""
OWN, CREDITS = Funding.OWN_KEY, Funding.CREDITS


def key(name: str, **fields: object) -> OwnKey:
    """Give an own key."""
    return own_key("openai", name, **fields)


def marked(name: str, state: HealthState) -> OwnKey:
    """Give an own key in whose way something stands for long."""
    return key(name, health=(HealthMark(state, "", 1_000.0),))


SHARED = ("platform/one", "platform/two")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """
    An account's keys, its request, and what should come of both.

    Args:
        keys: The own keys.
        tried: Keys that reach the provider, in order; `platform/…` for shared ones.
        payer: Of the first attempt; None where the ledger refuses.
        excluded: Why what does not take part does not.
        request: Fields of the request.
        use_backups: Whether the account uses backup keys.
        consents: Whether it consents to fall back.
        shared: The shared keys.
    """

    keys: tuple[OwnKey, ...]
    tried: tuple[str, ...]
    payer: Funding | None
    excluded: tuple[ExclusionReason, ...] = ()
    request: dict[str, object] = field(default_factory=dict)
    use_backups: bool = True
    consents: bool = True
    shared: tuple[str, ...] = SHARED


SCENES = {
    "own keys in order, then credits": Scene(
        keys=(key("b", order=2), key("a", order=1)), tried=("a", "b", *SHARED), payer=OWN
    ),
    "no own key": Scene(keys=(), tried=SHARED, payer=CREDITS),
    "a disabled key": Scene(
        keys=(key("a", enabled=False),),
        tried=SHARED,
        payer=CREDITS,
        excluded=(ExclusionReason.DISABLED,),
    ),
    "a backup that is not used": Scene(
        keys=(key("a"), key("b", active=False)),
        tried=("a", *SHARED),
        payer=OWN,
        excluded=(ExclusionReason.BACKUP_NOT_USED,),
        use_backups=False,
    ),
    "a backup that is used": Scene(
        keys=(key("b", active=False), key("a")), tried=("a", "b", *SHARED), payer=OWN
    ),
    "a key for other models": Scene(
        keys=(key("a", allowed_models=frozenset({"openai/other"})), key("b")),
        tried=("b", *SHARED),
        payer=OWN,
        excluded=(ExclusionReason.MODEL_NOT_ALLOWED,),
    ),
    "a provider that does not serve the model": Scene(
        keys=(own_key("anthropic", "a"),),
        tried=SHARED,
        payer=CREDITS,
        excluded=(ExclusionReason.MODEL_NOT_SERVED,),
    ),
    "a cooling key": Scene(keys=(marked("a", HealthState.COOLING),), tried=SHARED, payer=CREDITS),
    "a rejected key before a good one": Scene(
        keys=(marked("a", HealthState.REJECTED), key("b", order=1)),
        tried=("b", *SHARED),
        payer=OWN,
    ),
    "a rejected key without consent": Scene(
        keys=(marked("a", HealthState.REJECTED),), tried=(), payer=None, consents=False
    ),
    "own keys without consent": Scene(
        keys=(key("a"), key("b", order=1)), tried=("a", "b"), payer=OWN, consents=False
    ),
    "credits are asked for": Scene(
        keys=(key("a"),),
        tried=SHARED,
        payer=CREDITS,
        excluded=(ExclusionReason.SOURCE,),
        request={"source": Source.CREDITS},
    ),
    "the own key is asked for": Scene(
        keys=(key("a"),),
        tried=("a",),
        payer=OWN,
        excluded=(ExclusionReason.SOURCE,),
        request={"source": Source.OWN_KEY},
    ),
    "a price limit that excludes all": Scene(
        keys=(key("a"),),
        tried=(),
        payer=None,
        excluded=(ExclusionReason.PRICE, ExclusionReason.PRICE),
        request={"preferences": Preferences(max_output_rate=1)},
    ),
    "no shared key": Scene(
        keys=(),
        tried=(),
        payer=None,
        excluded=(ExclusionReason.NO_SHARED_KEY,),
        shared=(),
    ),
    "a provider that is ignored": Scene(
        keys=(key("a"),),
        tried=(),
        payer=None,
        excluded=(ExclusionReason.PREFERENCE, ExclusionReason.PREFERENCE),
        request={"preferences": Preferences(ignore=frozenset({"openai"}))},
    ),
}


def refuses_credits(ask: Ask) -> ServiceError | None:
    """Let the account not fall back."""
    return None if ask.own else errors.FallbackNotAllowedError("no consent")


@pytest.mark.requirement("R13", "R7", "R8", "R9")
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_what_is_explained_is_what_runs(scene: Scene) -> None:
    stage = Stage(FakeTransport(OUT_OF_MONEY))
    own = account_keys(*scene.keys, use_backups=scene.use_backups)
    shared = account_keys(
        *(own_key("openai", name.split("/")[1], account="platform") for name in scene.shared),
        account="platform",
    )
    stage.keys.accounts = {own.account: own, PLATFORM: shared}
    # Shared keys are spread by chance, which Explain does not draw.
    stage.engine = dataclasses.replace(stage.engine, chance=lambda: 0.0)
    if not scene.consents:
        stage.ledger.refuse = refuses_credits
    request = Request(
        account="accounts/demo",
        request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
        model=MODEL,
        input=TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),)),
        stream=True,
        **scene.request,  # type: ignore[arg-type]  # fields of the request, by the scene
    )
    told = await Explain(stage.engine)(request, deadline=DEADLINE)
    assert stage.transport.sent == []
    assert all(ask.dry_run for ask in stage.ledger.asks)
    stage.ledger.asks.clear()

    with pytest.raises(ServiceError) as ended:
        [_ async for _ in GenerateText(stage.engine)(request, deadline=DEADLINE)]
    names = [bearer.removeprefix("Bearer accounts/").removesuffix("@1") for bearer in stage.bearers]
    tried = [n.replace("/keys/", "/").removeprefix("demo/") for n in names]
    assert tried == list(scene.tried)
    assert sorted(e.reason for e in told.plan.exclusions) == sorted(scene.excluded)
    paid = told.grant.funding if told.grant else None
    assert paid is scene.payer
    assert (told.refusal is None) is bool(tried)
    if told.refusal is not None:
        assert (type(ended.value), str(ended.value)) == (type(told.refusal), str(told.refusal))
    ready = [c for c in told.plan.own if c.health.state is HealthState.ACTIVE]
    walked = [c.key.name for c in (*ready, *(told.plan.shared if scene.consents else ()))]
    assert [f"accounts/{name}" for name in names] == walked
