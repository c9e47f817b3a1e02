# SPDX-License-Identifier: Apache-2.0
"""
PostgreSQL: one pool, transactions as units that are retried whole, failures in our own words.

Rules:
1. A unit of work runs in a task of its own: a caller that goes away never cuts it in half.
2. Serialization failures, deadlocks and statements that a migration made stale retry the whole
   unit, a bounded number of times.
3. A connection lost at COMMIT leaves the outcome unknown, and so does a wait for a standby that was
   cut short: an OutcomeUnknownError says so, and whoever knows the unit's ids finds the outcome by
   them. Nothing here repeats such a unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import asyncpg

from services.shared.config import ConfigError
from services.shared.errors import (
    OutcomeUnknownError,
    OverloadedError,
    StoreUnavailableError,
)
from services.shared.logging import get_logger
from services.shared.metrics import DATABASE_FAILURES, DATABASE_WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from asyncpg.pool import PoolConnectionProxy

POOL_SIZE_DEFAULT = 10
OPEN_WAIT_SECONDS = 120.0
OPEN_RETRY_SECONDS = 0.5
CONNECT_SECONDS = 5.0
ACQUIRE_SECONDS = 5.0
COMMAND_SECONDS = 30.0
UNIT_ATTEMPTS_MAX = 6
UNIT_BACKOFF_SECONDS = 0.01
UNAVAILABLE_RETRY_SECONDS = 1.0
OVERLOADED_RETRY_SECONDS = 0.5

SERVER_SETTINGS = {
    "statement_timeout": "20s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
}

T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]

log = get_logger()

_RETRIED = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    # A migration changed a table under a prepared statement; the driver prepares anew.
    asyncpg.InvalidCachedStatementError,
)
# The server went away, or this one is no longer the primary.
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # An idle connection that was told of the server's end, and used before its socket closed.
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    ConnectionError,
    OSError,
)


# Besides, once it was open: a password that was changed and has not reached this process yet.
_REFUSED = asyncpg.InvalidAuthorizationSpecificationError

# The server is going down, or is no longer the primary: every connection to it is of no use.
_ELSEWHERE = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)


class _LostAtCommitError(Exception):
    """The connection was lost after COMMIT may have been sent; its cause says how."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose release costs no round trip: nothing here sets session state."""

    def get_reset_query(self) -> str:
        """Return no reset statement."""
        return ""


