# SPDX-License-Identifier: Apache-2.0
"""
The dialects that are spoken, by provider id.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from services.router.providers.anthropic import ANTHROPIC
from services.router.providers.azure import AZURE
from services.router.providers.base import Dialect
from services.router.providers.bedrock import BEDROCK
from services.router.providers.deepseek import DEEPSEEK
from services.router.providers.gemini import GEMINI
from services.router.providers.openai import OPENAI
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.vertex import VERTEX

__all__ = ["DIALECTS"]

_SPOKEN: tuple[Dialect, ...] = (
    OPENAI,
    OPENROUTER,
    ANTHROPIC,
    GEMINI,
    AZURE,
    BEDROCK,
    VERTEX,
    DEEPSEEK,
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {dialect.provider: dialect for dialect in _SPOKEN}
)
