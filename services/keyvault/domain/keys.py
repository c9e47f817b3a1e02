# SPDX-License-Identifier: Apache-2.0
"""Keys and settings of an account, and the rules about them that need nobody else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from services.keyvault.domain.health import Health
from services.keyvault.domain.names import ACCOUNT, KEY, SETTINGS
from services.shared.errors import InvalidArgumentError

KEYS_PER_ACCOUNT_MAX = 100
LABEL_CHARACTERS_MAX = 100
ALLOWED_MODELS_MAX = 100
MODEL_CHARACTERS_MAX = 200
ORDER_MAX = 1_000_000
MONTHLY_LIMIT_NANO_USD_MAX = 10**18
"""As the ledger takes it: a billion dollars."""

# Shorter than any provider's key: one pasted here by mistake is refused without being repeated.
_PROVIDER = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, slots=True)
class KeyFields:
    """
    What a caller may set.

    Args:
        label: For people.
        default_model: `vendor/model`; "" for none.
        allowed_models: The only models it may serve; empty for all.
        always_use: Never fall back to credits from it.
        order: Place in the account's order, ascending.
        monthly_limit_nano_usd: What it may spend in a UTC month, in vendor cost; None for no limit.
    """

    label: str = ""
    default_model: str = ""
    allowed_models: tuple[str, ...] = ()
    always_use: bool = False
    order: int = 0
    monthly_limit_nano_usd: int | None = None

    def check(self) -> None:
        """
        Refuse values out of their range.

        Raises:
            InvalidArgumentError: Naming the field and what is allowed.
        """
        if len(self.label) > LABEL_CHARACTERS_MAX or not self.label.isprintable():
            advice = f"must be at most {LABEL_CHARACTERS_MAX} printable characters"
            raise InvalidArgumentError.of("key.label", advice)
        if len(self.allowed_models) > ALLOWED_MODELS_MAX:
            advice = f"must hold at most {ALLOWED_MODELS_MAX} models"
            raise InvalidArgumentError.of("key.allowed_models", advice)
        if len(set(self.allowed_models)) != len(self.allowed_models):
            raise InvalidArgumentError.of("key.allowed_models", "must name each model once")
        for number, model in enumerate(self.allowed_models):
            _check_model(model, f"key.allowed_models[{number}]")
        if self.default_model:
            _check_model(self.default_model, "key.default_model")
        restricted = bool(self.default_model and self.allowed_models)
        if restricted and self.default_model not in self.allowed_models:
            advice = "must be one of the key's allowed_models"
            raise InvalidArgumentError.of("key.default_model", advice)
        if not 0 <= self.order <= ORDER_MAX:
            advice = f"must be from 0 to {ORDER_MAX}"
            raise InvalidArgumentError.of("key.order", advice)
        limit = self.monthly_limit_nano_usd
        if limit is not None and not 1 <= limit <= MONTHLY_LIMIT_NANO_USD_MAX:
            advice = f"must be from 1 to {MONTHLY_LIMIT_NANO_USD_MAX}, or unset for no limit"
            raise InvalidArgumentError.of("key.monthly_limit_nano_usd", advice)


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key, without its secret.

    Args:
        account: Account id.
        key_id: Key id.
        provider: Provider id.
        fields: What the caller set.
        enabled: False if its owner switched it off.
        active: Whether it is its provider's active key.
        version: Number of the current version.
        hint: What may be shown of the secret.
        revision: Raised by every change but those of health.
        create_time: When it was stored.
        update_time: When anything but its health changed last.
        read_time: The database's clock when this was read; health is judged by it.
        health: Entries of the current version that are not plain ACTIVE.
        overlap_until: Until when the version before may be used; None without an overlap.
        secret_mac: By what the current version's secret is known again, where the customer's
            browser holds it; None where it is stored.
    """

    account: str
    key_id: str
    provider: str
    fields: KeyFields
    enabled: bool
    active: bool
    version: int
    hint: str
    revision: int
    create_time: datetime
    update_time: datetime
    read_time: datetime
    health: tuple[Health, ...] = ()
    overlap_until: datetime | None = None
    secret_mac: bytes | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return KEY.format(account=self.account, key=self.key_id)

    @property
    def client_held(self) -> bool:
        """Whether the customer's browser holds the secret."""
        return self.secret_mac is not None

    @property
    def etag(self) -> str:
        """Changes with every change but those of health, and differs between versions."""
        return f"{self.version}-{self.revision}"


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Which of an account's keys are used.

    Args:
        account: Account id.
        active_provider: Its active key serves requests that name no model; "" if there is no key.
        use_backups: Whether keys that are not active serve as backups.
        revision: Raised by every change.
    """

    account: str
    active_provider: str = ""
    use_backups: bool = False
    revision: int = 0

    @property
    def name(self) -> str:
        """The resource name."""
        return SETTINGS.format(account=self.account)

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return str(self.revision)


def check_provider(provider: str, field: str) -> None:
    """
    Refuse what cannot be a provider's id; whether it is known is the router's to say.

    Raises:
        InvalidArgumentError: If it is malformed.
    """
    if not _PROVIDER.fullmatch(provider):
        advice = "must be a provider id such as openai; ListProviders of the router shows them"
        raise InvalidArgumentError.of(field, advice)


def _check_model(model: str, field: str) -> None:
    if len(model) > MODEL_CHARACTERS_MAX or not _MODEL.fullmatch(model):
        advice = "must look like vendor/model, for example openai/gpt-4o-mini"
        raise InvalidArgumentError.of(field, advice)


__all__ = ["ACCOUNT", "Key", "KeyFields", "Settings", "check_provider"]
