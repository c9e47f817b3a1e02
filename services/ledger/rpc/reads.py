# SPDX-License-Identifier: Apache-2.0
"""Reads: authorizations, entries, usage, statements, verification."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

from ownkey.ledger.v1 import authorization_pb2, entry_pb2, usage_pb2, verification_pb2

from services.ledger.domain.modes import Funding
from services.ledger.domain.requests import AuthorizationState
from services.ledger.domain.usage import UsageKey
from services.ledger.errors import AuthorizationNotFoundError
from services.ledger.rpc import answers, parse
from services.ledger.usecases.accounts import Accounts
from services.ledger.usecases.attempts import Attempts
from services.ledger.usecases.chain import Chains
from services.ledger.usecases.ports import LedgerReader
from services.ledger.usecases.statement import CsvFormat, JsonLinesFormat, StatementFormat, export
from services.ledger.usecases.verify import verify
from services.shared.errors import InvalidArgumentError
from services.shared.ids import parse_uuid
from services.shared.paging import PageTokens, page_size

NUMBER_MAX = 2**63 - 1

_FORMATS: dict[int, StatementFormat] = {
    entry_pb2.STATEMENT_FORMAT_CSV: CsvFormat(),
    entry_pb2.STATEMENT_FORMAT_JSON_LINES: JsonLinesFormat(),
}


class ReadRpcs:
    """The RPCs that only read."""

    _reader: LedgerReader
    _chains: Chains
    _accounts: Accounts
    _attempts: Attempts
    _pages: PageTokens

    async def GetAuthorization(  # noqa: N802 - the RPC's name
        self, request: authorization_pb2.GetAuthorizationRequest, _context: Any
    ) -> authorization_pb2.GetAuthorizationResponse:
        """Get an attempt by name, or the record of a request."""
        if bool(request.name) == bool(request.account or request.request_id):
            raise InvalidArgumentError.of(
                "name", "must be set, or else account and request_id, not both"
            )
        lease = self._attempts.lease
        if request.name:
            ids = parse.AUTHORIZATION.parse(request.name, "name")
            account_id = ids["account"]
            request_id, run, sequence = parse.attempt_id(ids["authorization"], "name")
            await self._accounts.get(account_id)
            found = await self._reader.attempt(
                account_id, request_id=request_id, run=run, sequence=sequence
            )
            if found is None:
                raise _not_found(account_id, request_id)
            written = answers.authorization(account_id, *found, lease=lease)
            return authorization_pb2.GetAuthorizationResponse(authorization=written)
        account_id = parse.account_id(request.account)
        request_id = parse_uuid(request.request_id, "request_id")
        await self._accounts.get(account_id)
        record = await self._reader.request(account_id, request_id)
        if record is None:
            raise _not_found(account_id, request_id)
        return authorization_pb2.GetAuthorizationResponse(
            record=answers.record(account_id, *record, lease=lease)
        )

    async def ListAuthorizations(  # noqa: N802
        self, request: authorization_pb2.ListAuthorizationsRequest, _context: Any
    ) -> authorization_pb2.ListAuthorizationsResponse:
        """List attempts, newest first."""
        account_id = parse.account_id(request.parent, "parent")
        state = parse.optional_word(
            AuthorizationState, authorization_pb2.AuthorizationState, request.state, "state"
        )
        size = page_size(request.page_size)
        query = f"authorizations:{account_id}:{request.state}"
        cursor = self._pages.decode(query, request.page_token)
        await self._accounts.get(account_id)
        found = await self._reader.attempts_before(
            account_id, before=int(cursor or NUMBER_MAX), state=state, limit=size + 1
        )
        shown, more = found[:size], len(found) > size
        return authorization_pb2.ListAuthorizationsResponse(
            authorizations=[
                answers.authorization(account_id, *item, lease=self._attempts.lease)
                for item in shown
            ],
            next_page_token=self._pages.encode(query, str(shown[-1][0].number)) if more else "",
        )

    async def ListEntries(  # noqa: N802
        self, request: entry_pb2.ListEntriesRequest, _context: Any
    ) -> entry_pb2.ListEntriesResponse:
        """List entries, newest first."""
        account_id = parse.account_id(request.parent, "parent")
        start, end = parse.time_range(request)
        size = page_size(request.page_size)
        query = f"entries:{account_id}:{start}:{end}"
        cursor = self._pages.decode(query, request.page_token)
        await self._accounts.get(account_id)
        found = await self._reader.entries_before(
            account_id, before=int(cursor or NUMBER_MAX), start=start, end=end, limit=size + 1
        )
        shown, more = found[:size], len(found) > size
        return entry_pb2.ListEntriesResponse(
            entries=[answers.entry(account_id, entry) for entry in shown],
            next_page_token=self._pages.encode(query, str(shown[-1].sequence)) if more else "",
        )

    async def GetUsage(  # noqa: N802
        self, request: usage_pb2.GetUsageRequest, _context: Any
    ) -> usage_pb2.GetUsageResponse:
        """Sum usage."""
        account_id = parse.account_id(request.account)
        start = parse.optional_day(request.start_day, "start_day")
        end = parse.optional_day(request.end_day, "end_day")
        if start is not None and end is not None and start >= end:
            raise InvalidArgumentError.of("end_day", "must be later than start_day")
        size = page_size(request.page_size)
        query = f"usage:{account_id}:{start}:{end}"
        cursor = self._pages.decode(query, request.page_token)
        await self._accounts.get(account_id)
        found = await self._reader.usage(
            account_id,
            start=start,
            end=end,
            after=_usage_key(cursor) if cursor else None,
            limit=size + 1,
        )
        shown, more = found[:size], len(found) > size
        return usage_pb2.GetUsageResponse(
            rows=[answers.usage_row(row) for row in shown],
            next_page_token=self._pages.encode(query, _usage_cursor(shown[-1].key)) if more else "",
        )

    async def ExportStatement(  # noqa: N802
        self, request: entry_pb2.ExportStatementRequest, _context: Any
    ) -> AsyncIterator[entry_pb2.ExportStatementResponse]:
        """Write a statement."""
        account_id = parse.account_id(request.account)
        format_ = _FORMATS.get(request.format)
        if format_ is None:
            raise InvalidArgumentError.of("format", "must be CSV or JSON_LINES")
        start, end = parse.time_range(request)
        chunks = export(self._reader, account_id, format_=format_, start=start, end=end)
        async for chunk in chunks:
            yield entry_pb2.ExportStatementResponse(chunk=chunk)

    async def VerifyLedger(  # noqa: N802
        self, request: verification_pb2.VerifyLedgerRequest, _context: Any
    ) -> AsyncIterator[verification_pb2.VerifyLedgerResponse]:
        """Prove the ledger's invariants."""
        account_id = parse.account_id(request.account) if request.account else None
        async for progress in verify(self._reader, self._chains, account_id):
            yield verification_pb2.VerifyLedgerResponse(
                verified_account_count=progress.verified,
                account_count=progress.total,
                violations=[answers.violation(item) for item in progress.found],
                violation_count=progress.found_count,
                done=progress.done,
            )


def _not_found(account_id: str, request_id: str) -> AuthorizationNotFoundError:
    account = f"accounts/{account_id}"
    message = f"{account} has no such authorization, or request {request_id} never reached it"
    return AuthorizationNotFoundError(
        message, metadata={"account": account, "request_id": request_id}
    )


def _usage_cursor(key: UsageKey) -> str:
    return json.dumps([key.day.isoformat(), key.model, key.provider, key.key, key.funding.value])


def _usage_key(cursor: str) -> UsageKey:
    day, model, provider, key, funding = json.loads(cursor)
    return UsageKey(date.fromisoformat(day), model, provider, key, Funding(funding))
