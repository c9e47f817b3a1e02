# SPDX-License-Identifier: Apache-2.0
"""What a batch of a run over all records reads, as PostgreSQL counts it: the batch, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.keyvault.adapters.postgres_records import SELECT_AFTER, SELECT_OUTDATED
from tests.support.keyvault import database

KEYS = 5_000
BATCH = 100
LAST = f"account-{KEYS - BATCH - 1:07d}"
"""Where the last batch begins."""

FILL = f"""
INSERT INTO accounts (account_id)
    SELECT 'account-' || lpad(n::text, 7, '0') FROM generate_series(0, {KEYS} - 1) n;
INSERT INTO keys (account_id, key_id, provider, label, default_model, allowed_models, always_use,
                  place, enabled, active, current_version, revision, create_time, update_time)
    SELECT account_id, 'main', 'openai', '', '', '{{}}', false, 0, true, true, 1, 1, now(), now()
    FROM accounts;
INSERT INTO key_versions (account_id, key_id, version, generation, hint, create_time)
    SELECT account_id, 'main', 1, 1, '', now() FROM accounts;
INSERT INTO key_secrets
    SELECT account_id, 'main', 1, 1, 'AES-256-GCM', 'kek', 1 + row_number() OVER () % 20, 1,
           repeat('w', 60)::bytea, repeat('n', 12)::bytea, repeat('c', 60)::bytea,
           repeat('k', 32)::bytea
    FROM accounts;
"""  # noqa: S608 - of a constant


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.requirement("K12")
@pytest.mark.parametrize(
    ("statement", "types", "values"),
    [
        pytest.param(
            SELECT_OUTDATED,
            "text, bigint, text, text, bigint, bigint",
            f"'kek', 1000, '{LAST}', 'main', 1, {BATCH}",
            id="rewrap",
        ),
        pytest.param(
            SELECT_AFTER,
            "text, text, bigint, text, bigint",
            f"'{LAST}', 'main', 1, '', {BATCH}",
            id="reencrypt",
        ),
    ],
)
async def test_the_last_batch_of_many_keys_reads_as_much_as_the_first(
    keyvault_dsn: str, statement: str, types: str, values: str
) -> None:
    """However many versions of the key-encryption key wrap them, and from a plan for any batch."""
    async with database(keyvault_dsn) as connection:
        await connection.execute(FILL)
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE batch({types}) AS {statement}")
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE batch({values})"
        )
    [found] = json.loads(explained)
    read = [node["Actual Rows"] * node["Actual Loops"] for node in nodes(found["Plan"])]
    assert max(read) == BATCH
    removed = sum(node.get("Rows Removed by Filter", 0) for node in nodes(found["Plan"]))
    assert removed == 0
