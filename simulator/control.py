# SPDX-License-Identifier: Apache-2.0
"""
What the control API keeps: faults set on single keys, and a recording of what arrived.

Keys are known by their SHA-256 alone; no key is ever kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from simulator.faults import Fault

__all__ = ["FAULTS_MAX", "RECORDS_MAX", "Control", "key_digest"]

RECORDS_MAX = 10_000
"""The newest requests that are kept."""
FAULTS_MAX = 10_000
"""The newest keys whose faults are kept."""


def key_digest(key: str) -> str:
    """
    Give the SHA-256 by which the control API names a key, in hexadecimal.
    """
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(slots=True)
class _SetFault:
    fault: Fault
    left: int | None
    """How many more requests it hits; None for all."""


class Control:
    """
    The simulator's only state.
    """

    def __init__(self) -> None:
        self._faults: OrderedDict[str, _SetFault] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        """What keeps requests of a key waiting."""
        self._records: deque[dict[str, Any]] = deque(maxlen=RECORDS_MAX)

    def set_fault(self, digest: str, fault: Fault, count: int | None) -> None:
        """
        Have a key fail from now on, or for the next `count` requests.
        """
        self._faults[digest] = _SetFault(fault, count)
        self._faults.move_to_end(digest)
        if len(self._faults) > FAULTS_MAX:
            self._faults.popitem(last=False)

    def clear_fault(self, digest: str) -> None:
        """
        Have a key do again what its text says; its requests that wait go on.
        """
        self._faults.pop(digest, None)
        for waiting in self._waiting.get(digest, ()):
            waiting.set()

    async def wait(self, key: str, seconds: float) -> None:
        """
        Keep a request waiting for so long, or until its key's fault is cleared.
        """
        digest, cleared = key_digest(key), asyncio.Event()
        waiting = self._waiting.setdefault(digest, set())
        waiting.add(cleared)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await cleared.wait()
        finally:
            waiting.discard(cleared)
            if not waiting:
                self._waiting.pop(digest, None)

    def take_fault(self, key: str, *, generation: bool) -> Fault | None:
        """
        Give the fault set on a key that hits this request, and count it.
        """
        digest = key_digest(key)
        entry = self._faults.get(digest)
        if entry is None or (entry.fault.generations_only and not generation):
            return None
        if entry.left is not None:
            entry.left -= 1
            if entry.left <= 0:
                del self._faults[digest]
        return entry.fault

    def record(self, entry: dict[str, Any]) -> None:
        """
        Keep what arrived.
        """
        self._records.append(entry)

    def records(self) -> list[dict[str, Any]]:
        """
        Give what arrived, oldest first.
        """
        return list(self._records)

    def forget(self) -> None:
        """
        Drop the recording.
        """
        self._records.clear()