class Database:
    """
    One service's database.

    Args:
        dsn: How to reach it; may name several hosts. A function is asked before each connection is
            made, so that a changed password is used from then on.
        application_name: Shown in pg_stat_activity.
        pool_size: Connections held at most.
        pooled: True behind a pooler in transaction mode, such as pgbouncer: statements are not
            kept prepared, and no session settings are sent, as a session is not ours; the role
            must carry them (`ALTER ROLE ... SET`).
    """

    def __init__(
        self,
        dsn: str | Callable[[], str],
        *,
        application_name: str,
        pool_size: int = POOL_SIZE_DEFAULT,
        pooled: bool = False,
    ) -> None:
        self._dsn: Callable[[], str] = dsn if callable(dsn) else lambda: dsn
        self._application_name = application_name
        self._pool_size = pool_size
        self._pooled = pooled
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._units: set[asyncio.Task[Any]] = set()

    async def open(self, *, wait_seconds: float = OPEN_WAIT_SECONDS) -> None:
        """
        Connect, waiting for the server if it is away.

        Args:
            wait_seconds: How long to wait at most.

        Raises:
            ConfigError: If its certificate is not accepted, which waiting does not mend.
            StoreUnavailableError: If it stayed away.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait_seconds
        told = False
        while True:
            try:
                self._pool = await self._create_pool()
            except ssl.SSLCertVerificationError as fault:
                raise ConfigError([_certificate_problem(fault)]) from fault
            except (*_LOST, TimeoutError, asyncpg.InvalidCatalogNameError) as fault:
                if loop.time() >= give_up:
                    message = (
                        f"PostgreSQL stayed away for {wait_seconds:.0f} s; start it, or correct "
                        "the DSN"
                    )
                    raise StoreUnavailableError(message) from fault
                if not told:
                    log.warning("waiting_for_postgresql", error=type(fault).__name__)
                    told = True
                await asyncio.sleep(OPEN_RETRY_SECONDS)
            else:
                return

    async def close(self) -> None:
        """Await the units under way, then close the pool."""
        if self._units:
            await asyncio.gather(*self._units, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        isolation: Isolation = "read_committed",
        readonly: bool = False,
    ) -> T:
        """
        Run one transaction as a unit.

        Args:
            work: Gets the connection, inside the transaction; may be called again on a conflict,
                so it must have no effect outside the database.
            isolation: The transaction's isolation level.
            readonly: True for a transaction that only reads.

        Returns:
            What `work` returned.

        Raises:
            OutcomeUnknownError: If the database was lost while it committed what was written.
            StoreUnavailableError: If it cannot be reached, or was lost before; nothing was written.
            OverloadedError: If no connection was free in time, or rows stayed locked.
        """

        async def unit(connection: Connection) -> T:
            worked = False
            warnings: list[asyncpg.PostgresLogMessage] = []

            def hear(_: object, message: asyncpg.PostgresLogMessage) -> None:
                warnings.append(message)

            try:
                async with connection.transaction(isolation=isolation, readonly=readonly):
                    result = await work(connection)
                    worked = not readonly
                    if worked:
                        connection.add_log_listener(hear)
            except (*_LOST, TimeoutError) as fault:
                if worked:
                    raise _LostAtCommitError from fault
                raise
            finally:
                # A connection that was lost hears nothing any more, and refuses to be asked.
                with contextlib.suppress(asyncpg.InterfaceError):
                    connection.remove_log_listener(hear)
            if warnings:
                # COMMIT warns of one thing: its wait for a standby was cut short, so what it wrote
                # is here and maybe nowhere else.
                raise _LostAtCommitError from asyncpg.PostgresWarning(warnings[0].message)
            return result

        return await self._shielded(self._retried(unit))

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement and return its rows."""
        return await self._shielded(self._retried(lambda c: c.fetch(query, *args)))

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:
        """Run one statement and return its first row."""
        return await self._shielded(self._retried(lambda c: c.fetchrow(query, *args)))

    async def execute(self, query: str, *args: Any) -> str:
        """Run one statement and return its command tag."""
        return await self._shielded(self._retried(lambda c: c.execute(query, *args)))

    async def _create_pool(self) -> asyncpg.Pool[asyncpg.Record]:
        return await asyncpg.create_pool(
            connect=self._connect,
            min_size=1,
            max_size=self._pool_size,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            connection_class=_Connection,
            **self._session(),
        )

    async def _connect(self, *_: Any, **settings: Any) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self._dsn(), **settings)

    def _session(self) -> dict[str, Any]:
        if self._pooled:
            return {
                "server_settings": {"application_name": self._application_name},
                "statement_cache_size": 0,
            }
        return {
            "server_settings": {
                **SERVER_SETTINGS,
                "application_name": self._application_name,
            }
        }

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._units.add(task)
        task.add_done_callback(self._units.discard)
        return await asyncio.shield(task)

    async def _retried(self, unit: Callable[[Connection], Awaitable[T]]) -> T:
        for attempt in range(1, UNIT_ATTEMPTS_MAX + 1):
            try:
                return await self._once(unit)
            except _RETRIED as fault:
                log.info("unit_retried", sqlstate=fault.sqlstate, attempt=attempt)
                # Jitter keeps two units from meeting again at once.
                await asyncio.sleep(UNIT_BACKOFF_SECONDS * 2**attempt * random.random())  # noqa: S311
        message = (
            "the same rows were changed by others at the same time, again and again; try again"
        )
        raise OverloadedError(message, retry_after_seconds=OVERLOADED_RETRY_SECONDS)

    async def _once(self, unit: Callable[[Connection], Awaitable[T]]) -> T:
        if self._pool is None:
            message = "the database is not open"
            raise RuntimeError(message)
        try:
            asked_at = time.perf_counter()
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                DATABASE_WAIT_SECONDS.observe(time.perf_counter() - asked_at)
                return await unit(connection)
        except _RETRIED:
            DATABASE_FAILURES.labels(kind="conflict").inc()
            raise
        except asyncpg.LockNotAvailableError as fault:
            DATABASE_FAILURES.labels(kind="locked").inc()
            message = "the rows stayed locked by others; try again shortly"
            raise OverloadedError(message, retry_after_seconds=OVERLOADED_RETRY_SECONDS) from fault
        except _LostAtCommitError as lost:
            DATABASE_FAILURES.labels(kind="lost").inc()
            await self._look_elsewhere(lost.__cause__)
            message = (
                "the database was lost while it wrote this, which may be on record or not; try "
                "again with the same request id, which finds the outcome if there is one"
            )
            raise OutcomeUnknownError(
                message, retry_after_seconds=UNAVAILABLE_RETRY_SECONDS
            ) from lost.__cause__
        except TimeoutError as fault:
            DATABASE_FAILURES.labels(kind="timeout").inc()
            message = "the database did not answer in time; try again with the same request id"
            raise StoreUnavailableError(
                message, retry_after_seconds=UNAVAILABLE_RETRY_SECONDS
            ) from fault
        except (*_LOST, _REFUSED) as fault:
            DATABASE_FAILURES.labels(kind="lost").inc()
            await self._look_elsewhere(fault)
            message = (
                "the database cannot be reached or was lost on the way; try again with the same "
                "request id, which finds the outcome if there is one"
            )
            raise StoreUnavailableError(
                message, retry_after_seconds=UNAVAILABLE_RETRY_SECONDS
            ) from fault

    async def _look_elsewhere(self, fault: BaseException | None) -> None:
        """Log that the database was lost, and leave a server that cannot serve any more."""
        log.warning("database_lost", error=type(fault).__name__)
        if self._pool is not None and isinstance(fault, _ELSEWHERE):
            # The other connections lead to the same server: the next ones look for the primary.
            await self._pool.expire_connections()


def _certificate_problem(fault: ssl.SSLCertVerificationError) -> str:
    why = fault.verify_message.rstrip(".")
    return (
        f"PostgreSQL's certificate is not accepted: {why}; issue it one for the host that the DSN "
        "names, of an authority in the DSN's sslrootcert"
    )
