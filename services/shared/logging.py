# SPDX-License-Identifier: Apache-2.0
"""
Structured logs: one JSON object a line in deployment, readable lines for people.

Event names are static; data are keywords. Secrets are kept out where they arise: the redaction here
is the second net, not the first.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "<redacted>"
NAMES_MAX = 1_000

# Public prefixes of the providers' keys; a value that looks like one has no place in a log.
_KEY_LIKE = re.compile(
    r"(sk-[A-Za-z0-9_-]{8,}|AIza[\w-]{10,}|AQ\.[\w-]{10,}|r8_\w{10,}|ABSK\S{10,}|AKIA\w{10,}"
    r"|bedrock-api-key-\S+|ya29\.\S+|hvs\.\S+|Bearer\s+\S{8,})"
)
# Each alternative of it begins with one of these: to look for them takes a tenth of the time.
_KEY_MARKS = ("sk-", "AIza", "AQ.", "r8_", "ABSK", "AKIA", "key-", "ya29.", "hvs.", "Bearer")
_SECRET_NAMES = re.compile(r"secret|token$|password|authorization|api_key|plaintext", re.IGNORECASE)


# Names are static, so they are few: a name that came from outside would be data, not a keyword.
@functools.lru_cache(maxsize=NAMES_MAX)
def _names_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace whatever looks like a secret; the last processor before rendering."""
    for name in event:
        if _names_secret(name):
            event[name] = REDACTED
    texts = [value for value in event.values() if isinstance(value, str)]
    joined = "\n".join(texts)
    if any(mark in joined for mark in _KEY_MARKS):
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = _KEY_LIKE.sub(REDACTED, value)
    return event


@functools.lru_cache(maxsize=1)
def _encoder(default: Callable[[Any], Any]) -> json.JSONEncoder:
    """Return the encoder; `json.dumps` would make one for each line."""
    return json.JSONEncoder(default=default)


def _json(event: EventDict, default: Callable[[Any], Any]) -> str:
    return _encoder(default).encode(event)


def configure(*, service: str, style: str = "json", level: int = logging.INFO) -> None:
    """
    Set logging up, once, at start.

    Args:
        service: Name that stands in every line.
        style: `json` or `console`.
        level: Lowest level that is written.
    """

    def name_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    if style == "json":
        processors.append(structlog.processors.JSONRenderer(_json))
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
