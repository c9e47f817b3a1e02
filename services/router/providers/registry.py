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
from services.router.providers.jobs import JobDialect
from services.router.providers.openai import OPENAI
from services.router.providers.openrouter import OPENROUTER
from services.router.providers.replicate import REPLICATE_JOBS
from services.router.providers.replicate_dialect import REPLICATE
from services.router.providers.stability import STABILITY
from services.router.providers.veo import GEMINI_JOBS, VERTEX_JOBS
from services.router.providers.vertex import VERTEX

__all__ = ["DIALECTS", "JOB_DIALECTS"]

_SPOKEN: tuple[Dialect, ...] = (
    OPENAI,
    OPENROUTER,
    ANTHROPIC,
    GEMINI,
    AZURE,
    BEDROCK,
    VERTEX,
    DEEPSEEK,
    STABILITY,
    REPLICATE,
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {dialect.provider: dialect for dialect in _SPOKEN}
)

_JOBS: tuple[JobDialect, ...] = (REPLICATE_JOBS, GEMINI_JOBS, VERTEX_JOBS)

JOB_DIALECTS: Mapping[str, JobDialect] = MappingProxyType(
    {dialect.provider: dialect for dialect in _JOBS}
)
"""Of the providers that run long jobs."""
