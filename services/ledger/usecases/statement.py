# SPDX-License-Identifier: Apache-2.0
"""
Statements: every entry of a time range between an opening and a closing balance that they prove.

A statement goes as far as the account's last entry when it begins, is read a page at a time and
held no further than one chunk, so its length is not bounded by memory.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol

from services.ledger.domain.accounts import Account
from services.ledger.domain.entries import Entry
from services.ledger.errors import AccountNotFoundError
from services.ledger.usecases.ports import LedgerReader
from services.shared.errors import InternalError

PAGE_ENTRIES = 1000
CHUNK_BYTES_MAX = 256 * 1024

COLUMNS = (
    "line",
    "sequence",
    "time",
    "kind",
    "debit",
    "credit",
    "amount_nano_credits",
    "change_nano_credits",
    "posted_nano_credits",
    "grant",
    "authorization",
    "mode_epoch",
    "credits_asked",
    "reason",
    "actor",
)

Value = str | int | bool
Line = dict[str, Value]


class StatementFormat(Protocol):
    """Writes lines of a statement."""

    def head(self) -> str:
        """Return what comes before the first line."""
        ...

    def line(self, values: Line) -> str:
        """Return one line, its end included."""
        ...


class CsvFormat:
    """RFC 4180: https://www.rfc-editor.org/rfc/rfc4180."""

    def head(self) -> str:
        """Return the header line."""
        return _csv(COLUMNS)

    def line(self, values: Line) -> str:
        """Return one line; what it does not have is empty."""
        return _csv([_guarded(values.get(name, "")) for name in COLUMNS])


class JsonLinesFormat:
    """One object a line: https://jsonlines.org."""

    def head(self) -> str:
        """Return nothing: every line names its own values."""
        return ""

    def line(self, values: Line) -> str:
        """Return one line."""
        return json.dumps(values, ensure_ascii=False) + "\n"


async def export(
    reader: LedgerReader,
    account_id: str,
    *,
    format_: StatementFormat,
    start: datetime | None,
    end: datetime | None,
) -> AsyncIterator[bytes]:
    """
    Write a statement.

    Args:
        reader: Reads the ledger.
        account_id: The account.
        format_: How it is written.
        start: Only entries at or after it; None for all.
        end: Only entries before it; None for all.

    Yields:
        Its bytes, at most CHUNK_BYTES_MAX at a time.

    Raises:
        AccountNotFoundError: If there is no such account.
        InternalError: If the entries do not add up; the statement ends there.
    """
    account = await reader.account(account_id)
    if account is None:
        raise AccountNotFoundError(account_id)
    after = await reader.last_entry_before(account_id, start) if start else 0
    last = await reader.last_entry_before(account_id, end) if end else account.entry_count
    posted = await _posted_after(reader, account_id, after)
    buffer = bytearray(format_.head().encode())
    buffer += format_.line(_balance_line("opening", account, after, posted)).encode()
    while after < last:
        page = await reader.entries(account_id, after=after, up_to=last, limit=PAGE_ENTRIES)
        for entry in page:
            posted += entry.posted_change
            if posted != entry.posted_after or entry.sequence != after + 1:
                message = f"the statement does not add up at entry {entry.sequence}; run verify"
                raise InternalError(message)
            after = entry.sequence
            buffer += format_.line(_entry_line(entry)).encode()
            while len(buffer) >= CHUNK_BYTES_MAX:
                yield bytes(buffer[:CHUNK_BYTES_MAX])
                del buffer[:CHUNK_BYTES_MAX]
        if not page:
            message = f"the statement ends before entry {last}; run verify"
            raise InternalError(message)
    buffer += format_.line(_balance_line("closing", account, after, posted)).encode()
    for offset in range(0, len(buffer), CHUNK_BYTES_MAX):
        yield bytes(buffer[offset : offset + CHUNK_BYTES_MAX])


async def _posted_after(reader: LedgerReader, account_id: str, sequence: int) -> int:
    if sequence == 0:
        return 0
    found = await reader.entries(account_id, after=sequence - 1, up_to=sequence, limit=1)
    return found[0].posted_after if found else 0


def _balance_line(line: str, account: Account, sequence: int, posted: int) -> Line:
    return {
        "line": line,
        "account": f"accounts/{account.account_id}",
        "sequence": sequence,
        "posted_nano_credits": posted,
    }


def _entry_line(entry: Entry) -> Line:
    return {
        "line": "entry",
        "sequence": entry.sequence,
        "time": entry.create_time.isoformat(),
        "kind": entry.kind.value,
        "debit": entry.debit.value,
        "credit": entry.credit.value,
        "amount_nano_credits": entry.amount,
        "change_nano_credits": entry.posted_change,
        "posted_nano_credits": entry.posted_after,
        "grant": entry.grant_id,
        "authorization": entry.cause.authorization,
        "mode_epoch": entry.cause.mode_epoch,
        "credits_asked": entry.cause.credits_asked,
        "reason": entry.cause.reason,
        "actor": entry.cause.actor,
    }


def _guarded(value: Value) -> Value:
    """Keep a text from being run as a formula by the program that opens the file."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return "'" + value
    return value


def _csv(values: tuple[str, ...] | list[Value]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()
