# SPDX-License-Identifier: Apache-2.0
"""
Between the ledger's messages and the router's own terms.
"""

from __future__ import annotations

from ownkey.ledger.v1 import authorization_pb2 as pb

from services.router.domain.attempts import UsageBasis
from services.router.domain.operation import Operation
from services.router.domain.plan import Funding, OwnKeyState
from services.router.domain.request import Source
from services.router.domain.text import Usage
from services.router.usecases.ports import (
    PART_MAX,
    Ask,
    Capture,
    Claim,
    Grant,
    PriceRow,
    Recorded,
    RecordedAttempt,
    RecordedState,
    Release,
    RequestEnd,
    Settled,
    Settlement,
)
from services.shared.errors import InternalError

_SOURCES = {
    Source.AUTO: pb.SOURCE_AUTO,
    Source.OWN_KEY: pb.SOURCE_OWN_KEY,
    Source.CREDITS: pb.SOURCE_CREDITS,
}
_OPERATIONS = {
    Operation.TEXT: pb.OPERATION_TEXT,
    Operation.IMAGE: pb.OPERATION_IMAGE,
    Operation.SPEECH: pb.OPERATION_SPEECH,
    Operation.JOB: pb.OPERATION_JOB,
}
_FUNDINGS = {
    pb.FUNDING_OWN_KEY: Funding.OWN_KEY,
    pb.FUNDING_CREDITS: Funding.CREDITS,
}
_BASES = {
    UsageBasis.EXACT: pb.USAGE_BASIS_EXACT,
    UsageBasis.ESTIMATED: pb.USAGE_BASIS_ESTIMATED,
}
_RECORDED = {
    pb.REQUEST_STATE_SUCCEEDED: RecordedState.SUCCEEDED,
    pb.REQUEST_STATE_FAILED_CHARGED: RecordedState.FAILED_CHARGED,
}


def authorize_request(ask: Ask) -> pb.AuthorizeRequest:
    """
    Write an ask.
    """
    claim = ask.claim
    request = pb.AuthorizeRequest(
        account=claim.account,
        request_id=claim.request_id,
        claimant=claim.claimant,
        sequence=ask.sequence,
        fingerprint=claim.fingerprint,
        fingerprint_version=claim.fingerprint_version,
        source=_SOURCES[claim.source],
        own_key_state=_own_key_state(ask.own_key_state),
        always_use=claim.always_use,
        operation=_OPERATIONS[claim.operation],
        dry_run=ask.dry_run,
    )
    if ask.own is not None:
        own = ask.own
        request.own_key.CopyFrom(
            pb.OwnKeyTerms(
                key=own.key.name,
                key_version=own.key.version,
                key_etag=own.key.etag,
                price=_price(own.price),
                worst_case_nano_usd=own.worst_case_nano_usd,
                monthly_limit_nano_usd=own.key.monthly_limit_nano_usd,
            )
        )
    if ask.credits is not None:
        request.credits.CopyFrom(
            pb.CreditTerms(
                price=_price(ask.credits.price),
                worst_case_nano_usd=ask.credits.worst_case_nano_usd,
            )
        )
    if ask.settlement is not None:
        request.settlement.CopyFrom(_settlement(ask.settlement))
    return request


def renew_request(claim: Claim, sequence: int, checkpoint: Capture) -> pb.RenewRequest:
    """
    Write a renewal.
    """
    return pb.RenewRequest(
        account=claim.account,
        request_id=claim.request_id,
        claimant=claim.claimant,
        sequence=sequence,
        checkpoint=_capture(checkpoint),
    )


def settle_request(
    claim: Claim, settlement: Settlement, end: RequestEnd | None
) -> pb.SettleRequest:
    """
    Write a capture or release.
    """
    message = None if end is None else pb.RequestEnd(succeeded=end.succeeded, outcome=end.outcome)
    common = {
        "account": claim.account,
        "request_id": claim.request_id,
        "claimant": claim.claimant,
        "sequence": settlement.sequence,
        "end": message,
    }
    if isinstance(settlement.terms, Capture):
        capture = pb.CaptureRequest(**common, capture=_capture(settlement.terms))  # type: ignore[arg-type]
        return pb.SettleRequest(capture=capture)
    release = pb.ReleaseRequest(**common, release=_release(settlement.terms))  # type: ignore[arg-type]
    return pb.SettleRequest(release=release)


