# SPDX-License-Identifier: Apache-2.0
"""What a view looks like, as plain text."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def drawn(view: RenderableType, *, columns: int = 160) -> str:
    """The view on a terminal of that width, without colours."""
    file = io.StringIO()
    console = Console(
        file=file, width=columns, color_system=None, markup=False, emoji=False, highlight=False
    )
    console.print(view)
    return file.getvalue()
