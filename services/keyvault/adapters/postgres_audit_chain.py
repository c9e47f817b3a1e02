# SPDX-License-Identifier: Apache-2.0
"""The audit trail's chains in PostgreSQL; one replica at a time extends them, by a row's lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from services.keyvault.domain.audit_chain import (
    ChainedEvent,
    ChainEnd,
    Head,
    Link,
    WrittenEvent,
)
from services.keyvault.usecases.ports import ChainRound, LinkEvents
from services.shared.postgres import Connection, Database

_COLUMNS = "account_id, number, event_time, actor, action, key_id, version, request_id, details"
_LOCK = "SELECT 1 FROM audit_chaining FOR UPDATE"
_LOCK_IF_FREE = f"{_LOCK} SKIP LOCKED"
_UNCHAINED = f"""
SELECT {_COLUMNS} FROM audit_events
WHERE chain_sequence IS NULL AND account_id <> ALL($1::text[])
ORDER BY number LIMIT $2
"""  # noqa: S608 - of constants
_UNCHAINED_OF = f"""
SELECT {_COLUMNS} FROM audit_events
WHERE chain_sequence IS NULL AND account_id = $1
ORDER BY number LIMIT $2
"""  # noqa: S608 - of constants
_HEADS = """
SELECT account_id, sequence, number, mac, signature FROM audit_heads
WHERE account_id = ANY($1::text[])
"""
_LAST_LINKS = """
SELECT a.account_id, e.chain_sequence, e.chain_previous, e.chain_mac
FROM unnest($1::text[]) AS a (account_id), LATERAL (
    SELECT chain_sequence, chain_previous, chain_mac FROM audit_events
    WHERE account_id = a.account_id AND chain_sequence IS NOT NULL
    ORDER BY chain_sequence DESC LIMIT 1
) e
"""
_SET_LINKS = """
UPDATE audit_events e
SET chain_sequence = n.sequence, chain_previous = n.previous, chain_mac = n.mac
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[])
    AS n (number, sequence, previous, mac)
WHERE e.number = n.number
"""
_SET_HEADS = """
INSERT INTO audit_heads (account_id, sequence, number, mac, signature)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])
ON CONFLICT (account_id) DO UPDATE
SET sequence = excluded.sequence, number = excluded.number, mac = excluded.mac,
    signature = excluded.signature, sign_time = now()
"""
_CHAIN = f"""
SELECT {_COLUMNS}, chain_sequence, chain_previous, chain_mac FROM audit_events
WHERE account_id = $1 AND chain_sequence > $2 ORDER BY chain_sequence LIMIT $3
"""  # noqa: S608 - of constants
_COUNT_UNCHAINED = """
SELECT count(*) AS events FROM audit_events WHERE account_id = $1 AND chain_sequence IS NULL
"""
_PAGE_SIZE = 1_000


class PostgresAuditChain:
    """
    The chains.

    Args:
        database: The service's database, open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def extend(
        self,
        link: LinkEvents,
        *,
        limit: int,
        skipping: Collection[str],
    ) -> ChainRound | None:
        """Chain the oldest entries that wait; see the port."""

        async def unit(connection: Connection) -> ChainRound | None:
            if not await connection.fetchrow(_LOCK_IF_FREE):
                return None
            rows = await connection.fetch(_UNCHAINED, list(skipping), limit)
            return await _extend(connection, rows, link)

        return await self._database.run(unit)

    async def extend_one(
        self,
        account: str,
        link: LinkEvents,
        *,
        limit: int,
    ) -> ChainRound:
        """Chain an account's oldest entries that wait; see the port."""

        async def unit(connection: Connection) -> ChainRound:
            await connection.fetchrow(_LOCK)
            rows = await connection.fetch(_UNCHAINED_OF, account, limit)
            return await _extend(connection, rows, link)

        return await self._database.run(unit)

    async def walk(
        self, account: str, visit: Callable[[Sequence[ChainedEvent]], None]
    ) -> tuple[Head | None, int]:
        """Show an account's chain as it was at one moment; see the port."""

        async def unit(connection: Connection) -> tuple[Head | None, int]:
            heads = _heads(await connection.fetch(_HEADS, [account]))
            waiting = await connection.fetchrow(_COUNT_UNCHAINED, account)
            after = 0
            while rows := await connection.fetch(_CHAIN, account, after, _PAGE_SIZE):
                visit([ChainedEvent(_event(row), _link(row)) for row in rows])
                after = rows[-1]["chain_sequence"]
            return heads.get(account), waiting["events"] if waiting else 0

        return await self._database.run(unit, isolation="repeatable_read", readonly=True)


async def _extend(
    connection: Connection,
    rows: Sequence[Mapping[str, Any]],
    link: LinkEvents,
) -> ChainRound:
    waiting: dict[str, list[WrittenEvent]] = defaultdict(list)
    for row in rows:
        waiting[row["account_id"]].append(_event(row))
    accounts = list(waiting)
    heads = _heads(await connection.fetch(_HEADS, accounts))
    last = {row["account_id"]: _link(row) for row in await connection.fetch(_LAST_LINKS, accounts)}
    numbers: list[int] = []
    links: list[Link] = []
    extended: list[Head] = []
    refused: list[str] = []
    for account, events in waiting.items():
        extension = link(ChainEnd(heads.get(account), last.get(account)), events)
        if extension is None:
            refused.append(account)
            continue
        numbers += [event.number for event in events]
        links += extension.links
        extended.append(extension.head)
    await connection.execute(
        _SET_LINKS,
        numbers,
        [item.sequence for item in links],
        [item.previous for item in links],
        [item.mac for item in links],
    )
    await connection.execute(
        _SET_HEADS,
        [head.account for head in extended],
        [head.sequence for head in extended],
        [head.number for head in extended],
        [head.mac for head in extended],
        [head.signature for head in extended],
    )
    return ChainRound(seen=len(rows), heads=extended, refused=refused)


def _heads(rows: Sequence[Mapping[str, Any]]) -> dict[str, Head]:
    return {
        row["account_id"]: Head(
            row["account_id"], row["sequence"], row["number"], row["mac"], row["signature"]
        )
        for row in rows
    }


def _link(row: Mapping[str, Any]) -> Link:
    # Columns that were emptied can be no link: nothing compares equal to no bytes.
    return Link(row["chain_sequence"], row["chain_previous"] or b"", row["chain_mac"] or b"")


def _event(row: Mapping[str, Any]) -> WrittenEvent:
    return WrittenEvent(
        account=row["account_id"],
        number=row["number"],
        event_time=row["event_time"],
        actor=row["actor"],
        action=row["action"],
        key_id=row["key_id"],
        version=row["version"],
        request_id=row["request_id"],
        details=row["details"],
    )
