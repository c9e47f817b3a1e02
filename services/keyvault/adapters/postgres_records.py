# SPDX-License-Identifier: Apache-2.0
"""Records of all accounts in PostgreSQL: counting, walking through and exchanging them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from services.keyvault.adapters import key_rows
from services.keyvault.adapters.kek_floors import check_floor
from services.keyvault.domain.envelope import Record, WrappedKey
from services.keyvault.errors import KekVersionInUseError
from services.keyvault.usecases.ports import RecordName, StoredSecret, WrappedRecord
from services.shared.postgres import Connection, Database

_COUNT = """
SELECT kek_name, kek_version, sum(records)::bigint AS records FROM (
    SELECT kek_name, kek_version, count(*) AS records FROM key_secrets GROUP BY 1, 2
    UNION ALL
    SELECT kek_name, kek_version, count(*) FROM service_keys GROUP BY 1, 2
) counts GROUP BY kek_name, kek_version
"""
_COUNT_BELOW = """
SELECT (SELECT count(*) FROM key_secrets WHERE kek_name = $1 AND kek_version < $2)
     + (SELECT count(*) FROM service_keys WHERE kek_name = $1 AND kek_version < $2) AS records
"""
_COUNT_AFTER = """
SELECT count(*) AS records FROM key_secrets
WHERE (account_id, key_id, version) > ($1::text, $2::text, $3::bigint)
    AND ($4::text = '' OR account_id = $4)
"""
# What is known of each record's key is looked up record by record: a join would let the planner
# read the other tables from their beginning for each batch, so that a run takes quadratic time.
_KNOWN = """
(SELECT v.generation FROM key_versions v
    WHERE (v.account_id, v.key_id, v.version) = (s.account_id, s.key_id, s.version)
) AS known_generation,
(SELECT k.provider FROM keys k
    WHERE (k.account_id, k.key_id) = (s.account_id, s.key_id)
) AS provider
"""
SELECT_OUTDATED = f"""
SELECT s.account_id, s.key_id, s.version, {_KNOWN}, s.format_version,
       s.kek_name, s.kek_version, s.wrapped_dek
FROM key_secrets s
WHERE s.kek_name = $1 AND s.kek_version < $2
    AND (s.account_id, s.key_id, s.version) > ($3::text, $4::text, $5::bigint)
ORDER BY s.account_id, s.key_id, s.version LIMIT $6
"""  # noqa: S608 - of constants
SELECT_AFTER = f"""
SELECT {_KNOWN}, s.* FROM key_secrets s
WHERE (s.account_id, s.key_id, s.version) > ($1::text, $2::text, $3::bigint)
    AND ($4::text = '' OR s.account_id = $4)
ORDER BY s.account_id, s.key_id, s.version LIMIT $5
"""  # noqa: S608 - of constants
# Both compare and swap: a record that was written anew meanwhile is left as it is.
_EXCHANGE_DATA_KEYS = """
UPDATE key_secrets s SET wrapped_dek = n.wrapped, kek_version = n.kek_version
FROM (
    SELECT e ->> 0, e ->> 1, (e ->> 2)::bigint, decode(e ->> 3, 'base64'),
           decode(e ->> 4, 'base64'), (e ->> 5)::bigint
    FROM json_array_elements($1::json) AS e
) AS n (account_id, key_id, version, known, wrapped, kek_version)
WHERE (s.account_id, s.key_id, s.version) = (n.account_id, n.key_id, n.version)
    AND s.wrapped_dek = n.known
