# SPDX-License-Identifier: Apache-2.0
"""
Copies of accounts' keys, usable only under a fresh lease. Pure: time is an argument.

1. A copy is usable until 0.9 s after the question was *sent* whose answer vouches for it: the
   resolve that brought it, or the newest answered question on the watch stream. All times are this
   process's monotonic clock, so a pause or another machine's clock only shortens a lease.
2. The watch vouches for a copy only if it has told of every change since the copy was read. A copy
   whose account changed while its resolve was under way is not kept.
3. A broken watch vouches for nothing new; a watch that resumes at the last answered position goes
   on vouching for what is held. Another lineage, or a start without a position, forgets all.
4. Absence of keys is a copy like any other.
5. There is room for so many copies; where it is short, one that was used lately stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

LEASE_SECONDS = 0.9
ACCOUNTS_MAX = 100_000
"""Copies held at most; each takes about a kilobyte."""
NONCES_MAX = 64

Keys = TypeVar("Keys")


@dataclass(frozen=True, slots=True)
class Position:
    """
    A place in keyvault's change feed.
    """

    lineage: str
    sequence: int


@dataclass(slots=True)
class Copy(Generic[Keys]):
    """
    One account's keys as they were read.
    """

    keys: Keys
    sent_at: float
    """When the resolve that brought it was sent."""
    watched: bool = False
    """Whether the watch tells of every change since."""


@dataclass(slots=True)
class Ticket:
    """
    A resolve under way.
    """

    account: str
    sent_at: float
    position: Position | None
    """Where the watch stood when it was sent."""
    changed: bool = False


class KeyCopies(Generic[Keys]):
    """
    All copies of one process.

    Args:
        accounts_max: Copies held at most.
    """

    def __init__(self, *, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._accounts_max = accounts_max
        self._used: dict[str, Copy[Keys]] = {}
        self._unused: dict[str, Copy[Keys]] = {}
        """Not used since the last turn. Two plain dicts, as an ordered one takes a third more."""
        self._tickets: dict[str, list[Ticket]] = {}
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._nonce = 0
        self._vouched_at: float | None = None
        self._position: Position | None = None
        self._continuous = False

    @property
    def position(self) -> Position | None:
        """
        Give where the watch resumes; None to begin at the present.
        """
        return self._position

    # ---- watch

    def watch_opened(self) -> None:
        """
        Take note that a new watch stream begins.
        """
        self._sent.clear()
        self._continuous = self._position is not None

    def watch_lost(self) -> None:
        """
        Take note that the stream broke: questions under way stay unanswered.
        """
        self._sent.clear()

    def question_sent(self, *, now: float) -> int:
        """
        Give the number of the question that is sent now.
        """
        self._nonce += 1
        self._sent[self._nonce] = now
        while len(self._sent) > NONCES_MAX:
            self._sent.popitem(last=False)
        return self._nonce

    def answered(
        self, nonce: int, changed: Iterable[str], *, resync: bool, position: Position
    ) -> None:
        """
        Take an answer in: changes first, then the lease.
        """
        sent_at = self._sent.get(nonce)
        if sent_at is None:
            return
        while self._sent and next(iter(self._sent)) <= nonce:
            self._sent.popitem(last=False)
        lineage_changed = self._position is not None and position.lineage != self._position.lineage
        if resync or lineage_changed or not self._continuous:
            self._forget_all()
            self._continuous = True
        else:
            for account in changed:
                self.forget(account)
        self._position = position
        self._vouched_at = sent_at

    # ---- copies

    def get(self, account: str, *, now: float) -> Copy[Keys] | None:
        """
        Give a usable copy, or None.
        """
        copy = self._used.get(account)
        if copy is None:
            copy = self._unused.pop(account, None)
            if copy is None:
                return None
            self._used[account] = copy
        return copy if self.usable(copy, now=now) else None

    def usable(self, copy: Copy[Keys], *, now: float) -> bool:
        """
        Tell whether a copy's lease stands.
        """
        if now < copy.sent_at + LEASE_SECONDS:
            return True
        vouched = self._vouched_at
        return copy.watched and vouched is not None and now < vouched + LEASE_SECONDS

    def usable_until(self, copy: Copy[Keys]) -> float:
        """
        Give when a copy's lease ends, unless it is renewed, in monotonic seconds.
        """
        vouched = self._vouched_at if copy.watched else None
        return max(copy.sent_at, copy.sent_at if vouched is None else vouched) + LEASE_SECONDS

    def resolving(self, account: str, *, now: float) -> Ticket:
        """
        Begin a resolve, right before it is sent.
        """
        ticket = Ticket(account, now, self._position)
        self._tickets.setdefault(account, []).append(ticket)
        return ticket

    def resolved(
        self, ticket: Ticket, keys: Keys, position: Position, *, whole: bool = True
    ) -> Copy[Keys]:
        """
        Take a resolve's answer; the copy serves this request in any case, and is kept if the watch
        can vouch for it.

        Args:
            ticket: The resolve.
            keys: What it brought.
            position: Where the feed stood when it was read.
            whole: Whether nothing of it is missing for the moment; else it is not kept.
        """
        self.abandoned(ticket)
        copy = Copy(keys, ticket.sent_at)
        watched = self._position
        covered = (
            whole
            and not ticket.changed
            and watched is not None
            and ticket.position is not None
            and position.lineage == watched.lineage
            and position.sequence >= ticket.position.sequence
        )
        if covered:
            copy.watched = True
            self._keep(ticket.account, copy)
        return copy

    def abandoned(self, ticket: Ticket) -> None:
        """
        Take note that a resolve has ended.
        """
        tickets = self._tickets.get(ticket.account, [])
        if ticket in tickets:
            tickets.remove(ticket)
        if not tickets:
            self._tickets.pop(ticket.account, None)

    def forget(self, account: str) -> None:
        """
        Forget an account, resolves under way included.
        """
        copy = self._drop(account)
        if copy is not None:
            copy.sent_at = float("-inf")
        for ticket in self._tickets.get(account, ()):
            ticket.changed = True

    def _forget_all(self) -> None:
        for account in (*self._used, *self._unused, *self._tickets):
            self.forget(account)

    def _keep(self, account: str, copy: Copy[Keys]) -> None:
        """
        Hold a copy in place of an older one, and of another account's where there is no more room.
        """
        self._drop(account)
        if len(self._used) + len(self._unused) >= self._accounts_max:
            if not self._unused:
                self._used, self._unused = {}, self._used
            dropped = self._unused.pop(next(iter(self._unused)))
            dropped.watched = False
        self._used[account] = copy

    def _drop(self, account: str) -> Copy[Keys] | None:
        """
        Hold a copy no longer: nobody forgets it from now on, so nobody vouches for it either.
        """
        copy = self._used.pop(account, None) or self._unused.pop(account, None)
        if copy is not None:
            copy.watched = False
        return copy
