# SPDX-License-Identifier: Apache-2.0
"""
What a command prints: for people, or as JSON for programs.

1. Results go to standard output; everything else, questions and failures included, to standard
   error.
2. With JSON, standard output holds one document, or a line each for a stream, and nothing else.
   Messages appear in protobuf's JSON form (https://protobuf.dev/programming-guides/json) with the
   field names of the protos.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.text import Text

from client.ownkey_cli.texts import clean

PIPED_COLUMNS = 4_000
"""Width where no terminal sets one: wide enough to cut nothing off."""


class Output:
    """
    Prints.

    Args:
        as_json: JSON for programs.
        stdout: Where results go.
        stderr: Where the rest goes.
    """

    def __init__(
        self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.results = _console(self.stdout)
        self.notes = _console(self.stderr)

    def answer(self, message: Message, view: Callable[[], RenderableType]) -> None:
        """Print an answer: the message as a document, or a view of it."""
        if self.as_json:
            self.document(as_dict(message))
        else:
            self.results.print(view())

    def document(self, content: Mapping[str, Any]) -> None:
        """Print the one JSON document."""
        self.stdout.write(json.dumps(content, indent=2) + "\n")

    def fault(self, content: Mapping[str, Any]) -> None:
        """Print why the command failed, as one JSON line on standard error."""
        self.stdout.flush()
        self.stderr.write(json.dumps({"error": content}) + "\n")

    def line(self, message: Message) -> None:
        """Print one message of a stream as a JSON line, at once."""
        self.record(as_dict(message))

    def record(self, content: Mapping[str, Any]) -> None:
        """Print one JSON line, at once."""
        self.stdout.write(json.dumps(content) + "\n")
        self.stdout.flush()

    def text(self, piece: str) -> None:
        """Print a piece of a generated text, at once; a terminal is kept from being steered."""
        self.stdout.write(clean(piece) if self.results.is_terminal else piece)
        self.stdout.flush()

    def note(self, *parts: str | Text | tuple[str, str]) -> None:
        """Tell a person something beside the result; parts may bring a style."""
        # Both may be the same terminal: what was written first is to stand first.
        self.stdout.flush()
        self.notes.print(Text.assemble(*parts), soft_wrap=True)


def as_dict(message: Message) -> dict[str, Any]:
    """A message in protobuf's JSON form, with what is zero or empty."""
    content: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return content


class _Console(Console):
    """Leaves a reader that is gone to the command, which has an exit code for it."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process itself."""
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else PIPED_COLUMNS
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
