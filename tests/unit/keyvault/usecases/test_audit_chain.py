# SPDX-License-Identifier: Apache-2.0
"""The chainer: heads reach the log, and a broken chain holds up no other."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import pytest
from structlog.testing import capture_logs

from services.keyvault.domain.audit_chain import Head
from services.keyvault.usecases.audit_chain import HEADS_LOGGED_SECONDS, AuditChainer
from services.keyvault.usecases.ports import AuditChains, ChainRound, LinkEvents
from services.shared.secret import Secret
from tests.support.clock import ManualClock

KEY = Secret(bytes(32))


class Rounds:
    """Answers prepared rounds and remembers which accounts were to be skipped."""

    def __init__(self, *rounds: ChainRound | None) -> None:
        self._rounds = list(rounds)
        self.skipped: list[set[str]] = []

    async def extend(
        self, link: LinkEvents, *, limit: int, skipping: Collection[str]
    ) -> ChainRound | None:
        self.skipped.append(set(skipping))
        return self._rounds.pop(0)


def chaining(rounds: Rounds, clock: ManualClock) -> AuditChainer:
    return AuditChainer(cast("AuditChains", rounds), key=KEY, clock=clock)


def head(sequence: int) -> Head:
    return Head("demo", sequence, sequence, bytes(32), bytes(32))


@pytest.mark.requirement("K13")
class TestAuditChainer:
    async def test_the_newest_head_of_each_account_reaches_the_log_now_and_then(self) -> None:
        clock = ManualClock()
        rounds = Rounds(*(ChainRound(1, [head(number)], []) for number in (1, 2, 3, 4)))
        chainer = chaining(rounds, clock)
        with capture_logs() as lines:
            await chainer.catch_up()
            await chainer.catch_up()
            assert lines == []
            clock.advance(HEADS_LOGGED_SECONDS)
            await chainer.catch_up()
            await chainer.catch_up()
            await chainer.close()

        assert [(line["account"], line["head"]) for line in lines] == [
            ("demo", str(head(3))),
            ("demo", str(head(4))),
        ]

    async def test_a_broken_chain_is_told_once_and_then_passed_over(self) -> None:
        rounds = Rounds(ChainRound(1000, [], ["broken"]), ChainRound(0, [], []), None)
        chainer = chaining(rounds, ManualClock())
        with capture_logs() as lines:
            await chainer.catch_up()
            await chainer.catch_up()

        assert [(line["event"], line["account"]) for line in lines] == [
            ("audit_chain_broken", "broken")
        ]
        assert rounds.skipped == [set(), {"broken"}, {"broken"}]
