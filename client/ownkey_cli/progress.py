# SPDX-License-Identifier: Apache-2.0
"""A bar for runs over many things, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.ownkey_cli.output import Output


@contextmanager
def progress(out: Output, title: str) -> Iterator[Callable[[int, int], None]]:
    """
    Show a bar while the context lasts; without a terminal, or with JSON, nothing.

    Args:
        out: Where to.
        title: What is going on.

    Yields:
        Takes how much is done and how much there is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = out.as_json or not out.notes.is_terminal
    with Progress(*columns, console=out.notes, disable=hidden) as drawn:
        task = drawn.add_task(title, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=max(total, done))
