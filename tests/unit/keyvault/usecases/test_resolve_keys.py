# SPDX-License-Identifier: Apache-2.0
"""A read that a retirement overtakes is made again; damage is damage the second time, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from services.keyvault.domain.envelope import Binding, Record, WrappedKey
from services.keyvault.domain.keys import Key, KeyFields, Settings
from services.keyvault.errors import RecordRefusedError
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.ports import (
    AccountSnapshot,
    FeedPosition,
    Snapshot,
    StoredSecret,
)
from services.keyvault.usecases.resolve_keys import ResolveKeys
from services.keyvault.usecases.stored_secrets import Opened
from services.shared.identity import ROUTER
from services.shared.secret import Secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = Secret("sk-of-the-tests")
BINDING = Binding("acme", "main", 1, 1, "openai")


@dataclass
class Reads:
    """
    One account with one key, wrapped anew between two reads.

    Args:
        count: How often it was read.
    """

    count: int = 0

    async def snapshot(self, accounts: list[str]) -> Snapshot:
        """Read it."""
        assert accounts == ["acme"]
        self.count += 1
        wrapped = WrappedKey("kek", self.count, b"wrapped")
        record = Record(1, "AES-256-GCM", 1, wrapped, b"n" * 12, b"c" * 20, b"m" * 32)
        key = Key(
            "acme", "main", "openai", KeyFields(), True, True, 1, "sk-…", 1, NOW, NOW, NOW
        )  # fmt: skip
        found = AccountSnapshot(
            Settings("acme"), [key], {"main": StoredSecret(BINDING, record)}, {}
        )
        return Snapshot([found], FeedPosition("lineage", self.count))


@dataclass
class Box:
    """
    Opens what is wrapped by a version that is not retired.

    Args:
        lowest: The lowest that is not.
    """

    lowest: int

    async def open_each(self, stored: list[StoredSecret]) -> list[Opened]:
        """Open them."""
        return [
            SECRET
            if item.record.data_key.kek_version >= self.lowest
            else RecordRefusedError("acme", "main", 1)
            for item in stored
        ]


@dataclass
class Releases:
    """
    Records releases.

    Args:
        entries: What was recorded.
    """

    entries: list[Any] = field(default_factory=list)

    async def record(self, entries: list[Any]) -> None:
        """Record them."""
        self.entries += entries


@pytest.mark.requirement("K12")
@pytest.mark.parametrize(
    ("lowest", "reads", "secrets"),
    [
        pytest.param(1, 1, {("main", 1): SECRET}, id="what opens is read once"),
        pytest.param(2, 2, {("main", 1): SECRET}, id="a version was retired after the read"),
        pytest.param(9, 2, {}, id="it never opens"),
    ],
)
async def test_a_record_that_does_not_open_is_read_once_more(
    lowest: int, reads: int, secrets: dict[tuple[str, int], Secret]
) -> None:
    counted, releases = Reads(), Releases()
    resolve: Any = ResolveKeys(reads=counted, box=Box(lowest), releases=releases)
    [account], position = await resolve(Caller(ROUTER), ["acme"])

    assert (counted.count, position.sequence) == (reads, reads)
    assert dict(account.secrets) == secrets
    assert len(releases.entries) == len(secrets)
