# SPDX-License-Identifier: Apache-2.0
"""
Replicate's webhooks: https://replicate.com/docs/topics/webhooks/verify-webhook .

A signature is the HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}` under the account's
secret, `whsec_` and base64; the header may list several, each as `v1,{base64}`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

from services.router.providers.classify import decode_object
from services.shared.secret import Secret

__all__ = ["TOLERANCE_SECONDS", "WebhookRefusedError", "read_webhook", "webhook_key"]

TOLERANCE_SECONDS = 300
"""How far a webhook's time may be from ours, so that an old one cannot be sent again."""
SIGNATURES_MAX = 16
ID_CHARACTERS_MAX = 128
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
_VERSION = "v1,"


class WebhookRefusedError(Exception):
    """
    A webhook is not Replicate's, or is too old.
    """


def webhook_key(secret: Secret) -> Secret:
    """
    Give the key inside a webhook secret, in base64.

    Raises:
        ValueError: It is no webhook secret; the message holds nothing of it.
    """
    text = secret.reveal()
    try:
        key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_SECRET_PREFIX) or not key:
        raise ValueError("must be a webhook secret, which begins with whsec_")
    return Secret(base64.b64encode(key).decode())


def read_webhook(headers: Mapping[str, str], body: bytes, *, key: Secret, now: datetime) -> str:
    """
    Check a webhook and give the id of the prediction it is about; nothing else of it is believed.

    Args:
        headers: Names in lower case.
        body: As it came.
        key: From `webhook_key`.
        now: Aware.

    Raises:
        WebhookRefusedError: Its signature or its time does not fit.
    """
    name, time = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or not time.isdecimal() or len(time) > len(str(2**63)):
        raise WebhookRefusedError("the webhook's headers are incomplete")
    if abs(now.timestamp() - int(time)) > TOLERANCE_SECONDS:
        raise WebhookRefusedError("the webhook is too old")
    signed = f"{name}.{time}.".encode() + body
    wanted = hmac.new(base64.b64decode(key.reveal()), signed, hashlib.sha256).digest()
    given = headers.get("webhook-signature", "").split()[:SIGNATURES_MAX]
    if not any(_is(signature, wanted) for signature in given):
        raise WebhookRefusedError("the webhook's signature does not fit")
    found = decode_object(body).get("id")
    if not isinstance(found, str) or not 0 < len(found) <= ID_CHARACTERS_MAX:
        raise WebhookRefusedError("the webhook names no prediction")
    return found


def _is(signature: str, wanted: bytes) -> bool:
    if not signature.startswith(_VERSION):
        return False
    try:
        given = base64.b64decode(signature.removeprefix(_VERSION), validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, wanted)
