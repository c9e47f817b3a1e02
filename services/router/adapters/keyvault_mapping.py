# SPDX-License-Identifier: Apache-2.0
"""
Between keyvault's messages and the router's own terms.
"""

from __future__ import annotations

import dataclasses
from sys import intern

from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import resolution_pb2 as pb

from services.router.domain.keys import (
    ALL_MODELS,
    AccountKeys,
    HealthMark,
    HealthState,
    OwnKey,
)
from services.router.domain.outcomes import Outcome
from services.router.providers.azure import AZURE
from services.router.providers.azure_credential import read_deployments
from services.router.providers.base import APIKeyCredential, CredentialMalformedError
from services.router.providers.vertex import VERTEX
from services.router.providers.vertex_credential import read_service_account
from services.shared.secret import Secret

MILLIS = 1000

_HEALTH = {
    # ACTIVE is no mark: nothing stands in the key's way.
    key_pb2.HEALTH_STATE_SUSPECT: HealthState.SUSPECT,
    key_pb2.HEALTH_STATE_REJECTED: HealthState.REJECTED,
    key_pb2.HEALTH_STATE_NO_CREDIT: HealthState.NO_CREDIT,
    key_pb2.HEALTH_STATE_COOLING: HealthState.COOLING,
}

_REPORTED = {
    None: pb.OUTCOME_OK,
    Outcome.INVALID_KEY: pb.OUTCOME_INVALID_KEY,
    Outcome.EXPIRED_CREDENTIALS: pb.OUTCOME_EXPIRED_CREDENTIALS,
    Outcome.PERMISSION_DENIED: pb.OUTCOME_PERMISSION_DENIED,
    Outcome.INSUFFICIENT_CREDIT: pb.OUTCOME_INSUFFICIENT_CREDIT,
    Outcome.RATE_LIMITED: pb.OUTCOME_RATE_LIMITED,
}


def account_keys(
    account: str, answer: pb.AccountKeys, *, asked_at: float, now: float
) -> AccountKeys:
    """
    Read an account's keys, without their secrets.

    Those of many accounts are held: what they have in common is one object for all.

    Args:
        account: Whose they are, as they are held under.
        answer: Keyvault's message.
        asked_at: Monotonic seconds when it was asked for; overlaps are counted from here, so that
            no transit time extends them.
        now: Monotonic seconds; health's times left are counted from here.
    """
    return AccountKeys(
        account=account,
        active_provider=intern(answer.settings.active_provider),
        use_backups=answer.settings.use_backups,
        keys=tuple(_with_previous(item, asked_at, now) for item in answer.keys),
    )


def outcome_value(outcome: Outcome | None) -> pb.Outcome.ValueType:
    """
    Write what a call came to; None is success.
    """
    return _REPORTED[outcome]


def _with_previous(item: pb.ResolvedKey, asked_at: float, now: float) -> OwnKey:
    key, previous = _key(item, now), item.previous
    if not previous.secret:
        return key
    earlier = dataclasses.replace(
        key,
        version=previous.version,
        # What is known of the current version's secret is not this one's.
        hint="",
        health=(),
        # Only what the server stored has an overlap, also where the current one has left it.
        client_held=False,
        deployed_models=_deployed_models(key.provider, previous.secret),
        region=_region(key.provider, previous.secret),
        ends_at=asked_at + previous.remaining_millis / MILLIS,
    )
    return dataclasses.replace(key, previous=earlier)


def _key(item: pb.ResolvedKey, now: float) -> OwnKey:
    key = item.key
    unopened = bool(item.unavailable_cause)
    client_held = key.residence == key_pb2.RESIDENCE_CLIENT_HELD
    limit = key.monthly_limit_nano_usd if key.HasField("monthly_limit_nano_usd") else None
    return OwnKey(
        name=key.name,
        provider=intern(key.provider),
        hint=key.hint,
        version=key.version,
        etag=intern(key.etag),
        order=key.order,
        # A key without its secret cannot serve, whatever it says of itself; one that cannot be
        # opened now is neither absent nor disabled, nor is one that comes with the request.
        enabled=key.state == key_pb2.KEY_STATE_ENABLED
        and bool(item.secret or unopened or client_held),
        active=key.active,
        always_use=key.always_use,
        allowed_models=frozenset(key.allowed_models) if key.allowed_models else ALL_MODELS,
        deployed_models=None
        if unopened or client_held
        else _deployed_models(key.provider, item.secret),
        region=_region(key.provider, item.secret) or _region_shown(key.provider, key.hint),
        default_model=intern(key.default_model),
        client_held=client_held,
        monthly_limit_nano_usd=limit,
        health=(HealthMark(HealthState.UNOPENED),) * unopened
        + tuple(
            HealthMark(_HEALTH[mark.state], mark.model, now + mark.remaining_millis / MILLIS)
            for mark in key.health
            if mark.state in _HEALTH
        ),
    )


def _deployed_models(provider: str, secret: str) -> frozenset[str] | None:
    """
    Give the models that a credential has deployments of; none at all where it cannot be read.
    """
    if provider != AZURE.provider:
        return None
    try:
        deployments = read_deployments(APIKeyCredential(Secret(secret)))
    except CredentialMalformedError:
        return frozenset()
    return frozenset(deployment.model_slug for deployment in deployments)


def _region(provider: str, secret: str) -> str:
    """
    Give the region that a credential names; empty where none decides about prices, or where the
    credential cannot be read.
    """
    if provider != VERTEX.provider or not secret:
        return ""
    try:
        return intern(read_service_account(APIKeyCredential(Secret(secret))).region)
    except CredentialMalformedError:
        return ""


def _region_shown(provider: str, hint: str) -> str:
    """
    Give the region out of a hint, `project region …end`: all that is known of a credential that
    only its browser holds.
    """
    parts = hint.split()
    return intern(parts[1]) if provider == VERTEX.provider and len(parts) > 1 else ""
