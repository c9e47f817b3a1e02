# SPDX-License-Identifier: Apache-2.0
"""
What this process itself found out about keys and keyvault has not told back yet.

A note bridges the moment until the report has landed and the account is resolved anew. Bounded in
number; a later cooldown extends an earlier one, never shortens it. A shared key is not taken out of
service by one request's outcome: that it has no credit is keyvault's to confirm.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from services.router.domain.keys import AccountKeys, HealthMark, HealthState, OwnKey
from services.router.domain.next_step import UNHINTED_WAIT_SECONDS
from services.router.domain.outcomes import Outcome
from services.router.usecases.ports import PLATFORM

NOTES_MAX = 10_000
NO_CREDIT_SECONDS = 60.0
COOLING_SECONDS_MAX = 86_400.0


class LocalHealth:
    """
    Notes by key version, then model.
    """

    def __init__(self) -> None:
        self._notes: OrderedDict[tuple[str, int], dict[str, HealthMark]] = OrderedDict()

    def note(
        self,
        key: OwnKey,
        outcome: Outcome | None,
        *,
        model: str,
        retry_after: float | None,
        now: float,
    ) -> None:
        """
        Take note of what a call came to; success wipes the notes about the key.
        """
        if outcome is None:
            self.forget(key)
            return
        if outcome is Outcome.RATE_LIMITED:
            wait = UNHINTED_WAIT_SECONDS if retry_after is None else retry_after
            until = now + min(wait, COOLING_SECONDS_MAX)
            mark = HealthMark(HealthState.COOLING, model, until)
        elif outcome is Outcome.INSUFFICIENT_CREDIT and not _is_shared(key):
            mark = HealthMark(HealthState.NO_CREDIT, model, now + NO_CREDIT_SECONDS)
        else:
            return  # Keyvault confirms before a key is rejected.
        marks = self._notes.setdefault((key.name, key.version), {})
        earlier = marks.get(model, mark)
        marks[model] = max(mark, earlier, key=lambda m: m.until)
        while len(self._notes) > NOTES_MAX:
            self._notes.popitem(last=False)

    def forget(self, key: OwnKey) -> None:
        """
        Drop the notes about a key: keyvault knows by now, or they no longer hold.
        """
        self._notes.pop((key.name, key.version), None)

    def over(self, keys: AccountKeys) -> AccountKeys:
        """
        Lay the notes over an account's keys.
        """
        if not any((key.name, key.version) in self._notes for key in keys.keys):
            return keys
        return dataclasses.replace(keys, keys=tuple(self._marked(key) for key in keys.keys))

    def _marked(self, key: OwnKey) -> OwnKey:
        marks = tuple(self._notes.get((key.name, key.version), {}).values())
        return dataclasses.replace(key, health=key.health + marks) if marks else key


def _is_shared(key: OwnKey) -> bool:
    return key.name.startswith(f"{PLATFORM}/")
