# SPDX-License-Identifier: Apache-2.0
"""Keyvault's own wrapped keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from services.keyvault.adapters.kek_floors import check_floor
from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.domain.sealing import Age
from services.keyvault.usecases.ports import AgedKey
from services.shared.postgres import Connection, Database

_FIND = "SELECT kek_name, kek_version, wrapped FROM service_keys WHERE purpose = $1"
# Writes the row it found, so that the one that was first is returned to all.
_KEEP = """
INSERT INTO service_keys AS s (purpose, kek_name, kek_version, wrapped) VALUES ($1, $2, $3, $4)
ON CONFLICT (purpose) DO UPDATE SET purpose = s.purpose
RETURNING kek_name, kek_version, wrapped
"""
_OUTDATED = """
SELECT purpose, kek_name, kek_version, wrapped FROM service_keys
WHERE kek_name = $1 AND kek_version < $2 ORDER BY purpose
"""
_AGED = """
SELECT purpose, kek_name, kek_version, wrapped, create_time, clock_timestamp() AS read_time
FROM service_keys WHERE starts_with(purpose, $1)
"""
_DESTROY = "DELETE FROM service_keys WHERE purpose = ANY($1::text[])"
_EXCHANGE = """
UPDATE service_keys SET wrapped = $3, kek_version = $4 WHERE purpose = $1 AND wrapped = $2
"""


class PostgresServiceKeys:
    """
    The keys.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def service_key(self, purpose: str) -> WrappedKey | None:
        """Return the key of a purpose; None if there is none."""
        row = await self._database.fetchrow(_FIND, purpose)
        return WrappedKey(row["kek_name"], row["kek_version"], row["wrapped"]) if row else None

    async def keep_service_key(self, purpose: str, wrapped: WrappedKey) -> WrappedKey:
        """Store a purpose's key unless it has one; return the one it has."""

        async def unit(connection: Connection) -> WrappedKey:
            await check_floor(connection, [wrapped])
            [row] = await connection.fetch(
                _KEEP, purpose, wrapped.kek_name, wrapped.kek_version, wrapped.wrapped
            )
            return WrappedKey(row["kek_name"], row["kek_version"], row["wrapped"])

        return await self._database.run(unit)

    async def aged_service_keys(self, prefix: str) -> list[AgedKey]:
        """Return the keys whose purpose begins so, each with its age."""
        return [
            AgedKey(
                row["purpose"],
                WrappedKey(row["kek_name"], row["kek_version"], row["wrapped"]),
                Age(row["create_time"], row["read_time"]),
            )
            for row in await self._database.fetch(_AGED, prefix)
        ]

    async def destroy_service_keys(self, purposes: Sequence[str]) -> None:
        """Destroy keys."""
        await self._database.execute(_DESTROY, list(purposes))

    async def outdated_service_keys(
        self, kek_name: str, *, below: int
    ) -> list[tuple[str, WrappedKey]]:
        """Return purposes and keys wrapped by a version below one."""
        rows = await self._database.fetch(_OUTDATED, kek_name, below)
        return [
            (row["purpose"], WrappedKey(row["kek_name"], row["kek_version"], row["wrapped"]))
            for row in rows
        ]

    async def exchange_service_key(
        self, purpose: str, known: WrappedKey, wrapped: WrappedKey
    ) -> bool:
        """Store another wrapped key where the known one still stands; tell whether it did."""

        async def unit(connection: Connection) -> bool:
            await check_floor(connection, [wrapped])
            tag = await connection.execute(
                _EXCHANGE, purpose, known.wrapped, wrapped.wrapped, wrapped.kek_version
            )
            return bool(tag == "UPDATE 1")

        return await self._database.run(unit)
