# SPDX-License-Identifier: Apache-2.0
"""Closing and opening stored secrets: the envelope, the key-encryption key and chance together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.keyvault.domain.aead import NONCE_BYTES
from services.keyvault.domain.envelope import (
    Binding,
    Record,
    check_record,
    seal,
    unseal,
)
from services.keyvault.errors import KekUnavailableError, RecordRefusedError
from services.keyvault.usecases.data_keys import DataKeys, Unwrapped
from services.keyvault.usecases.ports import KeyEncryption, StoredSecret
from services.shared.logging import get_logger
from services.shared.secret import Secret

log = get_logger()

Opened = Secret | RecordRefusedError | KekUnavailableError
"""A record's secret, or what kept it shut: damage, or a key-encryption key that is away."""


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

    async def open(self, item: StoredSecret) -> Secret:
        """
        Decrypt a record.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
            RecordRefusedError: If it is damaged or not its own.
        """
        [opened] = await self.open_each([item])
        if isinstance(opened, Secret):
            return opened
        raise opened

    async def open_each(self, stored: Sequence[StoredSecret]) -> list[Opened]:
        """
        Decrypt records; what keeps one shut keeps no other.

        Returns:
            In order: the secret, or why there is none. A record that is damaged or not its own is
            logged.
        """
        sound = [item for item in stored if self._is_sound(item)]
        data_keys = await self._data_keys.unwrap_each(
            [
                (item.record.data_key, item.binding.context(item.record.format_version))
                for item in sound
            ]
        )
        opened = {
            item.binding: _unsealed(item, data_key)
            for item, data_key in zip(sound, data_keys, strict=True)
        }
        results = [
            opened[item.binding] if item.binding in opened else _refused(item) for item in stored
        ]
        for item, result in zip(stored, results, strict=True):
            if isinstance(result, RecordRefusedError):
                log.error(
                    "record_refused",
                    account=item.binding.account,
                    key_id=item.binding.key_id,
                    version=item.binding.version,
                )
        return results

    def _is_sound(self, item: StoredSecret) -> bool:
        """Tell whether it is worth unwrapping its data key."""
        try:
            check_record(item.record, item.binding)
        except RecordRefusedError:
            return False
        return item.record.data_key.kek_name == self._kek.name


def _unsealed(item: StoredSecret, data_key: Unwrapped) -> Opened:
    if isinstance(data_key, KekUnavailableError):
        return data_key
    if data_key is None:
        return _refused(item)
    try:
        return unseal(item.record, item.binding, data_key)
    except RecordRefusedError as refused:
        return refused


def _refused(item: StoredSecret) -> RecordRefusedError:
    return RecordRefusedError(item.binding.account, item.binding.key_id, item.binding.version)
