# SPDX-License-Identifier: Apache-2.0
"""Where a restore stands, for people."""

from __future__ import annotations

from ownkey.keyvault.v1 import restoring_pb2
from rich.console import RenderableType
from rich.text import Text

from client.ownkey_cli.texts import time_text
from client.ownkey_cli.views.tables import grid


def status_view(status: restoring_pb2.RestoreStatus) -> RenderableType:
    """Whether the database serves, and since when it is accepted."""
    state = Text("serving", style="green")
    if not status.serving:
        state = Text("restored: nothing is served", style="bold red")
    rows: list[tuple[str, str | Text]] = [
        ("state", state),
        ("database", status.database),
        ("accepted", f"{status.accepted_database}, {time_text(status, 'accept_time')}"),
        ("by", status.accepted_by or "a replay"),
        ("changes known", f"{status.through_sequence:,}"),
    ]
    if not status.serving:
        rows.append(
            ("next", "ownkey revocations replay <file>, or ownkey revocations accept --name <name>")
        )
    return grid(rows)
