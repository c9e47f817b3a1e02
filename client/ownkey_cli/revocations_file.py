# SPDX-License-Identifier: Apache-2.0
"""
The file of exported revocations: a page a line, as protobuf's JSON.

It only ever grows. A line that an interrupted export left unfinished is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format
from ownkey.keyvault.v1 import restoring_pb2

from client.ownkey_cli.secret_input import InputError

LINE_BYTES_MAX = 4 * 1024 * 1024


def read_pages(path: Path) -> Iterator[restoring_pb2.RevocationsPage]:
    """
    Yield the pages of a file; none of a file that is not there.

    Raises:
        InputError: It cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                if line.endswith(b"\n"):
                    yield _page(line, f"{path}, line {number}")
    except FileNotFoundError:
        return
    except OSError as exc:
        raise InputError(f"{path} cannot be read ({exc.strerror}); name a readable file.") from None


def append_pages(path: Path, pages: Iterator[restoring_pb2.RevocationsPage]) -> int:
    """
    Add pages to a file, made where it is missing, mode 0600; durable when this returns.

    Returns:
        How many revocations they hold.
    """
    count = 0
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        file.truncate(_end_of_last_line(file.read()))
        file.seek(0, os.SEEK_END)
        for page in pages:
            text = json_format.MessageToJson(page, indent=None, preserving_proto_field_name=True)
            file.write(text.encode() + b"\n")
            count += len(page.revocations)
        file.flush()
        os.fsync(file.fileno())
    return count


def _end_of_last_line(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _page(line: bytes, place: str) -> restoring_pb2.RevocationsPage:
    try:
        return json_format.Parse(line, restoring_pb2.RevocationsPage())
    except (json_format.ParseError, UnicodeDecodeError):
        raise InputError(
            f"{place} is no page of revocations; name a file that "
            "`ownkey revocations export` wrote."
        ) from None
