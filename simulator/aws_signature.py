# SPDX-License-Identifier: Apache-2.0
"""
Recomputes a request's Signature Version 4, as the service does.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html ;
botocore computes, over what arrived.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from simulator.credentials import secret_access_key, session_token

__all__ = ["access_key_id", "signature_fault"]

SKEW_SECONDS_MAX = 300
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/bedrock/"
    r"aws4_request, SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)
_TOKEN = "x-amz-security-token"  # noqa: S105 - a header's name
_ALWAYS_SIGNED = {"host", "x-amz-date"}


def access_key_id(authorization: str) -> str:
    """
    Give the id of the access key that signed, "" where none did.
    """
    found = _AUTHORIZATION.fullmatch(authorization)
    return found["key"] if found else ""


def signature_fault(
    *, method: str, url: str, region: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> str:
    """
    Say what is wrong with a signed request, "" for nothing.

    Args:
        method: Of the request.
        url: The service's own address, as it would have arrived there.
        region: Where it arrived.
        headers: Names in lower case; `host` is the service's own.
        body: Of the request.
        now: An aware time.
    """
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    stamp = headers.get("x-amz-date", "")
    if found is None or not stamp.startswith(found["date"]):
        return "incomplete"
    key_id, names = found["key"], set(found["names"].split(";"))
    token = headers.get(_TOKEN)
    needed = _ALWAYS_SIGNED | ({_TOKEN} if token is not None else set())
    if not needed <= names <= headers.keys():
        return "signature"
    if key_id.startswith("ASIA") and token != session_token(key_id):
        return "unknown"
    if abs(_age_seconds(stamp, now)) > SKEW_SECONDS_MAX:
        return "expired"
    signed = {name: headers[name] for name in names}
    request = AWSRequest(method=method, url=url, headers=signed, data=body)
    request.context["timestamp"] = stamp
    signer: Any = SigV4Auth(Credentials(key_id, secret_access_key(key_id)), "bedrock", region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    expected = signer.signature(text, request)
    genuine = found["region"] == region and hmac.compare_digest(expected, found["signature"])
    return "" if genuine else "signature"


def _age_seconds(stamp: str, now: datetime) -> float:
    """
    Give how long ago a request was signed; infinite for a stamp that is no time.
    """
    try:
        signed = datetime.strptime(stamp, SIGV4_TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        return math.inf
    return (now - signed).total_seconds()
