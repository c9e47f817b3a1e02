# SPDX-License-Identifier: Apache-2.0
"""Every denial, whatever its reason, is logged with what to do and counted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import structlog

from services.shared.access import DENIALS, Access
from services.shared.errors import AccessDeniedError, ServiceError, UnauthenticatedError
from services.shared.identity import Caller
from services.shared.policy import Policy
from tests.support.clock import EPOCH, ManualClock

RPC = "/ownkey.sample.v1.SampleService/Read"
OTHER = "/ownkey.sample.v1.SampleService/Write"
NAME = "spiffe://ownkey.internal/acme"
POLICY = Policy(
    identity_of_name={NAME: "acme"}, grants={("acme", RPC): ("accounts/acme", "accounts/acme-*")}
)

DENIED: dict[str, tuple[type[ServiceError], str, Callable[[Access], object]]] = {
    "unknown_caller": (
        UnauthenticatedError,
        RPC,
        lambda access: access.identify(Caller(encrypted=True, names=("stranger",)), RPC),
    ),
    "certificate_ended": (
        UnauthenticatedError,
        RPC,
        lambda access: access.identify(
            Caller(encrypted=True, names=(NAME,), certificate_end=EPOCH - timedelta(days=1)), RPC
        ),
    ),
    "rpc_not_allowed": (
        AccessDeniedError,
        OTHER,
        lambda access: access.check("acme", OTHER, ["accounts/acme"]),
    ),
    "account_not_allowed": (
        AccessDeniedError,
        RPC,
        lambda access: access.check("acme", RPC, ["accounts/acme-1", "accounts/other"]),
    ),
}


@pytest.fixture
def access() -> Access:
    return Access(POLICY, tokens_dir=None, clock=ManualClock())


@pytest.mark.requirement("O5", "O6")
@pytest.mark.parametrize("reason", DENIED)
def test_a_denial_is_logged_and_counted_under_its_reason(access: Access, reason: str) -> None:
    raised, rpc, call = DENIED[reason]
    counted = DENIALS.labels(rpc=rpc, reason=reason)
    before = counted._value.get()
    with structlog.testing.capture_logs() as lines, pytest.raises(raised) as fault:
        call(access)
    assert counted._value.get() == before + 1
    [line] = lines
    assert (line["event"], line["rpc"], line["reason"]) == ("access_denied", rpc, reason)
    assert line["advice"] == fault.value.message


@pytest.mark.requirement("O5")
def test_what_is_allowed_is_neither_logged_nor_counted(access: Access) -> None:
    with structlog.testing.capture_logs() as lines:
        identity = access.identify(Caller(encrypted=True, names=(NAME,)), RPC)
        access.check(identity, RPC, ["accounts/acme", "accounts/acme-1"])
    assert lines == []
