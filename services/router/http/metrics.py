# SPDX-License-Identifier: Apache-2.0
"""What the HTTP door serves, counted by route: the path's pattern, never the path itself."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from services.shared.metrics import DURATION_BUCKETS

NO_ROUTE = "none"
"""A path that the door does not know."""

HTTP_CALLS = Counter(
    "ownkey_router_http_calls",
    "Calls at the HTTP door that have ended, by route and status; 0 for a caller that left.",
    ["route", "status"],
)
HTTP_SECONDS = Histogram(
    "ownkey_router_http_duration_seconds",
    "How long calls at the HTTP door took, streams to their end.",
    ["route"],
    buckets=DURATION_BUCKETS,
)
