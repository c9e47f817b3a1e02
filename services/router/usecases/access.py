# SPDX-License-Identifier: Apache-2.0
"""
Access tokens: traded for credentials, kept for a while, and renewed ahead of their end.

1. A token is kept under a keyed fingerprint of its owner and its credential: accounts never share
   one, and a replaced credential finds nothing.
2. One exchange at a time for each credential; its callers wait for it, each within its own time.
3. Near its end a token still serves while the next one is fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.router.providers.base import AccessToken, Credential, Dialect, TokenExchange
    from services.router.usecases.ports import Transport
    from services.shared.clock import Clock

__all__ = ["AccessTokens", "trade"]

TOKENS_MAX = 10_000
REFRESH_AHEAD_SECONDS = 300.0
"""A token's life is an hour at Google; sooner than this before its end the next one is fetched."""
SPARE_SECONDS = 30.0
"""A token with less left serves no more: it could end under way."""
EXCHANGE_SECONDS_MAX = 10.0

_FINGERPRINT_KEY_BYTES = 32


class AccessTokens:
    """
    All tokens of this process.
    """

    def __init__(self, *, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._fingerprint_key = secrets.token_bytes(_FINGERPRINT_KEY_BYTES)
        self._tokens: OrderedDict[bytes, AccessToken] = OrderedDict()
        self._exchanges: dict[bytes, asyncio.Task[AccessToken]] = {}

    async def token(
        self,
        owner: str,
        dialect: Dialect,
        credential: Credential,
        *,
        base_url: str,
        may_send: Callable[[], bool],
        deadline: float,
    ) -> AccessToken | None:
        """
        Give a token for a credential; None where its provider's requests need none.

        Args:
            owner: The key's name, which begins with its account's.
            dialect: The provider's.
            credential: What is traded.
            base_url: The provider's address.
            may_send: Whether the credential may still be used; asked right before bytes are sent.
            deadline: Monotonic seconds.

        Raises:
            CredentialMalformedError: The credential cannot be read.
            ProviderError: The exchange failed; the request itself was not sent.
            StaleKeyError: `may_send` said no.
        """
        name = self._name(owner, dialect.provider, credential)
        held = self._tokens.get(name)
        left = 0.0
        if held is not None:
            self._tokens.move_to_end(name)
            left = (held.expire_time - self._clock.now()).total_seconds()
            if left > REFRESH_AHEAD_SECONDS:
                return held
        running = self._exchanges.get(name)
        if running is None:
            exchange = dialect.exchange(credential, base_url=base_url, now=self._clock.now())
            if exchange is None:
                return None
            running = self._begin(name, exchange, may_send)
        if left > SPARE_SECONDS:
            return held
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await asyncio.shield(running)
        except TimeoutError:
            raise ProviderError(
                outcome=Outcome.TIMEOUT,
                safe_message="no access token came in time: try again",
                billed=Billed.NOT_SENT,
            ) from None

    def forget(self, owner: str, provider: str, credential: Credential, token: AccessToken) -> None:
        """
        Drop a token that its provider no longer takes.
        """
        name = self._name(owner, provider, credential)
        if self._tokens.get(name) is token:
            del self._tokens[name]

    async def close(self) -> None:
        """
        Stop the exchanges that are under way.
        """
        running = tuple(self._exchanges.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _name(self, owner: str, provider: str, credential: Credential) -> bytes:
        digest = hashlib.blake2b(key=self._fingerprint_key)
        for part in (owner.encode(), provider.encode(), credential.secret.reveal_bytes()):
            digest.update(len(part).to_bytes(8) + part)
        return digest.digest()

    def _begin(
        self, name: bytes, exchange: TokenExchange, may_send: Callable[[], bool]
    ) -> asyncio.Task[AccessToken]:
        task = asyncio.create_task(self._renew(name, exchange, may_send))
        self._exchanges[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: bytes, task: asyncio.Task[AccessToken]) -> None:
        del self._exchanges[name]
        if not task.cancelled():
            # Whoever waits hears of it; where nobody waits the next request tries again.
            task.exception()

    async def _renew(
        self, name: bytes, exchange: TokenExchange, may_send: Callable[[], bool]
    ) -> AccessToken:
        token = await trade(
            exchange,
            transport=self._transport,
            clock=self._clock,
            may_send=may_send,
            seconds=EXCHANGE_SECONDS_MAX,
        )
        self._tokens[name] = token
        self._tokens.move_to_end(name)
        if len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)
        return token


async def trade(
    exchange: TokenExchange,
    *,
    transport: Transport,
    clock: Clock,
    may_send: Callable[[], bool],
    seconds: float,
) -> AccessToken:
    """
    Make one exchange.

    Raises:
        ProviderError: It failed; no generation was sent.
        StaleKeyError: `may_send` said no.
    """
    try:
        async with (
            asyncio.timeout(seconds),
            transport.send(
                exchange.request, may_send=may_send, head_seconds=seconds, idle_seconds=seconds
            ) as answer,
        ):
            body = await answer.read()
            return exchange.read(answer.status, answer.headers, body, now=clock.now())
    except TimeoutError:
        raise ProviderError(
            outcome=Outcome.TIMEOUT,
            safe_message="no access token came in time: try again",
            billed=Billed.NOT_SENT,
        ) from None
    except ProviderError as error:
        # An exchange is free, whatever became of it.
        error.billed = Billed.NOT_SENT
        raise
