# SPDX-License-Identifier: Apache-2.0
"""Sealed keys and proofs: their bytes are fixed for ever; only what is whole and fresh passes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from client.ownkey_client.client_held import ClientHeldKeys
from services.keyvault.domain import sealing
from services.keyvault.domain.sealed_keys import (
    PROOF_SPAN_MAX,
    Proof,
    ProvenRequest,
    SealedSecret,
    check_expiry,
    check_signature,
    decode,
    read_signing_key,
)
from services.keyvault.domain.sealing import Age, Lifetimes, SealingKeyName, SealingSuite
from services.keyvault.errors import (
    ProofFault,
    ProofRefusedError,
    SealedKeyFault,
    SealedKeyRefusedError,
)
from services.shared.fingerprint import canonical
from services.shared.secret import Secret

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "sealed_keys_golden.json").read_text())
SEED = Secret(bytes.fromhex(GOLDEN["seed"]))
SIGNING_KEY = bytes.fromhex(GOLDEN["signing_key"])
PLAINTEXT = bytes.fromhex(GOLDEN["plaintext"])
REQUEST_ID = "0b0e7c1e-5a57-4d0e-8a53-6f1a1d3c9a11"
EXPIRY = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
REQUEST = ProvenRequest("demo", "openai", REQUEST_ID)
PROOF = Proof(EXPIRY, f"job-{REQUEST_ID}", bytes.fromhex(GOLDEN["proof"]["signature"]))
NOW = EXPIRY - timedelta(seconds=60)
LIFETIMES = Lifetimes(seal=timedelta(days=30), overlap=timedelta(days=365))


def fault_of(work: Any) -> SealedKeyFault | ProofFault:
    with pytest.raises((SealedKeyRefusedError, ProofRefusedError)) as refused:
        work()
    return refused.value.fault


@pytest.mark.requirement("K10")
class TestFormatOne:
    def test_what_is_sealed_keeps_its_golden_bytes(self) -> None:
        content = SealedSecret("demo", "openai", SIGNING_KEY, Secret("sk-proj-golden"))
        expected = [
            b"ownkey/sealed-key", b"1", b"accounts/demo", b"openai", SIGNING_KEY, b"sk-proj-golden",
        ]  # fmt: skip

        assert content.encoded().reveal_bytes() == PLAINTEXT == canonical(expected)

    @pytest.mark.parametrize("suite", list(SealingSuite))
    def test_a_seed_keeps_its_key_and_a_golden_blob_opens(self, suite: SealingSuite) -> None:
        golden = GOLDEN["suites"][suite.value]
        public = sealing.public_key(suite, SEED)
        opened = sealing.unseal(suite, SEED, bytes.fromhex(golden["blob"]))

        assert hashlib.sha256(public).hexdigest() == golden["public_key_sha256"]
        assert opened.reveal_bytes() == PLAINTEXT
        assert len(golden["blob"]) // 2 < sealing.BLOB_BYTES_MAX

    def test_a_proof_signs_its_golden_bytes(self) -> None:
        expected = [
            b"ownkey/sealed-key-proof", b"1", b"accounts/demo", b"openai", REQUEST_ID.encode(),
            b"accounts/demo/jobs/job-" + REQUEST_ID.encode(), b"1767323045678",
        ]  # fmt: skip

        assert REQUEST.signed_bytes(PROOF).hex() == GOLDEN["proof"]["signed"]
        assert REQUEST.signed_bytes(PROOF) == canonical(expected)
        check_signature(REQUEST, PROOF, SIGNING_KEY)

    def test_the_library_seals_as_the_rfc_says(self) -> None:
        # RFC 9180, appendix A.1.1: it prints no vector of X25519 with AES-256-GCM.
        recipient = X25519PrivateKey.from_private_bytes(
            bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
        )
        sealed = bytes.fromhex(
            "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
            "6d8770ac83d07bea87e13c512a"
        )
        opened = openssl.hpke._decrypt_with_aad(
            Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM),
            sealed,
            recipient,
            b"Ode on a Grecian Urn",
            b"Count-0",
        )

        assert opened == b"Beauty is truth, truth beauty"


@pytest.mark.requirement("K10")
class TestOpening:
    @pytest.mark.parametrize("suite", list(SealingSuite))
    def test_a_blob_opens_only_whole_and_under_its_own_key(self, suite: SealingSuite) -> None:
        public = sealing.public_key(suite, SEED)
        blob = sealing.seal(suite, public, Secret(b"text"))
        places = {0, 31, 32, len(blob) // 2, len(blob) - 17, len(blob) - 1}

        assert sealing.unseal(suite, SEED, blob).reveal() == "text"
        assert blob != sealing.seal(suite, public, Secret(b"text"))
        for place in places:
            changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
            fault = fault_of(lambda changed=changed: sealing.unseal(suite, SEED, changed))
            assert fault is SealedKeyFault.NOT_AUTHENTIC
        for length in (0, 16, len(blob) - 1):
            fault = fault_of(lambda n=length: sealing.unseal(suite, SEED, blob[:n]))
            assert fault is SealedKeyFault.NOT_AUTHENTIC
        other = Secret(bytes(32))
        assert fault_of(lambda: sealing.unseal(suite, other, blob)) is SealedKeyFault.NOT_AUTHENTIC

    def test_what_is_sealed_is_read_for_its_account_and_provider(self) -> None:
        content = decode(Secret(PLAINTEXT), account="demo", provider="openai")

        assert content.secret.reveal() == "sk-proj-golden"
        assert content.signing_key == SIGNING_KEY
        assert "golden" not in repr(content)

    @pytest.mark.parametrize(
        ("account", "provider", "fault"),
        [
            ("other", "openai", SealedKeyFault.OTHER_ACCOUNT),
            ("demo", "gemini", SealedKeyFault.OTHER_PROVIDER),
        ],
    )
    def test_it_is_of_one_account_and_provider(
        self, account: str, provider: str, fault: SealedKeyFault
    ) -> None:
        assert fault_of(lambda: decode(Secret(PLAINTEXT), account=account, provider=provider)) is (
            fault
        )

    @pytest.mark.parametrize(
        "plaintext",
        [
            b"",
            b"\x00" * 7,
            PLAINTEXT[:-1],
            PLAINTEXT + b"\x00" * 8,
            PLAINTEXT.replace(b"\x011", b"\x012"),
            canonical([b"ownkey/sealed-key", b"1", b"accounts/demo", b"openai", SIGNING_KEY]),
            b"\xff" * 8 + PLAINTEXT,
        ],
    )
    def test_another_form_is_refused(self, plaintext: bytes) -> None:
        def read() -> object:
            return decode(Secret(plaintext), account="demo", provider="openai")

        assert fault_of(read) is SealedKeyFault.MALFORMED


@pytest.mark.requirement("K10")
class TestProofs:
    @pytest.mark.parametrize(
        ("request_", "proof"),
        [
            (replace(REQUEST, account="other"), PROOF),
            (replace(REQUEST, provider="gemini"), PROOF),
            (replace(REQUEST, request_id=REQUEST_ID[::-1]), PROOF),
            (REQUEST, replace(PROOF, job="job-other")),
            (REQUEST, replace(PROOF, job="")),
            (REQUEST, replace(PROOF, expire_time=EXPIRY + timedelta(milliseconds=1))),
            (REQUEST, replace(PROOF, signature=PROOF.signature[:-1])),
            (REQUEST, replace(PROOF, signature=bytes(64))),
            (REQUEST, replace(PROOF, signature=b"\xff" * 64)),
            (REQUEST, replace(PROOF, signature=PROOF.signature[32:] + PROOF.signature[:32])),
        ],
    )
    def test_a_proof_is_about_one_request(self, request_: ProvenRequest, proof: Proof) -> None:
        fault = fault_of(lambda: check_signature(request_, proof, SIGNING_KEY))

        assert fault is ProofFault.SIGNATURE

    def test_a_proof_is_of_one_browser(self) -> None:
        other = ClientHeldKeys().signing_key

        assert fault_of(lambda: check_signature(REQUEST, PROOF, other)) is ProofFault.SIGNATURE

    @pytest.mark.parametrize(
        "key", [b"", SIGNING_KEY[:-1], b"\x02" + SIGNING_KEY[1:], b"\x04" + bytes(64)]
    )
    def test_a_signing_key_is_an_uncompressed_point_of_the_curve(self, key: bytes) -> None:
        assert fault_of(lambda: read_signing_key(key)) is SealedKeyFault.MALFORMED

    def test_what_it_is_known_by_does_not_depend_on_the_signature(self) -> None:
        again = replace(PROOF, signature=bytes(64))

        assert REQUEST.digest(PROOF) == REQUEST.digest(again)
        assert REQUEST.digest(PROOF) != replace(REQUEST, provider="gemini").digest(PROOF)

    def test_it_holds_until_its_expiry_and_that_is_near(self) -> None:
        millisecond = timedelta(milliseconds=1)
        check_expiry(PROOF, now=EXPIRY - millisecond)
        check_expiry(PROOF, now=EXPIRY - PROOF_SPAN_MAX)

        assert fault_of(lambda: check_expiry(PROOF, now=EXPIRY)) is ProofFault.EXPIRED
        too_soon = EXPIRY - PROOF_SPAN_MAX - millisecond
        assert fault_of(lambda: check_expiry(PROOF, now=too_soon)) is ProofFault.TOO_LONG
        assert timedelta(seconds=120) == PROOF_SPAN_MAX


@pytest.mark.requirement("K10")
class TestSealingKeys:
    @pytest.mark.parametrize("suite", list(SealingSuite))
    @pytest.mark.parametrize("number", [1, 999_999_999])
    def test_a_name_is_read_as_it_was_written(self, suite: SealingSuite, number: int) -> None:
        name = SealingKeyName(suite, number)

        assert SealingKeyName.parse(str(name)) == name

    @pytest.mark.parametrize(
        "text", ["", "x25519", "x25519-0", "x25519-01", "x25519-1000000000", "p256-1", "x25519-1 "]
    )
    def test_another_name_is_none(self, text: str) -> None:
        assert SealingKeyName.parse(text) is None

    @pytest.mark.parametrize(
        ("age", "seals", "opens"),
        [
            (timedelta(days=30) - timedelta(microseconds=1), True, True),
            (timedelta(days=30), False, True),
            (timedelta(days=395) - timedelta(microseconds=1), False, True),
            (timedelta(days=395), False, False),
        ],
    )
    def test_its_age_alone_decides(self, age: timedelta, seals: bool, opens: bool) -> None:
        looked_at = Age(NOW, NOW + age)

        assert looked_at.may_seal(LIFETIMES) is seals
        assert looked_at.may_open(LIFETIMES) is opens
