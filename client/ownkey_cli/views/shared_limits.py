# SPDX-License-Identifier: Apache-2.0
"""Limits of shared keys, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.keyvault.v1 import key_pb2, sharing_pb2
from rich.console import RenderableType

from client.ownkey_cli.views.tables import table

LimitedKey = tuple[key_pb2.Key, sharing_pb2.GetSharedLimitResponse]


def limits_table(limits: Iterable[LimitedKey]) -> RenderableType:
    """Each shared key with what it may begin in a minute and what routers leased of it."""
    rows = [
        (
            key.name.rpartition("/")[2],
            key.provider,
            f"{limit.requests_per_minute:,}" if limit.HasField("requests_per_minute") else "none",
            f"{limit.leased_request_count:,}",
        )
        for key, limit in limits
    ]
    columns = ["!key", "provider", ">requests a minute", ">leased in the last"]
    return table(columns, rows, empty="The service holds no shared key.")
