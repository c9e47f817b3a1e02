# SPDX-License-Identifier: Apache-2.0
"""An own key whose spending limit is reached: another key, or credits by consent, or a refusal."""

from __future__ import annotations

import dataclasses

import pytest

from services.router import errors
from services.router.domain.plan import OwnKeyState
from services.router.domain.request import Source
from services.router.usecases.engine import Ended
from services.router.usecases.ports import Ask
from services.shared.errors import ServiceError
from tests.support.engine import FakeTransport
from tests.support.routing import account_keys
from tests.support.stage import KEY, SERVED, Stage

pytestmark = pytest.mark.requirement("L8", "R9")

LIMITED = dataclasses.replace(KEY, monthly_limit_nano_usd=1)
BACKUP = dataclasses.replace(KEY, name="accounts/demo/keys/backup", active=False, order=1)


def holds_to_limits(ask: Ask) -> ServiceError | None:
    """Refuse a limited key, as the ledger does when its month is used up."""
    if ask.own is not None and ask.own.key.monthly_limit_nano_usd is not None:
        return errors.OwnKeyLimitReachedError("the limit is reached")
    return None


def stage_of(*keys: object) -> Stage:
    stage = Stage(FakeTransport(SERVED))
    stage.keys.accounts["accounts/demo"] = dataclasses.replace(
        account_keys(*keys),  # type: ignore[arg-type]
        use_backups=True,
    )
    stage.ledger.refuse = holds_to_limits
    return stage


async def test_another_own_key_serves_in_its_place() -> None:
    stage = stage_of(LIMITED, BACKUP)
    events = await stage.events()

    assert isinstance(events[-1], Ended)
    assert stage.bearers == ["Bearer accounts/demo/keys/backup@1"]
    assert [ask.sequence for ask in stage.ledger.asks] == [1, 2]


async def test_without_another_the_ledger_decides_about_credits() -> None:
    stage = stage_of(LIMITED)
    events = await stage.events()

    assert isinstance(events[-1], Ended)
    assert stage.bearers == ["Bearer accounts/platform/keys/one@1"]
    states = [ask.own_key_state for ask in stage.ledger.asks]
    assert states == [OwnKeyState.READY, OwnKeyState.LIMIT_REACHED]


@pytest.mark.parametrize("source", [Source.AUTO, Source.OWN_KEY])
async def test_where_credits_may_not_pay_the_refusal_says_so(source: Source) -> None:
    def decides(ask: Ask) -> ServiceError | None:
        if ask.own_key_state is OwnKeyState.LIMIT_REACHED:
            return errors.NoUsableOwnKeyError("no own key serves: raise the limit")
        return holds_to_limits(ask)

    stage = stage_of(LIMITED)
    stage.ledger.refuse = decides
    with pytest.raises(errors.NoUsableOwnKeyError, match="raise the limit"):
        await stage.events(source)

    assert stage.bearers == []
