# SPDX-License-Identifier: Apache-2.0
"""
The local keyring: key-encryption keys in one file, for one host.

Rules:
1. The file is mode 0600 and nobody else's; otherwise it is not used.
2. It is written aside, synced, renamed and its folder synced: whole or not at all. Rotation holds a
   lock beside it, so two processes never make the same version.
3. A data key is wrapped by AES-256-GCM with the binding context as additional data; a wrapped key
   starts with its layout's number.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.keyvault.domain.aead import NONCE_BYTES
from services.keyvault.domain.envelope import DATA_KEY_BYTES, DataKey, WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError
from services.keyvault.usecases.ports import KekState
from services.shared.config import ConfigError
from services.shared.logging import get_logger
from services.shared.secret import Secret

FILE_FORMAT = 1
FILE_BYTES_MAX = 1024 * 1024
VERSIONS_MAX = 1000
WRAP_LAYOUT = b"\x01"
KEY_BYTES = 32
ID_BYTES = 8

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Keyring:
    """
    The file's content.

    Args:
        ring_id: Random id of the ring.
        keys: Key by version, ascending.
    """

    ring_id: str
    keys: dict[int, Secret]


class LocalKeyring:
    """
    Key-encryption keys in a file.

    Args:
        path: The file; made where it is missing.

    Raises:
        ConfigError: If it cannot be used; the message says what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _locked(path):
            if not path.exists():
                _write(
                    path, _Keyring(os.urandom(ID_BYTES).hex(), {1: Secret(os.urandom(KEY_BYTES))})
                )
                log.info("keyring_created", path=str(path))
        self._ring = _read(path)
        self.name = f"local:{self._ring.ring_id}"

    async def generate_data_key(self, context: bytes) -> DataKey:
        """Make a fresh 256-bit data key, wrapped under the context."""
        # Another process of this host may have rotated, and retired what this one knows.
        self._ring = self._reread()
        plaintext = os.urandom(DATA_KEY_BYTES)
        return DataKey(Secret(plaintext), self._wrap(plaintext, context))

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> Secret | None:
        """Unwrap a data key; None if it is not authentic under the context."""
        key = self._key(wrapped.kek_version)
        body = wrapped.wrapped[len(WRAP_LAYOUT) :]
        known = wrapped.kek_name == self.name and wrapped.wrapped.startswith(WRAP_LAYOUT)
        if key is None or not known or len(body) <= NONCE_BYTES:
            return None
        nonce, ciphertext = body[:NONCE_BYTES], body[NONCE_BYTES:]
        try:
            return Secret(AESGCM(key.reveal_bytes()).decrypt(nonce, ciphertext, context))
        except InvalidTag:
            return None

    async def unwrap_many(self, items: Sequence[tuple[WrappedKey, bytes]]) -> list[Secret | None]:
        """Unwrap data keys, each with its context; answers in order."""
        return [await self.unwrap(wrapped, context) for wrapped, context in items]

    async def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, bytes]]
    ) -> list[WrappedKey | None]:
        """Wrap data keys anew by the current version; answers in order."""
        self._ring = self._reread()
        opened = await self.unwrap_many(items)
        return [
            None if secret is None else self._wrap(secret.reveal_bytes(), context)
            for secret, (_, context) in zip(opened, items, strict=True)
        ]

    async def status(self) -> KekState:
        """Return where it stands."""
        self._ring = self._reread()
        return KekState(max(self._ring.keys), min(self._ring.keys))

    async def rotate(self) -> KekState:
        """
        Make a new version; it wraps new data keys from now on.

        Raises:
            KekUnavailableError: If the file cannot be used or holds as many versions as it may.
        """
        with _locked(self._path):
            ring = self._reread()
            if len(ring.keys) >= VERSIONS_MAX:
                log.error("keyring_full", versions=VERSIONS_MAX)
                raise KekUnavailableError(KekCause.BROKEN)
            keys = {**ring.keys, max(ring.keys) + 1: Secret(os.urandom(KEY_BYTES))}
            self._ring = _Keyring(ring.ring_id, keys)
            _write(self._path, self._ring)
        return KekState(max(keys), min(keys))

    async def retire(self, lowest: int) -> KekState:
        """
        Destroy versions below one.

        Raises:
            KekUnavailableError: If the file cannot be used or has no such version.
        """
        with _locked(self._path):
            ring = self._reread()
            keys = {version: key for version, key in ring.keys.items() if version >= lowest}
            if not keys:
                log.error("keyring_has_no_such_version", version=lowest)
                raise KekUnavailableError(KekCause.BROKEN)
            self._ring = _Keyring(ring.ring_id, keys)
            _write(self._path, self._ring)
        return KekState(max(keys), min(keys))

    def _wrap(self, plaintext: bytes, context: bytes) -> WrappedKey:
        version = max(self._ring.keys)
        nonce = os.urandom(NONCE_BYTES)
        key = self._ring.keys[version].reveal_bytes()
        ciphertext = AESGCM(key).encrypt(nonce, plaintext, context)
        return WrappedKey(self.name, version, WRAP_LAYOUT + nonce + ciphertext)

    def _key(self, version: int) -> Secret | None:
        if version not in self._ring.keys:
            # Another process of this host may have rotated.
            self._ring = self._reread()
        return self._ring.keys.get(version)

    def _reread(self) -> _Keyring:
        try:
            ring = _read(self._path)
        except ConfigError as fault:
            log.error("keyring_unusable", problems=fault.problems)  # noqa: TRY400 - no traceback
            raise KekUnavailableError(KekCause.BROKEN) from None
        if f"local:{ring.ring_id}" != self.name:
            log.error("keyring_is_another", path=str(self._path))
            raise KekUnavailableError(KekCause.BROKEN)
        return ring


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside the keyring."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as fault:
        problem = (
            f"the keyring's folder {lock_path.parent} cannot be written ({fault.strerror}); create "
            "it, owned by keyvault's user"
        )
        raise ConfigError([problem]) from fault
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> _Keyring:
    try:
        status = path.stat()
        text = path.read_bytes()[: FILE_BYTES_MAX + 1]
    except OSError as fault:
        problem = f"the keyring {path} cannot be read ({fault.strerror}); restore it from a backup"
        raise ConfigError([problem]) from fault
    if stat.S_IMODE(status.st_mode) != stat.S_IRUSR | stat.S_IWUSR or status.st_uid != os.geteuid():
        problem = (
            f"the keyring {path} must be mode 0600 and owned by keyvault's user; check who could "
            "read it, then run chmod 600 on it"
        )
        raise ConfigError([problem])
    try:
        content = json.loads(text)
        file_format = content["format"]
        ring_id = str(content["id"])
        keys = {
            int(version): Secret(base64.b64decode(key, validate=True))
            for version, key in sorted(content["keys"].items(), key=lambda item: int(item[0]))
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not chained: a parser's message may quote what it could not read.
        raise ConfigError([f"the keyring {path} is damaged; restore it from a backup"]) from None
    if file_format != FILE_FORMAT:
        problem = f"the keyring {path} has format {file_format}, this version reads {FILE_FORMAT}"
        raise ConfigError([problem])
    if not keys or any(len(key.reveal_bytes()) != KEY_BYTES for key in keys.values()):
        raise ConfigError([f"the keyring {path} is damaged; restore it from a backup"])
    return _Keyring(ring_id, keys)


def _write(path: Path, ring: _Keyring) -> None:
    content = {
        "format": FILE_FORMAT,
        "id": ring.ring_id,
        "keys": {
            str(version): base64.b64encode(key.reveal_bytes()).decode()
            for version, key in ring.keys.items()
        },
    }
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
