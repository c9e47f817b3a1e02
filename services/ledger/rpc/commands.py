# SPDX-License-Identifier: Apache-2.0
"""Read Authorize, Renew, Capture and Release into commands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from operator import attrgetter

from google.protobuf.message import Message
from ownkey.ledger.v1 import authorization_pb2 as pb

from services.ledger.domain.modes import Operation, OwnKeyState, Source
from services.ledger.domain.money import COST_NANO_USD_MAX, LIMIT_NANO_USD_MAX
from services.ledger.domain.requests import (
    SEQUENCE_MAX,
    Capture,
    PriceRow,
    RequestEnd,
    UsageBasis,
)
from services.ledger.domain.usage import UNIT_COUNT_MAX, UsageUnits
from services.ledger.rpc import parse
from services.ledger.usecases.commands import (
    AuthorizeCommand,
    CreditTerms,
    OwnKeyTerms,
    RenewCommand,
    SettleCommand,
    SettleTerms,
)
from services.shared.errors import InvalidArgumentError

_counts: Callable[[pb.UsageUnits], tuple[int, ...]] = attrgetter(*UsageUnits._fields)

BATCH_MAX = 256
FINGERPRINT_BYTES = 32
FINGERPRINT_VERSION_MAX = 1_000_000
OUTCOME_BYTES_MAX = 16 * 1024
KEY_VERSION_MAX = 10**9


def authorize_command(message: pb.AuthorizeRequest) -> AuthorizeCommand:
    """Read an AuthorizeRequest."""
    account_id = parse.account_id(message.account)
    if len(message.fingerprint) != FINGERPRINT_BYTES:
        raise InvalidArgumentError.of("fingerprint", f"must be {FINGERPRINT_BYTES} bytes")
    own_key_state = parse.word(OwnKeyState, pb.OwnKeyState, message.own_key_state, "own_key_state")
    if own_key_state is OwnKeyState.READY and not message.HasField("own_key"):
        raise InvalidArgumentError.of("own_key", "must be set when own_key_state is READY")
    return AuthorizeCommand(
        account_id=account_id,
        request_id=parse.request_id(message.request_id),
        claimant=parse.claimant(message.claimant),
        sequence=_sequence(message.sequence, "sequence"),
        fingerprint=message.fingerprint,
        fingerprint_version=parse.bounded(
            message.fingerprint_version,
            "fingerprint_version",
            low=1,
            high=FINGERPRINT_VERSION_MAX,
        ),
        digest=_digest(message),
        source=parse.word(Source, pb.Source, message.source, "source"),
        own_key_state=own_key_state,
        always_use=message.always_use,
        operation=parse.word(Operation, pb.Operation, message.operation, "operation"),
        own_key=_own_key(message.own_key, account_id) if message.HasField("own_key") else None,
        credits=_credits(message.credits) if message.HasField("credits") else None,
        settlement=_settlement(message.settlement) if message.HasField("settlement") else None,
        dry_run=message.dry_run,
    )


def renew_command(message: pb.RenewRequest) -> RenewCommand:
    """Read a RenewRequest."""
    checkpoint = message.checkpoint if message.HasField("checkpoint") else None
    return RenewCommand(
        account_id=parse.account_id(message.account),
        request_id=parse.request_id(message.request_id),
        claimant=parse.claimant(message.claimant),
        sequence=_sequence(message.sequence, "sequence"),
        checkpoint=_capture(checkpoint, "checkpoint") if checkpoint is not None else None,
    )


def capture_command(message: pb.CaptureRequest) -> SettleCommand:
    """Read a CaptureRequest."""
    if not message.HasField("capture"):
        raise InvalidArgumentError.of("capture", "must be set")
    return SettleCommand(
        account_id=parse.account_id(message.account),
        request_id=parse.request_id(message.request_id),
        claimant=parse.claimant(message.claimant),
        terms=SettleTerms(
            sequence=_sequence(message.sequence, "sequence"),
            digest=_digest(message.capture),
            capture=_capture(message.capture, "capture"),
            outcome="",
        ),
        end=_end(message.end) if message.HasField("end") else None,
    )


def release_command(message: pb.ReleaseRequest) -> SettleCommand:
    """Read a ReleaseRequest."""
    if not message.HasField("release"):
        raise InvalidArgumentError.of("release", "must be set")
    return SettleCommand(
        account_id=parse.account_id(message.account),
        request_id=parse.request_id(message.request_id),
        claimant=parse.claimant(message.claimant),
        terms=SettleTerms(
            sequence=_sequence(message.sequence, "sequence"),
            digest=_digest(message.release),
            capture=None,
            outcome=_outcome(message.release, "release.outcome"),
        ),
        end=_end(message.end) if message.HasField("end") else None,
    )


def settle_command(message: pb.SettleRequest) -> SettleCommand:
    """Read a SettleRequest of a batch."""
    match message.WhichOneof("request"):
        case "capture":
            return capture_command(message.capture)
        case "release":
            return release_command(message.release)
    raise InvalidArgumentError.of("request", "capture or release must be set")


def check_batch(count: int) -> None:
    """Hold a batch to its size."""
    if not 1 <= count <= BATCH_MAX:
        raise InvalidArgumentError.of("requests", f"must hold 1 to {BATCH_MAX}")


def _sequence(value: int, field: str) -> int:
    return parse.bounded(value, field, low=1, high=SEQUENCE_MAX)


def _digest(message: Message) -> bytes:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def _price_row(message: pb.PriceRow, field: str) -> PriceRow:
    return PriceRow(
        model=parse.text(message.model, f"{field}.model", low=1),
        provider=parse.text(message.provider, f"{field}.provider", low=1, high=64),
        price_id=parse.text(message.price_id, f"{field}.price_id", high=128),
    )


def _own_key(message: pb.OwnKeyTerms, account_id: str) -> OwnKeyTerms:
    if parse.KEY.parse(message.key, "own_key.key")["account"] != account_id:
        raise InvalidArgumentError.of("own_key.key", "must be a key of this account")
    worst_case = None
    if message.HasField("worst_case_nano_usd"):
        worst_case = _cost(message.worst_case_nano_usd, "own_key.worst_case_nano_usd")
    limit = None
    if message.HasField("monthly_limit_nano_usd"):
        limit = parse.bounded(
            message.monthly_limit_nano_usd,
            "own_key.monthly_limit_nano_usd",
            low=1,
            high=LIMIT_NANO_USD_MAX,
        )
    return OwnKeyTerms(
        key=message.key,
        key_version=parse.bounded(
            message.key_version, "own_key.key_version", low=1, high=KEY_VERSION_MAX
        ),
        key_etag=parse.text(message.key_etag, "own_key.key_etag", low=1),
        price_row=_price_row(message.price, "own_key.price"),
        worst_case_nano_usd=worst_case,
        monthly_limit_nano_usd=limit,
    )


def _credits(message: pb.CreditTerms) -> CreditTerms:
    row = _price_row(message.price, "credits.price")
    if not row.price_id:
        raise InvalidArgumentError.of(
            "credits.price.price_id", "must be set: credits pay only for what has a price"
        )
    return CreditTerms(row, _cost(message.worst_case_nano_usd, "credits.worst_case_nano_usd"))


def _cost(value: int, field: str) -> int:
    return parse.bounded(value, field, low=0, high=COST_NANO_USD_MAX)


def _capture(message: pb.CaptureTerms, field: str) -> Capture:
    cost = None
    if message.HasField("vendor_cost_nano_usd"):
        cost = _cost(message.vendor_cost_nano_usd, f"{field}.vendor_cost_nano_usd")
    units = message.units
    counts = _counts(units)
    if min(counts) < 0 or max(counts) > UNIT_COUNT_MAX:
        for name, count in zip(UsageUnits._fields, counts, strict=True):
            parse.bounded(count, f"{field}.units.{name}", low=0, high=UNIT_COUNT_MAX)
    return Capture(
        vendor_cost_nano_usd=cost,
        units=UsageUnits(*counts),
        basis=parse.word(UsageBasis, pb.UsageBasis, message.basis, f"{field}.basis"),
        delivered=message.delivered,
    )


def _outcome(message: pb.ReleaseTerms, field: str) -> str:
    return parse.text(message.outcome, field, low=1, high=64)


def _settlement(message: pb.Settlement) -> SettleTerms:
    sequence = _sequence(message.sequence, "settlement.sequence")
    match message.WhichOneof("terms"):
        case "capture":
            capture = _capture(message.capture, "settlement.capture")
            return SettleTerms(sequence, _digest(message.capture), capture, "")
        case "release":
            outcome = _outcome(message.release, "settlement.release.outcome")
            return SettleTerms(sequence, _digest(message.release), None, outcome)
    raise InvalidArgumentError.of("settlement", "capture or release must be set")


def _end(message: pb.RequestEnd) -> RequestEnd:
    if len(message.outcome) > OUTCOME_BYTES_MAX:
        raise InvalidArgumentError.of("end.outcome", f"must be at most {OUTCOME_BYTES_MAX} bytes")
    return RequestEnd(message.succeeded, message.outcome)
