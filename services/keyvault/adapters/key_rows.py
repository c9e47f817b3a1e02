# SPDX-License-Identifier: Apache-2.0
"""Between rows of keyvault's tables and values of its domain."""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.keyvault.domain.envelope import Binding, Record, WrappedKey
from services.keyvault.domain.health import Health, HealthState
from services.keyvault.domain.keys import Key, KeyFields, Settings
from services.keyvault.errors import RestoreNotAcceptedError
from services.keyvault.usecases.ports import (
    AccountSnapshot,
    FeedPosition,
    RecordedRequest,
    Snapshot,
    StoredSecret,
)
from services.shared.errors import StoreUnavailableError

Row = Mapping[str, Any]

# One statement, so one moment, and one round trip however many accounts there are. A row for each
# account, each of its keys, and each version of a key that is current or in its overlap: past its
# time a version is gone for every reader, whenever it is destroyed. The system identifier names the
# cluster, the timeline changes with every promotion or recovery.
SELECT_ACCOUNTS = """
SELECT s.system_identifier::text || '-' || c.timeline_id::text AS lineage,
       pg_is_in_recovery() AS in_recovery, d.served, h.sequence,
       w.account_id, coalesce(a.active_provider, '') AS active_provider,
       coalesce(a.use_backups, false) AS use_backups, coalesce(a.revision, 0) AS settings_revision,
       k.key_id, k.provider, k.label, k.default_model, k.allowed_models, k.always_use, k.place,
       k.monthly_limit_nano_usd, k.enabled, k.active, k.current_version, k.revision,
       k.create_time, k.update_time, clock_timestamp() AS read_time, ARRAY(
           SELECT o FROM key_health o WHERE (o.account_id, o.key_id, o.version)
               = (k.account_id, k.key_id, k.current_version) ORDER BY o.model
       ) AS health,
       v.version, v.hint, v.secret_mac, v.expire_time, v.generation AS known_generation,
       r.format_version, r.algorithm, r.kek_name, r.kek_version, r.generation, r.wrapped_dek,
       r.nonce, r.ciphertext, r.commitment
FROM pg_control_system() s, pg_control_checkpoint() c, database_served d, change_head h,
    unnest($1::text[]) WITH ORDINALITY AS w (account_id, number)
    LEFT JOIN accounts a ON a.account_id = w.account_id
    LEFT JOIN keys k ON k.account_id = w.account_id
    LEFT JOIN key_versions v ON (v.account_id, v.key_id) = (k.account_id, k.key_id)
        AND (v.version = k.current_version
            OR v.destroy_time IS NULL AND v.expire_time > clock_timestamp())
    LEFT JOIN key_secrets r ON $2
        AND (r.account_id, r.key_id, r.version) = (v.account_id, v.key_id, v.version)
ORDER BY w.number, k.place, k.create_time, k.key_id, v.version DESC
"""


def settings(account: str, row: Row) -> Settings:
    """Return an account's settings."""
    return Settings(account, row["active_provider"], row["use_backups"], row["revision"])


def snapshot(rows: Sequence[Row]) -> Snapshot:
    """
    Return the accounts of `SELECT_ACCOUNTS`, of at least one row.

    Raises:
        StoreUnavailableError: If a standby answered; what it shows may be old.
    """
    first = rows[0]
    refuse_standby(first)
    found: dict[str, AccountSnapshot] = {}
    for name, of_account in itertools.groupby(rows, key=operator.itemgetter("account_id")):
        found[name] = _account(name, list(of_account))
    return Snapshot(list(found.values()), FeedPosition(first["lineage"], first["sequence"]))


def refuse_standby(row: Row) -> None:
    """Raise if a row is a standby's: it may be old, so nothing may rest on it."""
    if row["in_recovery"]:
        message = "the database that answered is not the primary; try again shortly"
        raise StoreUnavailableError(message, retry_after_seconds=1.0)


def refuse_restored(row: Row) -> None:
    """Raise if a row is a restored database's: what was revoked since the backup is live in it."""
    if not row["served"]:
        raise RestoreNotAcceptedError


def _account(name: str, rows: Sequence[Row]) -> AccountSnapshot:
    settings_row = rows[0]
    keys: dict[str, Key] = {}
    secrets: dict[str, StoredSecret] = {}
    previous: dict[str, StoredSecret] = {}
    for row in rows:
        key_id = row["key_id"]
        if key_id is None:
            continue
        # The current version comes first.
        if key_id not in keys:
            keys[key_id] = _key(row)
            records = secrets
        else:
            keys[key_id] = replace(keys[key_id], overlap_until=row["expire_time"])
            records = previous
        if row["ciphertext"] is not None:
            records[key_id] = stored_secret(row)
    return AccountSnapshot(
        settings=Settings(
            name,
            settings_row["active_provider"],
            settings_row["use_backups"],
            settings_row["settings_revision"],
        ),
        keys=list(keys.values()),
        secrets=secrets,
        previous=previous,
    )


def _key(row: Row) -> Key:
    return Key(
        account=row["account_id"],
        key_id=row["key_id"],
        provider=row["provider"],
        fields=KeyFields(
            label=row["label"],
            default_model=row["default_model"],
            allowed_models=tuple(row["allowed_models"]),
            always_use=row["always_use"],
            order=row["place"],
            monthly_limit_nano_usd=row["monthly_limit_nano_usd"],
        ),
        enabled=row["enabled"],
        active=row["active"],
        version=row["current_version"],
        hint=row["hint"],
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        read_time=row["read_time"],
        health=tuple(_health(entry) for entry in row["health"]),
        secret_mac=row["secret_mac"],
    )


def _health(row: Row) -> Health:
    return Health(
        model=row["model"],
        state=HealthState(row["state"]),
        cause=row["cause"],
        since=row["since_time"],
        until=row["until_time"],
        backoff=row["backoff"],
    )


def health_columns(entries: Sequence[Health]) -> tuple[list[Any], ...]:
    """Return the entries' columns, each as one array."""
    return (
        [entry.model for entry in entries],
        [entry.state.value for entry in entries],
        [entry.cause for entry in entries],
        [entry.since for entry in entries],
        [entry.until for entry in entries],
        [entry.backoff for entry in entries],
    )


def record_columns(record: Record) -> tuple[Any, ...]:
    """Return a record's columns in the order of the table."""
    return (
        record.format_version,
        record.algorithm,
        record.data_key.kek_name,
        record.data_key.kek_version,
        record.generation,
        record.data_key.wrapped,
        record.nonce,
        record.ciphertext,
        record.commitment,
    )


def stored_secret(row: Row) -> StoredSecret:
    """Return a version's record; its binding comes from what is known of the key."""
    binding = Binding(
        row["account_id"],
        row["key_id"],
        row["version"],
        row["known_generation"],
        row["provider"],
    )
    record = Record(
        format_version=row["format_version"],
        algorithm=row["algorithm"],
        generation=row["generation"],
        data_key=WrappedKey(row["kek_name"], row["kek_version"], row["wrapped_dek"]),
        nonce=row["nonce"],
        ciphertext=row["ciphertext"],
        commitment=row["commitment"],
    )
    return StoredSecret(binding, record)


def recorded_request(row: Row) -> RecordedRequest:
    """Return a recorded request."""
    return RecordedRequest(json.loads(row["fingerprints"]), row["outcome"])
