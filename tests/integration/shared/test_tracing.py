# SPDX-License-Identifier: Apache-2.0
"""Spans on their way to a real collector: what they belong to, and what is left out of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.local.processes import free_port
from services.router.adapters.batching import Batcher
from services.shared import otlp, tracing
from services.shared.otlp import OtlpTracer
from services.shared.tracing import NO_SPAN
from tests.support.collector import Collector, TakenSpan, collecting
from tests.support.tls import Issuer

CANARY = f"canary{secrets.token_hex(8)}"

pytestmark = pytest.mark.requirement("O6")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def tracer(collector: Collector) -> Iterator[OtlpTracer]:
    """Traces every request of this process."""
    tracer = OtlpTracer(collector.endpoint, service="sample", ratio=1.0)
    with tracing.use(tracer), closing(tracer):
        yield tracer


def begun(*, sampled: bool = True) -> tuple[str, str]:
    """A trace that a caller has begun, and its header."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-{'01' if sampled else '00'}"


def is_sampled(header: str) -> bool:
    """Whether a header says so: https://www.w3.org/TR/trace-context/#sampled-flag ."""
    return bool(int(header.rpartition("-")[2], 16) & 1)


def arrived(collector: Collector, tracer: OtlpTracer) -> dict[str, TakenSpan]:
    """All spans that have ended, by name, once they have been sent."""
    tracer._provider.force_flush()
    return {one.name: one for one in collector.spans()}


class TestSpans:
    async def test_a_task_that_outlives_its_call_stays_in_its_trace(
        self, collector: Collector, tracer: OtlpTracer
    ) -> None:
        trace_id, header = begun()

        async def later() -> None:
            with tracing.span("later", kind="late"):
                pass

        async def call() -> asyncio.Task[None]:
            with tracing.serving("call", header):
                return asyncio.create_task(later())

        await (await asyncio.create_task(call()))
        found = arrived(collector, tracer)
        assert found["later"].trace_id == trace_id
        assert found["later"].parent_id == found["call"].span_id
        assert found["later"].attributes == {"kind": "late"}

    async def test_a_failure_is_marked_by_its_kind_and_never_by_its_text(
        self, collector: Collector, tracer: OtlpTracer
    ) -> None:
        def fail() -> None:
            with tracing.span("part"):
                raise ValueError(CANARY)

        with tracing.serving("call", ""), pytest.raises(ValueError, match=CANARY):
            fail()
        part = arrived(collector, tracer)["part"]
        assert part.failed
        assert part.attributes == {"error.type": "ValueError"}
        assert CANARY.encode() not in b"".join(collector.bodies)

    async def test_of_what_a_caller_sends_only_the_trace_is_taken_over(
        self, collector: Collector, tracer: OtlpTracer
    ) -> None:
        trace_id, header = begun()
        metadata = (
            ("tracestate", f"vendor={CANARY}"),
            ("baggage", CANARY),
            ("traceparent", header),
        )
        with tracing.serving("call", tracing.header_in(metadata)):
            assert tracing.header().startswith(f"00-{trace_id}-")
        arrived(collector, tracer)
        assert CANARY.encode() not in b"".join(collector.bodies)

    @pytest.mark.parametrize("header", ["", "00", "garbage" * 100, f"00-{'0' * 32}-{'1' * 16}-01"])
    async def test_a_header_that_is_none_begins_a_trace(
        self, collector: Collector, tracer: OtlpTracer, header: str
    ) -> None:
        with tracing.serving("call", header) as span:
            assert len(span.trace_id) == 32
        assert arrived(collector, tracer)["call"].parent_id == ""

    async def test_outside_of_a_call_nothing_is_traced(self, tracer: OtlpTracer) -> None:
        assert tracing.span("part") is NO_SPAN
        assert tracing.calling("part") is NO_SPAN
        assert tracing.header() == ""

    def test_a_process_that_was_told_of_no_collector_traces_nothing(self) -> None:
        assert not tracing.active()
        with tracing.serving("call", begun()[1]) as call, tracing.span("part") as part:
            assert call is part is NO_SPAN
            assert tracing.current() is None
            assert tracing.header() == ""


