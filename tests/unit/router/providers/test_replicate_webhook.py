# SPDX-License-Identifier: Apache-2.0
"""Replicate's webhooks are taken with a fresh signature, and believed in what they are about."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta

import pytest

from services.router.providers.replicate_webhook import (
    TOLERANCE_SECONDS,
    WebhookRefusedError,
    read_webhook,
    webhook_key,
)
from services.shared.secret import Secret
from tests.support.clock import EPOCH

pytestmark = pytest.mark.requirement("R3")

KEY = b"0123456789abcdef"
SECRET = Secret("whsec_" + base64.b64encode(KEY).decode())
BODY = b'{"id":"p1","status":"succeeded","output":"believe me"}'
TIME = str(int(EPOCH.timestamp()))


def signature(body: bytes = BODY, *, time: str = TIME, key: bytes = KEY) -> str:
    """Sign as https://replicate.com/docs/topics/webhooks/verify-webhook says."""
    digest = hmac.new(key, f"msg_1.{time}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def headers(signed: str, *, time: str = TIME) -> dict[str, str]:
    """A webhook's headers."""
    return {"webhook-id": "msg_1", "webhook-timestamp": time, "webhook-signature": signed}


def test_a_signed_webhook_names_its_prediction() -> None:
    found = read_webhook(headers(signature()), BODY, key=webhook_key(SECRET), now=EPOCH)
    assert found == "p1"


def test_one_of_several_signatures_is_enough() -> None:
    signed = f"v1,AAAA v2,xx nonsense {signature()}"
    assert read_webhook(headers(signed), BODY, key=webhook_key(SECRET), now=EPOCH) == "p1"


@pytest.mark.parametrize("seconds", [-TOLERANCE_SECONDS, TOLERANCE_SECONDS])
def test_five_minutes_are_the_limit_of_its_age(seconds: int) -> None:
    key = webhook_key(SECRET)
    now = EPOCH + timedelta(seconds=seconds)
    assert read_webhook(headers(signature()), BODY, key=key, now=now) == "p1"
    past = now + timedelta(seconds=1 if seconds > 0 else -1)
    with pytest.raises(WebhookRefusedError):
        read_webhook(headers(signature()), BODY, key=key, now=past)


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (headers(signature()), BODY + b" "),
        (headers(signature(key=b"another")), BODY),
        (headers(signature(), time=str(int(TIME) + 1)), BODY),
        (headers(""), BODY),
        (headers("v1,%%%"), BODY),
        ({}, BODY),
        (headers(signature(), time="soon"), BODY),
        (headers(signature(b"{}")), b"{}"),
    ],
)
def test_anything_else_is_refused(given: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookRefusedError) as caught:
        read_webhook(given, body, key=webhook_key(SECRET), now=EPOCH)
    assert "believe" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_%%", "r8_0123"])
def test_what_is_no_webhook_secret_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="begins with whsec_") as caught:
        webhook_key(Secret(text))
    assert not text or text not in str(caught.value).replace("begins with whsec_", "")
