# SPDX-License-Identifier: Apache-2.0
"""
Credentials that are JSON text: what they must hold, and what of them may be shown.

1. Azure: one deployment `{model_slug, endpoint_url, api_key, model_id}` or a list of them. The
   address is used as given, over HTTPS and on Azure's own domains only:
   https://learn.microsoft.com/en-us/azure/foundry/foundry-models/concepts/endpoints .
2. Amazon Bedrock: `{accessKeyId, secretAccessKey, region}`, with `sessionToken` for temporary keys:
   https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html .
3. Google Vertex AI: a service account's JSON with a `region`, its token address on googleapis.com:
   https://developers.google.com/identity/protocols/oauth2/service-account .
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from services.shared.errors import FieldViolation
from services.shared.json_fields import TextField, decode_json, read_object

__all__ = ["JSON_ONLY", "PROVIDERS", "faults_of", "structured_hint"]

DEPLOYMENTS_MAX = 16
HINT_CHARACTERS_MAX = 64
SHOWN_CHARACTERS = 4
AZURE_DOMAINS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
GOOGLE_DOMAIN = ".googleapis.com"

_TARGETS = ("/chat/completions", "/responses", "/images/generations", "/audio/speech")
_TEMPORARY = "ASIA"
_PEM = r"\s*-----BEGIN (?:RSA )?PRIVATE KEY-----\s[\s\S]+-----END (?:RSA )?PRIVATE KEY-----\s*"


def _fitting(pattern: str, wanted: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: "" if compiled.fullmatch(value) else f"must be {wanted}"


def _https_host(url: str) -> str:
    """
    Give the host of a plain HTTPS address; "" for any other, such as one with a port or a user.
    """
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in " \\#@"):
        return ""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.port is None
    except ValueError:
        return ""
    return parts.netloc if plain and parts.netloc == parts.hostname else ""


def _endpoint_fault(value: str) -> str:
    host = _https_host(value)
    if not host:
        return "must be a plain https address, without user, port or fragment"
    if not host.endswith(AZURE_DOMAINS) or host.startswith("."):
        return f"must be on one of Azure's domains, *{', *'.join(AZURE_DOMAINS)}"
    if not urlsplit(value).path.endswith(_TARGETS):
        return f"must be the whole address, up to {', '.join(_TARGETS[:-1])} or {_TARGETS[-1]}"
    return ""


def _token_uri_fault(value: str) -> str:
    on_domain = _https_host(value).endswith(GOOGLE_DOMAIN)
    return "" if on_domain else f"must be an https address on *{GOOGLE_DOMAIN}"


_NO_BLANKS = _fitting(r"[!-~]+", "one piece, without blanks or special characters")

_AZURE = (
    TextField(
        name="model_slug",
        example="openai/gpt-4o-mini",
        check=_fitting(r"[a-z0-9][\w.-]*/[\w.:-]{1,128}", "vendor/model"),
    ),
    TextField(
        name="endpoint_url",
        example="https://contoso.openai.azure.com/openai/deployments/gpt-4o-mini/chat/completions"
        "?api-version=2024-10-21",
        check=_endpoint_fault,
    ),
    TextField(name="api_key", example="the key under Keys and Endpoint", check=_NO_BLANKS),
    TextField(
        name="model_id",
        example="gpt-4o-mini",
        check=_fitting(r"[\w.-]{1,64}", "the deployment's name"),
    ),
)
_BEDROCK = (
    TextField(
        name="accessKeyId",
        example="AKIAIOSFODNN7EXAMPLE",
        check=_fitting(r"\w{16,128}", "16 or more letters and digits"),
    ),
    TextField(name="secretAccessKey", example="40 characters", check=_NO_BLANKS),
    TextField(
        name="region",
        example="us-east-1",
        check=_fitting(r"[a-z]{2,4}(?:-[a-z]+){1,3}-\d{1,2}", "a Region's name"),
    ),
    TextField(
        name="sessionToken",
        example="the token that came with an ASIA… key",
        check=_NO_BLANKS,
        required=False,
    ),
)
_VERTEX = (
    TextField(
        name="type",
        example="service_account",
        check=_fitting("service_account", "service_account"),
    ),
    TextField(
        name="project_id",
        example="my-project",
        check=_fitting(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project's id"),
    ),
    TextField(
        name="client_email",
        example="a@my-project.iam.gserviceaccount.com",
        check=_fitting(r"[\w.-]+@[\w.-]+\.[a-z]+", "the account's address"),
    ),
    TextField(
        name="private_key",
        example="-----BEGIN PRIVATE KEY-----\\n…",
        check=_fitting(_PEM, "a private key in PEM form"),
    ),
    TextField(name="private_key_id", example="40 hexadecimal digits", required=False),
    TextField(
        name="token_uri",
        example="https://oauth2.googleapis.com/token",
        check=_token_uri_fault,
        required=False,
    ),
    TextField(
        name="region",
        example="us-central1, or global",
        check=_fitting(r"global|[a-z]+-[a-z]+\d{1,2}", "a region's name, or global"),
    ),
)
_FIELDS: Mapping[str, tuple[TextField, ...]] = {
    "amazon-bedrock": _BEDROCK,
    "azure": _AZURE,
    "google-vertex": _VERTEX,
}

PROVIDERS = frozenset(_FIELDS)
"""Providers that take JSON text."""
JSON_ONLY = frozenset({"azure", "google-vertex"})
"""Providers that take nothing else."""


def faults_of(secret: str, provider: str) -> list[FieldViolation]:
    """
    Name every fault of a structured credential by its path, `secret[0].region`; values stay out.
    """
    fields = _FIELDS[provider]
    faults: list[FieldViolation] = []
    try:
        value = decode_json(secret)
    except ValueError as error:
        return [FieldViolation("secret", str(error))]
    if provider != "azure":
        texts = read_object(
            value, fields, path="secret", faults=faults, takes_others=provider == "google-vertex"
        )
        temporary = texts.get("accessKeyId", "").startswith(_TEMPORARY)
        if temporary and "sessionToken" not in texts:
            advice = "is missing: an ASIA… key works only with it"
            faults.append(FieldViolation("secret.sessionToken", advice))
        return faults
    items = value if isinstance(value, list) else [value]
    if not 0 < len(items) <= DEPLOYMENTS_MAX:
        faults.append(FieldViolation("secret", f"must hold 1 to {DEPLOYMENTS_MAX} deployments"))
    slugs: set[str] = set()
    for index, item in enumerate(items[:DEPLOYMENTS_MAX]):
        path = f"secret[{index}]" if isinstance(value, list) else "secret"
        slug = read_object(item, fields, path=path, faults=faults).get("model_slug", "")
        if slug and slug in slugs:
            advice = f"{slug} stands for more than one deployment"
            faults.append(FieldViolation(f"{path}.model_slug", advice))
        slugs.add(slug)
    return faults


def structured_hint(secret: str) -> str:
    """
    Give what may be shown of a structured credential without faults: resource or account, region,
    and the end of an id; never a part of the secret.
    """
    value = decode_json(secret)
    if isinstance(value, list) or "endpoint_url" in value:
        deployments = value if isinstance(value, list) else [value]
        return _fitted([_deployment_hint(deployment) for deployment in deployments])
    if "accessKeyId" in value:
        key_id = value["accessKeyId"]
        ends = f"{key_id[:SHOWN_CHARACTERS]}…{key_id[-SHOWN_CHARACTERS:]}"
        return f"{value['region']} {ends}"
    parts = [value.get("project_id", ""), value.get("region", "")]
    key_id = value.get("private_key_id", "")
    if key_id:
        parts.append(f"…{key_id[-SHOWN_CHARACTERS:]}")
    return " ".join(part for part in parts if part)[:HINT_CHARACTERS_MAX]


def _deployment_hint(deployment: dict[str, Any]) -> str:
    resource = _https_host(deployment["endpoint_url"]).partition(".")[0]
    return f"{resource}/{deployment['model_id']}"


def _fitted(hints: list[str]) -> str:
    """
    Join as many hints as there is room for, and count the rest.
    """
    for count in range(len(hints), 0, -1):
        rest = f" +{len(hints) - count}" if count < len(hints) else ""
        text = ", ".join(hints[:count]) + rest
        if len(text) <= HINT_CHARACTERS_MAX:
            return text
    return f"{hints[0][: HINT_CHARACTERS_MAX - 1]}…"