"""
_EXCHANGE_RECORD = """
WITH exchanged AS (
    UPDATE key_secrets
    SET format_version = $4, algorithm = $5, kek_name = $6, kek_version = $7, generation = $8,
        wrapped_dek = $9, nonce = $10, ciphertext = $11, commitment = $12
    WHERE (account_id, key_id, version) = ($1, $2, $3) AND wrapped_dek = $13 AND generation = $14
    RETURNING account_id, key_id, version, generation
)
UPDATE key_versions v SET generation = e.generation FROM exchanged e
WHERE (v.account_id, v.key_id, v.version) = (e.account_id, e.key_id, e.version)
"""
_MAKE_FLOOR = "INSERT INTO kek_floors (kek_name) VALUES ($1) ON CONFLICT DO NOTHING"
_RAISE_FLOOR = """
UPDATE kek_floors SET lowest_version = greatest(lowest_version, $2) WHERE kek_name = $1
"""
_BEFORE_ALL = ("", "", 0)


class PostgresRecords:
    """
    The records.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self) -> Mapping[tuple[str, int], int]:
        """Count wrapped keys, keyvault's own included, by the version that wraps them."""
        rows = await self._database.fetch(_COUNT)
        return {(row["kek_name"], row["kek_version"]): row["records"] for row in rows}

    async def count_after(self, after: RecordName | None, *, account: str) -> int:
        """Count records after one, of an account or of all."""
        row = await self._database.fetchrow(_COUNT_AFTER, *_place(after), account)
        return row["records"] if row else 0

    async def outdated(
        self, kek_name: str, *, below: int, after: RecordName | None, limit: int
    ) -> list[WrappedRecord]:
        """Return records wrapped by a version below one, in the order of their names."""
        rows = await self._database.fetch(SELECT_OUTDATED, kek_name, below, *_place(after), limit)
        return [
            WrappedRecord(
                RecordName(account, key_id, version),
                generation,
                provider,
                format_version,
                WrappedKey(kek, kek_version, wrapped),
            )
            for (
                account,
                key_id,
                version,
                generation,
                provider,
                format_version,
                kek,
                kek_version,
                wrapped,
            ) in rows
        ]

    async def after(
        self, after: RecordName | None, *, account: str, limit: int
    ) -> list[StoredSecret]:
        """Return records after one, of an account or of all, in the order of their names."""
        rows = await self._database.fetch(SELECT_AFTER, *_place(after), account, limit)
        return [key_rows.stored_secret(row) for row in rows]

    async def exchange_data_keys(self, items: Sequence[tuple[WrappedRecord, WrappedKey]]) -> int:
        """Store other wrapped keys where the old ones still stand; return how many did."""
        # One text is made several times faster than the driver makes arrays of bytes.
        rows = msgspec.json.encode(
            [
                (
                    *(item.name.account, item.name.key_id, item.name.version),
                    *(item.data_key.wrapped, data_key.wrapped, data_key.kek_version),
                )
                for item, data_key in items
            ]
        ).decode()

        async def unit(connection: Connection) -> int:
            await check_floor(connection, [data_key for _, data_key in items])
            tag = await connection.execute(_EXCHANGE_DATA_KEYS, rows)
            return int(tag.removeprefix("UPDATE "))

        return await self._database.run(unit)

    async def exchange_records(self, items: Sequence[tuple[StoredSecret, Record]]) -> int:
        """Store other records where the old ones still stand; return how many did."""

        async def unit(connection: Connection) -> int:
            await check_floor(connection, [record.data_key for _, record in items])
            done = 0
            for stored, record in items:
                of = (stored.binding.account, stored.binding.key_id, stored.binding.version)
                tag = await connection.execute(
                    _EXCHANGE_RECORD,
                    *of,
                    record.format_version,
                    record.algorithm,
                    record.data_key.kek_name,
                    record.data_key.kek_version,
                    record.generation,
                    record.data_key.wrapped,
                    record.nonce,
                    record.ciphertext,
                    record.commitment,
                    stored.record.data_key.wrapped,
                    stored.record.generation,
                )
                done += tag == "UPDATE 1"
            return done

        return await self._database.run(unit)

    async def make_floor(self, kek_name: str) -> None:
        """Make a key-encryption key known, with no version retired; no effect where it is."""
        await self._database.execute(_MAKE_FLOOR, kek_name)

    async def raise_floor(self, kek_name: str, lowest: int) -> None:
        """Refuse versions below one from now on; see the port."""

        async def unit(connection: Connection) -> None:
            await connection.execute(_RAISE_FLOOR, kek_name, lowest)
            row = await connection.fetchrow(_COUNT_BELOW, kek_name, lowest)
            if row is None or row["records"]:
                raise KekVersionInUseError(kek_name, lowest, row["records"] if row else 0)

        await self._database.run(unit)


def _place(after: RecordName | None) -> tuple[str, str, int]:
    return (after.account, after.key_id, after.version) if after else _BEFORE_ALL
