# SPDX-License-Identifier: Apache-2.0
"""
How bad input is tried: on an account that has credits, an entry and a key.

Each case must get a clear code, one ErrorInfo and a sentence for a person, and everything on record
of the account must be the same before and after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from deploy.local.clients import Clients
from services.shared.status import RichStatus
from tests.e2e.support import refusal
from tests.e2e.witness import domain, hold_to_the_rules, whole

NANO = 1_000_000_000
NANO_CREDITS = 100 * NANO
"""What the account of a scene has."""
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MEBIBYTE = 1024 * 1024
MODEL = "openai/gpt-4o-mini"
TOLD_TRIES_MAX = 100

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
REUSED = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
NO_ACCOUNT = (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
STALE = (grpc.StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH")
NOT_SERVED = (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")

Expected = tuple[grpc.StatusCode, str]


@dataclass(frozen=True, slots=True)
class Scene:
    """
    The account that a case is tried on, and who tries.

    Args:
        clients: Stubs to the suite.
        account: `accounts/{account}`.
        key: Its key.
        secret: That key's secret.
        router: Metadata of the router's identity.
    """

    clients: Clients
    account: str
    key: str
    secret: str
    router: tuple[tuple[str, str], ...]


Call = Callable[[Scene], Awaitable[object]]


def case(name: str, expected: Expected, call: Call) -> Any:
    """One row of a table of cases."""
    return pytest.param(call, expected, id=name)


def every(cases: list[Any]) -> pytest.MarkDecorator:
    """A test of each row."""
    return pytest.mark.parametrize(("call", "expected"), cases)


def page_cases(listed: Callable[..., Awaitable[object]]) -> list[Any]:
    """
    The rows of an RPC that answers in pages.

    Args:
        listed: Calls it on a scene, with fields of its request.
    """
    made_up = "bm90aGluZyBvZiBvdXJz"
    return [
        case("page_negative", INVALID, lambda s: listed(s, page_size=-1)),
        case("page_token_made_up", INVALID, lambda s: listed(s, page_token=made_up)),
    ]


async def told(call: Callable[[], Awaitable[object]]) -> RichStatus:
    """
    The service's own refusal, held to the rules of every error.

    A client may notice its own deadline before the service's word of it arrives.
    """
    for _ in range(TOLD_TRIES_MAX):
        status = await refusal(call())
        if status.reason or status.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            break
    hold_to_the_rules(status)
    return status


async def hold_to(scene: Scene, call: Call, expected: Expected, *, service: str) -> None:
    """A case is refused as expected and changes nothing."""
    before = await whole(scene.clients, scene.account)
    status = await told(lambda: call(scene))
    assert (status.code, status.reason) == expected, status.message
    assert domain(status) == f"{service}.ownkey"
    after = await whole(scene.clients, scene.account)
    assert before.differences(after) == []


async def read_one(stream: Any) -> object:
    """The first message of a stream."""
    return await stream.read()
