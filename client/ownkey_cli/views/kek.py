# SPDX-License-Identifier: Apache-2.0
"""The key-encryption key and runs over everything that is stored, for people."""

from __future__ import annotations

from ownkey.keyvault.v1 import kek_pb2
from ownkey.ledger.v1 import verification_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.texts import NONE
from client.ownkey_cli.views.tables import grid, table


def kek_view(status: kek_pb2.KekStatus) -> RenderableType:
    """Where it stands, and how many records use each version."""
    available = Text("available", style="green") if status.available else Text("away", style="red")
    rows: list[tuple[str, str | Text]] = [("key", status.kek), ("state", available)]
    if status.reason:
        rows.append(("why", status.reason))
    rows += [
        ("current version", str(status.current_version or NONE)),
        ("lowest version", str(status.lowest_version or NONE)),
    ]
    versions = table(
        (">version", ">records", ""),
        (
            (
                str(one.version),
                f"{one.record_count:,}",
                "to be rewrapped: ownkey rewrap" if one.version < status.current_version else "",
            )
            for one in status.versions
        ),
        empty="No stored data key uses it.",
    )
    return Group(grid(rows), Text(), versions)


def rewrap_line(progress: kek_pb2.RewrapProgress) -> Text:
    """What a run of rewrapping came to."""
    line = Text(f"Rewrapped {progress.done_count:,}, left {progress.remaining_count:,}")
    if progress.failed_count:
        line.append(f", failed {progress.failed_count:,}", style="bold red")
    return line


def violations_table(violations: list[verification_pb2.Violation]) -> RenderableType:
    """What does not hold in the ledger."""
    return table(
        ("!account", "!invariant", "what is wrong"),
        ((one.account, one.invariant, one.description) for one in violations),
        empty="",
    )
