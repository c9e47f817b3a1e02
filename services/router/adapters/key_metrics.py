# SPDX-License-Identifier: Apache-2.0
"""How old what the router knows of keys is when it is used: the promise of K15, measured."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

LEASE_AGE = Histogram(
    "ownkey_router_key_lease_age_seconds",
    "Age of the question that vouched for a key, at the moment a provider request began on it; "
    "never more than the lease, which is 0.9.",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)
LEASES_ENDED = Counter(
    "ownkey_router_key_leases_ended",
    "Provider requests that were held back because nothing vouched for their key any more.",
)
