# SPDX-License-Identifier: Apache-2.0
"""Live tests through the router's ProbeKey: keyvault itself has no way out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import grpc
import grpc.aio
from ownkey.router.v1 import probe_pb2, router_service_pb2_grpc

from services.keyvault.domain.health import LiveTest, TestResult
from services.keyvault.errors import ModelNotCuratedError
from services.shared.channel import outbound_seconds
from services.shared.clock import Clock
from services.shared.errors import FieldViolation, InvalidArgumentError, PeerUnavailableError
from services.shared.handshake import handshake_advice
from services.shared.identity import call_metadata
from services.shared.logging import get_logger
from services.shared.secret import Secret
from services.shared.status import RichStatus, from_rpc_error

PROBE_SECONDS_MAX = 30.0
CHECK_SECONDS_MAX = 5.0
DETAIL_CHARACTERS_MAX = 500
PEER_RETRY_SECONDS = 2.0
MODEL_NOT_CURATED = "MODEL_NOT_CURATED"

log = get_logger()

_RESULTS = {
    probe_pb2.PROBE_RESULT_VALID: TestResult.VALID,
    probe_pb2.PROBE_RESULT_INVALID: TestResult.INVALID,
    probe_pb2.PROBE_RESULT_NO_CREDIT: TestResult.NO_CREDIT,
    probe_pb2.PROBE_RESULT_RATE_LIMITED: TestResult.RATE_LIMITED,
    probe_pb2.PROBE_RESULT_FORBIDDEN: TestResult.FORBIDDEN,
    probe_pb2.PROBE_RESULT_UNREACHABLE: TestResult.UNREACHABLE,
}
# The router's fields, as the caller of keyvault knows them.
_FIELDS = {
    "provider": "key.provider",
    "secret": "secret",
    "default_model": "key.default_model",
    "allowed_models": "key.allowed_models",
}


class RouterProber:
    """
    Asks the router.

    Args:
        channel: To the router.
        token: Keyvault's own; None where its certificate shows it.
        clock: Time.
    """

    def __init__(self, channel: grpc.aio.Channel, *, token: Secret | None, clock: Clock) -> None:
        self._stub = router_service_pb2_grpc.RouterServiceStub(channel)
        self._metadata = call_metadata(token)
        self._clock = clock

    async def probe(
        self, provider: str, secret: Secret, *, default_model: str, allowed_models: Sequence[str]
    ) -> LiveTest:
        """Test a secret at its provider; see the port."""
        request = probe_pb2.ProbeKeyRequest(
            provider=provider,
            secret=secret.reveal(),
            default_model=default_model,
            allowed_models=allowed_models,
        )
        answer = await self._call(request, seconds=PROBE_SECONDS_MAX)
        result = _RESULTS.get(answer.result)
        if result is None:
            message = "the router's live test said nothing that can be used; an operator must look"
            raise PeerUnavailableError(message)
        hint = answer.retry_after.ToTimedelta() if answer.HasField("retry_after") else None
        return LiveTest(
            result=result,
            credit_checked=answer.credit_checked,
            cost_nano_usd=answer.cost_nano_usd,
            detail=answer.detail[:DETAIL_CHARACTERS_MAX],
            missing_permission=answer.missing_permission[:DETAIL_CHARACTERS_MAX],
            retry_after=hint if hint is None or hint >= timedelta(0) else None,
            test_time=self._clock.now(),
        )

    async def check(
        self, provider: str, *, default_model: str, allowed_models: Sequence[str]
    ) -> None:
        """Check that provider and models are known; see the port."""
        request = probe_pb2.ProbeKeyRequest(
            provider=provider,
            default_model=default_model,
            allowed_models=allowed_models,
            check_only=True,
        )
        await self._call(request, seconds=CHECK_SECONDS_MAX)

    async def _call(
        self, request: probe_pb2.ProbeKeyRequest, *, seconds: float
    ) -> probe_pb2.ProbeKeyResponse:
        try:
            answer: probe_pb2.ProbeKeyResponse = await self._stub.ProbeKey(
                request, metadata=self._metadata, timeout=outbound_seconds(seconds)
            )
        except grpc.aio.AioRpcError as fault:
            status = from_rpc_error(fault)
            if status.code is grpc.StatusCode.INVALID_ARGUMENT:
                raise _refused(status) from None
            # The chained fault would carry the request's status text; code and reason suffice.
            log.warning(
                "probe_failed",
                code=status.code.name,
                reason=status.reason,
                **handshake_advice(fault.details()),
            )
            message = (
                "the router, which tests keys, cannot be reached or refused to; nothing was "
                "changed, try again shortly"
            )
            raise PeerUnavailableError(message, retry_after_seconds=PEER_RETRY_SECONDS) from None
        return answer


def _refused(status: RichStatus) -> InvalidArgumentError:
    """Say in keyvault's own fields what the router does not know."""
    if status.reason == MODEL_NOT_CURATED:
        field = "key.default_model"
        error: type[InvalidArgumentError] = ModelNotCuratedError
        advice = (
            "is not on the provider's curated list; GetModel and ListModels of the router show it"
        )
    else:
        field = _FIELDS.get(status.metadata.get("field", ""), "key.provider")
        error = InvalidArgumentError
        advice = (
            "is not known to the router; ListProviders and ListModels of the router show what is"
        )
    return error(
        f"{field}: {advice}",
        metadata={"field": field},
        fields=[FieldViolation(field, advice)],
    )
