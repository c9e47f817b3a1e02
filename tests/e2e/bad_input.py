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
from tests.e2e.witness import domain, refused, whole

NANO = 1_000_000_000
NANO_CREDITS = 100 * NANO
"""What the account of a scene has."""
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MEBIBYTE = 1024 * 1024
MODEL = "openai/gpt-4o-mini"

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


async def hold_to(scene: Scene, call: Call, expected: Expected, *, service: str) -> None:
    """A case is refused as expected and changes nothing."""
    before = await whole(scene.clients, scene.account)
    status = await refused(call(scene))
    assert (status.code, status.reason) == expected, status.message
    assert domain(status) == f"{service}.ownkey"
    after = await whole(scene.clients, scene.account)
    assert before.differences(after) == []


async def read_one(stream: Any) -> object:
    """The first message of a stream."""
    return await stream.read()
