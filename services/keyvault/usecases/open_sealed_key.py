# SPDX-License-Identifier: Apache-2.0
"""Opening a client-held key for one run of the router (K10)."""

from __future__ import annotations

from dataclasses import dataclass

from services.keyvault.domain.audit import AuditAction, AuditEntry
from services.keyvault.domain.credentials import hint_of
from services.keyvault.domain.sealed_keys import ProvenRequest
from services.keyvault.domain.sealing import SealedBlob
from services.keyvault.errors import KeyDisabledError, SealedKeyFault, SealedKeyRefusedError
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.read_keys import ReadKeys
from services.keyvault.usecases.sealed_secrets import SealedSecrets, Submitted
from services.shared.secret import Secret


@dataclass(frozen=True, slots=True, eq=False)
class OpenedKey:
    """
    An opened key.

    Args:
        secret: The clean secret.
        hint: What may be shown of it.
        resealed: The key sealed anew, where its sealing key is not the newest.
    """

    secret: Secret
    hint: str
    resealed: SealedBlob | None


class OpenSealedKey:
    """
    Opens client-held keys.

    Args:
        reader: Reads keys.
        sealed: Takes sealed secrets.
    """

    def __init__(self, *, reader: ReadKeys, sealed: SealedSecrets) -> None:
        self._reader = reader
        self._sealed = sealed

    async def __call__(
        self, caller: Caller, account: str, key_id: str, *, provider: str, submitted: Submitted
    ) -> OpenedKey:
        """
        Open a key; its proof is spent and the release recorded before this returns.

        Raises:
            ServiceError: As OpenSealedKey of the contract says.
        """
        key = await self._reader.key(account, key_id)
        if not key.enabled:
            raise KeyDisabledError(account, key_id)
        if provider != key.provider:
            raise SealedKeyRefusedError(SealedKeyFault.OTHER_PROVIDER)
        received = await self._sealed.receive_for(key, caller.request_id, submitted)
        resealed = await self._sealed.resealed(received)
        entry = AuditEntry(
            account=account,
            actor=caller.identity,
            action=AuditAction.RELEASE,
            key_id=key_id,
            version=key.version,
            request_id=caller.request_id,
            details={"purpose": "open"},
        )
        request = ProvenRequest(account, key.provider, caller.request_id)
        await self._sealed.spend(request, received.proof, entry)
        return OpenedKey(received.secret, hint_of(received.secret.reveal()), resealed)
