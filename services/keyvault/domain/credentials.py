# SPDX-License-Identifier: Apache-2.0
"""
What can be said of a pasted secret without calling anybody: cleaning, refusal, hint.

Rules:
1. A secret is refused on positive evidence only; a shape that is not known goes on to the live
   test, for providers change their shapes.
2. The longest known prefix decides: `sk-` alone says nothing, `sk-or-v1-` says OpenRouter.
3. Structured credentials are JSON text; they pass unchanged or are refused field by field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.keyvault.domain.structured_credentials import (
    JSON_ONLY,
    PROVIDERS,
    faults_of,
    structured_hint,
)
from services.keyvault.errors import SecretFault, SecretMalformedError
from services.shared.errors import InvalidArgumentError

SECRET_BYTES_MAX = 16 * 1024
HIDDEN_CHARACTERS_MIN = 16
SHOWN_CHARACTERS = 4
ELLIPSIS = "…"

_CLEANING_PASSES_MAX = 8
_QUOTES = "\"'`‘’“”«»"
# Zero-width characters come along when a key is copied out of a web page.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_BEARER = re.compile(r"bearer(?=\s|$)\s*", re.IGNORECASE)
_SPACE = re.compile(rf"[\s\x00-\x1f\x7f{_INVISIBLE}]")
_MASK = re.compile(r"[*•●·]{3,}|…|\.{3,}|[xX]{8,}$")
_REST_OF_PREFIX_MIN = 5


@dataclass(frozen=True, slots=True)
class KeyShape:
    """
    A public prefix by which a kind of key is known.

    Args:
        prefix: The prefix, the same for every key of the kind.
        providers: Providers that issue it.
        admin: True for keys that administer an organization and generate nothing.
    """

    prefix: str
    providers: tuple[str, ...]
    admin: bool = False


# Prefixes as secret scanners know them: gitleaks config/gitleaks.toml, trufflehog pkg/detectors.
SHAPES = (
    KeyShape("sk-proj-", ("openai",)),
    KeyShape("sk-svcacct-", ("openai",)),
    KeyShape("sk-service-", ("openai",)),
    KeyShape("sk-admin-", ("openai",), admin=True),
    KeyShape("sk-or-v1-", ("openrouter",)),
    KeyShape("sk-or-", ("openrouter",)),
    KeyShape("sk-ant-api03-", ("anthropic",)),
    KeyShape("sk-ant-admin01-", ("anthropic",), admin=True),
    KeyShape("sk-ant-admin", ("anthropic",), admin=True),
    KeyShape("sk-ant-", ("anthropic",)),
    KeyShape("AIza", ("gemini", "google-vertex")),
    KeyShape("AQ.", ("gemini", "google-vertex")),
    KeyShape("ABSK", ("amazon-bedrock",)),
    KeyShape("bedrock-api-key-", ("amazon-bedrock",)),
    KeyShape("r8_", ("replicate",)),
)
_LONGEST_FIRST = tuple(sorted(SHAPES, key=lambda shape: -len(shape.prefix)))
_GENERIC_PREFIX = "sk-"


def clean_secret(text: str, provider: str) -> str:
    """
    Remove what a paste adds and refuse what cannot be a key.

    Args:
        text: The secret as it was pasted.
        provider: Id of the provider it is for.

    Returns:
        The secret as the provider issued it.

    Raises:
        SecretMalformedError: On positive evidence; the message never holds the secret.
        InvalidArgumentError: If it is longer than 16 KiB.
    """
    if len(text.encode()) > SECRET_BYTES_MAX:
        raise InvalidArgumentError.of("secret", f"must be at most {SECRET_BYTES_MAX} bytes")
    secret = _unwrap(text)
    if not secret:
        advice = "it is empty; paste the key as the provider shows it"
        raise SecretMalformedError(SecretFault.EMPTY, advice, provider=provider)
    if is_structured(secret) or provider in JSON_ONLY:
        _refuse_fields(secret, provider)
        return secret
    if _MASK.search(secret):
        advice = "it is a masked value, not the key; paste the key itself, or create a new one"
        raise SecretMalformedError(SecretFault.MASKED, advice, provider=provider)
    if _SPACE.search(secret):
        advice = "it has spaces or line breaks inside; paste the key alone, in one piece"
        raise SecretMalformedError(SecretFault.INNER_SPACES, advice, provider=provider)
    _refuse_truncated(secret, provider)
    _refuse_other_kinds(secret, provider)
    return secret


def is_structured(secret: str) -> bool:
    """Tell whether a clean secret is JSON text rather than a plain key."""
    return secret.startswith(("{", "["))


def hint_of(secret: str) -> str:
    """
    Return what may be shown of a clean secret: public prefix and last four characters.

    Empty where fewer than 16 characters would stay hidden. Of structured credentials no part of
    the secret is shown, but what they are for.
    """
    if is_structured(secret):
        return structured_hint(secret)
    shape = _shape_of(secret)
    prefix = shape.prefix if shape else ""
    if not prefix and secret.startswith(_GENERIC_PREFIX):
        prefix = _GENERIC_PREFIX
    if len(secret) - len(prefix) - SHOWN_CHARACTERS < HIDDEN_CHARACTERS_MIN:
        return ""
    return f"{prefix}{ELLIPSIS}{secret[-SHOWN_CHARACTERS:]}"


def _refuse_fields(secret: str, provider: str) -> None:
    if provider not in PROVIDERS:
        advice = "it is JSON text; paste the key alone, as the provider shows it"
        raise SecretMalformedError(SecretFault.FIELDS, advice, provider=provider)
    faults = faults_of(secret, provider)
    if faults:
        advice = "; ".join(f"{fault.field} {fault.description}" for fault in faults)
        raise SecretMalformedError(SecretFault.FIELDS, advice, provider=provider, fields=faults)


def _unwrap(text: str) -> str:
    secret = text
    for _ in range(_CLEANING_PASSES_MAX):
        before = secret
        secret = secret.strip().strip(_INVISIBLE).strip()
        bearer = _BEARER.match(secret)
        if bearer:
            secret = secret[bearer.end() :]
        if not is_structured(secret):
            secret = secret.strip(_QUOTES)
        if secret == before:
            break
    return secret


def _shape_of(secret: str) -> KeyShape | None:
    return next((shape for shape in _LONGEST_FIRST if secret.startswith(shape.prefix)), None)


def _refuse_truncated(secret: str, provider: str) -> None:
    own = [shape.prefix for shape in SHAPES if provider in shape.providers and not shape.admin]
    only_prefix = any(shape.prefix.startswith(secret) for shape in SHAPES)
    # The first characters were lost: `k-proj-...`, `ant-api03-...`.
    without_start = any(
        secret.startswith(prefix[lost:])
        for prefix in own
        for lost in range(1, len(prefix) - _REST_OF_PREFIX_MIN + 1)
    )
    if only_prefix or without_start:
        end = "end" if only_prefix else "beginning"
        advice = f"its {end} is missing; copy the whole key and paste it again"
        raise SecretMalformedError(SecretFault.TRUNCATED, advice, provider=provider)


def _refuse_other_kinds(secret: str, provider: str) -> None:
    shape = _shape_of(secret)
    if shape is None:
        return
    if provider not in shape.providers:
        issuer = shape.providers[0]
        advice = f"it looks like a key of {issuer}; choose that provider, or paste another key"
        raise SecretMalformedError(
            SecretFault.OTHER_PROVIDER, advice, provider=provider, looks_like=issuer
        )
    if shape.admin:
        advice = (
            "it is an admin key, which manages the organization and generates nothing; create a "
            "normal API key"
        )
        raise SecretMalformedError(SecretFault.ADMIN_KEY, advice, provider=provider)
