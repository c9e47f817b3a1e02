# SPDX-License-Identifier: Apache-2.0
"""Between the contract's messages about client-held keys and keyvault's domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2, sealing_pb2

from services.keyvault.domain.names import JOB, SEALING_KEY
from services.keyvault.domain.sealed_keys import Proof
from services.keyvault.domain.sealing import SealedBlob, SealingSuite
from services.keyvault.errors import ProofFault, ProofRefusedError
from services.keyvault.usecases.move_key import ToClient
from services.keyvault.usecases.open_sealed_key import OpenedKey
from services.keyvault.usecases.sealed_secrets import Submitted
from services.keyvault.usecases.sealing_keys import SealingKey
from services.shared.errors import InvalidArgumentError
from services.shared.secret import Secret

_SUITES = {
    sealing_pb2.SEALING_SUITE_X25519: SealingSuite.X25519,
    sealing_pb2.SEALING_SUITE_X25519_ML_KEM_768: SealingSuite.X25519_ML_KEM_768,
}
_SUITE_VALUES = {suite: value for value, suite in _SUITES.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MAX = 253_402_300_799
"""The last second that a Timestamp may name."""


def suite(value: int) -> SealingSuite:
    """Return a suite."""
    found = _SUITES.get(sealing_pb2.SealingSuite.ValueType(value))
    if found is None:
        raise InvalidArgumentError.of("suite", "must be one of the suites, not UNSPECIFIED")
    return found


def is_client_held(value: int, field: str, *, default: bool | None = None) -> bool:
    """
    Return whether a residence is the customer's browser.

    Args:
        value: As sent.
        field: Path of the field.
        default: What UNSPECIFIED means; None if it must be given.
    """
    if value == key_pb2.RESIDENCE_UNSPECIFIED and default is not None:
        return default
    if value not in {key_pb2.RESIDENCE_SERVER, key_pb2.RESIDENCE_CLIENT_HELD}:
        raise InvalidArgumentError.of(field, "must be RESIDENCE_SERVER or RESIDENCE_CLIENT_HELD")
    return value == key_pb2.RESIDENCE_CLIENT_HELD


def submitted(request: Any, account: str, *, secret: str = "", for_jobs: bool = False) -> Submitted:
    """
    Return the secret that a request brings, in clear or sealed.

    Args:
        request: A message with sealed_key and proof.
        account: Account id that a job must be of.
        secret: The secret in clear; "" if none.
        for_jobs: Whether a job's proof is taken.
    """
    sealed = None
    if request.HasField("sealed_key"):
        ids = SEALING_KEY.parse(request.sealed_key.sealing_key, "sealed_key.sealing_key")
        sealed = SealedBlob(ids["sealing_key"], request.sealed_key.blob)
    proof = _proof(request.proof, account, for_jobs=for_jobs) if request.HasField("proof") else None
    return Submitted(Secret(secret) if secret else None, sealed, proof)


def to_client(request: keyvault_service_pb2.MoveKeyRequest, account: str) -> ToClient:
    """Return the browser that is to hold a key."""
    if request.HasField("sealed_key"):
        raise InvalidArgumentError.of("sealed_key", "must be unset for a move to the browser")
    if not request.HasField("proof"):
        raise ProofRefusedError(ProofFault.MISSING)
    proof = _proof(request.proof, account, for_jobs=False)
    return ToClient(request.signing_key, suite(request.suite), proof)


def sealing_key_message(key: SealingKey) -> sealing_pb2.SealingKey:
    """Return a public key to seal with."""
    message = sealing_pb2.SealingKey(
        name=SEALING_KEY.format(sealing_key=str(key.name)),
        suite=_SUITE_VALUES[key.name.suite],
        public_key=key.public_key,
    )
    message.expire_time.FromDatetime(key.expire_time)
    return message


def sealed_message(sealed: SealedBlob | None) -> sealing_pb2.SealedKey | None:
    """Return a sealed key."""
    if sealed is None:
        return None
    name = SEALING_KEY.format(sealing_key=sealed.sealing_key)
    return sealing_pb2.SealedKey(sealing_key=name, blob=sealed.blob)


def opened_message(opened: OpenedKey) -> keyvault_service_pb2.OpenSealedKeyResponse:
    """Return an opened key WITH its plaintext secret; for the router alone."""
    return keyvault_service_pb2.OpenSealedKeyResponse(
        secret=opened.secret.reveal(),
        hint=opened.hint,
        resealed_key=sealed_message(opened.resealed),
    )


def _proof(message: sealing_pb2.SealedKeyProof, account: str, *, for_jobs: bool) -> Proof:
    job = ""
    if message.job:
        ids = JOB.parse(message.job, "proof.job")
        if not for_jobs or ids["account"] != account:
            raise ProofRefusedError(ProofFault.OTHER_JOB)
        job = ids["job"]
    # Read by hand: a Timestamp beyond a datetime's range must be refused, not raise.
    expiry = message.expire_time
    if not 0 <= expiry.seconds <= _SECONDS_MAX:
        raise InvalidArgumentError.of("proof.expire_time", "must be a time from 1970 on")
    expire_time = _EPOCH + timedelta(seconds=expiry.seconds, milliseconds=expiry.nanos // 1_000_000)
    return Proof(expire_time, job, message.signature)
