# SPDX-License-Identifier: Apache-2.0
"""Fill a key store with keys, each sealed as keyvault seals it and wrapped by Vault, by COPY."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import asyncpg
import msgspec

from services.keyvault.domain.aead import NONCE_BYTES
from services.keyvault.domain.envelope import (
    DATA_KEY_BYTES,
    Binding,
    DataKey,
    Record,
    WrappedKey,
    seal,
)
from services.shared.secret import Secret

PROVIDER = "openai"
KEY = "main"
TIME = datetime(2026, 1, 1, tzinfo=UTC)
KEYS_PER_CALL = 500
CALLS_AT_ONCE = 4
HINT = "sk-proj-…0000"


def account_name(number: int) -> str:
    """Return the id of the n-th account; names sort as numbers do."""
    return f"bench-{number:07d}"


def binding_of(number: int) -> Binding:
    """Return the binding of the n-th account's key."""
    return Binding(account_name(number), KEY, 1, 1, PROVIDER)


@dataclass(frozen=True, slots=True)
class Transit:
    """
    Vault's Transit, called directly.

    Args:
        session: Trusts Vault's certificate and sends a token.
        address: Vault's address with mount and operation's place, `https://host:port/v1/transit`.
        key: Name of the key.
    """

    session: aiohttp.ClientSession
    address: str
    key: str

    async def post(self, operation: str, body: bytes) -> bytes:
        """Post a batch and return the answer as it came."""
        address = f"{self.address}/{operation}/{self.key}"
        async with self.session.post(address, data=body) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def wrap(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Wrap data keys, each with its context."""
        batch = [
            {"plaintext": _encode(plaintext), "context": _encode(context)}
            for plaintext, context in items
        ]
        answer = await self.post("encrypt", msgspec.json.encode({"batch_input": batch}))
        results = msgspec.json.decode(answer)["data"]["batch_results"]
        return [result["ciphertext"].encode() for result in results]


async def fill(
    connection: asyncpg.Connection[asyncpg.Record], transit: Transit, *, keys: int, kek_name: str
) -> None:
    """
    Make accounts with one key each.

    Args:
        connection: To a migrated, empty database.
        transit: Wraps data keys by the current version, which must be the first.
        keys: How many.
        kek_name: What keyvault calls the key-encryption key.
    """
    starts = iter(range(0, keys, KEYS_PER_CALL))
    lock = asyncio.Lock()

    async def work() -> None:
        for start in starts:
            numbers = range(start, min(keys, start + KEYS_PER_CALL))
            bindings = [binding_of(number) for number in numbers]
            plain = [os.urandom(DATA_KEY_BYTES) for _ in bindings]
            contexts = [binding.context() for binding in bindings]
            wrapped = await transit.wrap(list(zip(plain, contexts, strict=True)))
            records = [
                seal(
                    Secret(f"sk-proj-{number:040d}"),
                    binding,
                    data_key=DataKey(Secret(key), WrappedKey(kek_name, 1, bytes_)),
                    nonce=os.urandom(NONCE_BYTES),
                )
                for number, binding, key, bytes_ in zip(
                    numbers, bindings, plain, wrapped, strict=True
                )
            ]
            async with lock:
                await _copy(connection, bindings, records)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLS_AT_ONCE):
            group.create_task(work())
    await connection.execute("VACUUM (ANALYZE)")


async def _copy(
    connection: asyncpg.Connection[asyncpg.Record],
    bindings: Sequence[Binding],
    records: Sequence[Record],
) -> None:
    await connection.copy_records_to_table(
        "accounts",
        columns=["account_id", "active_provider", "revision"],
        records=[(binding.account, PROVIDER, 1) for binding in bindings],
    )
    await connection.copy_records_to_table(
        "keys",
        columns=[
            *("account_id", "key_id", "provider", "label", "default_model", "allowed_models"),
            *("always_use", "place", "enabled", "active", "current_version", "revision"),
            *("create_time", "update_time"),
        ],
        records=[
            (item.account, KEY, PROVIDER, "", "", [], False, 0, True, True, 1, 1, TIME, TIME)
            for item in bindings
        ],
    )
    await connection.copy_records_to_table(
        "key_versions",
        columns=["account_id", "key_id", "version", "generation", "hint", "create_time"],
        records=[(item.account, KEY, 1, 1, HINT, TIME) for item in bindings],
    )
    await connection.copy_records_to_table(
        "key_secrets",
        columns=[
            *("account_id", "key_id", "version", "format_version", "algorithm", "kek_name"),
            *("kek_version", "generation", "wrapped_dek", "nonce", "ciphertext", "commitment"),
        ],
        records=[
            (
                *(binding.account, KEY, 1, record.format_version, record.algorithm),
                *(record.data_key.kek_name, record.data_key.kek_version, record.generation),
                *(record.data_key.wrapped, record.nonce, record.ciphertext, record.commitment),
            )
            for binding, record in zip(bindings, records, strict=True)
        ],
    )


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
