# SPDX-License-Identifier: Apache-2.0
"""Between the contract's messages and keyvault's domain."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from ownkey.keyvault.v1 import (
    audit_pb2,
    kek_pb2,
    key_pb2,
    keyvault_service_pb2,
    live_test_pb2,
    resolution_pb2,
)

from services.keyvault.domain.audit import AuditEvent
from services.keyvault.domain.health import WHOLE_KEY, Health, HealthState, LiveTest, Outcome
from services.keyvault.domain.keys import Key, KeyFields, Settings
from services.keyvault.domain.names import ACCOUNT, AUDIT_EVENT, KEY
from services.keyvault.usecases.audit_chain import AuditVerdict
from services.keyvault.usecases.kek import KekReport
from services.keyvault.usecases.ports import FeedPosition, RecordName
from services.keyvault.usecases.resolve_keys import ResolvedAccount
from services.keyvault.usecases.runs import RunProgress
from services.shared.errors import InvalidArgumentError

KEY_MASK = frozenset(
    {
        "label",
        "default_model",
        "allowed_models",
        "always_use",
        "order",
        "monthly_limit_nano_usd",
    }
)
SETTINGS_MASK = frozenset({"active_provider", "use_backups"})

VERSION_DIGITS_MAX = 18

_MILLIS = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OUTCOMES: dict[int, Outcome] = {
    int(resolution_pb2.Outcome.Value(f"OUTCOME_{outcome.name}")): outcome for outcome in Outcome
}


def outcome(value: int) -> Outcome:
    """Return a report's outcome."""
    found = _OUTCOMES.get(value)
    if found is None:
        raise InvalidArgumentError.of("outcome", "must be one of the outcomes, not UNSPECIFIED")
    return found


def key_fields(message: key_pb2.Key) -> KeyFields:
    """Return what a caller set in a key."""
    return KeyFields(
        label=message.label,
        default_model=message.default_model,
        allowed_models=tuple(message.allowed_models),
        always_use=message.always_use,
        order=message.order,
        monthly_limit_nano_usd=_monthly_limit(message),
    )


def masked(
    message: key_pb2.Key | key_pb2.Settings,
    mask: field_mask_pb2.FieldMask,
    *,
    allowed: Collection[str],
) -> dict[str, Any]:
    """
    Return the values that a mask names.

    Raises:
        InvalidArgumentError: If the mask is empty, or names what may not be changed.
    """
    names = ", ".join(sorted(allowed))
    if not mask.paths:
        raise InvalidArgumentError.of("update_mask", f"must name at least one of {names}")
    values: dict[str, Any] = {}
    for path in mask.paths:
        if path not in allowed:
            advice = f"'{path}' cannot be changed; these can: {names}"
            raise InvalidArgumentError.of("update_mask", advice)
        value = getattr(message, path)
        values[path] = value if isinstance(value, (str, bool, int)) else tuple(value)
        if isinstance(message, key_pb2.Key) and path == "monthly_limit_nano_usd":
            values[path] = _monthly_limit(message)
    return values


def key_message(key: Key) -> key_pb2.Key:
    """Return a key; it never holds the secret."""
    return key_pb2.Key(
        name=key.name,
        provider=key.provider,
        label=key.fields.label,
        default_model=key.fields.default_model,
        allowed_models=key.fields.allowed_models,
        always_use=key.fields.always_use,
        order=key.fields.order,
        monthly_limit_nano_usd=key.fields.monthly_limit_nano_usd,
        state=key_pb2.KEY_STATE_ENABLED if key.enabled else key_pb2.KEY_STATE_DISABLED,
        active=key.active,
        hint=key.hint,
        version=key.version,
        health=_health_messages(key),
        create_time=_timestamp(key.create_time),
        update_time=_timestamp(key.update_time),
        etag=key.etag,
        overlap_end_time=_timestamp(key.overlap_until) if key.overlap_until else None,
        residence=key_pb2.RESIDENCE_CLIENT_HELD if key.client_held else key_pb2.RESIDENCE_SERVER,
    )


def settings_message(settings: Settings) -> key_pb2.Settings:
    """Return settings."""
    return key_pb2.Settings(
        name=settings.name,
        active_provider=settings.active_provider,
        use_backups=settings.use_backups,
        etag=settings.etag,
    )


def live_test_message(test: LiveTest) -> live_test_pb2.LiveTest:
    """Return a live test."""
    return live_test_pb2.LiveTest(
        result=live_test_pb2.TestResult.Value(f"TEST_RESULT_{test.result.name}"),
        credit_checked=test.credit_checked,
        cost_nano_usd=test.cost_nano_usd,
        detail=test.detail,
        missing_permission=test.missing_permission,
        retry_after=_duration(test.retry_after),
        test_time=_timestamp(test.test_time),
    )


def audit_message(event: AuditEvent) -> audit_pb2.AuditEvent:
    """Return an entry of the audit trail."""
    entry = event.entry
    key = KEY.format(account=entry.account, key=entry.key_id) if entry.key_id else ""
    return audit_pb2.AuditEvent(
        name=AUDIT_EVENT.format(account=entry.account, number=event.number),
        event_time=_timestamp(event.event_time),
        actor=entry.actor,
        action=audit_pb2.AuditAction.Value(f"AUDIT_ACTION_{entry.action.name}"),
        key=key,
        version=entry.version,
        request_id=entry.request_id,
        details=dict(entry.details),
    )


