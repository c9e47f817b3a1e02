# SPDX-License-Identifier: Apache-2.0
"""
Configuration: a frozen dataclass for each service, read from the environment once, at start.

All faults are reported at once. Secrets are never values: a setting names the file that holds one.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from services.shared.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

SECRET_BYTES_MAX = 64 * 1024
_COMMON = "OWNKEY_"
_NOBODYS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


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
        env: Name of the environment variable; without `OWNKEY_` it gets the service's prefix.
        doc: What it is, its unit, and what goes wrong outside its range.
        default: Value where the variable is unset; without one the variable is required.
        parse: Turns the text into the value; raises ValueError with the rule that was broken.
    """
    metadata = {"env": env, "doc": doc, "parse": parse}
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls: type[Any], *, prefix: str) -> dict[str, dataclasses.Field[Any]]:
    """Return a configuration class's fields by the names of their environment variables."""
    named = ((field.metadata["env"], field) for field in dataclasses.fields(cls))
    return {env if env.startswith(_COMMON) else prefix + env: field for env, field in named}


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
    fields = settings_of(cls, prefix=prefix)
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
        status = path.stat()
        text = path.read_bytes()[: SECRET_BYTES_MAX + 1].strip()
    except OSError as fault:
        problem = f"the secret file {path} cannot be read ({fault.strerror}); create it, mode 0600"
        raise ConfigError([problem]) from fault
    if open_to_others(status):
        raise ConfigError([f"the secret file {path} can be read by others; run chmod 600 on it"])
    if not text or len(text) > SECRET_BYTES_MAX:
        raise ConfigError([f"the secret file {path} must hold 1 to {SECRET_BYTES_MAX} bytes"])
    return Secret(text)


def open_to_others(status: os.stat_result) -> bool:
    """
    Tell whether others than this process may read or change a secret file.

    Its group may read it only where the file is another user's, as Kubernetes mounts a secret for
    a pod's own group: https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
    """
    own = status.st_uid == os.geteuid()
    return bool(status.st_mode & (_NOBODYS | (stat.S_IRGRP if own else 0)))


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


def ratio(text: str) -> float:
    """Check a share, 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        message = "must be a share from 0 to 1, as in 0.01"
        raise ValueError(message)
    return value


def choice(*options: str) -> Callable[[str], str]:
    """Return a parser of one word out of a few."""

    def parse(text: str) -> str:
        if text not in options:
            message = f"must be one of {', '.join(options)}"
            raise ValueError(message)
        return text

    return parse


def listen_address(text: str) -> str:
    """Check an address to listen on, `host:port`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the highest port
        message = "must be host:port, the port from 0 to 65535, as in 127.0.0.1:7101"
        raise ValueError(message)
    return text


def otlp_endpoint(text: str) -> str:
    """Check a collector's address: over TLS, or in plain text on loopback."""
    parts = urlsplit(text)
    try:
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        complete = False
    if parts.scheme not in {"https", "http"} or not complete or parts.path not in {"", "/"}:
        message = "must be https://host:port, as in https://collector:4317"
        raise ValueError(message)
    if parts.scheme == "http" and not is_loopback(parts.netloc):
        message = "must begin with https://, or traces would cross the network in plain text"
        raise ValueError(message)
    return text


def is_loopback(address: str) -> bool:
    """
    Tell whether an address to listen on, or a gRPC target, stays on this machine.

    Args:
        address: `host:port`, several with commas between them, or a target with a scheme, as in
            https://github.com/grpc/grpc/blob/master/doc/naming.md
    """
    scheme, _, rest = address.rpartition("///") if "///" in address else ("", "", address)
    if scheme not in {"", "dns:"}:
        return False
    for prefix in ("ipv4:", "ipv6:", "dns:"):
        rest = rest.removeprefix(prefix)
    return all(_is_loopback_host(one.rpartition(":")[0]) for one in rest.split(","))


def _is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


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
