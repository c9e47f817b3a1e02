# SPDX-License-Identifier: Apache-2.0
"""
Keyvault, over gRPC: secrets under a lease, the watch that keeps the lease, and health reports.

Keyvault away is PeerUnavailableError, never an account without keys. Secrets live in `Secret`
holders inside the copies, and are gone with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import grpc
import grpc.aio
from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc, sealing_pb2
from ownkey.keyvault.v1 import resolution_pb2 as pb

from services.router.adapters.key_copies import LEASE_SECONDS, Copy, KeyCopies, Position
from services.router.adapters.key_metrics import LEASE_AGE, LEASES_ENDED
from services.router.adapters.keyvault_mapping import account_keys, outcome_value
from services.router.adapters.local_health import LocalHealth
from services.router.domain.keys import ResealedKey
from services.router.domain.outcomes import Outcome
from services.router.errors import GenerationError, ProofRefusedError, SealedKeyRefusedError
from services.router.usecases.ports import OpenedKey, StaleKeyError
from services.shared.errors import InternalError, PeerUnavailableError, ServiceError
from services.shared.handshake import handshake_advice
from services.shared.identity import call_metadata
from services.shared.logging import get_logger
from services.shared.secret import Secret
from services.shared.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.router.domain.keys import AccountKeys, BroughtKey, OwnKey
    from services.shared.clock import Clock

QUESTION_SECONDS = 0.25
ANSWER_SECONDS_MAX = 2.0
"""A watch that is silent for so long is opened anew."""
RESOLVE_SECONDS_MAX = 5.0
REPORT_SECONDS_MAX = 20.0
RECONNECT_SECONDS_MIN = 0.1
RECONNECT_SECONDS_MAX = 2.0
REPORTS_MAX = 1_024
PEER_RETRY_SECONDS = 1.0

WatchCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.WatchChangesRequest, pb.WatchChangesResponse]"

_REFUSALS: dict[str, type[GenerationError]] = {
    "SEALED_KEY_REFUSED": SealedKeyRefusedError,
    "PROOF_REFUSED": ProofRefusedError,
}
_CHANGED = frozenset({"KEY_NOT_FOUND", "KEY_DISABLED", "WRONG_RESIDENCE"})
"""The key is not what the router's copy says."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class ResolvedKeys:
    """
    One account's keys with their secrets; as small as can be, for there are many.
    """

    keys: AccountKeys
    secrets: tuple[Secret | None, ...]
    """In the order of the keys; where a version is in its overlap, those of the versions before
    follow, in the same order."""

    def secret(self, key: OwnKey) -> Secret:
        """
        Give the secret of a version.

        Raises:
            StaleKeyError: The key was changed: it has no such version any more.
        """
        for place, held in enumerate(self.keys.keys):
            if (held.name, held.version) == (key.name, key.version):
                return self._at(place)
            before = held.previous
            if before and (before.name, before.version) == (key.name, key.version):
                return self._at(place + len(self.keys.keys))
        raise StaleKeyError

    def _at(self, place: int) -> Secret:
        secret = self.secrets[place]
        assert secret is not None, "a key without its secret is never tried"
        return secret


class _Finding(NamedTuple):
    """What a call found out about a key, but for when to try again."""

    key: str
    version: int
    outcome: Outcome | None
    model: str


class _Held:
    """
    A copy with the means to tell whether its lease stands.
    """

    def __init__(
        self,
        copy: Copy[ResolvedKeys],
        copies: KeyCopies[ResolvedKeys],
        keys: AccountKeys,
        clock: Clock,
    ) -> None:
        self.keys = keys
        self._copy = copy
        self._copies = copies
        self._clock = clock

    def secret(self, key: OwnKey) -> Secret:
        """
        Give the secret of an enabled key's version.
        """
        return self._copy.keys.secret(key)

    def usable(self) -> bool:
        """
        Tell whether the lease still stands.
        """
        now = self._clock.monotonic()
        usable = self._copies.usable(self._copy, now=now)
        if usable:
            LEASE_AGE.observe(LEASE_SECONDS - (self._copies.usable_until(self._copy) - now))
        else:
            LEASES_ENDED.inc()
        return usable

    def may_use(self, key: OwnKey) -> bool:
        """
        Tell whether the lease stands and, for a version in its overlap, that lasts.
        """
        return self.usable() and (key.ends_at is None or self._clock.monotonic() < key.ends_at)

    def usable_until(self) -> float:
        """
        Give when the lease ends as it stands, in monotonic seconds.
        """
        return self._copies.usable_until(self._copy)


