# SPDX-License-Identifier: Apache-2.0
"""The second net: what looks like a secret is not written."""

from __future__ import annotations

import pytest

from services.shared.logging import REDACTED, redact

KEYS = [
    "sk-proj-abcdefghijklmnop",
    "sk-ant-api03-abcdefghijklmnop",
    "sk-or-v1-0123456789abcdef",
    "AIzaSyA0123456789abcdef",
    "AQ.Ab8RN6K0123456789",
    "Bearer abcdefghijkl",
]


@pytest.mark.requirement("K8", "O6")
@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_looks_like_a_key_is_replaced(key: str) -> None:
    event = redact(None, "info", {"event": "sample", "detail": f"refused: {key}."})
    assert key not in str(event)
    assert REDACTED in event["detail"]


@pytest.mark.requirement("K8", "O6")
@pytest.mark.parametrize("name", ["secret", "client_secret", "token", "authorization", "api_key"])
def test_a_field_named_like_a_secret_is_replaced(name: str) -> None:
    assert redact(None, "info", {"event": "sample", name: "canary"})[name] == REDACTED


def test_other_values_stay() -> None:
    event = {"event": "rpc", "code": "OK", "duration_ms": 1.5, "input_tokens": 7}
    assert redact(None, "info", dict(event)) == event
