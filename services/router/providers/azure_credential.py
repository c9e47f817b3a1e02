# SPDX-License-Identifier: Apache-2.0
"""
Azure's credential: the deployments of one or more resources, each with its address and key.

One JSON object or a list of `{model_slug, endpoint_url, api_key, model_id}`. The address is used as
it is given; only HTTPS and Azure's own domains are taken:
https://learn.microsoft.com/en-us/azure/foundry/foundry-models/concepts/endpoints .
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.router.providers.base import Credential, CredentialMalformedError
from services.router.providers.hosts import https_host
from services.shared.errors import FieldViolation
from services.shared.json_fields import TextField, decode_json, read_object
from services.shared.secret import Secret

__all__ = ["DEPLOYMENTS_MAX", "Deployment", "read_deployments"]

DEPLOYMENTS_MAX = 16
DOMAINS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")

_SLUG = re.compile(r"[a-z0-9][\w.-]*/[\w.:-]{1,128}")
_MODEL_ID = re.compile(r"[\w.-]{1,64}")
_CHAT = "/chat/completions"
_RESPONSES = "/responses"
"""https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/responses"""
_GENERATIONS = "/images/generations"
_EDITS = "/images/edits"
_MEDIA = (_GENERATIONS, "/audio/speech")


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """
    One deployment.
    """

    model_slug: str
    """`vendor/model`, by which requests find it."""
    endpoint_url: str
    """The whole address that requests go to."""
    api_key: Secret
    model_id: str
    """What Azure calls it."""

    @property
    def host(self) -> str:
        """
        The host the key is bound to.
        """
        return urlsplit(self.endpoint_url).hostname or ""

    @property
    def writes(self) -> bool:
        """
        Tell whether its address is one for text, by its path.
        """
        return urlsplit(self.endpoint_url).path.endswith((_CHAT, _RESPONSES))

    @property
    def responds(self) -> bool:
        """
        Tell whether its address is one of the Responses format.
        """
        return urlsplit(self.endpoint_url).path.endswith(_RESPONSES)

    @property
    def target(self) -> str:
        """
        Path and query of the address.
        """
        return self.endpoint_url.removeprefix(f"https://{self.host}")

    @property
    def edits_target(self) -> str:
        """
        Path and query that images made from images are asked for at: beside the generations.
        """
        path, mark, query = self.target.partition("?")
        return path.removesuffix(_GENERATIONS) + _EDITS + mark + query


def _slug_fault(value: str) -> str:
    return "" if _SLUG.fullmatch(value) else "must be vendor/model"


def _endpoint_fault(value: str) -> str:
    host = https_host(value)
    if not host:
        return "must be a plain https address, without user, port or fragment"
    if not host.endswith(DOMAINS) or host.startswith("."):
        return f"must be on one of Azure's domains, *{', *'.join(DOMAINS)}"
    if not urlsplit(value).path.endswith((_CHAT, _RESPONSES, *_MEDIA)):
        return f"must be the whole address, up to {_CHAT}, {_RESPONSES}, {' or '.join(_MEDIA)}"
    return ""


def _key_fault(value: str) -> str:
    printable = value.isascii() and value.isprintable() and " " not in value
    return "" if printable else "must have no blanks or special characters"


def _model_id_fault(value: str) -> str:
    return "" if _MODEL_ID.fullmatch(value) else "must be the deployment's name"


_FIELDS = (
    TextField(name="model_slug", example="openai/gpt-4o-mini", check=_slug_fault),
    TextField(
        name="endpoint_url",
        example="https://contoso.openai.azure.com/openai/deployments/gpt-4o-mini/chat/completions"
        "?api-version=2024-10-21",
        check=_endpoint_fault,
    ),
    TextField(name="api_key", example="the key under Keys and Endpoint", check=_key_fault),
    TextField(name="model_id", example="gpt-4o-mini", check=_model_id_fault),
)


def read_deployments(credential: Credential) -> tuple[Deployment, ...]:
    """
    Read a credential.

    Raises:
        CredentialMalformedError: With every fault, by field path.
    """
    faults: list[FieldViolation] = []
    try:
        value = decode_json(credential.secret.reveal())
    except ValueError as error:
        raise CredentialMalformedError("azure", [FieldViolation("secret", str(error))]) from None
    listed = isinstance(value, list)
    items = value if isinstance(value, list) else [value]
    if not 0 < len(items) <= DEPLOYMENTS_MAX:
        faults.append(FieldViolation("secret", f"must hold 1 to {DEPLOYMENTS_MAX} deployments"))
    found = []
    for index, item in enumerate(items[:DEPLOYMENTS_MAX]):
        path = f"[{index}]" if listed else ""
        texts = read_object(item, _FIELDS, path=path, faults=faults)
        if len(texts) == len(_FIELDS):
            key = Secret(texts.pop("api_key"))
            found.append(Deployment(api_key=key, **texts))
    slugs = [deployment.model_slug for deployment in found]
    faults += [
        FieldViolation("model_slug", f"{slug} stands for more than one deployment")
        for slug in sorted({slug for slug in slugs if slugs.count(slug) > 1})
    ]
    if faults:
        raise CredentialMalformedError("azure", faults)
    return tuple(found)