class GrpcKeys:
    """
    Keyvault's client.

    Args:
        channel: To keyvault.
        token: The router's identity; None where its certificate shows it.
        clock: Time.
    """

    def __init__(self, channel: grpc.aio.Channel, *, token: Secret | None, clock: Clock) -> None:
        self._stub = keyvault_service_pb2_grpc.KeyvaultServiceStub(channel)
        self._metadata = call_metadata(token)
        self._clock = clock
        self._copies: KeyCopies[ResolvedKeys] = KeyCopies()
        self._health = LocalHealth()
        self._watching: asyncio.Task[None] | None = None
        self._reports: dict[_Finding, asyncio.Task[None]] = {}
        self._hints: dict[_Finding, float] = {}
        self._flights: dict[str, asyncio.Task[_Held]] = {}

    async def open(self) -> None:
        """
        Begin to watch.
        """
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """
        Stop watching; reports under way are given up.
        """
        tasks = [*self._reports.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def held(self, account: str) -> _Held:
        """
        Give an account's keys, from memory under a fresh lease or from keyvault.
        """
        copy = self._copies.get(account, now=self._clock.monotonic())
        if copy is not None:
            return self._hold(copy)
        flight = self._flights.get(account)
        if flight is None:
            flight = asyncio.create_task(self.asked_anew(account))
            self._flights[account] = flight
            flight.add_done_callback(lambda _: self._flights.pop(account, None))
            # Waited for below by everyone who still wants it; a failure nobody waits for is theirs.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(flight)

    async def asked_anew(self, account: str) -> _Held:
        """
        Give an account's keys as keyvault knows them now.
        """
        ticket = self._copies.resolving(account, now=self._clock.monotonic())
        try:
            response: pb.ResolveKeysResponse = await self._stub.ResolveKeys(
                pb.ResolveKeysRequest(accounts=[account]),
                timeout=RESOLVE_SECONDS_MAX,
                metadata=self._metadata,
            )
        except grpc.aio.AioRpcError as fault:
            raise _failed(fault) from None
        finally:
            self._copies.abandoned(ticket)
        if [answer.account for answer in response.accounts] != [account]:
            raise InternalError("keyvault answered about other accounts")
        [answer] = response.accounts
        resolved = resolved_keys(
            account, answer, asked_at=ticket.sent_at, now=self._clock.monotonic()
        )
        position = Position(response.position.lineage, response.position.sequence)
        whole = not any(item.unavailable_cause for item in answer.keys)
        return self._hold(self._copies.resolved(ticket, resolved, position, whole=whole))

    async def opened(self, key: OwnKey, brought: BroughtKey, *, request_id: str) -> OpenedKey:
        """
        Open a client-held key that a request brings; see the port.
        """
        request = service_pb2.OpenSealedKeyRequest(
            name=key.name,
            provider=key.provider,
            request_id=request_id,
            sealed_key=sealing_pb2.SealedKey.FromString(brought.sealed_key),
            proof=sealing_pb2.SealedKeyProof.FromString(brought.proof),
        )
        try:
            answer: service_pb2.OpenSealedKeyResponse = await self._stub.OpenSealedKey(
                request, timeout=RESOLVE_SECONDS_MAX, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as fault:
            raise _not_opened(fault, key) from None
        resealed = None
        if answer.HasField("resealed_key"):
            encoded = answer.resealed_key.SerializeToString()
            resealed = ResealedKey(key=key.name, sealed_key=encoded)
        return OpenedKey(Secret(answer.secret), resealed)

    def report(
        self,
        key: OwnKey,
        outcome: Outcome | None,
        *,
        model: str,
        retry_after_seconds: float | None = None,
    ) -> None:
        """
        Tell what a call found out about a key, without waiting.

        A burst of calls that find the same is one report, with at most one more for a longer hint.
        """
        self._health.note(
            key, outcome, model=model, retry_after=retry_after_seconds, now=self._clock.monotonic()
        )
        finding = _Finding(key.name, key.version, outcome, model)
        hint = retry_after_seconds or 0.0
        if finding in self._reports:
            self._hints[finding] = max(self._hints[finding], hint)
            return
        if len(self._reports) >= REPORTS_MAX:
            log.warning("health_report_dropped", key=key.name)
            return
        self._hints[finding] = hint
        task = asyncio.create_task(self._tell(finding, key, retry_after_seconds))
        self._reports[finding] = task
        task.add_done_callback(lambda _: self._told(finding))

    def _told(self, finding: _Finding) -> None:
        del self._reports[finding], self._hints[finding]

    async def _tell(self, finding: _Finding, key: OwnKey, retry_after: float | None) -> None:
        await self._report(key, finding.outcome, finding.model, retry_after)
        longer = self._hints[finding]
        if longer > (retry_after or 0.0):
            await self._report(key, finding.outcome, finding.model, longer)

    async def _report(
        self, key: OwnKey, outcome: Outcome | None, model: str, retry_after_seconds: float | None
    ) -> None:
        request = pb.ReportKeyHealthRequest(
            key=key.name, version=key.version, outcome=outcome_value(outcome), model=model
        )
        if retry_after_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(retry_after_seconds * 1000))
            request.retry_after.CopyFrom(delay)
        try:
            await self._stub.ReportKeyHealth(
                request, timeout=REPORT_SECONDS_MAX, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as fault:
            log.warning("health_report_failed", key=key.name, code=fault.code().name)
        else:
            # The next request reads the health that all replicas share.
            self._health.forget(key)
            self._copies.forget(key.name.partition("/keys/")[0])

    def _hold(self, copy: Copy[ResolvedKeys]) -> _Held:
        return _Held(copy, self._copies, self._health.over(copy.keys.keys), self._clock)

    # ---- watch

    async def _watch(self) -> None:
        """
        Keep a watch stream open for as long as the process runs.
        """
        pause = RECONNECT_SECONDS_MIN
        while True:
            answered = False
            try:
                async for _ in self._watch_once():
                    answered = True
            except grpc.aio.AioRpcError as fault:
                advice = handshake_advice(fault.details())
                log.warning("key_watch_lost", code=fault.code().name, **advice)
            except TimeoutError:
                log.warning("key_watch_silent", seconds=ANSWER_SECONDS_MAX)
            except ServiceError as fault:
                log.warning("key_watch_failed", error=type(fault).__name__)
            self._copies.watch_lost()
            pause = RECONNECT_SECONDS_MIN if answered else min(RECONNECT_SECONDS_MAX, pause * 2)
            await self._clock.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load

    async def _watch_once(self) -> AsyncIterator[None]:
        self._copies.watch_opened()
        call = self._stub.WatchChanges(metadata=self._metadata)
        try:
            first = True
            while True:
                await self._ask(call, with_start=first)
                first = False
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    answer = await call.read()
                if not isinstance(answer, pb.WatchChangesResponse):
                    return  # The server closed the stream.
                self._copies.answered(
                    answer.nonce,
                    answer.changed_accounts,
                    resync=answer.resync,
                    position=Position(answer.position.lineage, answer.position.sequence),
                )
                yield
                await self._clock.sleep(QUESTION_SECONDS)
        finally:
            call.cancel()

    async def _ask(self, call: WatchCall, *, with_start: bool) -> None:
        start = self._copies.position
        nonce = self._copies.question_sent(now=self._clock.monotonic())
        question = pb.WatchChangesRequest(nonce=nonce)
        if with_start and start is not None:
            question.start.CopyFrom(pb.FeedPosition(lineage=start.lineage, sequence=start.sequence))
        with contextlib.suppress(asyncio.InvalidStateError):
            await call.write(question)


def resolved_keys(
    account: str, answer: pb.AccountKeys, *, asked_at: float, now: float
) -> ResolvedKeys:
    """
    Read an account's keys with their secrets; the arguments are those of `account_keys`.
    """
    earlier = tuple(_secret(item.previous.secret) for item in answer.keys)
    return ResolvedKeys(
        keys=account_keys(account, answer, asked_at=asked_at, now=now),
        secrets=tuple(_secret(item.secret) for item in answer.keys)
        + (earlier if any(earlier) else ()),
    )


def _secret(text: str) -> Secret | None:
    return Secret(text) if text else None


def _not_opened(fault: grpc.aio.AioRpcError, key: OwnKey) -> Exception:
    """
    Keyvault's sentences about client-held keys are written for the router's caller too.
    """
    status = from_rpc_error(fault)
    refusal = _REFUSALS.get(status.reason)
    if refusal is not None:
        metadata = {"key": key.name, "fault": status.metadata.get("fault", "")}
        return refusal(f"{key.name}: {status.message}", metadata=metadata)
    return StaleKeyError() if status.reason in _CHANGED else _failed(fault)


def _failed(fault: grpc.aio.AioRpcError) -> ServiceError:
    status = from_rpc_error(fault)
    log.warning("resolve_failed", code=status.code.name, reason=status.reason)
    if status.code is grpc.StatusCode.INVALID_ARGUMENT:
        return InternalError("keyvault did not take the router's call; it is logged")
    return PeerUnavailableError(
        "keyvault cannot be reached or cannot open its keys, so no key can be used; nothing was "
        "sent and nothing charged: try again shortly",
        metadata={"peer": "keyvault"},
        retry_after_seconds=status.retry_after_seconds or PEER_RETRY_SECONDS,
    )
