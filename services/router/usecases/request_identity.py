# SPDX-License-Identifier: Apache-2.0
"""
The keyed fingerprint by which a repeat of a request is told from another body under its id.

The field list is canonical and versioned: a change of what it holds needs the next version, so that
two releases side by side never call the same body two names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from services.shared.fingerprint import fingerprint

if TYPE_CHECKING:
    from services.router.domain.request import TextRequest
    from services.shared.secret import Secret

FINGERPRINT_VERSION = 1


def request_fingerprint(key: Secret, request: TextRequest) -> bytes:
    """
    Give the 32-byte fingerprint of a request; unary and streamed are the same request.
    """
    preferences = request.preferences
    fields = [
        ("account", request.account.encode()),
        ("model", request.model.encode()),
        ("tier", request.tier.encode()),
        ("source", request.source.encode()),
        ("order", _encode(preferences.order)),
        ("only", _encode(sorted(preferences.only))),
        ("ignore", _encode(sorted(preferences.ignore))),
        ("allow_fallbacks", _encode(preferences.allow_fallbacks)),
        ("max_input_rate", _encode(preferences.max_input_rate)),
        ("max_output_rate", _encode(preferences.max_output_rate)),
        ("require_parameters", _encode(preferences.require_parameters)),
        ("sort", preferences.sort.encode()),
        ("input", _encode(request.input)),
    ]
    return fingerprint(key, version=FINGERPRINT_VERSION, fields=fields)


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)
