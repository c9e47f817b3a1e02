# SPDX-License-Identifier: Apache-2.0
"""Taking in what calls found out about a key's version (K14)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.health import Outcome, after_report
from services.keyvault.domain.keys import Key
from services.keyvault.domain.names import PLATFORM
from services.keyvault.errors import KeyNotFoundError
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import AccountChange, KeyStore
from services.keyvault.usecases.test_key import Confirmations

PROBE_LEASE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Report:
    """
    What a call came to.

    Args:
        account: Account id.
        key_id: Key id.
        version: The version it was made with.
        outcome: What it came to.
        model: The provider's model; "" for the whole key.
        retry_after: The provider's hint, for RATE_LIMITED.
    """

    account: str
    key_id: str
    version: int
    outcome: Outcome
    model: str
    retry_after: timedelta | None


class ReportHealth:
    """
    Takes reports; one that condemns a key is confirmed by one shared live test.

    Args:
        store: Where keys are.
        confirmations: Makes the live tests.
    """

    def __init__(self, *, store: KeyStore, confirmations: Confirmations) -> None:
        self._store = store
        self._confirmations = confirmations

    async def __call__(self, caller: Caller, report: Report) -> tuple[bool, Key | None]:
        """
        Take a report.

        Returns:
            Whether it was about the current version, and the key as it is now, if it is there.
        """
        room = self._confirmations.has_room

        async def work(change: AccountChange) -> tuple[bool, bool, Key]:
            key = await change.key(report.key_id)
            if key.version != report.version:
                return False, False, key
            decision = after_report(
                key.health,
                report.outcome,
                model=report.model,
                retry_after=report.retry_after,
                now=change.time,
                shared=key.account == PLATFORM,
            )
            # What a browser holds cannot be probed: it stays SUSPECT until tested or replaced.
            may_probe = decision.probe and room and not key.client_held
            probe = may_probe and await change.claim_probe(key, PROBE_LEASE)
            if decision.changed:
                key = replace(key, health=decision.entries)
                await change.put_health(key)
                await change.add_audit(
                    AuditEntry(
                        account=key.account,
                        actor=caller.identity,
                        action=AuditAction.HEALTH,
                        key_id=key.key_id,
                        version=key.version,
                        details={"outcome": report.outcome.value, "model": report.model},
                    )
                )
                change.announce()
            return True, probe, key

        try:
            applied, probe, key = await self._store.change(report.account, work)
        except KeyNotFoundError:
            return False, None
        if probe:
            self._confirmations.start(caller, report.account, report.key_id)
        return applied, key
