# SPDX-License-Identifier: Apache-2.0
"""Between rows of keyvault's tables and values of its domain."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.keyvault.domain.envelope import Binding, Record, WrappedKey
from services.keyvault.domain.health import Health, HealthState
from services.keyvault.domain.keys import Key, KeyFields, Settings
from services.keyvault.usecases.ports import RecordedRequest, StoredSecret

Row = Mapping[str, Any]

SELECT_SETTINGS = """
SELECT account_id, active_provider, use_backups, revision FROM accounts
WHERE account_id = ANY($1::text[])
"""
SELECT_KEYS = """
SELECT k.*, v.hint, v.secret_mac, clock_timestamp() AS read_time, (
    SELECT max(p.expire_time) FROM key_versions p
    WHERE (p.account_id, p.key_id) = (k.account_id, k.key_id)
        AND p.destroy_time IS NULL AND p.expire_time > clock_timestamp()
) AS overlap_until
FROM keys k
    JOIN key_versions v ON (v.account_id, v.key_id, v.version)
        = (k.account_id, k.key_id, k.current_version)
WHERE k.account_id = ANY($1::text[])
ORDER BY k.account_id, k.place, k.create_time, k.key_id
"""
SELECT_HEALTH = """
SELECT h.* FROM key_health h
    JOIN keys k ON (k.account_id, k.key_id, k.current_version)
        = (h.account_id, h.key_id, h.version)
WHERE h.account_id = ANY($1::text[])
ORDER BY h.account_id, h.key_id, h.model
"""
SELECT_SECRETS = """
SELECT k.provider, v.generation AS known_generation, s.* FROM keys k
    JOIN key_versions v ON (v.account_id, v.key_id, v.version)
        = (k.account_id, k.key_id, k.current_version)
    JOIN key_secrets s ON (s.account_id, s.key_id, s.version)
        = (k.account_id, k.key_id, k.current_version)
WHERE k.account_id = ANY($1::text[])
"""
# Past its time a version is gone for every reader, whenever it is destroyed.
SELECT_PREVIOUS = """
SELECT k.provider, v.generation AS known_generation, s.* FROM keys k
    JOIN key_versions v ON (v.account_id, v.key_id) = (k.account_id, k.key_id)
        AND v.version < k.current_version
    JOIN key_secrets s ON (s.account_id, s.key_id, s.version)
        = (v.account_id, v.key_id, v.version)
WHERE k.account_id = ANY($1::text[])
    AND v.destroy_time IS NULL AND v.expire_time > clock_timestamp()
"""


def settings(account: str, row: Row) -> Settings:
    """Return an account's settings."""
    return Settings(account, row["active_provider"], row["use_backups"], row["revision"])


def key(row: Row, health: Sequence[Health]) -> Key:
    """Return a key with the health of its current version."""
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
        health=tuple(health),
        overlap_until=row["overlap_until"],
        secret_mac=row["secret_mac"],
    )


def health_by_key(rows: Iterable[Row]) -> dict[tuple[str, str], list[Health]]:
    """Return the entries of each key by account and key id."""
    found: dict[tuple[str, str], list[Health]] = defaultdict(list)
    for row in rows:
        found[row["account_id"], row["key_id"]].append(
            Health(
                model=row["model"],
                state=HealthState(row["state"]),
                cause=row["cause"],
                since=row["since_time"],
                until=row["until_time"],
                backoff=row["backoff"],
            )
        )
    return found


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


def stored_secrets(rows: Iterable[Row]) -> dict[str, dict[str, StoredSecret]]:
    """Return one record of each key by account, then key id."""
    found: dict[str, dict[str, StoredSecret]] = defaultdict(dict)
    for row in rows:
        stored = stored_secret(row)
        found[stored.binding.account][stored.binding.key_id] = stored
    return found


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
