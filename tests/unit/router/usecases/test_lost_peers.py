# SPDX-License-Identifier: Apache-2.0
"""Keyvault or the ledger goes away after an attempt: the attempts are told, nothing is repeated."""

from __future__ import annotations

import dataclasses

import grpc
import pytest
from ownkey.router.v1 import attempt_pb2

from services.router import errors
from services.router.domain.attempts import AttemptBilled
from services.router.domain.outcomes import Outcome
from services.router.http.telling import ATTEMPTS, SHOULD_RETRY, failure_headers
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.ports import Ask
from services.shared.errors import PeerUnavailableError, ServiceError
from services.shared.status import read_status
from tests.support.deciding_ledger import PassingClock
from tests.support.engine import FakeAnswer, FakeHeld, FakeKeys, FakeTransport
from tests.support.routing import account_keys
from tests.support.stage import KEY, SHARED, UNKNOWN_KEY, Stage

OWNER = "accounts/demo"
FAULTY = FakeAnswer(status=500, pieces=(b"{}",))
"""May be billed."""


def away(peer: str) -> PeerUnavailableError:
    """Give what the clients of keyvault and ledger raise."""
    return PeerUnavailableError(
        f"{peer} cannot be reached; nothing was sent: try again",
        metadata={"peer": peer},
        retry_after_seconds=1.5,
    )


class LeavingKeys(FakeKeys):
    """Keyvault, gone once its keys are held."""

    async def asked_anew(self, account: str) -> FakeHeld:
        """Give nothing any more."""
        raise away("keyvault")


class ChangingKeys(FakeKeys):
    """Keyvault, at which a key changes whenever it is asked for again."""

    def __init__(self) -> None:
        super().__init__(account_keys(KEY), SHARED)
        self.given: list[FakeHeld] = []

    async def held(self, account: str) -> FakeHeld:
        """Give what is held, and remember it."""
        self.given.append(await super().held(account))
        return self.given[-1]

    async def asked_anew(self, account: str) -> FakeHeld:
        """Give the key as it has just become."""
        if account == OWNER:
            changed = dataclasses.replace(KEY, etag=f"change {len(self.given)}")
            self.accounts[OWNER] = account_keys(changed)
        return await self.held(account)

    def end_leases(self) -> None:
        """End the lease of all that was given."""
        for held in self.given:
            held.fresh = False


def staged(*answers: FakeAnswer, keys: FakeKeys | None = None) -> Stage:
    """Set a stage on which pauses between attempts pass at once."""
    stage = Stage(FakeTransport(*answers))
    keys = keys or stage.keys
    stage.engine = dataclasses.replace(stage.engine, keys=keys, clock=PassingClock())
    return stage


def leaves_after_the_first_ask(ask: Ask) -> ServiceError | None:
    """Be there for the first attempt alone."""
    return away("ledger") if ask.sequence > 1 else None


async def failure(stage: Stage) -> ServiceError:
    """Run a request that fails."""
    with pytest.raises(ServiceError) as caught:
        await stage.events()
    return caught.value


def told_attempts(error: ServiceError) -> list[attempt_pb2.Attempt]:
    """Read the attempts of a failure from its gRPC status."""
    found = attempt_pb2.AttemptList()
    for detail in STATUS_TABLE.to_status(error).details:
        if detail.Is(found.DESCRIPTOR):
            detail.Unpack(found)
    return list(found.attempts)


def assert_told_and_not_repeated(error: ServiceError, *, reason: str, wait: float) -> None:
    """The gRPC status has reason, wait and the billable attempt; the SDK must not repeat it."""
    status = read_status(STATUS_TABLE.to_status(error))
    assert (status.code, status.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    assert status.retry_after_seconds == wait
    assert told_attempts(error)[0].billed == attempt_pb2.BILLED_MAYBE
    headers = failure_headers(error)
    assert headers[SHOULD_RETRY] == "false"
    assert headers[ATTEMPTS]
    assert "under a new one" in error.message


@pytest.mark.requirement("R9", "R11", "R14")
async def test_the_ledger_leaves_after_an_attempt_that_may_be_billed() -> None:
    stage = staged(FAULTY)
    stage.ledger.refuse = leaves_after_the_first_ask
    error = await failure(stage)
    assert isinstance(error, errors.PeerLostError)
    assert error.metadata == {"peer": "ledger"}
    assert len(error.attempts) == 1
    assert_told_and_not_repeated(error, reason="PEER_UNAVAILABLE", wait=1.5)
    [(_, end)] = stage.ledger.settled
    assert end is not None
    assert b"PeerLostError" in end.outcome


@pytest.mark.requirement("R9", "R11", "R14")
async def test_keyvault_leaves_after_an_attempt_that_may_be_billed() -> None:
    """The key fails at its provider, is refused on the retry, and a newer version is asked for."""
    keys = LeavingKeys(account_keys(KEY), SHARED)
    stage = staged(FAULTY, UNKNOWN_KEY, keys=keys)
    error = await failure(stage)
    assert isinstance(error, errors.PeerLostError)
    assert [attempt.outcome for attempt in error.attempts] == [
        Outcome.SERVER_ERROR,
        Outcome.INVALID_KEY,
    ]
    assert_told_and_not_repeated(error, reason="PEER_UNAVAILABLE", wait=1.5)


@pytest.mark.requirement("R9", "R11")
async def test_after_attempts_that_are_not_billed_the_request_may_be_repeated() -> None:
    keys = LeavingKeys(account_keys(KEY), SHARED)
    stage = staged(UNKNOWN_KEY, keys=keys)
    error = await failure(stage)
    assert isinstance(error, errors.PeerLostError)
    assert [attempt.billed for attempt in error.attempts] == [AttemptBilled.REFUSED]
    assert failure_headers(error)[SHOULD_RETRY] == "true"
    assert "same request id" in error.message


@pytest.mark.requirement("R9", "R11")
async def test_before_any_attempt_the_failure_is_told_as_it_is() -> None:
    stage = staged()
    gone = away("ledger")
    stage.ledger.refuse = lambda _: gone
    error = await failure(stage)
    assert error is gone
    assert failure_headers(error)[SHOULD_RETRY] == "true"
    assert told_attempts(error) == []


@pytest.mark.requirement("K7", "R11", "R14")
async def test_a_key_that_changes_again_and_again_after_a_billable_attempt() -> None:
    keys = ChangingKeys()
    stage = staged(FAULTY, keys=keys)

    def changes(ask: Ask) -> None:
        if ask.sequence > 1:
            keys.end_leases()

    stage.ledger.refuse = changes
    error = await failure(stage)
    assert isinstance(error, errors.KeyChangedError)
    assert_told_and_not_repeated(error, reason="KEY_CHANGED", wait=1.0)
