# SPDX-License-Identifier: Apache-2.0
"""What routers share through keyvault, on a real database: limits in slices, and outages."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2
from ownkey.keyvault.v1 import sharing_pb2

from tests.support.keyvault import RunningKeyvault, database, new_request_id, refusal

SHARED = "accounts/platform/keys/one"
DEMO = "accounts/demo"


def wish(requests: int, **fields: Any) -> sharing_pb2.AllotmentWish:
    """Give a wish for requests on the shared key."""
    return sharing_pb2.AllotmentWish(key=SHARED, request_count=requests, **fields)


def outage(model: str, seconds: float) -> sharing_pb2.Outage:
    """Give an outage of a model at OpenAI."""
    remaining = duration_pb2.Duration()
    remaining.FromTimedelta(timedelta(seconds=seconds))
    return sharing_pb2.Outage(
        provider="openai", host="api.openai.com", model=model, remaining=remaining
    )


async def lease(
    vaulted: RunningKeyvault, *wishes: sharing_pb2.AllotmentWish
) -> list[sharing_pb2.Allotment]:
    """Lease as the router does."""
    request = sharing_pb2.LeaseAllotmentsRequest(wishes=wishes)
    return list(
        (await vaulted.stub.LeaseAllotments(request, metadata=vaulted.as_router)).allotments
    )


async def limit(vaulted: RunningKeyvault, requests: int | None) -> None:
    """Limit the shared key, as an operator."""
    request = sharing_pb2.SetSharedLimitRequest(key=SHARED, requests_per_minute=requests)
    await vaulted.stub.SetSharedLimit(request, metadata=vaulted.as_operator)


async def used(vaulted: RunningKeyvault) -> tuple[int | None, int]:
    """Read the shared key's limit, and how much of it is leased, as an operator."""
    request = sharing_pb2.GetSharedLimitRequest(key=SHARED)
    answer = await vaulted.stub.GetSharedLimit(request, metadata=vaulted.as_operator)
    limited = answer.HasField("requests_per_minute")
    return answer.requests_per_minute if limited else None, answer.leased_request_count


async def later(vaulted: RunningKeyvault, *, slots: int) -> None:
    """Make what was leased so many slots of five seconds older."""
    async with database(vaulted.dsn) as connection:
        await connection.execute("UPDATE allotments SET slot = slot - $1", slots)


async def exchange(vaulted: RunningKeyvault, *found: sharing_pb2.Outage) -> dict[str, timedelta]:
    """Exchange outages as a router does; gives those that stand, by model."""
    request = sharing_pb2.ExchangeOutagesRequest(found=found)
    response = await vaulted.stub.ExchangeOutages(request, metadata=vaulted.as_router)
    return {item.model: item.remaining.ToTimedelta() for item in response.outages}


@pytest.fixture
async def shared(vaulted: RunningKeyvault) -> RunningKeyvault:
    """A keyvault that holds one shared key."""
    await vaulted.create(account="platform", key_id="one", metadata=vaulted.as_operator)
    return vaulted


