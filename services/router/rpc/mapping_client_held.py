# SPDX-License-Identifier: Apache-2.0
"""
Reads the client-held keys that requests bring, and writes those that go back sealed anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ownkey.keyvault.v1 import sealing_pb2
from ownkey.router.v1 import client_held_key_pb2 as pb

from services.router.domain.keys import BroughtKey
from services.shared.errors import InvalidArgumentError
from services.shared.names import ResourceName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.router.domain.keys import ResealedKey

KEYS_MAX = 8
BLOB_BYTES_MAX = 20_480

_KEY = ResourceName("accounts/{account}/keys/{key}")


def brought_keys(
    messages: Sequence[pb.ClientHeldKey],
    *,
    account: str,
    job: str = "",
    names_only: bool = False,
) -> tuple[BroughtKey, ...]:
    """
    Read the keys that a request brings.

    Args:
        messages: What the caller sent.
        account: `accounts/{account}`, whose keys they must be.
        job: The job that their proofs must name; "" for none.
        names_only: Whether nothing is opened, so that a name is enough.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if len(messages) > KEYS_MAX:
        raise InvalidArgumentError.of("client_held_keys", f"must hold at most {KEYS_MAX} keys")
    if len({message.key for message in messages}) != len(messages):
        raise InvalidArgumentError.of("client_held_keys", "must name each key once")
    return tuple(
        _brought(message, f"client_held_keys[{place}]", account, job, names_only=names_only)
        for place, message in enumerate(messages)
    )


def brought_key(message: pb.ClientHeldKey, *, account: str, job: str) -> BroughtKey:
    """
    Read the one key that is brought for a job.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    return _brought(message, "client_held_key", account, job, names_only=False)


def resealed_keys(resealed: Iterable[ResealedKey]) -> list[pb.ResealedKey]:
    """
    Write the keys that go back to their browser.
    """
    return [
        pb.ResealedKey(key=item.key, sealed_key=sealing_pb2.SealedKey.FromString(item.sealed_key))
        for item in resealed
    ]


def _brought(
    message: pb.ClientHeldKey, field: str, account: str, job: str, *, names_only: bool
) -> BroughtKey:
    ids = _KEY.parse(message.key, f"{field}.key")
    if f"accounts/{ids['account']}" != account:
        raise InvalidArgumentError.of(f"{field}.key", "must be a key of the request's account")
    for part in () if names_only else ("sealed_key", "proof"):
        if not message.HasField(part):
            raise InvalidArgumentError.of(f"{field}.{part}", "is required")
    if not names_only and message.proof.job != job:
        advice = f"must be {job}" if job else "must be empty: this is no job"
        raise InvalidArgumentError.of(f"{field}.proof.job", advice)
    if len(message.sealed_key.blob) > BLOB_BYTES_MAX:
        advice = f"must be at most {BLOB_BYTES_MAX} bytes"
        raise InvalidArgumentError.of(f"{field}.sealed_key.blob", advice)
    return BroughtKey(
        key=message.key,
        sealed_key=message.sealed_key.SerializeToString(),
        proof=message.proof.SerializeToString(),
    )
