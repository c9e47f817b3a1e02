# SPDX-License-Identifier: Apache-2.0
"""
Secrets come from a hidden prompt, a file or standard input, never from an argument: arguments
stand in process lists and shell histories.

No message here repeats what was typed, since it may be the secret in the wrong place.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

STDIN = Path("-")
SECRET_BYTES_MAX = 64 * 1024
"""More than any secret has; the service names its own limit."""


class InputError(Exception):
    """What was handed in cannot be read; its sentence says what to do."""


def read_secret(
    path: Path | None,
    *,
    option: str,
    stdin: BinaryIO | None = None,
    ask: Callable[[], str] | None = None,
) -> str:
    """
    Read a secret.

    Args:
        path: A file, STDIN for standard input, None for the prompt.
        option: The option that names the file.
        stdin: Standard input.
        ask: Asks for it without showing it; by default at the terminal.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    if path is None:
        return _prompt(option) if ask is None else ask()
    try:
        if path == STDIN:
            content = (stdin or sys.stdin.buffer).read(SECRET_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as exc:
        raise InputError(
            f"The file that {option} names cannot be read ({exc.strerror}); give the path of a "
            "file with the secret in it, or - for standard input."
        ) from None
    if len(content) > SECRET_BYTES_MAX:
        raise InputError(f"What {option} names has more than {SECRET_BYTES_MAX:,} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"What {option} names is no text (UTF-8).") from None


def refuse_arguments(arguments: list[str]) -> None:
    """
    Refuse a secret that was handed over as an argument, without repeating it.

    Raises:
        InputError: There are arguments.
    """
    if arguments:
        raise InputError(
            "A secret is not taken as an argument, since arguments stand in process lists and in "
            "the shell's history. If what you passed was a real one, make a new one at the "
            "provider. Leave it out to be asked for it, or use --secret-file."
        )


def _prompt(option: str) -> str:
    if not sys.stdin.isatty():
        raise InputError(
            f"There is no terminal to ask for the secret at; use {option} <path>, or "
            f"{option} - to read it from standard input."
        )
    # It turns the echo off before it asks: what is pasted ahead is not shown either.
    return getpass.getpass("Secret (not shown): ", stream=sys.stderr)
