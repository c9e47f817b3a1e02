# SPDX-License-Identifier: Apache-2.0
"""
Vault Transit as the key-encryption key: one derived key for all, bound by `context`.

A derived key is used because its `context` binds a wrapped key to its owner and is taken by
datakey, decrypt and rewrap, singly and in batches; `associated_data` is not taken by rewrap, so a
key wrapped with it could not be rotated without being shown.
See https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import base64
import binascii
import http
import random
import re
from collections.abc import Sequence
from typing import Any

from services.keyvault.adapters.vault_http import (
    VaultHTTP,
    VaultRejectedError,
    VaultSettings,
)
from services.keyvault.adapters.vault_login import Token, VaultLogin
from services.keyvault.domain.envelope import DATA_KEY_BYTES, DataKey, WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError, NotServedError
from services.keyvault.usecases.ports import KekState
from services.shared.clock import Clock
from services.shared.config import ConfigError
from services.shared.logging import get_logger
from services.shared.secret import Secret

KEY_TYPE = "aes256-gcm96"
START_WAIT_SECONDS = 120.0
START_RETRY_SECONDS = 1.0
PARTIAL_FAILURE_CODE = 200
_WRAPPED = re.compile(rb"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}")

log = get_logger()

Item = tuple[WrappedKey, bytes]


class VaultTransit:
    """
    A Transit key.

    Args:
        settings: How to reach Vault and which key to use.
        clock: Time.
    """

    def __init__(self, settings: VaultSettings, *, clock: Clock) -> None:
        mount, key = settings.transit_mount, settings.transit_key
        namespace = f"{settings.namespace.strip('/')}/" if settings.namespace else ""
        self.name = f"vault:{namespace}{mount}/{key}"
        self._mount = mount
        self._key = key
        self._clock = clock
        # Jitter only spreads retries; it protects nothing.
        self._http = VaultHTTP(settings, clock=clock, jitter=random.random)
        self._login = VaultLogin(self._post_login, method=settings.login, clock=clock)

    async def check_key(self) -> None:
        """
        Assert that the key is fit for its use, waiting for a Vault that is away or sealed.

        Raises:
            ConfigError: If the key or the mount is not set up as it must be.
            KekUnavailableError: If Vault stayed away.
        """
        give_up = self._clock.monotonic() + START_WAIT_SECONDS
        while True:
            try:
                key = await self._call("get", f"keys/{self._key}")
                mount = await self._call("get", "config/keys")
            except KekUnavailableError as fault:
                waits = {KekCause.SEALED, KekCause.UNREACHABLE, KekCause.BUSY}
                if fault.cause not in waits or self._clock.monotonic() >= give_up:
                    raise
                log.warning("waiting_for_vault", cause=fault.cause.value)
                await self._clock.sleep(START_RETRY_SECONDS)
            else:
                break
        name = f"Vault's Transit key {self._mount}/{self._key}"
        rules = [
            (key.get("type") == KEY_TYPE, f"{name} must be of type {KEY_TYPE}"),
            (key.get("derived") is True, f"{name} must be derived, which is set at its creation"),
            (
                key.get("exportable") is False and key.get("allow_plaintext_backup") is False,
                f"{name} must be neither exportable nor open to plaintext backups",
            ),
            (
                mount.get("disable_upsert") is True,
                f"{self._mount}/config/keys must have disable_upsert set, or a typo makes a key",
            ),
        ]
        problems = [problem for kept, problem in rules if not kept]
        if problems:
            raise ConfigError(problems)

    async def generate_data_key(self, context: bytes) -> DataKey:
        """Make a fresh 256-bit data key, wrapped under the context."""
        body = {"context": _encode(context), "bits": DATA_KEY_BYTES * 8}
        data = await self._call("post", f"datakey/plaintext/{self._key}", body)
        plaintext = _decode(data.get("plaintext"))
        wrapped = self._wrapped(data.get("ciphertext"))
        if plaintext is None or wrapped is None or len(plaintext) != DATA_KEY_BYTES:
            raise _broken("datakey")
        return DataKey(Secret(plaintext), wrapped)

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> Secret | None:
        """Unwrap a data key; None if it is not authentic under the context."""
        [secret] = await self.unwrap_many([(wrapped, context)])
        return secret

    async def unwrap_many(self, items: Sequence[Item]) -> list[Secret | None]:
        """Unwrap data keys, each with its context; answers in order."""
        secrets: list[Secret | None] = [None] * len(items)
        for number, result in (await self._batch("decrypt", items)).items():
            plaintext = _decode(result.get("plaintext"))
            if plaintext is None or len(plaintext) != DATA_KEY_BYTES:
                raise _broken("decrypt")
            secrets[number] = Secret(plaintext)
        return secrets

    async def rewrap_many(self, items: Sequence[Item]) -> list[WrappedKey | None]:
        """Wrap data keys anew by the current version; answers in order."""
        rewrapped: list[WrappedKey | None] = [None] * len(items)
        for number, result in (await self._batch("rewrap", items)).items():
            wrapped = self._wrapped(result.get("ciphertext"))
            if wrapped is None:
                raise _broken("rewrap")
            rewrapped[number] = wrapped
        return rewrapped

    async def status(self) -> KekState:
        """Return where it stands."""
        data = await self._call("get", f"keys/{self._key}")
        try:
            return KekState(int(data["latest_version"]), int(data["min_decryption_version"]))
        except (KeyError, TypeError, ValueError):
            raise _broken("keys") from None

    async def rotate(self) -> KekState:
        """Refuse: keyvault's policy lets it use the key, not rotate it."""
        advice = (
            f"on Vault an operator rotates it: vault write -f {self._mount}/keys/{self._key}/rotate"
        )
        raise NotServedError("RotateKek", advice)

    async def retire(self, lowest: int) -> KekState:
        """Refuse: keyvault's policy lets it use the key, not configure it."""
        advice = (
            "nothing is wrapped by these versions any more; on Vault an operator does the rest: "
            f"vault write {self._mount}/keys/{self._key}/config min_decryption_version={lowest}"
        )
        raise NotServedError("RetireKekVersions", advice)

    async def close(self) -> None:
        """Close connections and forget the token."""
        await self._login.close()
        await self._http.close()

    async def _batch(self, operation: str, items: Sequence[Item]) -> dict[int, dict[str, Any]]:
        """Return the results of those that succeeded, by their place in `items`."""
        asked = {
            number: {
                "ciphertext": wrapped.wrapped.decode("ascii"),
                "context": _encode(context),
                "reference": str(number),
            }
            for number, (wrapped, context) in enumerate(items)
            if self._is_own(wrapped)
        }
        if not asked:
            return {}
        body = {
            "batch_input": list(asked.values()),
            "partial_failure_response_code": PARTIAL_FAILURE_CODE,
        }
        data = await self._call("post", f"{operation}/{self._key}", body)
        results = data.get("batch_results")
        if not isinstance(results, list) or len(results) != len(asked):
            raise _broken(operation)
        succeeded = {}
        for number, result in zip(asked, results, strict=True):
            # The reference proves that an answer is this item's, whatever their order.
            if not isinstance(result, dict) or result.get("reference") != str(number):
                raise _broken(operation)
            if result.get("error"):
                log.error("vault_refused_item", operation=operation)
                continue
            succeeded[number] = result
        return succeeded

    def _is_own(self, wrapped: WrappedKey) -> bool:
        """Tell whether a wrapped key can be this key's, its version being the one on record."""
        match = _WRAPPED.fullmatch(wrapped.wrapped)
        return (
            match is not None
            and wrapped.kek_name == self.name
            and int(match.group(1)) == wrapped.kek_version
        )

    def _wrapped(self, ciphertext: object) -> WrappedKey | None:
        wrapped = str(ciphertext).encode()
        match = _WRAPPED.fullmatch(wrapped)
        return WrappedKey(self.name, int(match.group(1)), wrapped) if match else None

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Call Transit with a token; a refused one is replaced once."""
        full_path = f"/v1/{self._mount}/{path}"
        deadline = self._http.deadline()
        token = await self._login.token()

        async def once(token: Token) -> dict[str, Any]:
            return await self._http.call(
                method, full_path, body, token=token.value, deadline=deadline
            )

        try:
            try:
                answer = await once(token)
            except VaultRejectedError as fault:
                if fault.status != http.HTTPStatus.FORBIDDEN:
                    raise
                answer = await once(await self._login.replace(token))
        except VaultRejectedError as fault:
            denied = fault.status == http.HTTPStatus.FORBIDDEN
            raise KekUnavailableError(KekCause.DENIED if denied else KekCause.BROKEN) from None
        data = answer.get("data")
        if not isinstance(data, dict):
            raise _broken(path)
        return data

    async def _post_login(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        try:
            return await self._http.call(
                "post", path, body, token=None, deadline=self._http.deadline()
            )
        except VaultRejectedError:
            # A wrong role or secret id is answered 400, a forbidden one or a refused token 403.
            raise KekUnavailableError(KekCause.DENIED) from None


def _broken(operation: str) -> KekUnavailableError:
    log.error("vault_answer_unusable", operation=operation)
    return KekUnavailableError(KekCause.BROKEN)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decode(value: object) -> bytes | None:
    try:
        return base64.b64decode(str(value), validate=True)
    except binascii.Error:
        return None
