# SPDX-License-Identifier: Apache-2.0
"""
Configuration: a frozen dataclass for each service, read from the environment once, at start.

All faults are reported at once. Secrets are never values: a setting names the file that holds one.
"""

from __future__ import annotations

import dataclasses
import difflib
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.shared.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

SECRET_BYTES_MAX = 64 * 1024
_GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class ConfigError(Exception):
    """
    The configuration cannot be used.

    Args:
        problems: One sentence each, with the remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def setting(
    env: str,
    doc: str,
    *,
    default: Any = dataclasses.MISSING,
    parse: Callable[[str], Any] = str,
) -> Any:
    """
    Declare a field of a configuration class.

    Args:
        env: Name of the environment variable.
        doc: What it is, its unit, and what goes wrong outside its range.
        default: Value where the variable is unset; without one the variable is required.
        parse: Turns the text into the value; raises ValueError with the rule that was broken.
    """
    metadata = {"env": env, "doc": doc, "parse": parse}
    return dataclasses.field(default=default, metadata=metadata)


def load(cls: type[T], environ: Mapping[str, str], *, prefix: str) -> T:
    """
    Read a configuration class from the environment.

    Args:
        cls: A dataclass whose fields were made by `setting`.
        environ: The environment.
        prefix: All variables that begin so must be known, for example `OWNKEY_LEDGER_`.

    Raises:
        ConfigError: With every problem found.
    """
    fields = {f.metadata["env"]: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    problems = []
    for name in sorted(environ):
        if name.startswith(prefix) and name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0)
            problems.append(f"{name} is not a setting; the nearest one is {near[0]}")
    values = {}
    for name, declared in fields.items():
        if name in environ:
            try:
                values[declared.name] = declared.metadata["parse"](environ[name])
            except ValueError as fault:
                problems.append(f"{name}: {fault}")
        elif declared.default is dataclasses.MISSING:
            problems.append(f"{name} is required: {declared.metadata['doc']}")
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def read_secret_file(path: Path) -> Secret:
    """
    Read a secret from its file.

    Raises:
        ConfigError: If it cannot be read, is empty or too long, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[: SECRET_BYTES_MAX + 1].strip()
    except OSError as fault:
        problem = f"the secret file {path} cannot be read ({fault.strerror}); create it, mode 0600"
        raise ConfigError([problem]) from fault
    if mode & _GROUP_OR_OTHERS:
        raise ConfigError([f"the secret file {path} can be read by others; run chmod 600 on it"])
    if not text or len(text) > SECRET_BYTES_MAX:
        raise ConfigError([f"the secret file {path} must hold 1 to {SECRET_BYTES_MAX} bytes"])
    return Secret(text)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`, both allowed."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or not low <= int(text) <= high:
            message = f"must be a whole number from {low} to {high}"
            raise ValueError(message)
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of seconds from `low` to `high`, both allowed."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            message = f"must be seconds from {low} to {high}"
            raise ValueError(message)
        return value

    return parse


def choice(*options: str) -> Callable[[str], str]:
    """Return a parser of one word out of a few."""

    def parse(text: str) -> str:
        if text not in options:
            message = f"must be one of {', '.join(options)}"
            raise ValueError(message)
        return text

    return parse


def listen_address(text: str) -> str:
    """
    Check an address to listen on, `host:port`.

    Plain text is served on loopback only.
    """
    host, _, port = text.rpartition(":")
    if host not in {"127.0.0.1", "localhost", "[::1]"}:
        message = "plain text is served on loopback only: use 127.0.0.1:PORT"
        raise ValueError(message)
    if not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the highest TCP port
        message = "must end with a port from 0 to 65535, as in 127.0.0.1:7101"
        raise ValueError(message)
    return text


def existing_file(text: str) -> Path:
    """Check that a file is there."""
    path = Path(text)
    if not path.is_file():
        message = f"there is no file {text}"
        raise ValueError(message)
    return path


def existing_folder(text: str) -> Path:
    """Check that a folder is there."""
    path = Path(text)
    if not path.is_dir():
        message = f"there is no folder {text}"
        raise ValueError(message)
    return path
