# SPDX-License-Identifier: Apache-2.0
"""Closing and opening stored secrets: the envelope, the key-encryption key and chance together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.keyvault.domain.envelope import (
    NONCE_BYTES,
    Binding,
    Record,
    check_record,
    seal,
    unseal,
)
from services.keyvault.errors import RecordRefusedError
from services.keyvault.usecases.data_keys import DataKeys
from services.keyvault.usecases.ports import KeyEncryption, StoredSecret
from services.shared.secret import Secret


class SecretBox:
    """
    Encrypts secrets to records and opens records to secrets.

    Args:
        kek: The key-encryption key.
        data_keys: Unwraps through a cache.
        random_bytes: Makes that many random bytes, from the system's generator.
    """

    def __init__(
        self, kek: KeyEncryption, *, data_keys: DataKeys, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._kek = kek
        self._data_keys = data_keys
        self._random_bytes = random_bytes

    async def close(self, secret: Secret, binding: Binding) -> Record:
        """
        Encrypt a secret under a fresh data key.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        data_key = await self._kek.generate_data_key(binding.context())
        return seal(secret, binding, data_key=data_key, nonce=self._random_bytes(NONCE_BYTES))

    async def open(self, stored: Sequence[StoredSecret]) -> list[Secret]:
        """
        Decrypt records.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
            RecordRefusedError: If one is damaged or not its own.
        """
        for item in stored:
            check_record(item.record, item.binding)
            if item.record.data_key.kek_name != self._kek.name:
                raise _refused(item.binding)
        data_keys = await self._data_keys.unwrap_many(
            [
                (item.record.data_key, item.binding.context(item.record.format_version))
                for item in stored
            ]
        )
        secrets = []
        for item, data_key in zip(stored, data_keys, strict=True):
            if data_key is None:
                raise _refused(item.binding)
            secrets.append(unseal(item.record, item.binding, data_key))
        return secrets


def _refused(binding: Binding) -> RecordRefusedError:
    return RecordRefusedError(binding.account, binding.key_id, binding.version)
