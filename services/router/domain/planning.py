# SPDX-License-Identifier: Apache-2.0
"""
Which keys and providers may serve a request, and in which order.

Pure: request, keys, health, catalogue and time in, candidates and exclusions out. The rules:
1. Own keys come first, whatever the order says; the order chooses among providers within own keys,
   then within shared keys.
2. A key takes part if its owner enabled it, it is active or backups are in use, its list of models
   holds the model, and its provider offers it. Its health does not matter here: a matching key
   that cannot serve now decides about consent, so it stays, with its mark.
3. Credits need a price; an own key does not, unless the request limits the price.
4. A breaker that closes the way leaves a shared key out, but never the last one, and puts an own
   key last.
5. Everything left out is named with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.fitting import Fitting
from services.router.domain.own_side import own_candidates, own_model, without_own_key
from services.router.domain.plan import Candidate, Plan
from services.router.domain.request import Tier
from services.router.domain.shared_side import shared_candidates, shared_model

if TYPE_CHECKING:
    from services.router.domain.catalogue import Catalogue
    from services.router.domain.conditions import Conditions
    from services.router.domain.keys import AccountKeys
    from services.router.domain.request import Request
    from services.router.domain.work import Unsupported


def plan(
    request: Request,
    *,
    keys: AccountKeys,
    shared: AccountKeys,
    catalogue: Catalogue,
    unsupported: Unsupported,
    conditions: Conditions,
    now: float,
    spread: int,
) -> Plan:
    """
    Lay out who may serve a request.

    Args:
        request: The caller's request.
        keys: The account's own keys.
        shared: The product's keys.
        catalogue: Providers, models, prices.
        unsupported: Names the fields of a call that a provider does not take.
        conditions: What this process has found out lately.
        now: Monotonic seconds, for health marks.
        spread: Any number; rotates the shared keys of a provider, so that load spreads.
    """
    fitting = Fitting(request, catalogue, unsupported, conditions, now)
    wanted = request.model or own_model(keys, catalogue)
    own, own_notes = own_candidates(fitting, keys, wanted)
    on_credits = shared_model(request, catalogue, wanted if own else "")
    credit_side, shared_notes = shared_candidates(fitting, shared, on_credits, spread)
    return Plan(
        own=own,
        shared=credit_side,
        without_own_key=without_own_key(keys, fitting.exclusions),
        always_use=any(candidate.key.always_use for candidate in own),
        exclusions=tuple(fitting.exclusions),
        notes=(*_notes(request, own), *own_notes, *shared_notes),
    )


def _notes(request: Request, own: tuple[Candidate, ...]) -> tuple[str, ...]:
    notes = []
    if request.tier is not Tier.DEFAULT and request.model:
        notes.append("tier had no effect: the request names a model")
    elif request.tier is not Tier.DEFAULT and own:
        notes.append(
            "tier chooses the model on credits only: it has no effect where an own key serves"
        )
    return tuple(notes)
