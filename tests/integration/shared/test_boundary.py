# SPDX-License-Identifier: Apache-2.0
"""The boundary before a real server: what comes in, what goes out, what is written down."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.access import Access
from services.shared.boundary import Boundary, CallRecord, current_call
from services.shared.channel import open_channel, outbound_seconds
from services.shared.clock import SystemClock
from services.shared.config import ConfigError
from services.shared.errors import ServiceError
from services.shared.identity import (
    IDENTITIES,
    METADATA_KEY,
    ROUTER,
    call_metadata,
)
from services.shared.policy import Policy
from services.shared.secret import Secret
from services.shared.server import ServerSpec, start
from services.shared.status import RichStatus, StatusTable, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVICE = "ownkey.sample.v1.SampleService"
ECHO, STREAM, HIDDEN = (f"/{SERVICE}/{name}" for name in ("Echo", "Stream", "Hidden"))
EVERYBODY = IDENTITIES | {"anonymous"}
POLICY = Policy(
    with_token=IDENTITIES,
    grants={
        **{(identity, rpc): None for identity in EVERYBODY for rpc in (ECHO, STREAM)},
        (ROUTER, HIDDEN): None,
    },
)
CANARY = "sk-proj-canary-0123456789abcdef"


class SampleGoneError(ServiceError):
    """A business failure."""


TABLE = StatusTable("sample.ownkey", {SampleGoneError: (grpc.StatusCode.NOT_FOUND, "SAMPLE_GONE")})


async def echo(request: StringValue, _context: Any) -> StringValue:
    match request.value:
        case "gone":
            raise SampleGoneError("it is gone", metadata={"sample": "7"})
        case "bug":
            raise ValueError(CANARY)
        case "slow":
            await asyncio.sleep(30)
        case "identity":
            call = current_call()
            assert call
            return StringValue(value=f"{call.identity} {outbound_seconds(600) <= 60}")
    return request


async def stream(request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
    for number in range(3):
        yield StringValue(value=str(number))
    if request.value == "gone":
        raise SampleGoneError("it is gone")


def register(server: grpc.aio.Server) -> None:
    codec = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo, **codec),
        "Hidden": grpc.unary_unary_rpc_method_handler(echo, **codec),
        "Stream": grpc.unary_stream_rpc_method_handler(stream, **codec),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])


class Sample:
    """A running server and a channel to it."""

    def __init__(self, channel: grpc.aio.Channel, tokens: dict[str, str], port: int) -> None:
        self.channel, self.tokens, self.port = channel, tokens, port
        self.records: list[CallRecord] = []

    def unary(self, rpc: str) -> Any:
        return self.channel.unary_unary(rpc, StringValue.SerializeToString, StringValue.FromString)

    async def say(self, value: str, *, rpc: str = ECHO, **options: Any) -> str:
        reply = await self.unary(rpc)(StringValue(value=value), **options)
        return str(reply.value)

    async def failure(self, value: str, *, rpc: str = ECHO, **options: Any) -> RichStatus:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.say(value, rpc=rpc, **options)
        return from_rpc_error(failure.value)


@asynccontextmanager
async def serving(folder: Path, *, in_flight_max: int = 100) -> AsyncIterator[Sample]:
    tokens = {}
    for name in IDENTITIES:
        tokens[name] = f"token-of-{name}"
        (folder / name).write_text(tokens[name])
        (folder / name).chmod(0o600)
    records: list[CallRecord] = []
    boundary = Boundary(
        table=TABLE,
        access=Access(POLICY, tokens_dir=folder, clock=SystemClock()),
        clock=SystemClock(),
        in_flight_max=in_flight_max,
        observe=records.append,
    )
    spec = ServerSpec("127.0.0.1:0", [SERVICE], register, boundary, drain_seconds=1)
    running = await start(spec)
    async with open_channel(f"127.0.0.1:{running.port}") as channel:
        sample = Sample(channel, tokens, running.port)
        sample.records = records
        yield sample
    await running.stop()


@pytest.mark.requirement("O3")
async def test_an_answer_passes_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as sample:
        assert await sample.say("hello") == "hello"


@pytest.mark.requirement("O3", "R11")
async def test_a_business_failure_keeps_its_reason_and_metadata(tmp_path: Path) -> None:
    async with serving(tmp_path) as sample:
        failure = await sample.failure("gone")
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SAMPLE_GONE")
    assert failure.metadata == {"sample": "7"}


@pytest.mark.requirement("K8")
async def test_a_bug_answers_a_fixed_sentence(tmp_path: Path) -> None:
    async with serving(tmp_path) as sample:
        failure = await sample.failure("bug")
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "canary" not in failure.message


@pytest.mark.requirement("O5")
class TestIdentity:
    async def test_without_a_token_a_caller_is_anonymous(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            assert await sample.say("identity") == "anonymous True"

    async def test_a_token_names_its_identity(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            metadata = call_metadata(Secret(sample.tokens[ROUTER]))
            assert await sample.say("identity", metadata=metadata) == "router True"
            assert await sample.say("hello", rpc=HIDDEN, metadata=metadata) == "hello"

    async def test_an_unknown_token_is_refused(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            failure = await sample.failure("hello", metadata=((METADATA_KEY, "Bearer guess"),))
        assert failure.reason == "UNAUTHENTICATED"
        assert "guess" not in failure.message

    async def test_what_the_policy_does_not_list_is_denied(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            failure = await sample.failure("hello", rpc=HIDDEN)
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ACCESS_DENIED",
        )


class TestLimits:
    async def test_a_deadline_that_passes_is_told(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await sample.say("slow", timeout=0.1)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_too_many_calls_at_once_are_refused_with_a_hint(self, tmp_path: Path) -> None:
        async with serving(tmp_path, in_flight_max=1) as sample:
            outcomes = await asyncio.gather(
                *(sample.say("slow", timeout=0.3) for _ in range(3)), return_exceptions=True
            )
        refused = [
            from_rpc_error(outcome)
            for outcome in outcomes
            if isinstance(outcome, grpc.aio.AioRpcError)
            and outcome.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        ]
        assert [failure.reason for failure in refused] == ["OVERLOADED"] * 2
        assert all(failure.retry_after_seconds for failure in refused)

    async def test_a_taken_port_is_said_in_a_sentence(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            boundary = Boundary(
                table=TABLE,
                access=Access(Policy(grants={}), tokens_dir=None, clock=SystemClock()),
                clock=SystemClock(),
            )
            spec = ServerSpec(f"127.0.0.1:{sample.port}", [SERVICE], register, boundary)
            with pytest.raises(ConfigError, match="another process has the port"):
                await start(spec)


class TestStreams:
    async def test_messages_come_in_order_then_the_failure(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            call = sample.channel.unary_stream(
                STREAM, StringValue.SerializeToString, StringValue.FromString
            )(StringValue(value="gone"))
            got = [(await call.read()).value for _ in range(3)]
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call.read()
        assert got == ["0", "1", "2"]
        assert from_rpc_error(failure.value).reason == "SAMPLE_GONE"


@pytest.mark.requirement("O6")
class TestRecords:
    async def test_every_call_is_observed_once_with_code_and_reason(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            await sample.say("hello")
            await sample.failure("gone")
            await sample.failure("hello", rpc=HIDDEN)
            seen = [(record.rpc, record.code, record.reason) for record in sample.records]
        assert seen == [
            (ECHO, "OK", ""),
            (ECHO, "NOT_FOUND", "SAMPLE_GONE"),
            (HIDDEN, "PERMISSION_DENIED", "ACCESS_DENIED"),
        ]

    async def test_one_line_is_written_for_a_call(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as sample:
            with structlog.testing.capture_logs() as lines:
                await sample.say("hello")
        lines = [line for line in lines if line["event"] == "rpc"]
        assert [(line["rpc"], line["code"]) for line in lines] == [(ECHO, "OK")]


@pytest.mark.requirement("O3")
async def test_health_is_served_and_turns_with_a_graceful_stop(tmp_path: Path) -> None:
    async with serving(tmp_path) as sample:
        stub = health_pb2_grpc.HealthStub(sample.channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
