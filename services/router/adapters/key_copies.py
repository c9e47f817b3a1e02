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
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

LEASE_SECONDS = 0.9
ACCOUNTS_MAX = 10_000
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
    position: Position
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
    """

    def __init__(self) -> None:
        self._copies: OrderedDict[str, Copy[Keys]] = OrderedDict()
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
        copy = self._copies.get(account)
        if copy is None or not self.usable(copy, now=now):
            return None
        self._copies.move_to_end(account)
        return copy

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
        copy = Copy(keys, position, ticket.sent_at)
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
            self._copies[ticket.account] = copy
            self._copies.move_to_end(ticket.account)
            while len(self._copies) > ACCOUNTS_MAX:
                # Nobody forgets a copy that is no longer held, so nobody vouches for it either.
                self._copies.popitem(last=False)[1].watched = False
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
        copy = self._copies.pop(account, None)
        if copy is not None:
            copy.watched = False
            copy.sent_at = float("-inf")
        for ticket in self._tickets.get(account, ()):
            ticket.changed = True

    def _forget_all(self) -> None:
        for account in (*self._copies, *self._tickets):
            self.forget(account)
