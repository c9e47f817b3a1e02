# SPDX-License-Identifier: Apache-2.0
"""Fingerprints and outcomes, read by releases that stand side by side."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from services.router.domain.attempts import OK, AttemptBilled, AttemptRecord, Receipt
from services.router.domain.plan import Funding
from services.router.domain.request import Preferences, Request, Source, TextInput
from services.router.domain.text import FinishReason, Message, Role, TextPart, Usage
from services.router.usecases import replay
from services.router.usecases.ports import Recorded, RecordedAttempt, RecordedState
from services.router.usecases.request_identity import request_fingerprint
from services.shared.secret import Secret

KEY = Secret("a key of keyed hashes for tests")
REQUEST = Request(
    account="accounts/demo",
    request_id="6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
    model="openai/gpt-4o-mini",
    input=TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),), max_output_tokens=5),
)
GOLDEN = "2655627daeedd4812907a3cd6e19380af931f456fe66b0537666953565024662"
"""What every release calls that body."""


def fingerprint(**fields: Any) -> str:
    """Give the fingerprint of a request with other fields."""
    return request_fingerprint(KEY, dataclasses.replace(REQUEST, **fields)).hex()


@pytest.mark.requirement("R14")
def test_a_body_has_the_same_name_in_every_release() -> None:
    """A field that was added since, and is not set, is no part of it."""
    assert fingerprint() == GOLDEN


@pytest.mark.requirement("R14")
def test_whole_and_streamed_are_the_same_request() -> None:
    assert fingerprint(stream=True) == fingerprint()


@pytest.mark.requirement("R14")
@pytest.mark.parametrize(
    "fields",
    [
        {"account": "accounts/other"},
        {"model": "openai/gpt-4o"},
        {"source": Source.CREDITS},
        {"preferences": Preferences(order=("openai",))},
        {"input": dataclasses.replace(REQUEST.input, top_k=5)},  # type: ignore[type-var]
        {"input": dataclasses.replace(REQUEST.input, max_output_tokens=6)},  # type: ignore[type-var]
    ],
)
def test_another_body_has_another_name(fields: dict[str, Any]) -> None:
    assert fingerprint(**fields) != fingerprint()


@pytest.mark.requirement("R14", "R15")
def test_an_outcome_of_a_newer_release_is_read_for_what_is_known() -> None:
    record = AttemptRecord(
        provider="openai",
        model="openai/gpt-4o-mini",
        provider_model="gpt-4o-mini",
        funding=Funding.CREDITS,
        key="",
        key_hint="",
        outcome=OK,
        billed=AttemptBilled.YES,
        latency_seconds=1.0,
        fallback=False,
    )
    receipt = Receipt(
        attempts=(record,), price=None, settled=True, notes=(), finish_reason=FinishReason.STOP
    )
    newer = json.loads(replay.encode_receipt(receipt))
    newer["a_field_of_tomorrow"] = {"x": 1}
    newer["attempts"][0]["another"] = 2
    settled = RecordedAttempt(
        provider="openai",
        model="openai/gpt-4o-mini",
        funding=Funding.CREDITS,
        key="",
        fallback=False,
        charged_nano_credits=7,
        vendor_cost_nano_usd=5,
        usage=Usage(input_tokens=1, output_tokens=1),
    )
    recorded = Recorded(
        state=RecordedState.SUCCEEDED, outcome=json.dumps(newer).encode(), attempts=(settled,)
    )
    read = replay.replayed(recorded, REQUEST.request_id)
    assert read.replayed
    assert read.attempts == (dataclasses.replace(record, charged_nano_credits=7),)
    assert read.finish_reason is FinishReason.STOP
