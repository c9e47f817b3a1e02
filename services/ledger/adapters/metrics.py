# SPDX-License-Identifier: Apache-2.0
"""The ledger's figures in the process's Prometheus registry; none has a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.ledger.usecases.metering import Condition

_ABSORBED = Counter(
    "ownkey_ledger_absorbed_nano_credits",
    "What the house bore of work past the hold and the plan's overdraft.",
)
_ABSORBED_BACK = Counter(
    "ownkey_ledger_absorbed_back_nano_credits",
    "What corrections took off that again.",
)
_LAPSED = Counter(
    "ownkey_ledger_lapsed_holds",
    "Holds whose lease ran out, settled at their last checkpoint.",
)
_OPEN = Gauge(
    "ownkey_ledger_open_holds",
    "Attempts of all accounts that are authorized and not settled.",
)
_SYNCHRONOUS = Gauge(
    "ownkey_ledger_synchronous_standby",
    "1 if a commit waits for a standby, 0 if one lost disk loses what was acknowledged.",
)


class PrometheusMeter:
    """Implements Meter; all of a process count together."""

    def absorbed(self, nano_credits: int) -> None:
        """Count what the house bears; see Meter."""
        _ABSORBED.inc(nano_credits)

    def absorbed_back(self, nano_credits: int) -> None:
        """Count what a correction took off; see Meter."""
        _ABSORBED_BACK.inc(nano_credits)

    def lapsed(self, count: int) -> None:
        """Count lapsed holds; see Meter."""
        _LAPSED.inc(count)

    def condition(self, condition: Condition) -> None:
        """Show how the database stands; see Meter."""
        _OPEN.set(condition.open_holds)
        _SYNCHRONOUS.set(condition.synchronous_standby)
