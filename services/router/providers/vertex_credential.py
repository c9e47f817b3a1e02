# SPDX-License-Identifier: Apache-2.0
"""
Google's credential: a service account's JSON with a `region`, traded for an access token.

https://developers.google.com/identity/protocols/oauth2/service-account#httprest : an assertion
signed by the account's private key (google-auth signs) is posted to the token address, which must
be Google's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from google.auth import jwt
from google.auth.crypt import RSASigner

from services.router.domain.outcomes import Outcome
from services.router.providers.base import (
    AccessToken,
    Credential,
    CredentialMalformedError,
    HTTPRequest,
)
from services.router.providers.classify import (
    ErrorFacts,
    ErrorRule,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.hosts import address, https_host
from services.shared.errors import FieldViolation
from services.shared.json_fields import TextField, decode_json, read_object
from services.shared.secret import Secret

__all__ = ["ServiceAccount", "VertexExchange", "read_service_account", "read_token"]

GLOBAL = "global"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ASSERTION_SECONDS = 3600
"""The most that Google takes."""

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_DOMAIN = ".googleapis.com"
_HTTP_OK = 200
_OAUTH_ERRORS = (
    "https://developers.google.com/identity/protocols/oauth2/service-account#error-codes"
)
_REGION = re.compile(r"global|[a-z]+-[a-z]+\d{1,2}")
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_EMAIL = re.compile(r"[\w.-]+@[\w.-]+\.[a-z]+", re.ASCII)
_PEM = re.compile(
    r"\s*-----BEGIN (?:RSA )?PRIVATE KEY-----\s[\s\S]+-----END (?:RSA )?PRIVATE KEY-----"
)

_TABLE = ErrorTable(
    title="Google",
    rules=(
        ErrorRule(
            outcome=Outcome.INVALID_KEY,
            source=_OAUTH_ERRORS,
            code=("invalid_grant", "invalid_client", "unauthorized_client"),
        ),
        ErrorRule(
            outcome=Outcome.PERMISSION_DENIED,
            source=_OAUTH_ERRORS,
            code=("access_denied", "org_internal", "admin_policy_enforced"),
        ),
        # A refused assertion says nothing about the caller's request, only about the credential.
        ErrorRule(outcome=Outcome.INVALID_KEY, source=_OAUTH_ERRORS, status=(400,)),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceAccount:
    """
    A service account in one project and region.
    """

    project: str
    region: str
    email: str
    private_key: Secret
    private_key_id: str
    token_uri: str

    @property
    def host(self) -> str:
        """
        The host that serves the region; `global` has one without a prefix.
        """
        prefix = "" if self.region == GLOBAL else f"{self.region}-"
        return f"{prefix}aiplatform.googleapis.com"


def _kind_fault(value: str) -> str:
    return "" if value == "service_account" else "must be service_account"


def _project_fault(value: str) -> str:
    return "" if _PROJECT.fullmatch(value) else "must be a project's id"


def _email_fault(value: str) -> str:
    return "" if _EMAIL.fullmatch(value) else "must be the account's address"


def _pem_fault(value: str) -> str:
    return "" if _PEM.match(value) else "must be a private key in PEM form"


def _token_uri_fault(value: str) -> str:
    host = https_host(value)
    return "" if host.endswith(_DOMAIN) else f"must be an https address on *{_DOMAIN}"


def _region_fault(value: str) -> str:
    return "" if _REGION.fullmatch(value) else "must be a region's name, or global"


_FIELDS = (
    TextField(name="type", example="service_account", check=_kind_fault),
    TextField(name="project_id", example="my-project", check=_project_fault),
    TextField(
        name="client_email", example="a@my-project.iam.gserviceaccount.com", check=_email_fault
    ),
    TextField(name="private_key", example="-----BEGIN PRIVATE KEY-----\\n…", check=_pem_fault),
    TextField(name="private_key_id", example="40 hexadecimal digits", required=False),
    TextField(name="token_uri", example=TOKEN_URI, check=_token_uri_fault, required=False),
    TextField(name="region", example="us-central1, or global", check=_region_fault),
)


def read_service_account(credential: Credential) -> ServiceAccount:
    """
    Read a credential.

    Raises:
        CredentialMalformedError: With every fault, by field path.
    """
    faults: list[FieldViolation] = []
    try:
        value = decode_json(credential.secret.reveal())
        texts = read_object(value, _FIELDS, path="", faults=faults, takes_others=True)
    except ValueError as error:
        faults.append(FieldViolation("secret", str(error)))
    if faults:
        raise CredentialMalformedError("google-vertex", faults)
    return ServiceAccount(
        project=texts["project_id"],
        region=texts["region"],
        email=texts["client_email"],
        private_key=Secret(texts["private_key"]),
        private_key_id=texts.get("private_key_id", ""),
        token_uri=texts.get("token_uri", TOKEN_URI),
    )


class VertexExchange:
    """
    One exchange of a service account's assertion for an access token.

    Raises:
        CredentialMalformedError: The private key cannot be read.
    """

    def __init__(self, account: ServiceAccount, *, base_url: str, now: datetime) -> None:
        host = https_host(account.token_uri)
        claims = {
            "iss": account.email,
            "scope": SCOPE,
            "aud": account.token_uri,
            "iat": int(now.timestamp()),
            "exp": int(now.timestamp()) + ASSERTION_SECONDS,
        }
        try:
            signer = RSASigner.from_string(  # type: ignore[no-untyped-call]
                account.private_key.reveal(), account.private_key_id
            )
        except (ValueError, TypeError):
            fault = FieldViolation("private_key", "cannot be read; copy the JSON file whole")
            raise CredentialMalformedError("google-vertex", [fault]) from None
        assertion = jwt.encode(signer, claims).decode("ascii")  # type: ignore[no-untyped-call]
        self.request = HTTPRequest(
            "POST",
            address(base_url, host) + urlsplit(account.token_uri).path,
            {"content-type": "application/x-www-form-urlencoded"},
            urlencode({"grant_type": _GRANT, "assertion": assertion}).encode(),
        )

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> AccessToken:
        """
        Take the answer; see `read_token`.
        """
        return read_token(status, headers, body, now=now)


def read_token(
    status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> AccessToken:
    """
    Read the answer of the token address, https://www.rfc-editor.org/rfc/rfc6749#section-5 .

    Raises:
        ProviderError: The account was refused, or the exchange failed.
    """
    fields = decode_object(body)
    if status != _HTTP_OK:
        facts = ErrorFacts(
            status=status,
            codes=frozenset({str(fields.get("error")).lower()}),
            text=str(fields.get("error_description") or ""),
            headers=headers,
        )
        raise classify(_TABLE, facts, http_status=status, now=now)
    token, seconds = fields.get("access_token"), fields.get("expires_in")
    if not isinstance(token, str) or not token or not isinstance(seconds, int | float):
        raise broken(_TABLE, http_status=status, cut=False)
    return AccessToken(Secret(token), now + timedelta(seconds=seconds))
