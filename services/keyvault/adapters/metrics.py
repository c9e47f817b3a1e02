# SPDX-License-Identifier: Apache-2.0
"""Keyvault's figures in the process's Prometheus registry."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.keyvault.errors import KekCause

_LOOKUPS = Counter(
    "ownkey_keyvault_cache_lookups",
    "Data keys that were asked for: hit from the cache, or miss.",
    ["outcome"],
)
_HITS, _MISSES = _LOOKUPS.labels(outcome="hit"), _LOOKUPS.labels(outcome="miss")
_REFRESHES = Counter(
    "ownkey_keyvault_cache_refreshes",
    "Data keys in use that were unwrapped anew ahead of their end, behind the answers.",
)
_ENTRIES = Gauge("ownkey_keyvault_cache_entries", "Unwrapped data keys in the cache.")
_AGE_MAX = Gauge(
    "ownkey_keyvault_cache_age_max_seconds", "How long an unwrapped data key is kept at most."
)
_KEK_USED = Gauge(
    "ownkey_keyvault_kek_used_timestamp_seconds",
    "When the key-encryption key last unwrapped data keys; 0 if it has not yet.",
)
_KEK_FAILURES = Counter(
    "ownkey_keyvault_kek_failures",
    "Unwraps, in batches, that the key-encryption key could not be used for, by cause.",
    ["cause"],
)
_CHAINS_BROKEN = Gauge(
    "ownkey_keyvault_audit_chains_broken",
    "Accounts whose audit chain does not agree with its signed head, as this process found.",
)
_RESTORE_WAITING = Gauge(
    "ownkey_keyvault_restore_waiting",
    "1 while a restored database waits to be accepted, and no key is served; else 0.",
)
VAULT_CALLS = Counter(
    "ownkey_keyvault_vault_calls",
    "Calls of Vault, each try by itself, by operation and outcome: ok, refused, or failed.",
    ["operation", "outcome"],
)
VAULT_SECONDS = Histogram(
    "ownkey_keyvault_vault_call_duration_seconds",
    "How long calls of Vault took, each try by itself.",
    ["operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30),
)
# Every cause stands at zero from the start, so that its first failure is an increase.
for _cause in KekCause:
    _KEK_FAILURES.labels(cause=_cause.value)


class PrometheusCacheMeter:
    """Implements CacheMeter; all of a process count together."""

    def begin(self, entries: Callable[[], int], *, age_seconds_max: float) -> None:
        """Show the cache; see CacheMeter."""
        _ENTRIES.set_function(entries)
        _AGE_MAX.set(age_seconds_max)

    def hit(self) -> None:
        """Count a hit; see CacheMeter."""
        _HITS.inc()

    def miss(self) -> None:
        """Count a miss; see CacheMeter."""
        _MISSES.inc()

    def refresh(self) -> None:
        """Count a refresh; see CacheMeter."""
        _REFRESHES.inc()

    def unwrapped(self) -> None:
        """Note that the key-encryption key was used; see CacheMeter."""
        _KEK_USED.set_to_current_time()

    def failed(self, cause: KekCause) -> None:
        """Count a failure; see CacheMeter."""
        _KEK_FAILURES.labels(cause=cause.value).inc()


def show_broken_chains(count: Callable[[], int]) -> None:
    """Show how many accounts' audit chains are broken, by asking."""
    _CHAINS_BROKEN.set_function(count)


def show_waiting_restore(waiting: Callable[[], bool]) -> None:
    """Show whether a restored database waits to be accepted, by asking."""
    _RESTORE_WAITING.set_function(waiting)