def grant(response: pb.AuthorizeResponse) -> Grant | Recorded:
    """
    Read the answer to an ask.
    """
    if response.HasField("recorded"):
        return _recorded(response.recorded)
    granted = response.granted
    return Grant(
        funding=_funding(granted.funding),
        fallback=granted.fallback,
        held_nano_credits=granted.held_nano_credits,
        lease_seconds=granted.lease_duration.ToMilliseconds() / 1000,
        settled=settled(response.settled) if response.HasField("settled") else None,
        # Zero is a ledger that does not say: no cap.
        shared_part_per_million=response.shared_part_per_million or PART_MAX,
    )


def settled(authorization: pb.Authorization) -> Settled:
    """
    Read a settled authorization.
    """
    return Settled(charged_nano_credits=authorization.charged_nano_credits)


def _recorded(record: pb.RequestRecord) -> Recorded:
    state = _RECORDED.get(record.state)
    if state is None:
        raise InternalError("the ledger answered with a record of a request that has not ended")
    return Recorded(
        state=state,
        outcome=record.outcome,
        attempts=tuple(_recorded_attempt(item) for item in record.authorizations),
    )


def _recorded_attempt(item: pb.Authorization) -> RecordedAttempt:
    units = item.units
    return RecordedAttempt(
        provider=item.price.provider,
        model=item.price.model,
        funding=_funding(item.funding),
        key=item.key,
        fallback=item.fallback,
        charged_nano_credits=item.charged_nano_credits,
        vendor_cost_nano_usd=(
            item.vendor_cost_nano_usd if item.HasField("vendor_cost_nano_usd") else None
        ),
        usage=Usage(
            input_tokens=units.input_token_count,
            output_tokens=units.output_token_count,
            cached_input_tokens=units.cached_input_token_count,
            cache_write_tokens=units.cache_write_token_count,
            reasoning_tokens=units.reasoning_token_count,
            images=units.image_count,
            characters=units.character_count,
            media_milliseconds=units.media_milliseconds,
        ),
    )


def _settlement(settlement: Settlement) -> pb.Settlement:
    if isinstance(settlement.terms, Capture):
        return pb.Settlement(sequence=settlement.sequence, capture=_capture(settlement.terms))
    return pb.Settlement(sequence=settlement.sequence, release=_release(settlement.terms))


def _capture(capture: Capture) -> pb.CaptureTerms:
    usage = capture.usage
    return pb.CaptureTerms(
        vendor_cost_nano_usd=capture.vendor_cost_nano_usd,
        units=pb.UsageUnits(
            input_token_count=usage.input_tokens,
            cached_input_token_count=usage.cached_input_tokens,
            cache_write_token_count=usage.cache_write_tokens,
            output_token_count=usage.output_tokens,
            reasoning_token_count=usage.reasoning_tokens,
            image_count=usage.images,
            character_count=usage.characters,
            media_milliseconds=usage.media_milliseconds,
        ),
        basis=_BASES[capture.basis],
        delivered=capture.delivered,
    )


def _release(release: Release) -> pb.ReleaseTerms:
    return pb.ReleaseTerms(outcome=release.outcome)


def _price(row: PriceRow) -> pb.PriceRow:
    return pb.PriceRow(model=row.model, provider=row.provider, price_id=row.price_id)


def _own_key_state(state: OwnKeyState) -> pb.OwnKeyState.ValueType:
    return pb.OwnKeyState.Value(f"OWN_KEY_STATE_{state.name}")


def _funding(value: pb.Funding.ValueType) -> Funding:
    funding = _FUNDINGS.get(value)
    if funding is None:
        raise InternalError("the ledger answered without saying who pays")
    return funding
