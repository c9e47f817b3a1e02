# SPDX-License-Identifier: Apache-2.0
"""What a run counts as done and as failed while others write the same records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import KekState, RecordName, WrappedRecord
from services.keyvault.usecases.rewrap_keys import RewrapKeys
from services.shared.clock import SystemClock
from services.shared.identity import OPERATOR

KEK = "vault:transit/ownkey"


def wrapped(version: int) -> WrappedKey:
    """Return a wrapped key."""
    return WrappedKey(KEK, version, b"vault:v%d:AAAA" % version)


@dataclass
class Records:
    """
    Three outdated records.

    Args:
        changed_meanwhile: How many of them others write before they are exchanged.
    """

    changed_meanwhile: int
    left: list[WrappedRecord] = field(
        default_factory=lambda: [
            WrappedRecord(RecordName(f"account-{n}", "main", 1), 1, "openai", 1, wrapped(1))
            for n in range(3)
        ]
    )

    async def count(self) -> dict[tuple[str, int], int]:
        """Count them."""
        return {(KEK, 1): len(self.left)}

    async def outdated(self, *_: object, **__: object) -> list[WrappedRecord]:
        """Give them once."""
        found, self.left = self.left, []
        return found

    async def exchange_data_keys(self, items: list[tuple[WrappedRecord, WrappedKey]]) -> int:
        """Exchange those that still stand."""
        return len(items) - self.changed_meanwhile


@dataclass
class Kek:
    """
    At version 2.

    Args:
        damaged: How many of the first records cannot be unwrapped.
    """

    damaged: int
    name: str = KEK

    async def status(self) -> KekState:
        """Say where it stands."""
        return KekState(2, 1)

    async def rewrap_many(self, items: list[Any]) -> list[WrappedKey | None]:
        """Wrap anew what can be."""
        return [None if number < self.damaged else wrapped(2) for number in range(len(items))]


class Beside:
    """The trail, and keyvault's own keys, of which there are none."""

    async def change(self, *_: object) -> None:
        """Write to the trail."""

    async def rewrap(self, *, below: int) -> tuple[int, int]:
        """Rewrap nothing."""
        assert below == 2
        return 0, 0


@pytest.mark.requirement("K12")
@pytest.mark.parametrize(
    ("damaged", "changed_meanwhile", "done", "failed"),
    [(0, 0, 3, 0), (1, 0, 2, 1), (0, 1, 2, 0), (1, 1, 1, 1)],
)
async def test_a_record_that_others_wrote_meanwhile_has_not_failed(
    damaged: int, changed_meanwhile: int, done: int, failed: int
) -> None:
    run: Any = RewrapKeys(
        kek=Kek(damaged),
        store=Beside(),
        records=Records(changed_meanwhile),
        service_keys=Beside(),
        clock=SystemClock(),
    )
    caller = Caller(identity=OPERATOR)
    told = [one async for one in run(caller, after=None, records_per_second_max=10_000)]

    assert (told[-1].done, told[-1].failed, told[-1].remaining) == (done, failed, 0)
