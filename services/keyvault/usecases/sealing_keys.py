# SPDX-License-Identifier: Apache-2.0
"""Keys to seal with: made when the last one's time is over, shared by all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.keyvault.domain import sealing
from services.keyvault.domain.sealing import (
    Lifetimes,
    SealedBlob,
    SealingKeyName,
    SealingSuite,
)
from services.keyvault.errors import (
    KekUnavailableError,
    SealedKeyFault,
    SealedKeyRefusedError,
)
from services.keyvault.usecases.data_keys import DataKeys
from services.keyvault.usecases.ports import AgedKey, KeyEncryption, SealingKeyStore
from services.keyvault.usecases.service_keys import context_of
from services.shared.config import ConfigError
from services.shared.secret import Secret

_PURPOSE = "sealing/"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """
    A public key to seal with.

    Args:
        name: Which.
        public_key: Its bytes.
        expire_time: Do not seal with it from then on.
    """

    name: SealingKeyName
    public_key: bytes
    expire_time: datetime


@dataclass(frozen=True, slots=True, eq=False)
class OpenedBlob:
    """
    What a blob held.

    Args:
        plaintext: The opened bytes.
        suite: The suite it was sealed with.
        newest: Whether its sealing key is its suite's newest.
    """

    plaintext: Secret
    suite: SealingSuite
    newest: bool


class SealingKeys:
    """
    Makes, opens with, and destroys sealing keys.

    Each is one of keyvault's own wrapped keys, so rewrapping and the floors hold for it too. The
    rows are read each time, so one that is destroyed opens nothing, whatever is cached.

    Args:
        kek: Wraps them.
        data_keys: Unwraps through a cache.
        store: Where they are.
        lifetimes: How long they live.
    """

    def __init__(
        self,
        *,
        kek: KeyEncryption,
        data_keys: DataKeys,
        store: SealingKeyStore,
        lifetimes: Lifetimes,
    ) -> None:
        self._kek = kek
        self._data_keys = data_keys
        self._store = store
        self._lifetimes = lifetimes

    async def current(self, suite: SealingSuite) -> SealingKey:
        """
        Return the key to seal with; those past their time are destroyed on the way.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        keys = await self._keys(suite)
        ended = [name for name, key in keys.items() if not key.age.may_open(self._lifetimes)]
        if ended:
            await self._store.destroy_service_keys([_purpose(name) for name in ended])
        newest = max(keys, default=SealingKeyName(suite, 0))
        if newest not in keys or not keys[newest].age.may_seal(self._lifetimes):
            newest = SealingKeyName(suite, newest.number + 1)
            fresh = await self._kek.generate_data_key(context_of(_purpose(newest)))
            # Of two replicas that make it at once, both take the first one's.
            await self._store.keep_service_key(_purpose(newest), fresh.wrapped)
            keys = await self._keys(suite)
        seed = await self._seed(newest, keys[newest])
        return SealingKey(
            newest,
            sealing.public_key(suite, seed),
            keys[newest].age.create_time + self._lifetimes.seal,
        )

    async def seal(self, suite: SealingSuite, plaintext: Secret) -> SealedBlob:
        """
        Seal under the current key.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        key = await self.current(suite)
        return SealedBlob(str(key.name), sealing.seal(suite, key.public_key, plaintext))

    async def open(self, sealed: SealedBlob) -> OpenedBlob:
        """
        Open a blob.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
            SealedKeyRefusedError: If its sealing key is gone, or it is not authentic.
        """
        name = SealingKeyName.parse(sealed.sealing_key)
        if name is None or len(sealed.blob) > sealing.BLOB_BYTES_MAX:
            raise SealedKeyRefusedError(SealedKeyFault.MALFORMED)
        keys = await self._keys(name.suite)
        key = keys.get(name)
        if key is None or not key.age.may_open(self._lifetimes):
            raise SealedKeyRefusedError(SealedKeyFault.SEALING_KEY_GONE)
        seed = await self._seed(name, key)
        plaintext = sealing.unseal(name.suite, seed, sealed.blob)
        newest = name == max(keys) and key.age.may_seal(self._lifetimes)
        return OpenedBlob(plaintext, name.suite, newest)

    async def _keys(self, suite: SealingSuite) -> dict[SealingKeyName, AgedKey]:
        prefix = f"{_PURPOSE}{suite.value}-"
        found = await self._store.aged_service_keys(prefix)
        named = ((SealingKeyName.parse(key.purpose.removeprefix(_PURPOSE)), key) for key in found)
        return {name: key for name, key in named if name is not None and name.suite is suite}

    async def _seed(self, name: SealingKeyName, key: AgedKey) -> Secret:
        purpose = _purpose(name)
        [seed] = await self._data_keys.unwrap_each([(key.wrapped, context_of(purpose))])
        if isinstance(seed, KekUnavailableError):
            raise seed
        if seed is None:
            problem = (
                f"keyvault's own key '{purpose}' in table service_keys is damaged or not its own; "
                "restore the table from a backup"
            )
            raise ConfigError([problem])
        return seed


def _purpose(name: SealingKeyName) -> str:
    return f"{_PURPOSE}{name}"
