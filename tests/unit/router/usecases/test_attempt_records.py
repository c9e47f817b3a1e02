# SPDX-License-Identifier: Apache-2.0
"""What every answer says of each attempt, whole or streamed, and in which message."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf import duration_pb2
from ownkey.router.v1 import attempt_pb2 as pb

from services.router.domain.attempts import AttemptBilled, AttemptRecord, UsageBasis
from services.router.domain.plan import Funding
from services.router.domain.text import Usage
from services.router.rpc import mapping_text
from services.router.usecases.engine import Ended, Event
from tests.support.engine import FakeAnswer, FakeTransport
from tests.support.stage import DOWN, END, KEY, MODEL, Stage, chunk

POOR = FakeAnswer(429, (b'{"error":{"code":"insufficient_quota"}}',))
PRICE = 7
"""Five tokens in, two out, a nano-USD each."""


async def ended(stage: Stage, pause: asyncio.Event) -> list[Event]:
    """Run a request whose provider takes two seconds to answer."""
    reading = asyncio.create_task(stage.events())
    await stage.reached(lambda: len(stage.transport.sent) == 2)
    stage.clock.advance(2.0)
    pause.set()
    return await reading


@pytest.mark.requirement("R12", "R2")
async def test_each_attempt_is_told_in_full_and_each_in_its_place() -> None:
    """First who pays and who serves, last what it cost; the attempts with every field."""
    pause = asyncio.Event()
    stage = Stage(FakeTransport(POOR, FakeAnswer(pieces=(pause, chunk("Hello"), END))))
    events = await ended(stage, pause)
    last = events[-1]
    assert isinstance(last, Ended)
    assert last.receipt.attempts == (
        AttemptRecord(
            provider="openai",
            model=MODEL,
            provider_model="gpt-4o-mini",
            funding=Funding.OWN_KEY,
            key=KEY.name,
            key_hint=KEY.hint,
            outcome="insufficient_credit",
            billed=AttemptBilled.REFUSED,
            latency_seconds=0.0,
            fallback=False,
            http_status=429,
        ),
        AttemptRecord(
            provider="openai",
            model=MODEL,
            provider_model="gpt-4o-mini",
            funding=Funding.CREDITS,
            key="",
            key_hint="",
            outcome="ok",
            billed=AttemptBilled.YES,
            latency_seconds=2.0,
            fallback=True,
            usage=Usage(input_tokens=5, output_tokens=2),
            basis=UsageBasis.EXACT,
            cost_nano_usd=PRICE,
            charged_nano_credits=PRICE,
            http_status=200,
        ),
    )
    messages = [mapping_text.stream_response(event) for event in events]
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds == ["start", "text_delta", "finish"]
    start, finish = messages[0].start, messages[-1].finish
    assert (start.payer, start.provider, start.model) == (pb.FUNDING_CREDITS, "openai", MODEL)
    assert start.fallback
    assert start.key_hint == ""
    assert finish.receipt.cost_nano_usd == PRICE
    assert finish.receipt.charged_nano_credits == PRICE
    assert [a.outcome for a in finish.receipt.attempts] == [
        pb.OUTCOME_INSUFFICIENT_CREDIT,
        pb.OUTCOME_OK,
    ]


@pytest.mark.requirement("R12")
async def test_a_whole_answer_has_the_same_receipt_with_every_field_of_the_message() -> None:
    pause = asyncio.Event()
    stage = Stage(FakeTransport(DOWN, FakeAnswer(pieces=(pause, chunk("Hello"), END))))
    for _ in range(10):
        stage.engine.experience.retried("accounts/demo", 0.0)
    last = (await ended(stage, pause))[-1]
    assert isinstance(last, Ended)
    answer = mapping_text.AnswerBuilder().response(last)
    failed, served = answer.receipt.attempts
    assert failed.billed == pb.BILLED_REFUSED
    assert failed.http_status == 503
    assert failed.key == KEY.name
    assert failed.key_hint == KEY.hint
    told = {field.name for field, _ in served.ListFields()}
    assert told == set(pb.Attempt.DESCRIPTOR.fields_by_name) - {"key", "key_hint"}
    assert served.latency == duration_pb2.Duration(seconds=2)
    assert served.usage.basis == pb.USAGE_BASIS_EXACT
    assert served.charged_nano_credits == PRICE
