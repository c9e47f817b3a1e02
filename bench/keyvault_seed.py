# SPDX-License-Identifier: Apache-2.0
"""Fill a key store with keys, each sealed as keyvault seals it and wrapped by Vault, by COPY."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import asyncpg
import msgspec

from bench.load import account
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


def binding_of(number: int) -> Binding:
    """Return the binding of the n-th account's key."""
    return Binding(account(number), KEY, 1, 1, PROVIDER)


MakeDataKeys = Callable[[Sequence[bytes]], Awaitable[list[DataKey]]]
"""Makes a data key for each context."""


@dataclass(frozen=True, slots=True)
class Transit:
    """
    Vault's Transit, called directly.

    Args:
        session: Trusts Vault's certificate and sends a token.
        address: Vault's address with mount and operation's place, `https://host:port/v1/transit`.
        key: Name of the key.
        kek_name: What keyvault calls it.
    """

    session: aiohttp.ClientSession
    address: str
    key: str
    kek_name: str

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

    async def data_keys(self, contexts: Sequence[bytes]) -> list[DataKey]:
        """Make a data key for each context; the key's version must be the first."""
        plain = [os.urandom(DATA_KEY_BYTES) for _ in contexts]
        wrapped = await self.wrap(list(zip(plain, contexts, strict=True)))
        return [
            DataKey(Secret(key), WrappedKey(self.kek_name, 1, bytes_))
            for key, bytes_ in zip(plain, wrapped, strict=True)
        ]


async def fill(
    connection: asyncpg.Connection[asyncpg.Record],
    make_data_keys: MakeDataKeys,
    *,
    keys: int,
    first: int = 0,
) -> None:
    """
    Make accounts with one key each.

    Args:
        connection: To a migrated database.
        make_data_keys: Makes a data key for each context.
        keys: How many accounts there are in the end.
        first: The first one's number; those before it are there already.
    """
    starts = iter(range(first, keys, KEYS_PER_CALL))
    lock = asyncio.Lock()

    async def work() -> None:
        for start in starts:
            numbers = range(start, min(keys, start + KEYS_PER_CALL))
            bindings = [binding_of(number) for number in numbers]
            made = await make_data_keys([binding.context() for binding in bindings])
            records = [
                seal(
                    Secret(f"sk-proj-{number:040d}"),
                    binding,
                    data_key=data_key,
                    nonce=os.urandom(NONCE_BYTES),
                )
                for number, binding, data_key in zip(numbers, bindings, made, strict=True)
            ]
            async with lock:
                await copy(connection, bindings, records)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLS_AT_ONCE):
            group.create_task(work())
    await connection.execute("VACUUM (ANALYZE)")


async def copy(
    connection: asyncpg.Connection[asyncpg.Record],
    bindings: Sequence[Binding],
    records: Sequence[Record],
) -> None:
    """
    Store sealed keys of accounts that have none; an account's first one is of its active provider.

    Args:
        connection: To a migrated database.
        bindings: Of first versions; an account has one key at most of each provider.
        records: The sealed secret of each.
    """
    active = {binding.account: binding.provider for binding in reversed(bindings)}
    await connection.copy_records_to_table(
        "accounts",
        columns=["account_id", "active_provider", "revision"],
        records=[(account_id, provider, 1) for account_id, provider in active.items()],
    )
    await connection.copy_records_to_table(
        "keys",
        columns=[
            *("account_id", "key_id", "provider", "label", "default_model", "allowed_models"),
            *("always_use", "place", "enabled", "active", "current_version", "revision"),
            *("create_time", "update_time"),
        ],
        records=[
            (
                *(item.account, item.key_id, item.provider, "", "", []),
                *(False, 0, True, True, 1, 1, TIME, TIME),
            )
            for item in bindings
        ],
    )
    await connection.copy_records_to_table(
        "key_versions",
        columns=["account_id", "key_id", "version", "generation", "hint", "create_time"],
        records=[(item.account, item.key_id, 1, 1, HINT, TIME) for item in bindings],
    )
    await connection.copy_records_to_table(
        "key_secrets",
        columns=[
            *("account_id", "key_id", "version", "format_version", "algorithm", "kek_name"),
            *("kek_version", "generation", "wrapped_dek", "nonce", "ciphertext", "commitment"),
        ],
        records=[
            (
                *(binding.account, binding.key_id, 1, record.format_version, record.algorithm),
                *(record.data_key.kek_name, record.data_key.kek_version, record.generation),
                *(record.data_key.wrapped, record.nonce, record.ciphertext, record.commitment),
            )
            for binding, record in zip(bindings, records, strict=True)
        ],
    )


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
