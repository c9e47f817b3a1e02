# SPDX-License-Identifier: Apache-2.0
"""Authorize, Renew, Capture and Release, single and in batches: for the router."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.ledger.domain.requests import Authorization, Request
from services.ledger.rpc import answers, commands
from services.ledger.rpc.status import TABLE
from services.ledger.usecases.attempts import Attempts, Outcome
from services.ledger.usecases.authorize import Granted, Recorded
from services.ledger.usecases.commands import AttemptCommand
from services.shared.errors import ServiceError

M = TypeVar("M")


class AttemptRpcs:
    """The RPCs on attempts."""

    _attempts: Attempts

    async def Authorize(  # noqa: N802 - the RPC's name
        self, request: pb.AuthorizeRequest, _context: Any
    ) -> pb.AuthorizeResponse:
        """Claim a request, decide who pays, hold the worst case."""
        command = commands.authorize_command(request)
        outcome = await self._attempts.one(command)
        response = pb.AuthorizeResponse()
        self._write_authorized(response, command.account_id, outcome)
        return response

    async def Renew(  # noqa: N802
        self, request: pb.RenewRequest, _context: Any
    ) -> pb.RenewResponse:
        """Extend an attempt's lease."""
        command = commands.renew_command(request)
        outcome = await self._attempts.one(command)
        response = pb.RenewResponse()
        self._write_settled(response.authorization, command.account_id, outcome)
        return response

    async def Capture(  # noqa: N802
        self, request: pb.CaptureRequest, _context: Any
    ) -> pb.CaptureResponse:
        """Settle an attempt for an amount."""
        command = commands.capture_command(request)
        outcome = await self._attempts.one(command)
        response = pb.CaptureResponse()
        self._write_settled(response.authorization, command.account_id, outcome)
        return response

    async def Release(  # noqa: N802
        self, request: pb.ReleaseRequest, _context: Any
    ) -> pb.ReleaseResponse:
        """Settle an attempt for nothing."""
        command = commands.release_command(request)
        outcome = await self._attempts.one(command)
        response = pb.ReleaseResponse()
        self._write_settled(response.authorization, command.account_id, outcome)
        return response

    async def BatchAuthorize(  # noqa: N802
        self, request: pb.BatchAuthorizeRequest, _context: Any
    ) -> pb.BatchAuthorizeResponse:
        """Authorize many."""
        found = await self._each(request.requests, commands.authorize_command)
        response = pb.BatchAuthorizeResponse()
        for account_id, outcome in found:
            result = response.results.add()
            if isinstance(outcome, ServiceError):
                result.error.CopyFrom(TABLE.to_status(outcome))
            else:
                self._write_authorized(result.response, account_id, outcome)
        return response

    async def BatchRenew(  # noqa: N802
        self, request: pb.BatchRenewRequest, _context: Any
    ) -> pb.BatchRenewResponse:
        """Renew many."""
        found = await self._each(request.requests, commands.renew_command)
        response = pb.BatchRenewResponse()
        self._write_results(response.results, found)
        return response

    async def BatchSettle(  # noqa: N802
        self, request: pb.BatchSettleRequest, _context: Any
    ) -> pb.BatchSettleResponse:
        """Capture and release many."""
        found = await self._each(request.requests, commands.settle_command)
        response = pb.BatchSettleResponse()
        self._write_results(response.results, found)
        return response

    async def _each(
        self, messages: Sequence[M], read: Callable[[M], AttemptCommand]
    ) -> list[tuple[str, Outcome | ServiceError]]:
        """Run what can be read of a batch; what cannot fails alone. Returns account and outcome."""
        commands.check_batch(len(messages))
        results: list[tuple[str, Outcome | ServiceError] | None] = []
        readable: list[AttemptCommand] = []
        for message in messages:
            try:
                readable.append(read(message))
                results.append(None)
            except ServiceError as fault:
                results.append(("", fault))
        outcomes = iter(await self._attempts.each(readable))
        names = iter(command.account_id for command in readable)
        return [(next(names), next(outcomes)) if result is None else result for result in results]

    def _write_results(
        self,
        results: RepeatedCompositeFieldContainer[pb.SettleResult],
        found: list[tuple[str, Outcome | ServiceError]],
    ) -> None:
        for account_id, outcome in found:
            result = results.add()
            if isinstance(outcome, ServiceError):
                result.error.CopyFrom(TABLE.to_status(outcome))
            else:
                self._write_settled(result.authorization, account_id, outcome)

    def _write_authorized(
        self, response: pb.AuthorizeResponse, account_id: str, outcome: Outcome
    ) -> None:
        assert isinstance(outcome, Granted | Recorded)
        answers.write_authorized(response, account_id, outcome, lease=self._attempts.lease)

    def _write_settled(self, written: pb.Authorization, account_id: str, outcome: Outcome) -> None:
        assert isinstance(outcome, tuple)
        attempt: Authorization
        request: Request
        attempt, request = outcome
        answers.write_authorization(
            written, account_id, attempt, request, lease=self._attempts.lease
        )