class TestLimits:
    @pytest.mark.requirement("K16", "R10")
    async def test_what_routers_lease_at_once_never_adds_up_to_more(
        self, shared: RunningKeyvault
    ) -> None:
        """Also across the end of a slot; what is refused says when something can be had again."""
        await limit(shared, 100)
        answers = await asyncio.gather(*(lease(shared, wish(3)) for _ in range(60)))
        slices = [allotment for [allotment] in answers]
        assert sum(piece.request_count for piece in slices) == 100
        assert {piece.requests_per_minute for piece in slices} == {100}
        assert all(0 <= piece.remaining_millis <= 5_000 for piece in slices)
        assert {p.free_in_millis for p in slices if p.request_count} == {0}
        assert all(50_000 < p.free_in_millis <= 65_000 for p in slices if not p.request_count)
        assert await used(shared) == (100, 100)

    @pytest.mark.requirement("K16", "R10")
    async def test_it_comes_back_a_minute_after_its_slot(self, shared: RunningKeyvault) -> None:
        await limit(shared, 5)
        assert (await lease(shared, wish(9)))[0].request_count == 5
        await later(shared, slots=12)
        assert (await lease(shared, wish(9)))[0].request_count == 0
        await later(shared, slots=1)
        assert (await lease(shared, wish(9)))[0].request_count == 5
        assert await used(shared) == (5, 5)

    @pytest.mark.requirement("K16", "R10")
    async def test_an_account_has_its_part(self, shared: RunningKeyvault) -> None:
        """At least one request; the parts of others, and the whole, are counted beside it."""
        await limit(shared, 10)
        part = {"account": DEMO, "part_per_million": 200_000}
        other = {"account": "accounts/other", "part_per_million": 1}
        first, second, whole = await lease(shared, wish(5, **part), wish(5, **other), wish(4))
        assert (first.request_count, first.requests_per_minute) == (2, 2)
        assert (second.request_count, second.requests_per_minute) == (1, 1)
        assert (whole.request_count, whole.requests_per_minute) == (4, 10)
        assert (await lease(shared, wish(5, **part)))[0].request_count == 0
        await later(shared, slots=20)
        assert (await lease(shared, wish(5, **part)))[0].request_count == 2
        async with database(shared.dsn) as connection:
            kept = await connection.fetch("SELECT customer FROM allotments")
        assert {row["customer"] for row in kept} == {"", "demo"}

    @pytest.mark.requirement("K16", "R10")
    async def test_a_part_of_a_key_without_a_limit_is_counted_all_the_same(
        self, shared: RunningKeyvault
    ) -> None:
        """Of six thousand requests of a minute; the key as a whole stays free."""
        part = wish(5, account=DEMO, part_per_million=500)
        capped, whole = await lease(shared, part, wish(5))
        assert (capped.request_count, capped.requests_per_minute) == (3, 3)
        assert whole.unlimited
        assert (await lease(shared, part))[0].request_count == 0
        assert await used(shared) == (None, 0)
        await limit(shared, 4_000)
        assert (await lease(shared, part))[0].requests_per_minute == 2
        await limit(shared, None)
        assert (await lease(shared, part))[0].request_count == 0

    @pytest.mark.requirement("K16")
    async def test_without_a_limit_it_says_so(self, shared: RunningKeyvault) -> None:
        assert (await lease(shared, wish(5)))[0].unlimited
        await limit(shared, 1)
        assert not (await lease(shared, wish(5)))[0].unlimited
        await limit(shared, None)
        [piece] = await lease(shared, wish(5))
        assert piece.unlimited
        assert 0 <= piece.remaining_millis <= 5_000
        assert await used(shared) == (None, 0)

    @pytest.mark.requirement("K16", "K13")
    async def test_a_limit_goes_with_its_key_and_is_on_the_trail(
        self, shared: RunningKeyvault
    ) -> None:
        await limit(shared, 1)
        events = await shared.stub.ListAuditEvents(
            service_pb2.ListAuditEventsRequest(parent="accounts/platform"),
            metadata=shared.as_operator,
        )
        details = [event.details for event in events.audit_events]
        assert any(item.get("requests_per_minute") == "1" for item in details)
        await shared.stub.DeleteKey(
            service_pb2.DeleteKeyRequest(name=SHARED, request_id=new_request_id()),
            metadata=shared.as_operator,
        )
        assert (await lease(shared, wish(1)))[0].unlimited

    @pytest.mark.requirement("K16")
    async def test_only_operators_limit_and_only_the_router_leases(
        self, shared: RunningKeyvault
    ) -> None:
        set_limit = sharing_pb2.SetSharedLimitRequest(key=SHARED, requests_per_minute=1)
        read = sharing_pb2.GetSharedLimitRequest(key=SHARED)
        asked = sharing_pb2.LeaseAllotmentsRequest(wishes=[wish(1)])
        for call in (
            shared.stub.SetSharedLimit(set_limit),
            shared.stub.SetSharedLimit(set_limit, metadata=shared.as_router),
            shared.stub.GetSharedLimit(read, metadata=shared.as_router),
            shared.stub.LeaseAllotments(asked, metadata=shared.as_operator),
        ):
            assert (await refusal(call)).code is grpc.StatusCode.PERMISSION_DENIED

    @pytest.mark.requirement("K16")
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"key": "accounts/demo/keys/main", "requests_per_minute": 1}, "key"),
            ({"key": SHARED, "requests_per_minute": 0}, "requests_per_minute"),
            ({"key": SHARED, "requests_per_minute": 10**9 + 1}, "requests_per_minute"),
        ],
    )
    async def test_a_limit_that_makes_no_sense_is_named(
        self, shared: RunningKeyvault, fields: dict[str, Any], field: str
    ) -> None:
        request = sharing_pb2.SetSharedLimitRequest(**fields)
        status = await refusal(shared.stub.SetSharedLimit(request, metadata=shared.as_operator))
        assert status.metadata["field"] == field

    @pytest.mark.requirement("K16")
    async def test_a_key_that_is_not_there_has_no_limit_to_read_or_set(
        self, shared: RunningKeyvault
    ) -> None:
        gone = "accounts/platform/keys/gone"
        for call in (
            shared.stub.GetSharedLimit(
                sharing_pb2.GetSharedLimitRequest(key=gone), metadata=shared.as_operator
            ),
            shared.stub.SetSharedLimit(
                sharing_pb2.SetSharedLimitRequest(key=gone), metadata=shared.as_operator
            ),
        ):
            assert (await refusal(call)).reason == "KEY_NOT_FOUND"

    @pytest.mark.requirement("K16")
    @pytest.mark.parametrize(
        ("wishes", "field"),
        [
            ([], "wishes"),
            ([wish(1), wish(2)], "wishes"),
            ([wish(0)], "wishes[0].request_count"),
            ([wish(1, account=DEMO)], "wishes[0].part_per_million"),
        ],
    )
    async def test_a_wish_that_makes_no_sense_is_named(
        self, shared: RunningKeyvault, wishes: list[Any], field: str
    ) -> None:
        request = sharing_pb2.LeaseAllotmentsRequest(wishes=wishes)
        status = await refusal(shared.stub.LeaseAllotments(request, metadata=shared.as_router))
        assert status.metadata["field"] == field


