# SPDX-License-Identifier: Apache-2.0
"""What someone with the database in hand can do to stored secrets: nothing but break them."""

from __future__ import annotations

from typing import Any

import asyncpg
import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from tests.support.keyvault import (
    OPENAI_KEY,
    RunningKeyvault,
    database,
    new_request_id,
    refusal,
)

NEW_KEY = "sk-proj-newnewnewnewnewnewnewnew0123456789ABCD"
RECORD = (
    "format_version, algorithm, kek_name, kek_version, generation, wrapped_dek, nonce, "
    "ciphertext, commitment"
)
COPY = f"""
UPDATE key_secrets mine SET ({RECORD}) = (
    SELECT {RECORD} FROM key_secrets theirs
    WHERE (theirs.account_id, theirs.key_id) = ($3, $4)
)
WHERE (mine.account_id, mine.key_id) = ($1, $2)
"""  # noqa: S608 - of constants


async def refused(vaulted: RunningKeyvault, account: str = "demo", key_id: str = "main") -> None:
    """Its key comes REJECTED and without a secret, and cannot be tested either."""
    name = f"accounts/{account}/keys/{key_id}"
    [resolved] = (await vaulted.resolve(account)).accounts
    [item] = [item for item in resolved.keys if item.key.name == name]
    [health] = item.key.health
    assert (item.secret, health.state) == ("", key_pb2.HEALTH_STATE_REJECTED)
    assert "damaged" in health.reason
    assert health.next_step
    status = await refusal(vaulted.stub.TestKey(service_pb2.TestKeyRequest(name=name)))
    assert (status.code, status.reason) == (grpc.StatusCode.DATA_LOSS, "RECORD_REFUSED")
    assert OPENAI_KEY not in f"{status}"


@pytest.mark.requirement("K9")
class TestSwaps:
    @pytest.mark.parametrize(
        "other", [("demo", "second"), ("other", "main"), ("demo", "elsewhere")]
    )
    async def test_a_whole_row_works_in_no_other_rows_place(
        self, vaulted: RunningKeyvault, other: tuple[str, str]
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(key_id="second")
        await vaulted.create(account="other", key_id="main")
        await vaulted.create("of-no-known-shape-1234", provider="gemini", key_id="elsewhere")
        await vaulted.resolve("demo", "other")
        async with database(vaulted.dsn) as connection:
            await connection.execute(COPY, "demo", "main", *other)

        await refused(vaulted)

    @pytest.mark.parametrize("column", ["wrapped_dek", "nonce", "ciphertext", "commitment"])
    async def test_no_single_column_can_be_exchanged(
        self, vaulted: RunningKeyvault, column: str
    ) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(key_id="second")
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                f"UPDATE key_secrets SET {column} = "  # noqa: S608 - of constants
                f"(SELECT {column} FROM key_secrets WHERE key_id = 'second') "
                "WHERE key_id = 'main'"
            )

        await refused(vaulted)

    @pytest.mark.parametrize(
        "change",
        [
            "format_version = 2",
            "algorithm = 'AES-128-GCM'",
            "kek_name = 'local:other'",
            "kek_version = 2",
            "generation = 2",
            "wrapped_dek = set_byte(wrapped_dek, 0, 2)",
            "wrapped_dek = set_byte(wrapped_dek, 40, get_byte(wrapped_dek, 40) # 1)",
            "nonce = set_byte(nonce, 0, get_byte(nonce, 0) # 1)",
            "ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1)",
            "commitment = set_byte(commitment, 31, get_byte(commitment, 31) # 128)",
        ],
    )
    async def test_any_changed_column_is_refused(
        self, vaulted: RunningKeyvault, change: str
    ) -> None:
        await vaulted.create(key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute(f"UPDATE key_secrets SET {change}")  # noqa: S608

        await refused(vaulted)

    async def test_an_older_row_put_back_is_refused(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT * FROM key_secrets")
            await vaulted.stub.ReplaceKey(
                service_pb2.ReplaceKeyRequest(
                    name="accounts/demo/keys/main",
                    secret=NEW_KEY,
                    request_id=new_request_id(),
                )
            )
            await connection.execute(
                f"UPDATE key_secrets SET ({RECORD}) = (SELECT {RECORD} FROM kept)"  # noqa: S608
            )

        await refused(vaulted)

    async def test_a_row_that_was_removed_is_a_refusal_not_an_absence(
        self, vaulted: RunningKeyvault
    ) -> None:
        await vaulted.create(key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute("DELETE FROM key_secrets")

        await refused(vaulted)

    async def test_the_damage_of_one_key_is_no_others(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        await vaulted.create(account="other", key_id="main")
        async with database(vaulted.dsn) as connection:
            await connection.execute(
                "UPDATE key_secrets SET generation = 2 WHERE account_id='demo'"
            )

            await vaulted.create(key_id="second")
            answer = await vaulted.resolve("demo", "other")

            await refused(vaulted)
            assert [item.secret for account in answer.accounts for item in account.keys] == [
                "",
                OPENAI_KEY,
                OPENAI_KEY,
            ]
            released = await connection.fetch(
                "SELECT DISTINCT account_id, key_id FROM audit_events WHERE action = 'RELEASE'"
                " ORDER BY account_id, key_id"
            )
            assert [tuple(row) for row in released] == [("demo", "second"), ("other", "main")]


@pytest.mark.requirement("K9")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("nonce", b"\0" * 11),
        ("nonce", b"\0" * 16),
        ("commitment", b"\0" * 31),
        ("wrapped_dek", b"\0" * 1025),
        ("ciphertext", b"\0" * 16),
        ("ciphertext", b"\0" * 16_401),
        ("kek_version", 0),
        ("generation", 0),
    ],
)
async def test_the_database_itself_refuses_other_sizes(
    vaulted: RunningKeyvault, column: str, value: Any
) -> None:
    await vaulted.create(key_id="main")
    async with database(vaulted.dsn) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"UPDATE key_secrets SET {column} = $1", value)  # noqa: S608