class TestSampling:
    async def test_a_caller_has_decided_already(self, collector: Collector) -> None:
        tracer = OtlpTracer(collector.endpoint, service="sample", ratio=0.0)
        with tracing.use(tracer), closing(tracer):
            left_out, header = begun(sampled=False)
            with tracing.serving("left out", header):
                assert tracing.span("part") is NO_SPAN
                assert tracing.header().startswith(f"00-{left_out}-")
                assert not is_sampled(tracing.header())
            with tracing.serving("begun here", ""):
                assert not is_sampled(tracing.header())
            with tracing.serving("kept", begun()[1]), tracing.span("part of it"):
                pass
        names = {one.name for one in collector.spans()}
        assert names == {"kept", "part of it"}


class TestWorkForMany:
    async def test_a_batch_stands_in_one_trace_and_is_linked_to_the_others(
        self, collector: Collector, tracer: OtlpTracer
    ) -> None:
        headers: list[str] = []

        async def send(items: Sequence[int]) -> Sequence[int]:
            headers.append(tracing.header())
            await asyncio.sleep(0)
            return items

        batcher = Batcher(send)

        async def call(number: int, header: str) -> None:
            with tracing.serving(f"call {number}", header):
                await batcher.submit(number)

        sampled = [begun() for _ in range(4)]
        left_out = begun(sampled=False)
        calls = [*sampled[:2], left_out, *sampled[2:]]
        # The first two find a sender idle; the others are sent together behind them.
        await asyncio.gather(*(call(n, header) for n, (_, header) in enumerate(calls)))
        arrived(collector, tracer)
        batches = [one for one in collector.spans() if one.name == "batch"]
        assert sum(one.attributes["items"] for one in batches) == 5
        traced = [trace for one in batches for trace in (one.trace_id, *one.links)]
        assert sorted(traced) == sorted(trace_id for trace_id, _ in sampled)
        assert all(map(is_sampled, headers))

    async def test_where_none_is_sampled_what_is_called_keeps_to_it(
        self, collector: Collector, tracer: OtlpTracer
    ) -> None:
        trace_id, header = begun(sampled=False)
        with tracing.serving("call", header):
            place = tracing.current()
        with tracing.shared("batch", [None, place]):
            assert tracing.header().startswith(f"00-{trace_id}-")
            assert not is_sampled(tracing.header())


class TestOverTls:
    async def test_a_collector_is_held_to_the_authority_that_was_named(
        self, tmp_path: Path
    ) -> None:
        files = Issuer().issue(tmp_path / "collector", "collector")
        others = Issuer("two").issue(tmp_path / "other", "other")
        with collecting(files) as collector:
            for name, authority in (("trusted", files.ca), ("not trusted", others.ca)):
                tracer = OtlpTracer(
                    collector.endpoint, service="sample", ratio=1.0, ca_file=authority
                )
                with tracing.use(tracer), tracing.serving(name, ""):
                    pass
                await asyncio.to_thread(tracer.close)
        assert {one.name for one in collector.spans()} == {"trusted"}


class TestCollectorAway:
    async def test_nothing_waits_and_the_oldest_are_lost(
        self,
    ) -> None:
        ended, sent = otlp.SPANS_ENDED, otlp.SPANS_SENT
        before = ended._value.get() - sent._value.get()
        tracer = OtlpTracer(f"http://127.0.0.1:{free_port()}", service="sample", ratio=1.0)
        count = otlp.QUEUE_SPANS_MAX + 1000
        with capture_logs() as lines:
            with tracing.use(tracer):
                for _ in range(count):
                    with tracing.serving("call", ""):
                        pass
            await asyncio.to_thread(tracer.close)
        assert ended._value.get() - sent._value.get() - before == count
        assert [one["event"] for one in lines] == ["traces_not_sent"]