class TestOutages:
    @pytest.mark.requirement("R10", "R11")
    async def test_what_one_router_found_every_router_hears(self, vaulted: RunningKeyvault) -> None:
        assert await exchange(vaulted) == {}
        await exchange(vaulted, outage("openai/a", 60), outage("openai/b", 30))
        told = await exchange(vaulted)
        assert list(told) == ["openai/a", "openai/b"]
        assert timedelta(seconds=20) < told["openai/b"] <= timedelta(seconds=30)

    @pytest.mark.requirement("R10", "R11")
    async def test_a_later_end_extends_and_an_earlier_one_never_shortens(
        self, vaulted: RunningKeyvault
    ) -> None:
        await exchange(vaulted, outage("openai/a", 60))
        assert (await exchange(vaulted, outage("openai/a", 10)))["openai/a"].seconds > 40
        assert (await exchange(vaulted, outage("openai/a", 120)))["openai/a"].seconds > 100

    @pytest.mark.requirement("R10")
    async def test_one_that_is_over_is_forgotten(self, vaulted: RunningKeyvault) -> None:
        await exchange(vaulted, outage("openai/a", 60))
        async with database(vaulted.dsn) as connection:
            await connection.execute("UPDATE outages SET until_time = now()")
        assert await exchange(vaulted) == {}
        assert list(await exchange(vaulted, outage("openai/b", 60))) == ["openai/b"]
        async with database(vaulted.dsn) as connection:
            assert await connection.fetchval("SELECT count(*) FROM outages") == 1

    @pytest.mark.requirement("R10")
    @pytest.mark.parametrize(
        ("found", "field"),
        [
            ([outage("", 1)], "found[0].model"),
            ([outage("openai/a", 0)], "found[0].remaining"),
            ([outage("openai/a", 301)], "found[0].remaining"),
            ([outage("openai/a", 1)] * 101, "found"),
        ],
    )
    async def test_an_outage_that_makes_no_sense_is_named(
        self, vaulted: RunningKeyvault, found: list[Any], field: str
    ) -> None:
        request = sharing_pb2.ExchangeOutagesRequest(found=found)
        status = await refusal(vaulted.stub.ExchangeOutages(request, metadata=vaulted.as_router))
        assert status.metadata["field"] == field
