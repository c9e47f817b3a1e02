# SPDX-License-Identifier: Apache-2.0
"""Calls are repeated where the service says that waiting helps, and never otherwise."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault
from ownkey.ledger.v1 import grant_pb2
from ownkey.ledger.v1 import verification_pb2 as verification

from client.ownkey_client.calls import ATTEMPTS_MAX, WAIT_SECONDS_MAX, Calls, service_of
from client.ownkey_client.failure import CallError, Failure
from client.ownkey_client.paging import read_pages
from tests.support.failing_calls import FailedCall, ScriptedMethod, away

REQUEST = grant_pb2.GrantCreditsRequest(request_id="3e4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11")
ANSWER = grant_pb2.GrantCreditsResponse()


class Waits:
    """Sleeps without time passing, and keeps what it was told."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.told: list[tuple[str, float]] = []

    def tell(self, failure: Failure, seconds: float) -> None:
        self.told.append((failure.reason, seconds))

    def calls(self, **settings: Any) -> Calls:
        return Calls(sleep=self.seconds.append, on_wait=self.tell, **settings)


@pytest.mark.requirement("O4", "L11")
class TestUnary:
    def test_a_repeat_sends_the_same_request(self) -> None:
        """The request id is made once and kept, so nothing happens twice."""
        waits, method = Waits(), ScriptedMethod(away(), away(retry_seconds=2), ANSWER)
        assert waits.calls().unary(method, REQUEST) is ANSWER
        assert method.requests == [REQUEST.SerializeToString()] * 3
        assert waits.seconds == [0.5, 2.0]
        assert waits.told == [("STORE_UNAVAILABLE", 0.5), ("STORE_UNAVAILABLE", 2.0)]

    def test_it_gives_up_after_its_last_attempt(self) -> None:
        waits, method = Waits(), ScriptedMethod(*(away() for _ in range(ATTEMPTS_MAX + 1)))
        with pytest.raises(CallError) as caught:
            waits.calls().unary(method, REQUEST)
        assert len(method.requests) == ATTEMPTS_MAX
        assert caught.value.failure.retry_after_seconds == 0.5
        assert caught.value.failure.service == "ledger"

    @pytest.mark.parametrize(
        "failure",
        [
            away(retry_seconds=None),
            away(retry_seconds=WAIT_SECONDS_MAX + 0.001),
            FailedCall(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"),
            FailedCall(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too fast",
                error_details_pb2.ErrorInfo(reason="RATE_LIMITED"),
                error_details_pb2.RetryInfo(),
            ),
            FailedCall(grpc.StatusCode.INTERNAL, "a fault"),
        ],
        ids=["no hint", "long hint", "nobody there", "rate limited", "fault"],
    )
    def test_what_waiting_does_not_help_is_not_repeated(self, failure: FailedCall) -> None:
        waits, method = Waits(), ScriptedMethod(failure, ANSWER)
        with pytest.raises(CallError):
            waits.calls().unary(method, REQUEST)
        assert len(method.requests) == 1
        assert waits.seconds == []

    def test_the_token_is_shown_in_the_metadata_only_if_there_is_one(self) -> None:
        method = ScriptedMethod(ANSWER, ANSWER)
        Waits().calls(token="t0ken").unary(method, REQUEST)
        Waits().calls().unary(method, REQUEST)
        assert method.metadata == [(("authorization", "Bearer t0ken"),), ()]


@pytest.mark.requirement("O4")
class TestStream:
    ASK = verification.VerifyLedgerRequest()
    FIRST = verification.VerifyLedgerResponse(verified_account_count=1)
    LAST = verification.VerifyLedgerResponse(verified_account_count=2, done=True)

    def test_it_is_repeated_while_nothing_has_arrived(self) -> None:
        waits, method = Waits(), ScriptedMethod([away()], [self.FIRST, self.LAST])
        found = list(waits.calls().stream(method, self.ASK, timeout_seconds=1))
        assert found == [self.FIRST, self.LAST]
        assert waits.seconds == [0.5]

    def test_it_is_not_repeated_once_something_has_arrived(self) -> None:
        waits, method = Waits(), ScriptedMethod([self.FIRST, away()], [self.LAST])
        stream = waits.calls().stream(method, self.ASK, timeout_seconds=1)
        assert next(stream) == self.FIRST
        with pytest.raises(CallError):
            next(stream)
        assert waits.seconds == []

    def test_leaving_it_cancels_the_call(self) -> None:
        method = ScriptedMethod([self.FIRST, self.LAST])
        stream: Any = Waits().calls().stream(method, self.ASK, timeout_seconds=1)
        next(stream)
        stream.close()
        assert method.cancelled == 1


def test_a_message_tells_whose_contract_it_is_of() -> None:
    assert service_of(REQUEST) == "ledger"


class TestPages:
    def test_a_list_is_read_to_its_end(self) -> None:
        method = ScriptedMethod(page("a", "b", token="1"), page("c", token="2"), page("d"))
        calls = Waits().calls()
        request = keyvault.ListKeysRequest(parent="accounts/demo")
        whole = read_pages(lambda sent: calls.unary(method, sent), request, "keys")
        assert [key.label for key in whole.keys] == ["a", "b", "c", "d"]
        assert whole.next_page_token == ""
        assert len(method.requests) == 3


def page(*labels: str, token: str = "") -> keyvault.ListKeysResponse:
    keys = [key_pb2.Key(label=label) for label in labels]
    return keyvault.ListKeysResponse(keys=keys, next_page_token=token)
