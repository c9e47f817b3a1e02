# SPDX-License-Identifier: Apache-2.0
"""
Files as this process wrote them last: what nobody has changed since need not be read again.

Rules:
1. Whoever writes anything of an account stamps the account's row with a random number; the database
   itself sets the stamp to NO_STAMP where a writer does not know of it. So what lies under the
   stamp that was written last is what was written then.
2. A unit of work takes an account's file out, under the account's lock, and puts it back when its
   COMMIT is known to have succeeded. A unit that failed leaves nothing behind.
3. Requests and attempts are handed out as copies: what an earlier unit answered with never changes.
4. Of requests, only those still running are kept, with the attempts of their run: all that its
   claimant ever made, as a claimant runs a request once. Whoever else asks has it read.
5. What is kept has a named bound; what was used longest ago leaves first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from services.ledger.domain.accounts import Account, Grant
from services.ledger.domain.budgets import BudgetId, KeyBudget
from services.ledger.domain.files import AccountFile
from services.ledger.domain.requests import Authorization, Request, RequestState

NO_STAMP = 0
"""Stamp of a row that was last written by somebody who does not stamp."""

STAMP_BITS = 63

WEIGHT_MAX = 50_000
"""Most that is kept; an account, grant, budget or running request counts one, about a kilobyte."""


class Run(NamedTuple):
    """
    A running request.

    Args:
        request: The request.
        attempts: Those of its run, and perhaps others.
    """

    request: Request
    attempts: list[Authorization]


class Kept(NamedTuple):
    """
    One account's file at rest.

    Args:
        stamp: What the account's row was stamped with.
        weight: How much it counts.
        account: The account.
        grants: Its grants with something left, by id.
        budgets: Months of its keys, as far as they were asked for.
        runs: Its running requests, as far as they were asked for, by id.
    """

    stamp: int
    weight: int
    account: Account
    grants: dict[str, Grant]
    budgets: dict[BudgetId, KeyBudget]
    runs: dict[str, Run]


class KeptFiles:
    """
    Keeps files.

    Args:
        weight_max: Most that is kept.
    """

    def __init__(self, *, weight_max: int = WEIGHT_MAX) -> None:
        self._weight_max = weight_max
        self._weight = 0
        self._files: OrderedDict[str, Kept] = OrderedDict()

    def take(self, account_id: str, stamp: int) -> Kept | None:
        """Take out an account's file; None unless it is as the row's stamp says."""
        kept = self._files.pop(account_id, None)
        if kept is None:
            return None
        self._weight -= kept.weight
        return kept if kept.stamp == stamp != NO_STAMP else None

    def put(self, file: AccountFile, stamp: int, *, runs: dict[str, Run]) -> None:
        """
        Keep a file that was written, or only read.

        Args:
            file: The file; its account, grants and budgets belong to this from now on.
            stamp: What its row is stamped with.
            runs: The running requests that were taken out with it.
        """
        account_id = file.account.account_id
        before = self._files.pop(account_id, None)
        if before is not None:
            self._weight -= before.weight
        if stamp == NO_STAMP:
            return
        for request_id, request in file.requests.items():
            if request.state is RequestState.RUNNING:
                runs[request_id] = Run(request, file.attempts_on.get(request_id, []))
            else:
                runs.pop(request_id, None)
        grants, budgets = file.book.grants, file.budgets
        for grant_id in [one.grant_id for one in grants.values() if not one.remaining]:
            del grants[grant_id]
        weight = 1 + len(grants) + len(budgets) + len(runs)
        self._files[account_id] = Kept(stamp, weight, file.account, grants, budgets, runs)
        self._weight += weight
        while self._weight > self._weight_max:
            _, oldest = self._files.popitem(last=False)
            self._weight -= oldest.weight