def verdict_message(
    account: str, verdict: AuditVerdict
) -> keyvault_service_pb2.VerifyAuditResponse:
    """Return what a verification of the audit trail found."""
    message = keyvault_service_pb2.VerifyAuditResponse(
        checked_count=verdict.checked,
        waiting_count=verdict.waiting,
        head=str(verdict.head) if verdict.head else "",
    )
    if verdict.fault is not None:
        message.first_fault = AUDIT_EVENT.format(account=account, number=verdict.fault.number)
        message.fault_detail = verdict.fault.detail
    return message


def position_message(position: FeedPosition) -> resolution_pb2.FeedPosition:
    """Return a place in the change feed."""
    return resolution_pb2.FeedPosition(lineage=position.lineage, sequence=position.sequence)


def kek_message(report: KekReport) -> kek_pb2.KekStatus:
    """Return where the key-encryption key stands."""
    return kek_pb2.KekStatus(
        kek=report.name,
        available=report.state is not None,
        reason=report.reason,
        current_version=report.state.current_version if report.state else 0,
        lowest_version=report.state.lowest_version if report.state else 0,
        versions=[
            kek_pb2.KekVersion(version=version, record_count=count)
            for version, count in report.records
        ],
    )


def progress_message(progress: RunProgress) -> kek_pb2.RewrapProgress:
    """Return how far a run has come."""
    last = progress.last
    return kek_pb2.RewrapProgress(
        done_count=progress.done,
        remaining_count=progress.remaining,
        failed_count=progress.failed,
        resume_token=f"{last.account}/{last.key_id}/{last.version}" if last else "",
    )


def record_name(token: str) -> RecordName | None:
    """Return where a run is to go on; None for the beginning."""
    if not token:
        return None
    account, _, rest = token.partition("/")
    key_id, _, version = rest.partition("/")
    if not key_id or not version.isdecimal() or len(version) > VERSION_DIGITS_MAX:
        raise InvalidArgumentError.of("resume_token", "must be one that an earlier run returned")
    return RecordName(account, key_id, int(version))


def account_keys_message(resolved: ResolvedAccount) -> resolution_pb2.AccountKeys:
    """Return an account as the router may know it: the one message that carries secrets."""
    message = resolution_pb2.AccountKeys(
        account=ACCOUNT.format(account=resolved.settings.account),
        settings=settings_message(resolved.settings),
    )
    for key in resolved.keys:
        secret = resolved.secrets.get((key.key_id, key.version))
        message.keys.add(
            key=key_message(key),
            secret=secret.reveal() if secret is not None else "",
            unavailable_cause=resolved.unavailable.get(key.key_id, ""),
            previous=_previous_message(resolved, key),
        )
    return message


def _previous_message(resolved: ResolvedAccount, key: Key) -> resolution_pb2.PreviousVersion | None:
    """Return the version in its overlap, if there is time left of it."""
    version = key.version - 1
    secret = resolved.secrets.get((key.key_id, version))
    left = (key.overlap_until - key.read_time) // _MILLIS if key.overlap_until else 0
    if secret is None or left <= 0:
        return None
    return resolution_pb2.PreviousVersion(
        version=version, secret=secret.reveal(), remaining_millis=left
    )


def _monthly_limit(message: key_pb2.Key) -> int | None:
    return message.monthly_limit_nano_usd if message.HasField("monthly_limit_nano_usd") else None


def _health_messages(key: Key) -> list[key_pb2.KeyHealth]:
    """Return the whole key's health first, then that of models that are not plain ACTIVE."""
    entries = [entry.at(key.read_time) for entry in key.health]
    shown = [entry for entry in entries if entry.state is not HealthState.ACTIVE]
    messages = [_health_message(entry, key.read_time) for entry in shown]
    if any(entry.model == WHOLE_KEY for entry in shown):
        return messages
    return [key_pb2.KeyHealth(state=key_pb2.HEALTH_STATE_ACTIVE), *messages]


def _health_message(entry: Health, now: datetime) -> key_pb2.KeyHealth:
    until = entry.until
    return key_pb2.KeyHealth(
        model=entry.model,
        state=key_pb2.HealthState.Value(f"HEALTH_STATE_{entry.state.name}"),
        reason=entry.cause,
        next_step=entry.next_step,
        since_time=_timestamp(entry.since),
        until_time=_timestamp(until) if until is not None else None,
        remaining_millis=max(0, (until - now) // _MILLIS) if until is not None else 0,
    )


def _timestamp(time: datetime) -> timestamp_pb2.Timestamp:
    seconds, rest = divmod(time - _EPOCH, _SECOND)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest.microseconds * 1_000)


def _duration(span: timedelta | None) -> duration_pb2.Duration | None:
    if span is None:
        return None
    message = duration_pb2.Duration()
    message.FromTimedelta(span)
    return message
