# SPDX-License-Identifier: Apache-2.0
"""A failure tells the reason, the sentence, the next step and when to try again; then exits."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from ownkey.keyvault.v1 import error_reason_pb2 as keyvault_reasons
from ownkey.ledger.v1 import error_reason_pb2 as ledger_reasons
from ownkey.router.v1 import attempt_pb2
from ownkey.router.v1 import error_reason_pb2 as router_reasons

from client.ownkey_cli.exits import Exit, exit_of
from client.ownkey_cli.views.failures import NEXT_STEPS, failure_document, failure_view
from client.ownkey_client.connection import AddressError, Addresses
from client.ownkey_client.failure import read_error
from tests.support.failing_calls import FailedCall
from tests.support.terminal import drawn

pytestmark = pytest.mark.requirement("O4", "R11")

REFUSED = FailedCall(
    grpc.StatusCode.FAILED_PRECONDITION,
    "the billing mode does not allow the source",
    error_details_pb2.ErrorInfo(
        reason="SOURCE_NOT_ALLOWED", domain="router.ownkey", metadata={"source": "OWN_KEY"}
    ),
)
LIMITED = FailedCall(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "OpenAI limits the rate",
    error_details_pb2.ErrorInfo(reason="RATE_LIMITED", domain="router.ownkey"),
    error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2)),
    attempt_pb2.AttemptList(
        attempts=[
            attempt_pb2.Attempt(
                provider="openai",
                model="openai/gpt-4o-mini",
                funding=attempt_pb2.FUNDING_OWN_KEY,
                key_hint="sk-…1a2b",
                outcome=attempt_pb2.OUTCOME_RATE_LIMITED,
                http_status=429,
            )
        ]
    ),
)
MALFORMED = FailedCall(
    grpc.StatusCode.INVALID_ARGUMENT,
    "the request has a fault",
    error_details_pb2.ErrorInfo(reason="INVALID_ARGUMENT", domain="ledger.ownkey"),
    error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="note", description="is too long")
        ]
    ),
)


def shown(call: FailedCall, *, service: str = "router") -> str:
    return drawn(failure_view(read_error(call, service), "127.0.0.1:7102"))


class TestForPeople:
    def test_a_refusal_tells_reason_sentence_and_next_step(self) -> None:
        text = shown(REFUSED)
        assert text.startswith("SOURCE_NOT_ALLOWED (router) the billing mode does not allow")
        assert "next  ownkey mode show; ownkey mode set own-key-first" in text

    def test_a_rate_limit_tells_what_was_tried_and_when_to_try_again(self) -> None:
        text = shown(LIMITED)
        assert "retry  in 2 s" in text
        assert "own-key sk-…1a2b" in text
        assert "rate-limited" in text
        assert "429" in text

    def test_faults_are_told_by_field(self) -> None:
        assert "note  is too long" in shown(MALFORMED)

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (grpc.StatusCode.UNAVAILABLE, "Nobody answers for the router at 127.0.0.1:7102."),
            (grpc.StatusCode.DEADLINE_EXCEEDED, "in time"),
            (grpc.StatusCode.UNIMPLEMENTED, "does not know this call"),
            (grpc.StatusCode.UNKNOWN, "raw words"),
        ],
    )
    def test_what_no_service_answered_is_told_in_our_words(
        self, code: grpc.StatusCode, words: str
    ) -> None:
        assert words in shown(FailedCall(code, "raw words"))

    def test_a_service_cannot_steer_the_terminal(self) -> None:
        assert "\x1b" not in shown(FailedCall(grpc.StatusCode.UNKNOWN, "\x1b[2J"))

    def test_every_next_step_is_for_a_reason_of_the_contract(self) -> None:
        known = {
            name.removeprefix("ERROR_REASON_")
            for reasons in (keyvault_reasons, ledger_reasons, router_reasons)
            for name in reasons.ErrorReason.keys()  # noqa: SIM118 - an enum of protobuf is no dict
        }
        assert set(NEXT_STEPS) <= known


class TestForPrograms:
    def test_the_whole_failure_is_one_json_document(self) -> None:
        failure = read_error(LIMITED, "router")
        document = json.loads(json.dumps(failure_document(failure, exit_of(failure.code))))
        assert document["reason"] == "RATE_LIMITED"
        assert document["code"] == "RESOURCE_EXHAUSTED"
        assert document["retry_after_seconds"] == 2.0
        assert document["attempts"][0]["http_status"] == 429
        assert document["exit_code"] == 6


class TestExitCodes:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (grpc.StatusCode.INVALID_ARGUMENT, Exit.USAGE),
            (grpc.StatusCode.NOT_FOUND, Exit.NOT_FOUND),
            (grpc.StatusCode.ALREADY_EXISTS, Exit.REFUSED),
            (grpc.StatusCode.FAILED_PRECONDITION, Exit.REFUSED),
            (grpc.StatusCode.UNIMPLEMENTED, Exit.REFUSED),
            (grpc.StatusCode.PERMISSION_DENIED, Exit.NOT_ALLOWED),
            (grpc.StatusCode.UNAUTHENTICATED, Exit.NOT_ALLOWED),
            (grpc.StatusCode.UNAVAILABLE, Exit.UNAVAILABLE),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, Exit.UNAVAILABLE),
            (grpc.StatusCode.DEADLINE_EXCEEDED, Exit.UNAVAILABLE),
            (grpc.StatusCode.INTERNAL, Exit.FAULT),
            (grpc.StatusCode.DATA_LOSS, Exit.FAULT),
            (grpc.StatusCode.UNKNOWN, Exit.FAULT),
        ],
    )
    def test_a_code_has_its_family(self, code: grpc.StatusCode, expected: Exit) -> None:
        assert exit_of(code) is expected


@pytest.mark.requirement("O5")
class TestHandshakes:
    @pytest.mark.parametrize(
        ("said", "told", "step"),
        [
            ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "has ended", "certs renew"),
            ("CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "not valid yet", "clock"),
            ("CERTIFICATE_VERIFY_FAILED: unable to get local", "of no authority", "--tls-ca"),
            ("Hostname Verification Check failed.", "is for other names", "certs show"),
            ("OPENSSL_internal:WRONG_VERSION_NUMBER", "speaks plain text", "leave out --tls"),
            ("ipv4:127.0.0.1:7101: Socket closed", "broken off", "its log says why"),
        ],
    )
    def test_what_grpc_says_of_one_is_put_into_a_sentence(
        self, said: str, told: str, step: str
    ) -> None:
        failure = read_error(FailedCall(grpc.StatusCode.UNAVAILABLE, said), "keyvault")
        text = " ".join(drawn(failure_view(failure, "127.0.0.1:7101")).split())
        assert told in text
        assert step in text
        assert "the keyvault at 127.0.0.1:7101" in text


@pytest.mark.requirement("O5")
class TestAddresses:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3"])
    def test_loopback_is_taken(self, host: str) -> None:
        Addresses(keyvault=f"{host}:1", router=f"{host}:2", ledger=f"{host}:65535")

    @pytest.mark.parametrize(
        "address", ["", "127.0.0.1", ":7101", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536"]
    )
    def test_what_is_no_address_is_refused(self, address: str) -> None:
        with pytest.raises(AddressError, match="host:port"):
            Addresses(keyvault=address, router="localhost:1", ledger="localhost:1")

    @pytest.mark.parametrize(
        "host", ["10.0.0.1", "ledger", "192.0.2.1", "[2001:db8::1]", "127.evil"]
    )
    def test_another_machine_is_refused_because_text_would_be_plain(self, host: str) -> None:
        with pytest.raises(AddressError, match="plain text"):
            Addresses(keyvault="localhost:1", router="localhost:1", ledger=f"{host}:7103")

    def test_another_machine_is_taken_over_tls(self) -> None:
        Addresses(keyvault="10.0.0.1:1", router="router:1", ledger="dns:///l:1", encrypted=True)
