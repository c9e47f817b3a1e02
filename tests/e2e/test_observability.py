# SPDX-License-Identifier: Apache-2.0
"""What people on call see of a running suite: one trace across it, its metrics, its log lines."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import text_pb2
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.clients import Clients
from deploy.local.suite import STORED_IN, Suite
from services.shared.ids import new_id
from tests.e2e.support import (
    MODELS,
    add_key,
    clients_of,
    generate,
    new_account,
    question,
    refusal,
    running_suite,
)
from tests.support.collector import Collector, TakenSpan, collecting
from tests.support.metrics_reference import LABELS

CANARY = f"canary{secrets.token_hex(12)}"
ID = re.compile(r"(accounts|keys|jobs|requests)/|[0-9a-f]{8}-?[0-9a-f]{4}|@")
"""Resource names, UUIDs, hexadecimal ids of our own making, addresses of people."""
SERVER, CLIENT = 2, 3
"""Kinds of spans, as OTLP numbers them."""

pytestmark = [pytest.mark.requirement("O6"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Suite]:
    """A suite whose metrics can be read, and whose every request is traced."""
    traced = {"OTLP_ENDPOINT": collector.endpoint, "TRACE_RATIO": "1"}
    environ = dict.fromkeys(STORED_IN, traced)
    folder = tmp_path_factory.mktemp("observed") / "state"
    with running_suite(folder, metrics=True, environ=environ) as running:
        yield running


@pytest_asyncio.fixture
async def clients(suite: Suite) -> AsyncIterator[Clients]:
    async with clients_of(suite) as stubs:
        yield stubs


def new_trace() -> tuple[str, str]:
    """A trace that a caller has begun, and its `traceparent`."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


def calls_of(spans: list[TakenSpan], service: str, rpc: str) -> list[TakenSpan]:
    """The server spans of an RPC."""
    name = f"ownkey.{service}.v1.{service.title()}Service/{rpc}"
    return [one for one in spans if one.name == name and one.kind == SERVER]


def call_of(spans: list[TakenSpan], service: str, rpc: str) -> TakenSpan | None:
    """The first server span of an RPC."""
    return next(iter(calls_of(spans, service, rpc)), None)


def is_below(spans: list[TakenSpan], lower: TakenSpan, upper: TakenSpan) -> bool:
    """Whether one span is a part of another, however deep."""
    by_id = {one.span_id: one for one in spans}
    at: TakenSpan | None = lower
    while at is not None and at is not upper:
        at = by_id.get(at.parent_id)
    return at is upper


async def generated(clients: Clients, account: str, header: str, *, request_id: str = "") -> None:
    """Generate, as a part of a caller's trace."""
    request = text_pb2.GenerateTextRequest(
        account=account,
        request_id=request_id or new_id(),
        model=MODELS["openai"],
        input=question(f"what does the {CANARY} sing?"),
    )
    await clients.router.GenerateText(request, metadata=(("traceparent", header),))


