# SPDX-License-Identifier: Apache-2.0
"""`ownkey statement export`: an account's statement, streamed to standard output or a file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from enum import auto
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from ownkey.ledger.v1 import entry_pb2

from client.ownkey_cli.choices import Choice
from client.ownkey_cli.command import command
from client.ownkey_cli.commands.ledger import From, To
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import Session

app = typer.Typer(no_args_is_help=True, help="An account's statement.")


class Format(Choice):
    """How it is written."""

    CSV = auto()
    JSONL = auto()


_FORMATS = {
    Format.CSV: entry_pb2.STATEMENT_FORMAT_CSV,
    Format.JSONL: entry_pb2.STATEMENT_FORMAT_JSON_LINES,
}


@command(app, "export")
def export(
    session: Session,
    *,
    form: Annotated[
        Format | None, typer.Option("--format", help="csv if left out, with --json jsonl.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File to write; standard output if left out."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over the file.")] = False,
    start: From = None,
    end: To = None,
) -> None:
    """Write opening, entries and closing; opening plus the entries is closing."""
    lines = session.out.as_json and output is None
    if lines and form is Format.CSV:
        raise InputError("--json and --format csv contradict each other; leave one of them out.")
    chosen = form or (Format.JSONL if lines else Format.CSV)
    request = entry_pb2.ExportStatementRequest(
        account=session.account, format=_FORMATS[chosen], start_time=start, end_time=end
    )
    chunks = (one.chunk for one in session.stream(session.ledger.ExportStatement, request))
    if output is None:
        sys.stdout.flush()
        _write(chunks, sys.stdout.buffer)
        return
    written = _write_file(chunks, output, force=force)
    if session.out.as_json:
        session.out.document({"file": str(output), "bytes": written})
    else:
        session.out.note(f"Wrote {written:,} bytes to {output}")


def _write_file(chunks: Iterator[bytes], path: Path, *, force: bool) -> int:
    """Write a whole file or none: a statement that breaks off must not look like one."""
    if path.exists() and not force:
        raise InputError(f"{path} exists; --force writes over it.")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise InputError(f"{path} cannot be written ({exc.strerror}).") from None
    try:
        with os.fdopen(handle, "wb") as file:
            written = _write(chunks, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
    return written


def _write(chunks: Iterator[bytes], file: BinaryIO) -> int:
    written = 0
    for chunk in chunks:
        file.write(chunk)
        written += len(chunk)
    file.flush()
    return written
