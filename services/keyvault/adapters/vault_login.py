# SPDX-License-Identifier: Apache-2.0
"""
Keyvault's token at Vault: a login by AppRole or Kubernetes, renewed ahead of its end.

Rules:
1. One login at a time: whoever needs a token while one is under way waits for that one.
2. A refused token is replaced once, by the first who met the refusal; the others take what it got.
3. A login ahead of time that fails changes nothing while the old token still lives.
4. What proves who we are is read from its file at each login, so it may be exchanged meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.keyvault.errors import KekCause, KekUnavailableError
from services.keyvault.usecases.background import start_detached
from services.shared.clock import Clock
from services.shared.config import ConfigError, read_secret_file
from services.shared.logging import get_logger
from services.shared.secret import Secret

# A token is replaced when this part of its life is over.
RENEW_AFTER = 2 / 3
LEASE_SECONDS_MIN = 1.0

log = get_logger()

Post = Callable[[str, dict[str, str]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Token:
    """
    A token at Vault.

    Args:
        value: The token.
        renew_at: When to get another, on the monotonic clock.
        ends_at: When it ends.
    """

    value: Secret
    renew_at: float
    ends_at: float


class LoginMethod(Protocol):
    """
    One way to log in.

    `path` is Vault's, from `/v1/` on.
    """

    path: str

    def body(self) -> dict[str, str]:
        """Return what is posted there; raises ConfigError where a file cannot be used."""
        ...


class AppRole:
    """
    A role id and a secret id, each in a file.

    See https://developer.hashicorp.com/vault/api-docs/auth/approle#login-with-approle

    Args:
        mount: Where the method is mounted.
        role_id_file: Holds the role id.
        secret_id_file: Holds the secret id.
    """

    def __init__(self, mount: str, *, role_id_file: Path, secret_id_file: Path) -> None:
        self.path = f"/v1/auth/{mount}/login"
        self._role_id_file = role_id_file
        self._secret_id_file = secret_id_file

    def body(self) -> dict[str, str]:
        """Return role id and secret id."""
        return {
            "role_id": read_secret_file(self._role_id_file).reveal(),
            "secret_id": read_secret_file(self._secret_id_file).reveal(),
        }


class KubernetesAuth:
    """
    A pod's projected service-account token, which Vault has the cluster review.

    See https://developer.hashicorp.com/vault/api-docs/auth/kubernetes#login

    Args:
        mount: Where the method is mounted.
        role: Vault's role for this service account.
        token_file: Holds the token; the kubelet exchanges it before it expires.
    """

    def __init__(self, mount: str, *, role: str, token_file: Path) -> None:
        self.path = f"/v1/auth/{mount}/login"
        self._role = role
        self._token_file = token_file

    def body(self) -> dict[str, str]:
        """Return role and token."""
        return {"role": self._role, "jwt": read_secret_file(self._token_file).reveal()}


class VaultLogin:
    """
    Keeps a token.

    Args:
        post: Posts to a path of Vault without a token.
        method: Who we are to Vault.
        clock: Time.
    """

    def __init__(self, post: Post, *, method: LoginMethod, clock: Clock) -> None:
        self._post = post
        self._method = method
        self._clock = clock
        self._token: Token | None = None
        self._login: asyncio.Task[Token] | None = None

    async def token(self) -> Token:
        """
        Return a token that lives.

        Raises:
            KekUnavailableError: If there is none and the login failed.
        """
        token, now = self._token, self._clock.monotonic()
        if token is not None and now < token.renew_at:
            return token
        try:
            return await self._shared_login()
        except KekUnavailableError:
            if token is not None and now < token.ends_at:
                return token
            raise

    async def replace(self, refused: Token) -> Token:
        """
        Return another token than one that Vault refused.

        Raises:
            KekUnavailableError: If the login failed.
        """
        if self._token is not None and self._token is not refused:
            return self._token
        return await self._shared_login()

    async def close(self) -> None:
        """Await a login under way and forget the token."""
        if self._login is not None:
            await asyncio.gather(self._login, return_exceptions=True)
        self._token = None

    async def _shared_login(self) -> Token:
        if self._login is None or self._login.done():
            self._login = start_detached(self._log_in())
        # One caller that goes away must not end the login of all.
        return await asyncio.shield(self._login)

    async def _log_in(self) -> Token:
        try:
            body = self._method.body()
        except ConfigError as fault:
            log.error("vault_login_files_unusable", problems=fault.problems)  # noqa: TRY400
            raise KekUnavailableError(KekCause.DENIED) from None
        started = self._clock.monotonic()
        answer = await self._post(self._method.path, body)
        try:
            value = str(answer["auth"]["client_token"])
            lease = max(LEASE_SECONDS_MIN, float(answer["auth"]["lease_duration"]))
        except (KeyError, TypeError, ValueError):
            raise KekUnavailableError(KekCause.BROKEN) from None
        self._token = Token(
            Secret(value), renew_at=started + lease * RENEW_AFTER, ends_at=started + lease
        )
        log.info("vault_logged_in", lease_seconds=lease)
        return self._token
