# SPDX-License-Identifier: Apache-2.0
"""Work that several callers share, or that goes on after its caller was answered."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def start_detached(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Begin work in a task that inherits nothing of the call it was begun by.

    Neither that call's deadline nor its place in the log may govern what others wait for.

    Args:
        work: What to do.
    """
    return asyncio.create_task(work, context=contextvars.Context())
