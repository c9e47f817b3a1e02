# SPDX-License-Identifier: Apache-2.0
"""
Between keyvault's messages and the router's own terms.
"""

from __future__ import annotations

import dataclasses

from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import resolution_pb2 as pb

from services.router.domain.keys import AccountKeys, HealthMark, HealthState, OwnKey
from services.router.domain.outcomes import Outcome
from services.router.providers.azure import AZURE
from services.router.providers.azure_credential import read_deployments
from services.router.providers.base import APIKeyCredential, CredentialMalformedError
from services.shared.secret import Secret

MILLIS = 1000

_HEALTH = {
    key_pb2.HEALTH_STATE_ACTIVE: HealthState.ACTIVE,
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


def account_keys(answer: pb.AccountKeys, *, asked_at: float, now: float) -> AccountKeys:
    """
    Read an account's keys, without their secrets.

    Args:
        answer: Keyvault's message.
        asked_at: Monotonic seconds when it was asked for; overlaps are counted from here, so that
            no transit time extends them.
        now: Monotonic seconds; health's times left are counted from here.
    """
    return AccountKeys(
        account=answer.account,
        active_provider=answer.settings.active_provider,
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
        provider=key.provider,
        hint=key.hint,
        version=key.version,
        etag=key.etag,
        order=key.order,
        # A key without its secret cannot serve, whatever it says of itself; one that cannot be
        # opened now is neither absent nor disabled, nor is one that comes with the request.
        enabled=key.state == key_pb2.KEY_STATE_ENABLED
        and bool(item.secret or unopened or client_held),
        active=key.active,
        always_use=key.always_use,
        allowed_models=frozenset(key.allowed_models),
        deployed_models=None
        if unopened or client_held
        else _deployed_models(key.provider, item.secret),
        default_model=key.default_model,
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
