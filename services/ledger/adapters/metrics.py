# SPDX-License-Identifier: Apache-2.0
"""The ledger's figures in the process's Prometheus registry; no label but who paid."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.ledger.domain.modes import Funding
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
_SETTLED = Counter(
    "ownkey_ledger_settled_attempts", "Attempts that were settled, by who paid.", ["funding"]
)
_CHARGED = Counter(
    "ownkey_ledger_charged_nano_credits",
    "What customers were charged when attempts were first settled, invoices included; on an own "
    "key that is the fee.",
    ["funding"],
)
_WAITING = Gauge("ownkey_ledger_lane_waiting_commands", "Commands that wait in all lanes.")
_BATCH_COMMANDS = Histogram(
    "ownkey_ledger_batch_commands",
    "Commands of a batch.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
)
_BATCH_SECONDS = Histogram(
    "ownkey_ledger_batch_duration_seconds",
    "How long a batch took, its commit included.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_SHED = Counter(
    "ownkey_ledger_shed_commands", "Commands refused as overload because a lane's queue was full."
)


class PrometheusMeter:
    """Implements Meter and LaneMeter; all of a process count together."""

    def waiting(self, count: Callable[[], int]) -> None:
        """Show how many commands wait; see LaneMeter."""
        _WAITING.set_function(count)

    def batch(self, commands: int, seconds: float) -> None:
        """Count a batch; see LaneMeter."""
        _BATCH_COMMANDS.observe(commands)
        _BATCH_SECONDS.observe(seconds)

    def shed(self) -> None:
        """Count a refused command; see LaneMeter."""
        _SHED.inc()

    def settled(self, funding: Funding, attempts: int, nano_credits: int) -> None:
        """Count settled attempts; see Meter."""
        _SETTLED.labels(funding=funding.value).inc(attempts)
        _CHARGED.labels(funding=funding.value).inc(nano_credits)

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
