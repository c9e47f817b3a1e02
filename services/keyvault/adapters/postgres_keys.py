# SPDX-License-Identifier: Apache-2.0
"""
Keys in PostgreSQL.

Rules:
1. Every change of an account holds that account's row locked, so changes of one account are one
   after the other.
2. The change feed's number is taken under the head's row lock by the last statement before commit:
   no lower number commits later, and what a reader sees is a prefix.
3. All stored times are the database's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from services.keyvault.adapters import key_rows
from services.keyvault.adapters.kek_floors import check_floor
from services.keyvault.adapters.postgres_audit import insert_audit
from services.keyvault.domain.audit import AuditEntry
from services.keyvault.domain.envelope import Record
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.domain.revocations import RevocationKind
from services.keyvault.errors import KeyNotFoundError
from services.keyvault.usecases.ports import (
    AccountChange,
    FeedPage,
    FeedPosition,
    RecordedRequest,
    Snapshot,
)
from services.shared.postgres import Connection, Database

T = TypeVar("T")

GENERATION_OF_NONE = 1
"""Where the customer's browser holds the secret there is no encryption to count."""

_LOCK_ACCOUNT = """
INSERT INTO accounts AS a (account_id) VALUES ($1)
ON CONFLICT (account_id) DO UPDATE SET account_id = a.account_id
RETURNING active_provider, use_backups, revision, clock_timestamp() AS time,
          (SELECT served FROM database_served) AS served
"""
_FIND_REQUEST = """
SELECT fingerprints, outcome FROM requests WHERE account_id = $1 AND request_id = $2
"""
_RECORD_REQUEST = """
INSERT INTO requests (account_id, request_id, fingerprints, outcome) VALUES ($1, $2, $3, $4)
"""
_WAS_DELETED = "SELECT 1 FROM deleted_keys WHERE account_id = $1 AND key_id = $2"
_INSERT_KEY = """
INSERT INTO keys (account_id, key_id, provider, label, default_model, allowed_models, always_use,
                  place, monthly_limit_nano_usd, enabled, active, current_version, revision,
                  create_time, update_time)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""
_UPDATE_KEY = """
UPDATE keys SET label = $3, default_model = $4, allowed_models = $5, always_use = $6, place = $7,
                monthly_limit_nano_usd = $8, enabled = $9, active = $10, current_version = $11,
                revision = $12, update_time = $13
WHERE account_id = $1 AND key_id = $2
"""
_INSERT_VERSION = """
INSERT INTO key_versions (account_id, key_id, version, generation, hint, create_time, secret_mac)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_INSERT_RECORD = """
INSERT INTO key_secrets (account_id, key_id, version, format_version, algorithm, kek_name,
                         kek_version, generation, wrapped_dek, nonce, ciphertext, commitment)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_DESTROY_EARLIER = """
WITH destroyed AS (
    DELETE FROM key_secrets WHERE account_id = $1 AND key_id = $2 AND version < $3
), forgotten AS (
    DELETE FROM key_health WHERE account_id = $1 AND key_id = $2 AND version < $3
)
UPDATE key_versions SET destroy_time = $4
WHERE account_id = $1 AND key_id = $2 AND version < $3 AND destroy_time IS NULL
RETURNING version
"""
_LET_EXPIRE = """
UPDATE key_versions SET expire_time = $4 WHERE account_id = $1 AND key_id = $2 AND version = $3
"""
_DESTROY_EXPIRED = """
WITH expired AS (
    UPDATE key_versions SET destroy_time = clock_timestamp()
    WHERE account_id = $1 AND destroy_time IS NULL AND expire_time <= clock_timestamp()
    RETURNING account_id, key_id, version
), destroyed AS (
    DELETE FROM key_secrets WHERE (account_id, key_id, version) IN (SELECT * FROM expired)
)
SELECT key_id, version FROM expired ORDER BY key_id, version
"""
_WITH_EXPIRED = """
SELECT DISTINCT account_id FROM (
    SELECT account_id FROM key_versions
    WHERE destroy_time IS NULL AND expire_time <= clock_timestamp()
    ORDER BY expire_time LIMIT $1
) due
"""
_DELETE_KEY = """
WITH gone AS (DELETE FROM keys WHERE account_id = $1 AND key_id = $2)
INSERT INTO deleted_keys (account_id, key_id, last_version) VALUES ($1, $2, $3)
"""
_CLEAR_HEALTH = "DELETE FROM key_health WHERE account_id = $1 AND key_id = $2 AND version = $3"
_INSERT_HEALTH = """
INSERT INTO key_health (account_id, key_id, version, model, state, cause, since_time, until_time,
                        backoff)
SELECT $1, $2, $3, * FROM unnest($4::text[], $5::text[], $6::text[], $7::timestamptz[],
                                 $8::timestamptz[], $9::interval[])
"""
_CLAIM_PROBE = """
UPDATE key_versions SET probe_lease_until = clock_timestamp() + $4
WHERE account_id = $1 AND key_id = $2 AND version = $3
    AND coalesce(probe_lease_until, '-infinity') <= clock_timestamp()
