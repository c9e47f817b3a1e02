# SPDX-License-Identifier: Apache-2.0
"""Keys of keyvault's own, each wrapped by the key-encryption key for one purpose."""

from __future__ import annotations

from services.keyvault.usecases.ports import KeyEncryption, ServiceKeyStore
from services.shared.config import ConfigError
from services.shared.fingerprint import canonical
from services.shared.secret import Secret

AUDIT = "audit"
CLIENT_HELD = "client-held"
"""Of the keyed hashes by which client-held secrets are known again."""
REVOCATIONS = "revocations"
"""Of the signatures of exported revocations."""

_PURPOSE = b"ownkey/keyvault/service-key"
_FORMAT_VERSION = b"1"


class ServiceKeys:
    """
    Makes, opens and rewraps keyvault's own keys.

    Args:
        kek: Wraps them.
        store: Where they are.
    """

    def __init__(self, *, kek: KeyEncryption, store: ServiceKeyStore) -> None:
        self._kek = kek
        self._store = store

    async def open(self, purpose: str) -> Secret:
        """
        Return the key of a purpose, 32 bytes, which is made at its first use.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
            ConfigError: If the stored key does not open.
        """
        context = context_of(purpose)
        wrapped = await self._store.service_key(purpose)
        if wrapped is None:
            fresh = await self._kek.generate_data_key(context)
            # Of two replicas that start at once, both take the first one's.
            wrapped = await self._store.keep_service_key(purpose, fresh.wrapped)
        secret = await self._kek.unwrap(wrapped, context)
        if secret is None:
            problem = (
                f"keyvault's own key '{purpose}' in table service_keys is damaged or not its own; "
                "restore the table from a backup"
            )
            raise ConfigError([problem])
        return secret

    async def rewrap(self, *, below: int) -> tuple[int, int]:
        """
        Wrap the keys of older versions of the key-encryption key by the current one.

        Returns:
            How many were done, and how many could not be or were changed by others meanwhile.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        outdated = await self._store.outdated_service_keys(self._kek.name, below=below)
        rewrapped = await self._kek.rewrap_many(
            [(wrapped, context_of(purpose)) for purpose, wrapped in outdated]
        )
        done = 0
        for (purpose, known), wrapped in zip(outdated, rewrapped, strict=True):
            if wrapped is not None:
                done += await self._store.exchange_service_key(purpose, known, wrapped)
        return done, len(outdated) - done


def context_of(purpose: str) -> bytes:
    """Return the canonical bytes that bind the key of a purpose."""
    return canonical([_PURPOSE, _FORMAT_VERSION, purpose.encode()])
