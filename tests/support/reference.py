# SPDX-License-Identifier: Apache-2.0
"""
`python -m tests.support.reference`: writes the pages of docs/reference that come from the code.

The settings come from the configuration classes, the error reasons from the protos.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.keyvault import config as keyvault
from services.ledger import config as ledger
from services.router import config as router
from services.shared.config import settings_of
from tests.support.source import ROOT

FOLDER = ROOT / "docs" / "reference"
SERVICES = {
    "keyvault": keyvault.KeyvaultConfig,
    "router": router.RouterConfig,
    "ledger": ledger.LedgerConfig,
}
_VALUE = re.compile(r"((?:^ *//.*\n)+)^ *ERROR_REASON_([A-Z_]+) = (\d+);$", re.MULTILINE)
_EXAMPLE = re.compile(r"\{ \"reason\".*\}$")
_KEYS = re.compile(r'"metadata": \{(.*?)\}')
_CODE = re.compile(
    r"\b(INVALID_ARGUMENT|UNAUTHENTICATED|PERMISSION_DENIED|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|"
    r"UNAVAILABLE|INTERNAL|NOT_FOUND|ALREADY_EXISTS|FAILED_PRECONDITION|DATA_LOSS|UNIMPLEMENTED|"
    r"ABORTED|CANCELLED|OUT_OF_RANGE|UNKNOWN)\b"
)


def settings_page() -> str:
    """The page of all settings."""
    return "\n".join(_settings_lines()) + "\n"


def errors_page() -> str:
    """The page of all error reasons."""
    return "\n".join(_error_lines()) + "\n"


PAGES = {"config.md": settings_page, "errors.md": errors_page}


def _settings_lines() -> Iterator[str]:
    yield from (
        "# Settings",
        "",
        "Generated from the code by `make reference`; do not edit.",
        "",
        "A service reads its settings from the environment, once, at start. An unknown name with",
        "its prefix is refused, with the nearest one that is known. A secret is never a value: the",
        "setting names the file that holds it. `-` means required.",
    )
    for service, config in SERVICES.items():
        prefix = f"OWNKEY_{service.upper()}_"
        yield from ("", f"## {service}", "", "| setting | default | is |", "| --- | --- | --- |")
        for name, field in sorted(settings_of(config, prefix=prefix).items()):
            doc = field.metadata["doc"].replace("|", "\\|")
            yield f"| `{name}` | {_default(field)} | {doc} |"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return "-"
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if isinstance(value, str | int) and value != "" else "unset"


def _error_lines() -> Iterator[str]:
    yield from (
        "# Error reasons",
        "",
        "Generated from `protos/ownkey/<service>/v1/error_reason.proto` by `make reference`; do",
        "not edit. [Failures](../call/failures.md) tells how a caller reads and repeats them.",
    )
    for service in SERVICES:
        text = (ROOT / "protos" / "ownkey" / service / "v1" / "error_reason.proto").read_text()
        yield from ("", f"## {service}", "", f"The domain is `{service}.ownkey`.", "")
        yield from ("| reason | code | means | metadata |", "| --- | --- | --- | --- |")
        for comment, reason, number in _VALUE.findall(text):
            if number != "0":
                yield f"| `{reason}` | {' | '.join(_told(comment))} |"


def _told(comment: str) -> tuple[str, str, str]:
    """Code, meaning and metadata keys of a reason's comment."""
    words = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
    example = _EXAMPLE.search(words)
    assert example is not None, f"no example: {words}"
    meaning = words[: example.start()].strip().replace("|", "\\|")
    code = _CODE.search(meaning)
    keys = _KEYS.search(example.group())
    names = re.findall(r'"([a-z_]+)":', keys.group(1)) if keys else []
    told = code.group() if code else ""
    return told, meaning, ", ".join(f"`{name}`" for name in names) or "-"


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()