"""
_PUT_SETTINGS = """
UPDATE accounts SET active_provider = $2, use_backups = $3, revision = $4 WHERE account_id = $1
"""
_ANNOUNCE = """
WITH head AS (UPDATE change_head SET sequence = sequence + 1 RETURNING sequence),
revoked AS (
    INSERT INTO revocations (sequence, account_id, key_id, kind, version)
    SELECT h.sequence, $1, r.* FROM head h, unnest($2::text[], $3::text[], $4::bigint[]) r
)
INSERT INTO changes (sequence, account_id) SELECT sequence, $1 FROM head
"""
_FEED = """
SELECT s.system_identifier::text || '-' || t.timeline_id::text AS lineage,
       pg_is_in_recovery() AS in_recovery, h.sequence AS head, c.sequence, c.account_id
FROM pg_control_system() s, pg_control_checkpoint() t, change_head h
    LEFT JOIN changes c ON c.sequence > greatest($1::bigint, h.sequence - $2::bigint)
ORDER BY c.sequence
"""
_FORGET_CHANGES = """
DELETE FROM changes WHERE sequence IN (
    SELECT c.sequence FROM changes c, change_head h WHERE c.sequence <= h.sequence - $1::bigint
    ORDER BY c.sequence LIMIT $2
)
"""
_FORGET_REQUESTS = """
DELETE FROM requests WHERE (account_id, request_id) IN (
    SELECT account_id, request_id FROM requests WHERE create_time < now() - $1::interval
    ORDER BY create_time LIMIT $2
)
"""
_FORGET_MAX = 100_000


class PostgresAccountChange:
    """
    One transaction on one account.

    Args:
        connection: Inside the transaction.
        account: Account id.
        settings: Its settings, read under the lock.
        time: The database's clock.
    """

    def __init__(
        self, connection: Connection, *, account: str, settings: Settings, time: datetime
    ) -> None:
        self._connection = connection
        self._account = account
        self.settings = settings
        self.time = time
        self.announced = False
        self._revoked: dict[tuple[str, RevocationKind], int] = {}

    async def find_request(self, request_id: str) -> RecordedRequest | None:
        """Return what was recorded under the id."""
        row = await self._connection.fetchrow(_FIND_REQUEST, self._account, request_id)
        return key_rows.recorded_request(row) if row else None

    async def record_request(self, request_id: str, request: RecordedRequest) -> None:
        """Record a request as carried out."""
        await self._connection.execute(
            _RECORD_REQUEST,
            self._account,
            request_id,
            json.dumps(dict(request.fingerprints)),
            request.outcome,
        )

    async def keys(self) -> list[Key]:
        """Return the account's keys in order."""
        rows = await self._connection.fetch(key_rows.SELECT_ACCOUNTS, [self._account], False)
        return list(key_rows.snapshot(rows).accounts[0].keys)

    async def key(self, key_id: str) -> Key:
        """Return a key; raises KeyNotFoundError."""
        for key in await self.keys():
            if key.key_id == key_id:
                return key
        raise KeyNotFoundError(self._account, key_id)

    async def was_deleted(self, key_id: str) -> bool:
        """Tell whether the id belonged to a key that is deleted."""
        return bool(await self._connection.fetchrow(_WAS_DELETED, self._account, key_id))

    async def insert_key(self, key: Key, record: Record | None) -> None:
        """Store a new key with its first version."""
        fields = key.fields
        await self._connection.execute(
            _INSERT_KEY,
            key.account,
            key.key_id,
            key.provider,
            fields.label,
            fields.default_model,
            list(fields.allowed_models),
            fields.always_use,
            fields.order,
            fields.monthly_limit_nano_usd,
            key.enabled,
            key.active,
            key.version,
            key.revision,
            key.create_time,
            key.update_time,
        )
        await self._insert_version(key, record)

    async def update_key(self, key: Key) -> None:
        """Store a key's fields, state and revision."""
        fields = key.fields
        await self._connection.execute(
            _UPDATE_KEY,
            key.account,
            key.key_id,
            fields.label,
            fields.default_model,
            list(fields.allowed_models),
            fields.always_use,
            fields.order,
            fields.monthly_limit_nano_usd,
            key.enabled,
            key.active,
            key.version,
            key.revision,
            key.update_time,
        )
        if not key.enabled:
            self._revoked[key.key_id, RevocationKind.DISABLED] = key.version

    async def replace_secret(self, key: Key, record: Record | None) -> list[int]:
        """Store the key's new current version and destroy earlier ones; see the port."""
        await self.update_key(key)
        overlaps = key.overlap_until is not None
        rows = await self._connection.fetch(
            _DESTROY_EARLIER, key.account, key.key_id, key.version - overlaps, self.time
        )
        if overlaps:
            await self._connection.execute(
                _LET_EXPIRE, key.account, key.key_id, key.version - 1, key.overlap_until
            )
        await self._insert_version(key, record)
        self._revoked[key.key_id, RevocationKind.REPLACED] = key.version - 1
        return sorted(row["version"] for row in rows)

    async def destroy_expired(self) -> list[tuple[str, int]]:
        """Destroy the secrets of versions whose overlap is over; return their keys and numbers."""
        rows = await self._connection.fetch(_DESTROY_EXPIRED, self._account)
        return [(row["key_id"], row["version"]) for row in rows]

    async def delete_key(self, key: Key) -> None:
        """Destroy a key with all its secrets; its name stays taken."""
        await self._connection.execute(_DELETE_KEY, key.account, key.key_id, key.version)
        self._revoked[key.key_id, RevocationKind.DELETED] = key.version

    async def put_health(self, key: Key) -> None:
        """Store the entries of the key's current version."""
        of = (key.account, key.key_id, key.version)
        await self._connection.execute(_CLEAR_HEALTH, *of)
        if key.health:
            await self._connection.execute(
                _INSERT_HEALTH, *of, *key_rows.health_columns(key.health)
            )

    async def claim_probe(self, key: Key, lease: timedelta) -> bool:
        """Take the one probe of the key's current version, unless another holds it."""
        tag = await self._connection.execute(
            _CLAIM_PROBE, key.account, key.key_id, key.version, lease
        )
        return bool(tag == "UPDATE 1")

    async def put_settings(self, settings: Settings) -> None:
        """Store the account's settings."""
        await self._connection.execute(
            _PUT_SETTINGS,
            settings.account,
            settings.active_provider,
            settings.use_backups,
            settings.revision,
        )
        self.settings = settings

    async def add_audit(self, entry: AuditEntry) -> None:
        """Add to the audit trail."""
        await insert_audit(self._connection, [entry])

    def announce(self) -> None:
        """Append the account to the change feed as the transaction's last statement."""
        self.announced = True

    async def write_announcement(self) -> None:
        """Take the feed's number, and write what was revoked under it."""
        await self._connection.execute(
            _ANNOUNCE,
            self._account,
            [key_id for key_id, _ in self._revoked],
            [kind.value for _, kind in self._revoked],
            list(self._revoked.values()),
        )

    async def _insert_version(self, key: Key, record: Record | None) -> None:
        of = (key.account, key.key_id, key.version)
        generation = record.generation if record else GENERATION_OF_NONE
        await self._connection.execute(
            _INSERT_VERSION, *of, generation, key.hint, self.time, key.secret_mac
        )
        if record is not None:
            await check_floor(self._connection, [record.data_key])
            await self._connection.execute(_INSERT_RECORD, *of, *key_rows.record_columns(record))
        await self.put_health(key)


