# SPDX-License-Identifier: Apache-2.0
"""
Amazon's credentials: a Bedrock API key, or an access key that signs each request.

1. A plain key is a bearer token:
   https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html . A short-term one is a
   presigned request that names its Region; a long-term one names none.
2. `{accessKeyId, secretAccessKey, region, sessionToken?}` signs by Signature Version 4; botocore
   signs, at a time that it is given.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from services.router.providers.base import Credential, CredentialMalformedError, HTTPRequest
from services.shared.errors import FieldViolation
from services.shared.json_fields import TextField, decode_json, read_object
from services.shared.secret import Secret

__all__ = ["SERVICE", "AccessKey", "BedrockAccess", "read_access", "sign"]

SERVICE = "bedrock"
"""Both hosts' name in signatures: https://docs.aws.amazon.com/general/latest/gr/bedrock.html ."""

REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,3}-\d{1,2}")
_SHORT_TERM = "bedrock-api-key-"
_SCOPE = re.compile(r"[?&]X-Amz-Credential=[^/&]+/\d{8}/([^/&]+)/")
_ACCESS_KEY_ID = re.compile(r"\w{16,128}", re.ASCII)
_TEMPORARY = "ASIA"
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"""


@dataclass(frozen=True, slots=True, eq=False)
class AccessKey:
    """
    What signs requests.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None


@dataclass(frozen=True, slots=True, eq=False)
class BedrockAccess:
    """
    A way into Bedrock in one Region.
    """

    region: str
    key: Secret | AccessKey
    """A bearer key, or an access key."""


def _id_fault(value: str) -> str:
    return "" if _ACCESS_KEY_ID.fullmatch(value) else "must be 16 or more letters and digits"


def _region_fault(value: str) -> str:
    return "" if REGION.fullmatch(value) else "must be a Region's name"


def _secret_fault(value: str) -> str:
    printable = value.isascii() and value.isprintable() and " " not in value
    return "" if printable else "must have no blanks or special characters"


_FIELDS = (
    TextField(name="accessKeyId", example="AKIAIOSFODNN7EXAMPLE", check=_id_fault),
    TextField(name="secretAccessKey", example="40 characters", check=_secret_fault),
    TextField(name="region", example="us-east-1", check=_region_fault),
    TextField(
        name="sessionToken",
        example="the token that came with an ASIA… key",
        check=_secret_fault,
        required=False,
    ),
)


def read_access(credential: Credential, *, default_region: str) -> BedrockAccess:
    """
    Read a credential.

    Raises:
        CredentialMalformedError: With every fault, by field path.
    """
    text = credential.secret.reveal()
    if not text.startswith(("{", "[")):
        return BedrockAccess(_region_of(text) or default_region, credential.secret)
    faults: list[FieldViolation] = []
    try:
        texts = read_object(decode_json(text), _FIELDS, path="", faults=faults)
    except ValueError as error:
        faults.append(FieldViolation("secret", str(error)))
        texts = {}
    token = texts.get("sessionToken")
    if texts.get("accessKeyId", "").startswith(_TEMPORARY) and token is None:
        faults.append(FieldViolation("sessionToken", "is missing: an ASIA… key works only with it"))
    if faults:
        raise CredentialMalformedError("amazon-bedrock", faults)
    key = AccessKey(
        access_key_id=texts["accessKeyId"],
        secret_access_key=Secret(texts["secretAccessKey"]),
        session_token=None if token is None else Secret(token),
    )
    return BedrockAccess(texts["region"], key)


def _region_of(key: str) -> str:
    """
    Read the Region out of a short-term key, "" where there is none.
    """
    if not key.startswith(_SHORT_TERM):
        return ""
    data = key.removeprefix(_SHORT_TERM)
    try:
        request = base64.b64decode(data + "=" * (-len(data) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    found = _SCOPE.search(unquote(request))
    return found[1] if found and REGION.fullmatch(found[1]) else ""


class _SignerAt(SigV4Auth):  # type: ignore[misc]
    """
    Signs at a given time; botocore's own entry reads the clock.
    """

    def sign_at(self, request: AWSRequest, now: datetime) -> None:
        """
        Add the headers of a signature.
        """
        request.context["timestamp"] = now.astimezone(UTC).strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))


def sign(
    request: HTTPRequest,
    key: AccessKey,
    *,
    region: str,
    url: str,
    now: datetime,
    service: str = SERVICE,
) -> HTTPRequest:
    """
    Sign a request, https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html .

    Args:
        request: The request, complete.
        key: What signs.
        region: The Region it is for.
        url: The provider's own address of the request; the signature covers host and path, the
            latter encoded a second time.
        now: An aware time; the signature holds for five minutes around it.
        service: The service's name in signatures.
    """
    token = None if key.session_token is None else key.session_token.reveal()
    credentials: Any = Credentials(key.access_key_id, key.secret_access_key.reveal(), token)
    signed = AWSRequest(
        method=request.method, url=url, headers=dict(request.headers), data=request.body
    )
    _SignerAt(credentials, service, region).sign_at(signed, now)
    headers = {name.lower(): value for name, value in signed.headers.items()}
    return HTTPRequest(request.method, request.url, headers, request.body)
