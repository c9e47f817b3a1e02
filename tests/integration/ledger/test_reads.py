# SPDX-License-Identifier: Apache-2.0
"""Entries, statements, usage, authorizations."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import entry_pb2, usage_pb2

from tests.support.ledger import RunningLedger, consistent, refused, request_id

READY = pb.OWN_KEY_STATE_READY
CSV = entry_pb2.STATEMENT_FORMAT_CSV
JSON_LINES = entry_pb2.STATEMENT_FORMAT_JSON_LINES


async def work(books: RunningLedger, account: str, cost: int, **fields: Any) -> None:
    """Run one request to its end."""
    run = books.run(account)
    await run.authorize(**fields)
    await run.capture(cost, end=pb.RequestEnd(succeeded=True))


async def statement(books: RunningLedger, account: str, format_: int, **fields: Any) -> str:
    """Return a statement."""
    request = entry_pb2.ExportStatementRequest(account=account, format=format_, **fields)
    chunks = [piece.chunk async for piece in books.backend.ExportStatement(request)]
    assert all(len(chunk) <= 256 * 1024 for chunk in chunks)
    return b"".join(chunks).decode()


@pytest.mark.requirement("L10", "L12")
class TestEntries:
    async def test_they_are_paged_newest_first_without_gap(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        for _ in range(6):
            await work(books, account, 10)
        request = entry_pb2.ListEntriesRequest(parent=account, page_size=3)
        found, pages = [], 0
        while True:
            page = await books.backend.ListEntries(request)
            found += page.entries
            pages += 1
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert pages == 3
        assert [entry.sequence for entry in found] == [7, 6, 5, 4, 3, 2, 1]
        assert [entry.posted_after_nano_credits for entry in found[-2:]] == [990, 1000]
        assert found[0].authorization.startswith(f"{account}/authorizations/r")

    async def test_a_token_belongs_to_its_query(self, books: RunningLedger) -> None:
        account = await books.account("one", owns=1000)
        other = await books.account("two", owns=1000)
        await work(books, account, 10)
        request = entry_pb2.ListEntriesRequest(parent=account, page_size=1)
        request.page_token = (await books.backend.ListEntries(request)).next_page_token
        request.parent = other
        status = await refused(books.backend.ListEntries(request))
        assert status.metadata["field"] == "page_token"

    async def test_a_reversed_range_and_a_negative_page_are_refused(
        self, books: RunningLedger
    ) -> None:
        account = await books.account()
        reversed_ = entry_pb2.ListEntriesRequest(
            parent=account, start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)
        )
        assert (await refused(books.backend.ListEntries(reversed_))).metadata["field"] == "end_time"
        negative = entry_pb2.ListEntriesRequest(parent=account, page_size=-1)
        assert (await refused(books.backend.ListEntries(negative))).reason == "INVALID_ARGUMENT"

    async def test_a_time_range_cuts_at_its_start_and_before_its_end(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        for _ in range(3):
            await work(books, account, 10)
        everything = await books.backend.ListEntries(entry_pb2.ListEntriesRequest(parent=account))
        third, second = everything.entries[1], everything.entries[2]
        cut = await books.backend.ListEntries(
            entry_pb2.ListEntriesRequest(
                parent=account, start_time=second.create_time, end_time=third.create_time
            )
        )
        assert [entry.sequence for entry in cut.entries] == [second.sequence]


@pytest.mark.requirement("L10")
class TestStatements:
    async def test_csv_adds_up_to_the_balance(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await work(books, account, 10)
        await work(books, account, 5)
        rows = list(csv.DictReader(io.StringIO(await statement(books, account, CSV))))
        assert [row["line"] for row in rows] == ["opening", *["entry"] * 3, "closing"]
        change = sum(int(row["change_nano_credits"]) for row in rows[1:-1])
        opening, closing = (int(rows[i]["posted_nano_credits"]) for i in (0, -1))
        assert opening + change == closing == 985
        assert closing == (await books.balance(account)).posted_nano_credits

    async def test_json_lines_of_a_time_range_open_where_the_rest_closed(
        self, books: RunningLedger
    ) -> None:
        account = await books.account(owns=1000)
        await work(books, account, 10)
        everything = await books.backend.ListEntries(entry_pb2.ListEntriesRequest(parent=account))
        cut = everything.entries[0].create_time
        early = await statement(books, account, JSON_LINES, end_time=cut)
        late = await statement(books, account, JSON_LINES, start_time=cut)
        closing = json.loads(early.splitlines()[-1])
        opening, entry, _ = (json.loads(line) for line in late.splitlines())
        assert closing["posted_nano_credits"] == opening["posted_nano_credits"] == 1000
        assert entry["change_nano_credits"] == -10

    async def test_a_long_statement_comes_in_chunks(self, books: RunningLedger) -> None:
        account = await books.account()
        reason = "x" * 200
        for _ in range(3):
            await books.grant(account, 7, note=reason)
        connection = await asyncpg.connect(books.dsn)
        await connection.execute(
            """
            INSERT INTO entries SELECT bucket, account_id, sequence + 3 * n, kind, debit, credit,
                amount, 21 * n + posted_after, grant_id, authorization_id, mode_epoch,
                credits_asked, reason, actor, create_time
            FROM entries, generate_series(1, 999) AS n
            """
        )
        await connection.execute("UPDATE accounts SET entry_count = 3000")
        await connection.close()
        request = entry_pb2.ExportStatementRequest(account=account, format=CSV)
        chunks = [len(piece.chunk) async for piece in books.backend.ExportStatement(request)]
        assert len(chunks) > 2
        assert max(chunks) == 256 * 1024
        rows = list(csv.DictReader(io.StringIO(await statement(books, account, CSV))))
        assert len(rows) == 3002
        assert rows[-1]["posted_nano_credits"] == "21000"

    async def test_a_note_is_never_a_formula(self, books: RunningLedger) -> None:
        account = await books.account()
        await books.grant(account, 7, note='=HYPERLINK("x")')
        rows = list(csv.DictReader(io.StringIO(await statement(books, account, CSV))))
        assert rows[1]["reason"] == '\'=HYPERLINK("x")'

    async def test_a_missing_format_is_refused(self, books: RunningLedger) -> None:
        account = await books.account()
        status = await refused(statement(books, account, 0))
        assert status.metadata["field"] == "format"


@pytest.mark.requirement("L10")
class TestUsage:
    async def test_it_is_kept_by_day_model_key_and_funding(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        await work(books, account, 10)
        await work(books, account, 20)
        await work(books, account, 30, own_key_state=READY)
        request = usage_pb2.GetUsageRequest(account=account)
        rows = (await books.backend.GetUsage(request)).rows
        on_credits, on_key = sorted(rows, key=lambda row: row.key)
        assert (on_credits.attempt_count, on_credits.vendor_cost_nano_usd) == (2, 30)
        assert (on_credits.charged_nano_credits, on_credits.units.input_token_count) == (30, 14)
        assert (on_key.key, on_key.charged_nano_credits) == (f"{account}/keys/main", 0)
        assert on_key.funding == pb.FUNDING_OWN_KEY

    async def test_it_is_paged_and_cut_by_day(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        await books.set_mode(account, "OWN_KEY_FIRST")
        await work(books, account, 10)
        await work(books, account, 30, own_key_state=READY)
        request = usage_pb2.GetUsageRequest(account=account, page_size=1)
        first = await books.backend.GetUsage(request)
        request.page_token = first.next_page_token
        second = await books.backend.GetUsage(request)
        assert {first.rows[0].funding, second.rows[0].funding} == {1, 2}
        assert not second.next_page_token
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
        later = usage_pb2.GetUsageRequest(account=account, start_day=tomorrow)
        assert not (await books.backend.GetUsage(later)).rows

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"start_day": "yesterday"}, "start_day"),
            ({"start_day": "2026-11-02", "end_day": "2026-11-02"}, "end_day"),
        ],
    )
    async def test_a_malformed_range_is_refused(
        self, books: RunningLedger, fields: dict[str, str], field: str
    ) -> None:
        account = await books.account()
        request = usage_pb2.GetUsageRequest(account=account, **fields)
        assert (await refused(books.backend.GetUsage(request))).metadata["field"] == field


@pytest.mark.requirement("L11", "R14")
class TestAuthorizations:
    async def test_one_is_read_by_its_name(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        granted = (await run.authorize()).granted
        read = await books.backend.GetAuthorization(pb.GetAuthorizationRequest(name=granted.name))
        assert read.authorization == granted

    async def test_they_are_listed_newest_first_by_state(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        runs = [books.run(account) for _ in range(3)]
        for run in runs:
            await run.authorize()
        await runs[1].capture(5)
        listed = await books.backend.ListAuthorizations(
            pb.ListAuthorizationsRequest(parent=account)
        )
        ids = [found.request_id for found in listed.authorizations]
        assert ids == [run.request_id for run in reversed(runs)]
        request = pb.ListAuthorizationsRequest(
            parent=account, state=pb.AUTHORIZATION_STATE_OPEN, page_size=1
        )
        first = await books.backend.ListAuthorizations(request)
        request.page_token = first.next_page_token
        second = await books.backend.ListAuthorizations(request)
        found = [page.authorizations[0].request_id for page in (first, second)]
        assert found == [runs[2].request_id, runs[0].request_id]

    async def test_unknown_and_contradicting_names_are_refused(self, books: RunningLedger) -> None:
        account = await books.account()
        for request, reason in (
            (pb.GetAuthorizationRequest(), "INVALID_ARGUMENT"),
            (pb.GetAuthorizationRequest(name=f"{account}/authorizations/x"), "INVALID_ARGUMENT"),
            (pb.GetAuthorizationRequest(name="x", account=account), "INVALID_ARGUMENT"),
            (
                pb.GetAuthorizationRequest(name=f"{account}/authorizations/r{request_id()}-1-1"),
                "AUTHORIZATION_NOT_FOUND",
            ),
            (
                pb.GetAuthorizationRequest(account=account, request_id=request_id()),
                "AUTHORIZATION_NOT_FOUND",
            ),
            (
                pb.GetAuthorizationRequest(account="accounts/nobody", request_id=request_id()),
                "ACCOUNT_NOT_FOUND",
            ),
        ):
            assert (await refused(books.backend.GetAuthorization(request))).reason == reason


@pytest.mark.requirement("O3")
class TestAccess:
    async def test_only_the_router_holds_and_settles(self, books: RunningLedger) -> None:
        account = await books.account(owns=1000)
        run = books.run(account)
        for stub in (books.backend, books.operator):
            run.stub = stub
            for call in (run.authorize(), run.renew(), run.capture(1), run.release()):
                status = await refused(call)
                assert (status.code, status.reason) == (
                    grpc.StatusCode.PERMISSION_DENIED,
                    "ACCESS_DENIED",
                )

    async def test_the_router_grants_nothing_and_only_operators_verify(
        self, books: RunningLedger
    ) -> None:
        account = await books.account()
        books.backend, backend = books.router, books.backend
        assert (await refused(books.grant(account, 5))).reason == "ACCESS_DENIED"
        books.operator = backend
        assert (await refused(consistent(books))).reason == "ACCESS_DENIED"
