# SPDX-License-Identifier: Apache-2.0
"""
Requests that are carried out once.

A request is recognised by its id; what it was is kept as one keyed hash for each field, so that a
repeat with another body can be refused by name while nothing can be read back. Its outcome, which
holds no secret, is recorded in the transaction that carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from services.keyvault.errors import RequestIdReusedError
from services.keyvault.usecases.ports import AccountChange, KeyStore, RecordedRequest
from services.shared.fingerprint import fingerprint
from services.shared.secret import Secret

FIELDS_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks, and under which request id.

    Args:
        identity: The caller's identity.
        request_id: The caller's id for the request; "" where it sent none.
    """

    identity: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Once(Generic[T]):
    """
    One request to be carried out once.

    Args:
        request_id: The caller's id; "" carries it out each time.
        fingerprints: Keyed hash of each field.
        outcome: Type of what it gives.
    """

    request_id: str
    fingerprints: Mapping[str, str]
    outcome: type[T]

    async def recorded_before(self, store: KeyStore, account: str) -> T | None:
        """Return the recorded outcome outside a transaction; raises RequestIdReusedError."""
        if not self.request_id:
            return None
        return self._read(await store.find_request(account, self.request_id))

    async def recorded(self, change: AccountChange) -> T | None:
        """Return the recorded outcome under the account's lock; raises RequestIdReusedError."""
        if not self.request_id:
            return None
        return self._read(await change.find_request(self.request_id))

    async def record(self, change: AccountChange, outcome: T) -> T:
        """Record the outcome and return it."""
        if self.request_id:
            encoded = msgspec.json.encode(outcome)
            await change.record_request(
                self.request_id, RecordedRequest(self.fingerprints, encoded)
            )
        return outcome

    def _read(self, found: RecordedRequest | None) -> T | None:
        if found is None:
            return None
        # The operation comes first: fields of another operation mean nothing here.
        for field, value in self.fingerprints.items():
            if found.fingerprints.get(field) != value:
                raise RequestIdReusedError(self.request_id, field)
        return msgspec.json.decode(found.outcome, type=self.outcome)


class Fingerprinter:
    """
    Makes the keyed hashes.

    Args:
        key: Shared by all replicas, at least 32 bytes.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key

    def once(self, caller: Caller, operation: str, outcome: type[T], **fields: object) -> Once[T]:
        """
        Describe a request.

        Args:
            caller: Who asks.
            operation: Name of the RPC.
            outcome: Type of what it gives.
            fields: Its fields: text, bytes, numbers, booleans or tuples of text.
        """
        values = {"operation": operation, **fields}
        hashes = {
            name: fingerprint(
                self._key, version=FIELDS_VERSION, fields=[(name, _bytes(value))]
            ).hex()
            for name, value in values.items()
        }
        return Once(caller.request_id, hashes, outcome)


def _bytes(value: object) -> bytes:
    if isinstance(value, Secret):
        return value.reveal_bytes()
    return msgspec.json.encode(value)