def lines_of(suite: Suite, service: str) -> list[dict[str, Any]]:
    """The canonical lines of a service's log."""
    text = (suite.state.logs / f"{service}.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "rpc"]


async def metrics_of(suite: Suite, service: str) -> str:
    address = f"http://{suite.metrics_address(service)}/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        answer.raise_for_status()
        return await answer.text()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a reading, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestTraces:
    async def test_one_trace_spans_all_services_and_the_provider_call(
        self, clients: Clients, collector: Collector
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        await add_key(clients, account)
        trace_id, header = new_trace()
        await generated(clients, account, header)
        wanted = {
            "plan",
            "authorize",
            "settle",
            "provider call",
            "unwrap",
            "batch commit",
            "ownkey.keyvault.v1.KeyvaultService/ResolveKeys",
            "ownkey.ledger.v1.LedgerService/BatchAuthorize",
            "ownkey.ledger.v1.LedgerService/BatchSettle",
        }
        spans = collector.wait(
            lambda found: (
                wanted <= {one.name for one in found}
                and call_of(found, "ledger", "BatchSettle") is not None
                and call_of(found, "router", "GenerateText") is not None
                and call_of(found, "keyvault", "ResolveKeys") is not None
            ),
            trace_id=trace_id,
        )
        root = call_of(spans, "router", "GenerateText")
        assert root is not None
        assert root.attributes["rpc.grpc.status_code"] == 0
        assert all(is_below(spans, one, root) for one in spans)
        services = {one.service for one in spans}
        assert services == {"ownkey-router", "ownkey-keyvault", "ownkey-ledger"}
        (provider,) = (one for one in spans if one.name == "provider call")
        assert provider.kind == CLIENT
        assert provider.attributes == {
            "provider": "openai",
            "model": "openai/gpt-4o-mini",
            "funding": "OWN_KEY",
            "outcome": "served",
        }
        assert not any(one.failed for one in spans)

    async def test_the_http_door_takes_a_callers_trace_up(
        self, suite: Suite, clients: Clients, collector: Collector
    ) -> None:
        account = await new_account(clients)
        trace_id, header = new_trace()
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": CANARY}]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://{suite.addresses.http}/v1/chat/completions",
                json=body,
                headers={"traceparent": header, "X-Ownkey-Account": account},
            ) as answer,
        ):
            assert answer.status == 200
        spans = collector.wait(
            lambda found: (
                {"POST /v1/chat/completions", "provider call"} <= {one.name for one in found}
            ),
            trace_id=trace_id,
        )
        (root,) = (one for one in spans if one.name.startswith("POST"))
        assert root.attributes["http.response.status_code"] == 200

    async def test_a_caller_that_does_not_sample_is_followed(
        self, suite: Suite, clients: Clients, collector: Collector
    ) -> None:
        account = await new_account(clients)
        trace_id, header = new_trace()
        await generated(clients, account, header.removesuffix("01") + "00")
        # A request that is sampled goes the same ways after it.
        later, header = new_trace()
        await generated(clients, account, header)
        collector.wait(
            lambda found: call_of(found, "ledger", "BatchSettle") is not None, trace_id=later
        )
        assert collector.spans(trace_id) == []
        lines = lines_of(suite, "ledger")
        assert trace_id in {line["trace_id"] for line in lines}

    async def test_no_span_names_an_account_a_prompt_or_a_key(
        self, clients: Clients, collector: Collector
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        key = await add_key(clients, account)
        trace_id, header = new_trace()
        await generated(clients, account, header)
        collector.wait(
            lambda found: call_of(found, "router", "GenerateText") is not None, trace_id=trace_id
        )
        sent = b"".join(collector.bodies)
        for text in (account, account.removeprefix("accounts/"), CANARY, key.secret, key.hint):
            assert text.encode() not in sent


class TestMetrics:
    async def test_each_service_counts_its_rpcs_and_what_it_is_for(
        self, suite: Suite, clients: Clients
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        await add_key(clients, account)
        await generate(clients, account)
        found = {service: samples(await metrics_of(suite, service)) for service in STORED_IN}
        for service, rpc in (
            ("router", "GenerateText"),
            ("keyvault", "ResolveKeys"),
            ("ledger", "BatchAuthorize"),
        ):
            name = f"/ownkey.{service}.v1.{service.title()}Service/{rpc}"
            assert found[service]["ownkey_rpc_calls_total", (("code", "OK"), ("rpc", name))] >= 1
        served = (
            ("funding", "OWN_KEY"),
            ("model", "openai/gpt-4o-mini"),
            ("outcome", "served"),
            ("provider", "openai"),
        )
        assert found["router"]["ownkey_router_provider_calls_total", served] >= 1
        assert found["router"]["ownkey_router_key_lease_age_seconds_count", ()] >= 1
        by_own_key = (("funding", "OWN_KEY"),)
        assert found["ledger"]["ownkey_ledger_settled_attempts_total", by_own_key] >= 1
        assert found["ledger"]["ownkey_ledger_batch_commands_count", ()] >= 2
        assert found["keyvault"]["ownkey_keyvault_cache_entries", ()] >= 1
        assert found["keyvault"]["ownkey_keyvault_kek_used_timestamp_seconds", ()] > 0
        assert found["keyvault"]["ownkey_database_wait_seconds_count", ()] >= 1

    async def test_a_model_that_the_catalogue_does_not_name_is_no_label(
        self, suite: Suite, clients: Clients
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        await add_key(clients, account)
        status = await refusal(generate(clients, account, model=f"openai/{CANARY}"))
        assert status.code is grpc.StatusCode.NOT_FOUND
        text = await metrics_of(suite, "router")
        assert CANARY not in text
        assert 'model="other"' in text

    async def test_no_reading_names_an_account_a_prompt_or_a_key(
        self, suite: Suite, clients: Clients
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        key = await add_key(clients, account)
        await generated(clients, account, new_trace()[1])
        for service in STORED_IN:
            text = await metrics_of(suite, service)
            for secret in (account.removeprefix("accounts/"), CANARY, key.secret, key.hint):
                assert secret not in text
            assert suite.operator_token not in text

    async def test_every_label_is_listed_and_none_has_an_id_for_a_value(
        self, suite: Suite, clients: Clients
    ) -> None:
        """Accounts, keys, requests and traces are as many as customers make: no label names one."""
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        await add_key(clients, account)
        await generated(clients, account, new_trace()[1])
        for service in STORED_IN:
            labels = {
                label
                for (name, found) in samples(await metrics_of(suite, service))
                if name.startswith("ownkey_")
                for label in found
            }
            assert {name for name, _ in labels} <= {*LABELS, "le"}
            assert [value for _, value in labels if ID.search(value)] == []


class TestLines:
    async def test_each_call_has_one_line_with_its_trace(
        self, suite: Suite, clients: Clients
    ) -> None:
        account = await new_account(clients)
        trace_id, header = new_trace()
        request_id = new_id()
        await generated(clients, account, header, request_id=request_id)
        lines = [one for one in lines_of(suite, "router") if one["trace_id"] == trace_id]
        (line,) = lines
        assert line["request_id"] == request_id
        assert (line["account"], line["code"], line["reason"]) == (account, "OK", "")
        assert line["identity"] == "anonymous"
        assert line["rpc"].endswith("RouterService/GenerateText")
        assert line["duration_ms"] > 0
        assert CANARY not in json.dumps(line)

    async def test_each_call_between_the_services_has_one_line_in_the_same_trace(
        self, suite: Suite, clients: Clients, collector: Collector
    ) -> None:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        await add_key(clients, account)
        trace_id, header = new_trace()
        await generated(clients, account, header)
        calls = (
            ("router", "GenerateText"),
            ("keyvault", "ResolveKeys"),
            ("ledger", "BatchAuthorize"),
            ("ledger", "BatchSettle"),
        )

        def lines(service: str, rpc: str) -> list[dict[str, Any]]:
            return [
                line
                for line in lines_of(suite, service)
                if line.get("trace_id") == trace_id and line["rpc"].endswith(f"/{rpc}")
            ]

        # A slow machine's router may resolve twice.
        collector.wait(
            lambda found: all(
                0 < len(calls_of(found, *call)) == len(lines(*call)) for call in calls
            ),
            trace_id=trace_id,
        )
        for service, rpc in calls:
            line, *_ = lines(service, rpc)
            assert line["code"] == "OK"
            assert line["identity"] == ("anonymous" if service == "router" else "router")