class PostgresKeyStore:
    """
    Keys, settings, requests and the change feed in one database.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change(self, account: str, work: Callable[[AccountChange], Awaitable[T]]) -> T:
        """Run one transaction on an account; `work` may be called again and has no other effect."""

        async def unit(connection: Connection) -> T:
            row = await connection.fetchrow(_LOCK_ACCOUNT, account)
            key_rows.refuse_restored(row)
            settings = key_rows.settings(account, row)
            change = PostgresAccountChange(
                connection, account=account, settings=settings, time=row["time"]
            )
            result = await work(change)
            if change.announced:
                await change.write_announcement()
            return result

        return await self._database.run(unit)

    async def find_request(self, account: str, request_id: str) -> RecordedRequest | None:
        """Return what was recorded under the id."""
        row = await self._database.fetchrow(_FIND_REQUEST, account, request_id)
        return key_rows.recorded_request(row) if row else None

    async def snapshot(self, accounts: Sequence[str], *, secrets: bool) -> Snapshot:
        """Read accounts and the feed's position at one moment; records only where asked for."""
        rows = await self._database.fetch(key_rows.SELECT_ACCOUNTS, list(accounts), secrets)
        if secrets:
            key_rows.refuse_restored(rows[0])
        return key_rows.snapshot(rows)

    async def read_feed(self, after: int, limit: int) -> FeedPage:
        """Read the newest changes after a number, at most `limit`, from the primary."""
        rows = await self._database.fetch(_FEED, after, limit)
        first = rows[0]
        key_rows.refuse_standby(first)
        return FeedPage(
            position=FeedPosition(first["lineage"], first["head"]),
            floor=max(after, first["head"] - limit),
            changes=[
                (row["sequence"], row["account_id"]) for row in rows if row["sequence"] is not None
            ],
        )

    async def accounts_with_expired(self, limit: int) -> list[str]:
        """Return accounts with versions whose overlap is over, for at most that many versions."""
        return [row["account_id"] for row in await self._database.fetch(_WITH_EXPIRED, limit)]

    async def forget(self, *, changes_kept: int, requests_kept: timedelta) -> None:
        """Remove changes and recorded requests that are past their use, a bounded number."""
        await self._database.execute(_FORGET_CHANGES, changes_kept, _FORGET_MAX)
        await self._database.execute(_FORGET_REQUESTS, requests_kept, _FORGET_MAX)
