# SPDX-License-Identifier: Apache-2.0
"""Batches over many accounts, as each kind of database wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ownkey.ledger.v1 import authorization_pb2 as pb
from ownkey.ledger.v1 import usage_pb2

from services.shared.status import read_status
from tests.support.ledger import consistent, running_ledger

DATABASES = {
    "one server": {},
    "a cluster": {"batch_buckets": "one"},
    "behind pgbouncer": {"database_pooler": "pgbouncer"},
    "small batches": {"lanes": "3", "batch_size": "2"},
}


@pytest.mark.requirement("L13", "O8")
@pytest.mark.parametrize("settings", DATABASES.values(), ids=DATABASES)
async def test_a_batch_over_accounts_is_exact_and_each_item_fails_alone(
    tmp_path: Path, ledger_dsn: str, settings: dict[str, str]
) -> None:
    async with running_ledger(tmp_path, ledger_dsn, **settings) as books:
        accounts = [await books.account(f"acme-{number}", owns=250) for number in range(8)]
        runs = [books.run(account) for account in accounts for _ in range(3)]
        requests = [run.authorize_request() for run in runs]
        requests.append(books.run("accounts/nobody").authorize_request())
        answer = await books.router.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        held = [not result.HasField("error") for result in answer.results]
        # Of three holds of 100 on 250 the first two by order of arrival are granted.
        assert held == [True, True, False] * 8 + [False]
        assert read_status(answer.results[2].error).reason == "INSUFFICIENT_CREDITS"
        assert read_status(answer.results[-1].error).reason == "ACCOUNT_NOT_FOUND"
        settles = [
            pb.SettleRequest(capture=run.capture_request(60))
            for run, granted in zip(runs, held, strict=False)
            if granted
        ]
        settled = await books.router.BatchSettle(pb.BatchSettleRequest(requests=settles))
        assert [r.authorization.charged_nano_credits for r in settled.results] == [60] * 16
        for account in accounts:
            assert (await books.balance(account)).posted_nano_credits == 130
        assert await consistent(books)


@pytest.mark.requirement("L13")
async def test_a_full_lane_refuses_with_a_time_to_wait(tmp_path: Path, ledger_dsn: str) -> None:
    settings = {"lanes": "1", "lane_queue": "2", "batch_size": "1"}
    async with running_ledger(tmp_path, ledger_dsn, **settings) as books:
        account = await books.account(owns=10_000)
        requests = [books.run(account).authorize_request() for _ in range(10)]
        answer = await books.router.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        granted = [result for result in answer.results if not result.HasField("error")]
        refused = [read_status(r.error) for r in answer.results if r.HasField("error")]
        assert len(granted) == 2
        assert {status.reason for status in refused} == {"OVERLOADED"}
        assert all(status.retry_after_seconds for status in refused)


@pytest.mark.requirement("L10", "L13")
async def test_names_with_quotes_and_backslashes_are_kept_as_they_are(
    tmp_path: Path, ledger_dsn: str
) -> None:
    models = ['acme/say "hi"', "acme/back\\slash", 'acme/","', "acme/{x}", "acme/null"]
    async with running_ledger(tmp_path, ledger_dsn) as books:
        account = await books.account("null", owns=100_000)
        runs = [books.run(account) for _ in models]
        requests = [run.authorize_request() for run in runs]
        for request, model in zip(requests, models, strict=True):
            request.credits.price.model = model
        answer = await books.router.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        granted = [result.response.granted for result in answer.results]
        assert [one.price.model for one in granted] == models
        for run in runs:
            await run.capture(1, end=pb.RequestEnd(succeeded=True))
        usage = await books.backend.GetUsage(usage_pb2.GetUsageRequest(account=account))
        assert sorted(row.model for row in usage.rows) == sorted(models)
        assert await consistent(books)
