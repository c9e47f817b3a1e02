# SPDX-License-Identifier: Apache-2.0
"""Read Authorize, Renew, Capture and Release into commands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
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

# Looked at for every attempt; what is not among them is told why by `parse.word`.
_SOURCES = parse.by_number(Source, pb.Source)
_OWN_KEY_STATES = parse.by_number(OwnKeyState, pb.OwnKeyState)
_OPERATIONS = parse.by_number(Operation, pb.Operation)
_BASES = parse.by_number(UsageBasis, pb.UsageBasis)

BATCH_MAX = 256
FINGERPRINT_BYTES = 32
FINGERPRINT_VERSION_MAX = 1_000_000
OUTCOME_BYTES_MAX = 16 * 1024
KEY_VERSION_MAX = 10**9
PRICE_ROWS_KNOWN_MAX = 4096
"""Price rows that a process knows to be well formed."""


def authorize_command(message: pb.AuthorizeRequest) -> AuthorizeCommand:
    """Read an AuthorizeRequest."""
    account_id = parse.account_id(message.account)
    fingerprint = message.fingerprint
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise InvalidArgumentError.of("fingerprint", f"must be {FINGERPRINT_BYTES} bytes")
    state = message.own_key_state
    own_key_state = _OWN_KEY_STATES.get(state) or parse.word(
        OwnKeyState, pb.OwnKeyState, state, "own_key_state"
    )
    has = message.HasField
    own_key = _own_key(message.own_key, account_id) if has("own_key") else None
    if own_key is None and own_key_state is OwnKeyState.READY:
        raise InvalidArgumentError.of("own_key", "must be set when own_key_state is READY")
    version = message.fingerprint_version
    if not 1 <= version <= FINGERPRINT_VERSION_MAX:
        parse.bounded(version, "fingerprint_version", low=1, high=FINGERPRINT_VERSION_MAX)
    source, operation = message.source, message.operation
    return AuthorizeCommand(
        account_id,
        parse.request_id(message.request_id),
        parse.claimant(message.claimant),
        _sequence(message.sequence, "sequence"),
        fingerprint,
        version,
        _digest(message),
        _SOURCES.get(source) or parse.word(Source, pb.Source, source, "source"),
        own_key_state,
        message.always_use,
        _OPERATIONS.get(operation) or parse.word(Operation, pb.Operation, operation, "operation"),
        own_key,
        _credits(message.credits) if has("credits") else None,
        _settlement(message.settlement) if has("settlement") else None,
        message.dry_run,
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
    if 1 <= value <= SEQUENCE_MAX:
        return value
    return parse.bounded(value, field, low=1, high=SEQUENCE_MAX)


def _digest(message: Message) -> bytes:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def _price_row(message: pb.PriceRow, field: str) -> PriceRow:
    return _checked_price_row(message.model, message.provider, message.price_id, field)


# Of a price table's rows the same ones come again and again.
@lru_cache(PRICE_ROWS_KNOWN_MAX)
def _checked_price_row(model: str, provider: str, price_id: str, field: str) -> PriceRow:
    return PriceRow(
        model=parse.text(model, f"{field}.model", low=1),
        provider=parse.text(provider, f"{field}.provider", low=1, high=64),
        price_id=parse.text(price_id, f"{field}.price_id", high=128),
    )


def _own_key(message: pb.OwnKeyTerms, account_id: str) -> OwnKeyTerms:
    key = message.key
    if parse.key_account(key, "own_key.key") != account_id:
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
        key=key,
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
    if 0 <= value <= COST_NANO_USD_MAX:
        return value
    return parse.bounded(value, field, low=0, high=COST_NANO_USD_MAX)


def _capture(message: pb.CaptureTerms, field: str) -> Capture:
    cost = None
    if message.HasField("vendor_cost_nano_usd"):
        cost = _cost(message.vendor_cost_nano_usd, f"{field}.vendor_cost_nano_usd")
    counts = _counts(message.units)
    if min(counts) < 0 or max(counts) > UNIT_COUNT_MAX:
        for name, count in zip(UsageUnits._fields, counts, strict=True):
            parse.bounded(count, f"{field}.units.{name}", low=0, high=UNIT_COUNT_MAX)
    return Capture(
        vendor_cost_nano_usd=cost,
        units=UsageUnits(*counts),
        basis=_BASES.get(message.basis)
        or parse.word(UsageBasis, pb.UsageBasis, message.basis, f"{field}.basis"),
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
