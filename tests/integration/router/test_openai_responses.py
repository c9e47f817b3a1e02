# SPDX-License-Identifier: Apache-2.0
"""Models that OpenAI serves by Responses alone, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ImagePart,
    Message,
    ReasoningEffort,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
)
from services.router.providers.base import ProviderError
from simulator.tokens import IMAGE_TOKENS, answer_text
from tests.support.provider_streams import arguments_of, text_call, text_of
from tests.support.simulated_providers import faulty_key, serve_simulator
from tests.support.simulator_client import Client

pytestmark = pytest.mark.requirement("R1", "R2", "R4")

MODEL = "o3-pro"
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}'
TOOL = Tool(name="forecast", description="Tells the weather.", parameters_json=SCHEMA)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serve_simulator(slow_seconds=0.1) as simulator, aiohttp.ClientSession() as session:
        yield Client(session, simulator)


async def test_the_whole_of_a_call_is_taken_strictly(client: Client) -> None:
    call = text_call(
        model=MODEL,
        system="Be brief",
        messages=(
            Message(Role.USER, (TextPart("one two"), ImagePart("image/png", b"png"))),
            Message(Role.ASSISTANT, (TextPart("yes"), ToolCall("call_1", "forecast", "{}"))),
            Message(Role.TOOL, (ToolResult("call_1", "rain"),)),
        ),
        tools=(TOOL,),
        reasoning_effort=ReasoningEffort.LOW,
    )
    answer = await client.complete("openai", call)
    input_tokens = 2 + 2 + IMAGE_TOKENS + 1 + 1
    assert answer.text == answer_text(MODEL, input_tokens)
    assert answer.usage is not None
    assert answer.usage.input_tokens == input_tokens
    assert answer.finish_reason is FinishReason.STOP
    sent = await client.request("openai", call)
    assert sent.url.endswith("/openai/v1/responses")


async def test_a_schema_and_a_limit_are_kept(client: Client) -> None:
    schema = ResponseSchema(name="trip", schema_json=SCHEMA)
    answer = await client.complete("openai", text_call(model=MODEL, response_schema=schema))
    assert answer.text.startswith("{")
    limited = await client.complete("openai", text_call(model=MODEL, max_output_tokens=16))
    assert limited.finish_reason is FinishReason.LENGTH


async def test_a_stream_ends_with_usage_and_its_tool_call_is_whole(client: Client) -> None:
    events = await client.events("openai", text_call(model=MODEL, stream=True))
    assert text_of(events) == answer_text(MODEL, 2)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.usage is not None
    assert (end.model, end.usage.input_tokens) == (MODEL, 2)
    called = await client.events("openai", text_call(model=MODEL, stream=True, tools=(TOOL,)))
    names = [event.name for event in called if isinstance(event, ToolCallDelta) and event.name]
    assert names == ["forecast"]
    assert arguments_of(called, 0).startswith("{")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failure_in_mid_work_is_one(client: Client, *, stream: bool) -> None:
    call = text_call(model=MODEL, stream=stream)
    send = client.events if stream else client.complete
    with pytest.raises(ProviderError) as caught:
        await send("openai", call, faulty_key("openai", "midstream"))
    assert caught.value.outcome is Outcome.SERVER_ERROR
