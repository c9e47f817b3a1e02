# SPDX-License-Identifier: Apache-2.0
"""
The keyed fingerprint by which a repeat of a request is told from another body under its id.

The field list is canonical and versioned: a change of what it holds needs the next version, so that
two releases side by side never call the same body two names.
"""

from __future__ import annotations

import dataclasses
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import msgspec

from services.shared.fingerprint import fingerprint

if TYPE_CHECKING:
    from services.router.domain.request import Preferences, Request
    from services.router.domain.work import Work
    from services.shared.secret import Secret

FINGERPRINT_VERSION = 1
PREFERENCES_MAX = 256
"""Preferences whose encoding is kept: callers send few different ones."""


def request_fingerprint(key: Secret, request: Request) -> bytes:
    """
    Give the 32-byte fingerprint of a request; unary and streamed are the same request.
    """
    fields = [
        ("account", request.account.encode()),
        ("model", request.model.encode()),
        ("tier", request.tier.encode()),
        ("source", request.source.encode()),
        *_preference_fields(request.preferences),
        ("input", _encode_set(request.input)),
    ]
    return fingerprint(key, version=FINGERPRINT_VERSION, fields=fields)


@lru_cache(PREFERENCES_MAX)
def _preference_fields(preferences: Preferences) -> tuple[tuple[str, bytes], ...]:
    return (
        ("order", _encode(preferences.order)),
        ("only", _encode(sorted(preferences.only))),
        ("ignore", _encode(sorted(preferences.ignore))),
        ("allow_fallbacks", _encode(preferences.allow_fallbacks)),
        ("max_input_rate", _encode(preferences.max_input_rate)),
        ("max_output_rate", _encode(preferences.max_output_rate)),
        ("require_parameters", _encode(preferences.require_parameters)),
        ("sort", preferences.sort.encode()),
    )


def _encode_set(work: Work) -> bytes:
    """
    Encode what was set: a field that a later release adds is no part of bodies without it.
    """
    return _encode(
        {
            name: value
            for name, default in _defaults(type(work))
            if (value := getattr(work, name)) != default
        }
    )


@cache
def _defaults(kind: type[Work]) -> tuple[tuple[str, object], ...]:
    """
    Give the fields of a kind of work with their defaults; MISSING equals nothing that is set. What
    is worked out from the others is no part of the body.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # work is always a dataclass
    return tuple((field.name, field.default) for field in fields if field.init)


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)
