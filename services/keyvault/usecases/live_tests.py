# SPDX-License-Identifier: Apache-2.0
"""What a live test means for a secret that is about to be stored (K3)."""

from __future__ import annotations

from datetime import datetime

from services.keyvault.domain.health import LiveTest, TestResult
from services.keyvault.domain.keys import KeyFields
from services.keyvault.errors import KeyForbiddenError, KeyInvalidError, ProviderUnreachableError
from services.keyvault.usecases.ports import Prober
from services.shared.errors import PeerUnavailableError
from services.shared.secret import Secret

UNTESTED_DETAIL = "the router, which tests keys, could not be reached"


async def probe_before_storing(
    prober: Prober,
    provider: str,
    secret: Secret,
    *,
    fields: KeyFields,
    store_unverified: bool,
    now: datetime,
) -> LiveTest:
    """
    Test a secret and refuse what must not be stored.

    Args:
        prober: Makes the test.
        provider: Provider id.
        secret: The clean secret.
        fields: Its models.
        store_unverified: Whether it may be stored although it could not be tested.
        now: When.

    Returns:
        The test; the key is stored with the health that it means.

    Raises:
        KeyInvalidError: If the provider does not know it.
        KeyForbiddenError: If it lacks a permission.
        ProviderUnreachableError: If the provider could not be asked.
        PeerUnavailableError: If the router is away and it may not be stored untested.
        InvalidArgumentError: If the router does not know the provider or a model.
    """
    try:
        test = await prober.probe(
            provider,
            secret,
            default_model=fields.default_model,
            allowed_models=fields.allowed_models,
        )
    except PeerUnavailableError:
        if not store_unverified:
            raise
        test = _untested(now)
    if test.result is TestResult.INVALID:
        raise KeyInvalidError(provider, test.detail)
    if test.result is TestResult.FORBIDDEN:
        raise KeyForbiddenError(provider, test.missing_permission, test.detail)
    if test.result is TestResult.UNREACHABLE and not store_unverified:
        raise ProviderUnreachableError(provider, test.detail)
    return test


def _untested(now: datetime) -> LiveTest:
    return LiveTest(
        result=TestResult.UNREACHABLE,
        credit_checked=False,
        cost_nano_usd=0,
        detail=UNTESTED_DETAIL,
        missing_permission="",
        retry_after=None,
        test_time=now,
    )


def audit_details(test: LiveTest) -> dict[str, str]:
    """Return what the audit trail keeps of a test."""
    return {
        "result": test.result.value,
        "credit_checked": str(test.credit_checked).lower(),
        "cost_nano_usd": str(test.cost_nano_usd),
    }
