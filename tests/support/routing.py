# SPDX-License-Identifier: Apache-2.0
"""Keys, catalogues and requests for tests of the router's rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.router.domain.catalogue import (
    Capability,
    Catalogue,
    CreditDefaults,
    Model,
    Offer,
    Provider,
)
from services.router.domain.conditions import OPEN_GATE, UNMEASURED, Gate
from services.router.domain.keys import AccountKeys, OwnKey
from services.router.domain.plan import Plan
from services.router.domain.planning import plan
from services.router.domain.prices import Price, Rates
from services.router.domain.request import Request, TextInput
from services.router.domain.speed import Speed
from services.router.domain.text import Message, Role, TextCall, TextPart

MODEL = "anthropic/claude"
PROVIDERS = ("amazon-bedrock", "anthropic", "google-vertex")


def price(rate: int = 1_000_000, name: str = "p") -> Price:
    """Give a price with one rate for everything."""
    return Price(name, Rates(rate, rate, rate, rate))


def provider(provider_id: str, **fields: Any) -> Provider:
    """Give a provider whose default is the one model."""
    values: dict[str, Any] = {
        "id": provider_id,
        "display_name": provider_id,
        "key_page_url": "https://example.com",
        "key_shape": "any",
        "default_model": MODEL,
        "curated_models": (MODEL,),
        "vendors": (),
        "takes_any_vendor": False,
        "bills_after_disconnect": False,
    }
    return Provider(**{**values, **fields})


def catalogue(
    providers: tuple[str, ...] = PROVIDERS, *, rates: dict[str, int] | None = None
) -> Catalogue:
    """Give a catalogue of one model that all providers serve, in their order."""
    offers = tuple(
        Offer(name, MODEL, f"{name}-claude", price((rates or {}).get(name, 1_000_000), name))
        for name in providers
    )
    model = Model(
        id=MODEL,
        display_name="Claude",
        capabilities=frozenset({Capability.TEXT, Capability.TOOLS}),
        context_tokens=1000,
        default_max_output_tokens=100,
        image_tokens_max=1000,
        fast=False,
        offers=offers,
    )
    return Catalogue(
        providers={name: provider(name) for name in providers},
        models={MODEL: model},
        credits=CreditDefaults(default=MODEL, quality=MODEL, speed=MODEL),
    )


def own_key(provider_id: str, key_id: str = "", **fields: Any) -> OwnKey:
    """Give an enabled, active key."""
    account = fields.pop("account", "demo")
    values: dict[str, Any] = {
        "name": f"accounts/{account}/keys/{key_id or provider_id}",
        "provider": provider_id,
        "hint": "sk-…1234",
        "version": 1,
        "etag": "1",
        "order": 0,
        "enabled": True,
        "active": True,
        "always_use": False,
    }
    return OwnKey(**{**values, **fields})


def account_keys(*keys: OwnKey, account: str = "demo", **fields: Any) -> AccountKeys:
    """Give an account's keys."""
    return AccountKeys(account=f"accounts/{account}", keys=keys, **fields)


def request(**fields: Any) -> Request:
    """Give a request for the one model."""
    values: dict[str, Any] = {
        "account": "accounts/demo",
        "request_id": "6a4b7b0e-6c1c-4f1e-9f43-1f0c1f3c7a11",
        "model": MODEL,
        "input": TextInput(messages=(Message(Role.USER, (TextPart("Hi"),)),)),
    }
    return Request(**{**values, **fields})


@dataclass
class Lately:
    """Conditions as a test says them, by provider."""

    gates: dict[str, Gate] = field(default_factory=dict)
    speeds: dict[str, Speed] = field(default_factory=dict)
    trials: set[str] = field(default_factory=set)

    def gate(self, key: OwnKey, offer: Offer) -> Gate:
        """Tell whether a call may pass."""
        del key
        return self.gates.get(offer.provider, OPEN_GATE)

    def speed(self, offer: Offer) -> Speed:
        """Tell how fast an offer has been."""
        return self.speeds.get(offer.provider, UNMEASURED)

    def on_trial(self, name: str) -> bool:
        """Tell whether another request is the trial."""
        return name in self.trials


def takes_all(provider_id: str, call: TextCall) -> list[str]:
    """Say that a provider takes every parameter."""
    del provider_id, call
    return []


def planned(
    text_request: Request | None = None,
    *,
    keys: AccountKeys | None = None,
    shared: AccountKeys | None = None,
    **fields: Any,
) -> Plan:
    """Plan a request; every provider has a shared key unless said otherwise."""
    everywhere = [own_key(name, account="platform") for name in PROVIDERS]
    values: dict[str, Any] = {
        "catalogue": catalogue(),
        "unsupported": takes_all,
        "conditions": Lately(),
        "now": 0.0,
        "spread": 0,
    }
    return plan(
        text_request or request(),
        keys=keys or account_keys(),
        shared=shared or account_keys(*everywhere, account="platform"),
        **{**values, **fields},
    )
