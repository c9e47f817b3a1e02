# SPDX-License-Identifier: Apache-2.0
"""
Credentials that the simulator can verify although it keeps none.

1. An access key's secret, and a temporary one's session token, follow from its id.
2. A service account's key id is its public key, and its address holds that key's digest.
3. A short-term Bedrock API key is a presigned request, which names its Region.

A word between dashes (in an access key id: underscores) asks for a fault, as in any other key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

__all__ = [
    "TOKEN_URI",
    "access_key",
    "account_digest",
    "public_pem",
    "secret_access_key",
    "service_account",
    "session_token",
    "short_term_key",
]

TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
PROJECT = "simulated-project"
_DIGEST_CHARACTERS = 16
_KEY_BITS = 2048


def secret_access_key(access_key_id: str) -> str:
    """
    Give the secret of an access key, 40 characters as Amazon's.
    """
    digest = hmac.digest(b"simulated secret", access_key_id.encode(), "sha256")
    return base64.b64encode(digest)[:40].decode()


def session_token(access_key_id: str) -> str:
    """
    Give the session token of a temporary access key.
    """
    digest = hmac.digest(b"simulated session", access_key_id.encode(), "sha256")
    return base64.b64encode(digest * 2).decode()


def access_key(access_key_id: str, *, region: str = "us-east-1") -> str:
    """
    Give the JSON text of an access key; one that begins with ASIA is temporary.
    """
    fields = {
        "accessKeyId": access_key_id,
        "secretAccessKey": secret_access_key(access_key_id),
        "region": region,
    }
    if access_key_id.startswith("ASIA"):
        fields["sessionToken"] = session_token(access_key_id)
    return json.dumps(fields)


def short_term_key(region: str) -> str:
    """
    Give a Bedrock API key that works in one Region.
    """
    request = (
        "bedrock.amazonaws.com/?Action=CallWithBearerToken&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential=ASIASIMULATED0000000%2F20260901%2F{region}%2Fbedrock%2Faws4_request"
    )
    return f"bedrock-api-key-{base64.b64encode(request.encode()).decode()}"


def service_account(
    *,
    fault: str = "",
    region: str = "us-central1",
    project: str = PROJECT,
    private_key: rsa.RSAPrivateKey | None = None,
) -> str:
    """
    Give the JSON text of a service account with a key of its own.
    """
    key = private_key or rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    key_id = base64.urlsafe_b64encode(public).decode()
    name = f"sim-{fault}-{account_digest(key_id)}" if fault else f"sim-{account_digest(key_id)}"
    return json.dumps(
        {
            "type": "service_account",
            "project_id": project,
            "private_key_id": key_id,
            "private_key": pem.decode(),
            "client_email": f"{name}@{project}.iam.gserviceaccount.com",
            "client_id": "100000000000000000001",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": TOKEN_URI,
            "region": region,
        }
    )


def account_digest(key_id: str) -> str:
    """
    Give what a service account's address ends with, before the `@`.
    """
    return hashlib.sha256(key_id.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def public_pem(key_id: str) -> bytes:
    """
    Give the public key that a key id is, in PEM form.

    Raises:
        ValueError: It is none.
    """
    try:
        key = serialization.load_der_public_key(base64.urlsafe_b64decode(key_id))
    except UnsupportedAlgorithm as error:
        raise ValueError("the key id is no public key") from error
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
