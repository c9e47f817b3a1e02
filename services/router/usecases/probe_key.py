# SPDX-License-Identifier: Apache-2.0
"""
Tests a key live at its provider, for keyvault, which has no way out.

The secret is used for this call and forgotten. A provider that cannot be asked is a finding, not an
error: keyvault decides what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.router.domain.catalogue import Catalogue, Offer
from services.router.domain.outcomes import Outcome
from services.router.domain.prices import cost_nano_usd
from services.router.errors import ModelNotCuratedError
from services.router.providers.base import (
    AccessToken,
    APIKeyCredential,
    Credential,
    CredentialMalformedError,
    Dialect,
    HTTPRequest,
    Probe,
    ProbeResult,
    ProviderError,
)
from services.router.usecases.access import trade
from services.router.usecases.ports import Transport
from services.router.usecases.price_book import PriceBook
from services.shared.clock import Clock
from services.shared.errors import FieldViolation, InvalidArgumentError
from services.shared.secret import Secret

PROBE_SECONDS_MAX = 15.0
REQUESTS_MAX = 64
"""Deployments of one credential are tested one after the other, each by its free call and more."""


class Finding(StrEnum):
    """
    What a live test found.
    """

    VALID = "valid"
    INVALID = "invalid"
    NO_CREDIT = "no_credit"
    RATE_LIMITED = "rate_limited"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """
    What a live test found, and what it cost.
    """

    finding: Finding
    credit_checked: bool
    cost_nano_usd: int
    detail: str
    retry_after_seconds: float | None
    missing_permission: str


_FINDINGS: Mapping[Outcome | None, Finding] = {
    None: Finding.VALID,
    Outcome.INVALID_KEY: Finding.INVALID,
    Outcome.EXPIRED_CREDENTIALS: Finding.INVALID,
    Outcome.INSUFFICIENT_CREDIT: Finding.NO_CREDIT,
    Outcome.RATE_LIMITED: Finding.RATE_LIMITED,
    Outcome.PERMISSION_DENIED: Finding.FORBIDDEN,
    # The key was accepted; only its list of models names one that it may not use.
    Outcome.MODEL_NOT_FOUND: Finding.FORBIDDEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeKey:
    """
    The use case.
    """

    dialects: Mapping[str, Dialect]
    base_urls: Mapping[str, str]
    transport: Transport
    prices: PriceBook
    clock: Clock

    @property
    def catalogue(self) -> Catalogue:
        """
        Give the catalogue at the prices in force now.
        """
        return self.prices.catalogue

    def check(self, provider: str, *, default_model: str, allowed_models: tuple[str, ...]) -> None:
        """
        Check that provider and models are known, calling nobody.

        Raises:
            InvalidArgumentError: Naming the field.
            ModelNotCuratedError: The default model is not on the provider's curated list.
        """
        known = self.catalogue.providers.get(provider)
        if known is None or provider not in self.dialects:
            providers = ", ".join(sorted(self.dialects))
            raise InvalidArgumentError.of(
                "provider", f"'{provider}' is not a provider here; the providers are {providers}"
            )
        if default_model and default_model not in known.curated_models:
            raise ModelNotCuratedError(
                default_model, provider=provider, curated=known.curated_models
            )
        for model in allowed_models:
            if self.catalogue.own_key_offer(provider, model) is None:
                raise InvalidArgumentError.of(
                    "allowed_models",
                    f"{provider} does not serve '{model}'; models are named vendor/model",
                )

    async def __call__(
        self,
        provider: str,
        secret: Secret,
        *,
        default_model: str,
        allowed_models: tuple[str, ...],
        deadline: float,
    ) -> ProbeReport:
        """
        Test a key.

        Args:
            provider: Provider id.
            secret: The key.
            default_model: The key's own model, `vendor/model`, or empty.
            allowed_models: The only models it may serve; empty for all.
            deadline: Monotonic seconds.

        Raises:
            InvalidArgumentError: Naming the fields of a structured credential that do not fit.
        """
        self.check(provider, default_model=default_model, allowed_models=allowed_models)
        dialect = self.dialects[provider]
        offers = self._offers(provider, default_model, allowed_models)
        credential = APIKeyCredential(secret)
        deadline = min(deadline, self.clock.monotonic() + PROBE_SECONDS_MAX)
        try:
            probe = dialect.probe(
                credential,
                base_url=self._base_url(dialect),
                models=tuple(offer.provider_model for offer in offers),
            )
            await self._run(probe, dialect, credential, deadline)
        except CredentialMalformedError as error:
            fields = [
                FieldViolation(f"secret.{fault.field}", fault.description) for fault in error.faults
            ]
            raise InvalidArgumentError(str(error), fields=fields) from None
        return self._report(provider, probe.result())

    def _base_url(self, dialect: Dialect) -> str:
        return self.base_urls.get(dialect.provider, dialect.default_base_url)

    async def _run(
        self, probe: Probe, dialect: Dialect, credential: Credential, deadline: float
    ) -> None:
        base_url = self._base_url(dialect)
        try:
            token = await self._token(dialect, credential, deadline)
        except ProviderError as error:
            probe.fail(error)
            return
        for _ in range(REQUESTS_MAX):
            built = probe.next_request()
            if built is None:
                break
            request = dialect.authorize(
                built, credential, base_url=base_url, now=self.clock.now(), token=token
            )
            try:
                status, headers, body = await self._send(request, deadline)
            except ProviderError as error:
                probe.fail(error)
            else:
                probe.feed(status, headers, body, now=self.clock.now())

    async def _token(
        self, dialect: Dialect, credential: Credential, deadline: float
    ) -> AccessToken | None:
        """
        Trade the credential, which is the first thing to be tested; nothing is kept.
        """
        base_url = self._base_url(dialect)
        exchange = dialect.exchange(credential, base_url=base_url, now=self.clock.now())
        if exchange is None:
            return None
        return await trade(
            exchange,
            transport=self.transport,
            clock=self.clock,
            may_send=lambda: True,
            seconds=max(0.0, deadline - self.clock.monotonic()),
        )

    async def _send(
        self, request: HTTPRequest, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        left = max(0.0, deadline - self.clock.monotonic())
        async with self.transport.send(
            request, may_send=lambda: True, head_seconds=left, idle_seconds=left
        ) as answer:
            return answer.status, answer.headers, await answer.read()

    def _offers(
        self, provider: str, default_model: str, allowed_models: tuple[str, ...]
    ) -> list[Offer]:
        """
        Give the models for the generation: the key's own, else the allowed ones, cheapest first.
        """
        names = [default_model] if default_model else list(allowed_models)
        offers = [self.catalogue.own_key_offer(provider, name) for name in names]
        known = [offer for offer in offers if offer is not None]
        return sorted(known, key=_dearness)

    def _report(self, provider: str, result: ProbeResult) -> ProbeReport:
        prices = {
            offer.provider_model: offer.price
            for model in self.catalogue.models.values()
            for offer in model.offers
            if offer.provider == provider
        }
        spent = [*result.spent_elsewhere]
        if result.usage is not None:
            spent.append((result.model, result.usage))
        priced = [(prices.get(name), usage) for name, usage in spent]
        cost = sum(cost_nano_usd(price, usage) for price, usage in priced if price is not None)
        return ProbeReport(
            finding=_FINDINGS.get(result.outcome, Finding.UNREACHABLE),
            credit_checked=result.credit_checked,
            cost_nano_usd=cost + result.cost_nano_usd,
            detail=result.detail,
            retry_after_seconds=result.retry_after_seconds,
            missing_permission=result.missing_permission,
        )


def _dearness(offer: Offer) -> tuple[bool, int]:
    price = offer.price
    return (price is None, price.base.output if price else 0)
