# SPDX-License-Identifier: Apache-2.0
"""
Calls to Vault's HTTP API through hvac, with own threads, own connections and short deadlines.

Rules:
1. hvac blocks, so calls run in threads of their own, never more at once than there are connections.
2. Everything sent here may be sent twice, so what is worth another try is tried again, a bounded
   number of times with jitter, within one deadline.
3. Neither hvac's nor Vault's text leaves this module: it may quote what was sent. What comes out is
   a status or one of our own causes.
See https://developer.hashicorp.com/vault/api-docs#http-status-codes
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import requests
import requests.adapters
from hvac.adapters import RawAdapter

from services.keyvault.adapters.metrics import VAULT_CALLS, VAULT_SECONDS
from services.keyvault.adapters.vault_login import LoginMethod
from services.keyvault.errors import KekCause, KekUnavailableError
from services.shared import tracing
from services.shared.channel import outbound_seconds
from services.shared.clock import Clock
from services.shared.logging import get_logger
from services.shared.secret import Secret

ATTEMPTS_MAX = 4
BACKOFF_SECONDS = 0.05
BODY_BYTES_MAX = 32 * 1024 * 1024
OPERATIONS = ("datakey", "decrypt", "encrypt", "keys", "login", "rewrap")
"""What calls are counted by, as it stands in their paths; `other` for what is not among them."""
TOKEN_HEADER = "X-Vault-Token"  # noqa: S105 - the header's name

log = get_logger()


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """
    How to reach Vault and which key to use.

    Args:
        address: `https://host:port`.
        ca_file: Checks its certificate; None for the system's.
        namespace: Vault namespace; "" for none.
        transit_mount: Where Transit is mounted.
        transit_key: Name of the key.
        login: Who keyvault is to Vault.
        call_seconds: Time for one use, retries included.
        connections: Calls at once.
    """

    address: str
    ca_file: Path | None
    namespace: str
    transit_mount: str
    transit_key: str
    login: LoginMethod
    call_seconds: float
    connections: int


class VaultRejectedError(Exception):
    """
    Vault refused what was sent; the same again would be refused again.

    Args:
        status: The HTTP status: 403 for a token or policy, 400 for a body, 404 for a path.
    """

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class _TryAgainError(Exception):
    """
    A failure that another try may mend.

    Args:
        cause: What to say if none does.
    """

    def __init__(self, cause: KekCause) -> None:
        super().__init__(cause.value)
        self.cause = cause


class VaultHTTP:
    """
    Calls Vault.

    Args:
        settings: How to reach it.
        clock: Time.
        jitter: Random numbers from 0 to 1.
    """

    def __init__(
        self, settings: VaultSettings, *, clock: Clock, jitter: Callable[[], float]
    ) -> None:
        self._call_seconds = settings.call_seconds
        self._clock = clock
        self._jitter = jitter
        self._lanes = asyncio.Semaphore(settings.connections)
        self._threads = ThreadPoolExecutor(settings.connections, thread_name_prefix="vault")
        session = requests.Session()
        # The environment's proxies and .netrc have no business with data keys.
        session.trust_env = False
        session.verify = str(settings.ca_file) if settings.ca_file else True
        session.mount(
            "https://",
            requests.adapters.HTTPAdapter(
                pool_connections=1, pool_maxsize=settings.connections, max_retries=0
            ),
        )
        self._adapter = RawAdapter(
            base_uri=settings.address,
            session=session,
            namespace=settings.namespace or None,
            allow_redirects=False,
        )

    def deadline(self) -> float:
        """Return when a use that begins now must have ended, on the monotonic clock."""
        return self._clock.monotonic() + outbound_seconds(self._call_seconds)

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        token: Secret | None,
        deadline: float,
    ) -> dict[str, Any]:
        """
        Call Vault, trying again what is worth it.

        Args:
            method: HTTP method.
            path: Path, from `/v1/` on.
            body: Sent as JSON.
            token: Sent with it.
            deadline: When to give up, on the monotonic clock.

        Returns:
            The answer's JSON object.

        Raises:
            VaultRejectedError: If another try cannot mend it.
            KekUnavailableError: If there is no usable answer in time.
        """
        cause = KekCause.UNREACHABLE
        for attempt in range(ATTEMPTS_MAX):
            remaining = deadline - self._clock.monotonic()
            if remaining <= 0:
                break
            try:
                with _observed(path):
                    async with asyncio.timeout(remaining):
                        return await self._once(method, path, body, token=token, seconds=remaining)
            except _TryAgainError as fault:
                cause = fault.cause
            except TimeoutError:
                log.warning("vault_call_timed_out", path=path)
                break
            await self._clock.sleep(BACKOFF_SECONDS * 2**attempt * self._jitter())
        raise KekUnavailableError(cause)

    async def close(self) -> None:
        """Close connections; calls under way end by their own timeouts."""
        self._adapter.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _once(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        token: Secret | None,
        seconds: float,
    ) -> dict[str, Any]:
        def blocking() -> tuple[int, dict[str, Any] | None]:
            headers = {TOKEN_HEADER: token.reveal()} if token is not None else {}
            data = None if body is None else msgspec.json.encode(body)
            response = self._adapter.request(
                method, path, headers=headers, data=data, timeout=seconds, raise_exception=False
            )
            return response.status_code, _json_object(response.content)

        async with self._lanes:
            loop = asyncio.get_running_loop()
            try:
                status, answer = await loop.run_in_executor(self._threads, blocking)
            except requests.exceptions.SSLError as fault:
                log.error("vault_tls_failed", error=type(fault).__name__)  # noqa: TRY400
                raise KekUnavailableError(KekCause.BROKEN) from None
            except requests.exceptions.ChunkedEncodingError as fault:
                log.warning("vault_answer_cut", error=type(fault).__name__)
                raise _TryAgainError(KekCause.UNREACHABLE) from None
            except requests.exceptions.RequestException as fault:
                log.warning("vault_unreachable", error=type(fault).__name__)
                raise _TryAgainError(KekCause.UNREACHABLE) from None
        return _judge(path, status, answer)


@contextlib.contextmanager
def _observed(path: str) -> Iterator[None]:
    """Trace and count one try."""
    parts = path.split("/")
    operation = next((one for one in OPERATIONS if one in parts), "other")
    outcome, started = "failed", time.perf_counter()
    try:
        with tracing.calling(f"vault {operation}"):
            yield
        outcome = "ok"
    except VaultRejectedError:
        outcome = "refused"
        raise
    finally:
        VAULT_CALLS.labels(operation=operation, outcome=outcome).inc()
        VAULT_SECONDS.labels(operation=operation).observe(time.perf_counter() - started)


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        parsed = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _judge(path: str, status: int, answer: dict[str, Any] | None) -> dict[str, Any]:
    if status == http.HTTPStatus.OK:
        if answer is None:
            log.warning("vault_answer_unreadable", path=path)
            raise _TryAgainError(KekCause.BROKEN)
        return answer
    if status == http.HTTPStatus.BAD_REQUEST and answer is not None and _is_batch(answer):
        # Every item of a batch was refused; what is said of each is still an answer.
        return answer
    log.warning("vault_refused", path=path, status=status)
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        # Sealed, or a standby without a leader: Vault's own word tells them apart.
        if _says_sealed(answer):
            raise KekUnavailableError(KekCause.SEALED)
        raise _TryAgainError(KekCause.UNREACHABLE)
    if status == http.HTTPStatus.TOO_MANY_REQUESTS:
        raise _TryAgainError(KekCause.BUSY)
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _TryAgainError(KekCause.BROKEN)
    raise VaultRejectedError(status)


def _is_batch(answer: dict[str, Any]) -> bool:
    data = answer.get("data")
    return isinstance(data, dict) and isinstance(data.get("batch_results"), list)


def _says_sealed(answer: dict[str, Any] | None) -> bool:
    errors = answer.get("errors") if answer else None
    return isinstance(errors, list) and any("sealed" in str(text).lower() for text in errors)
