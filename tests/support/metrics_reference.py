# SPDX-License-Identifier: Apache-2.0
"""
The metrics that the code declares, and their page: `python -m tests.support.metrics_reference`.

They are read from the source, where each is declared by literals, so that none is missed for want
of a process that has used it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.source import ROOT, python_files, read

PAGE = ROOT / "docs" / "reference" / "metrics.md"
KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
SERVICES = {"shared": "every service", "keyvault": "keyvault", "router": "router"}

LABELS = {
    "rpc": "full names of RPCs that are served",
    "code": "gRPC codes",
    "reason": "unknown_caller, certificate_ended, rpc_not_allowed, account_not_allowed",
    "kind": "conflict, locked, lost, timeout",
    "provider": "providers of the catalogue, and `other`",
    "model": "models of the catalogue, and `other`",
    "funding": "OWN_KEY, CREDITS",
    "outcome": "words of the code's own, listed at the metric",
    "phase": "closed, open, half_open, ramping",
    "operation": "words of the code's own: RPCs of Vault, or start, poll and cancel of jobs",
    "cause": "SEALED, UNREACHABLE, DENIED, BUSY, BROKEN, RETIRED",
    "route": "patterns of the HTTP door's paths, and `none`",
    "status": "HTTP statuses that the door answers with",
}
"""Every label there may be, with what bounds it."""

HEAD = """\
# Metrics

Generated from the code by `make metrics-reference`; do not edit.

Each service serves these at `OWNKEY_<SERVICE>_METRICS_LISTEN`, with the process's own (`process_*`,
`python_*`). A histogram has `_bucket`, `_sum` and `_count`. No metric names an account, a key, a
request, a prompt or an answer; every label is one of these:

"""


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric.

    Args:
        name: As Prometheus reads it; of a histogram, without its suffixes.
        kind: counter, gauge or histogram.
        labels: Names of its labels.
        text: What it tells.
        service: Where it is.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    service: str

    @property
    def series(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What can be asked for by it: names, each with its labels."""
        labels = frozenset(self.labels)
        if self.kind != "histogram":
            return ((self.name, labels),)
        return (
            (f"{self.name}_bucket", labels | {"le"}),
            (f"{self.name}_sum", labels),
            (f"{self.name}_count", labels),
        )


def declared() -> list[Metric]:
    """Give every metric of the services, by name."""
    found = [one for path in python_files("services") for one in _in_file(path)]
    return sorted(found, key=lambda one: one.name)


def _in_file(path: Path) -> Iterator[Metric]:
    source = read(path)
    # Others' classes have such names too, the standard library's Counter for one.
    if "from prometheus_client import" not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in KINDS or not node.args:
            continue
        name, text, *labels = (ast.literal_eval(one) for one in node.args)
        kind = KINDS[node.func.id]
        yield Metric(
            name=f"{name}_total" if kind == "counter" else name,
            kind=kind,
            labels=tuple(labels[0]) if labels else (),
            text=text,
            service=SERVICES.get(path.parts[1], path.parts[1]),
        )


def page() -> str:
    """Write the page."""
    lines = [HEAD, "| label | values |\n| --- | --- |\n"]
    lines += [f"| `{name}` | {bound} |\n" for name, bound in LABELS.items()]
    metrics = declared()
    for service in ("every service", "keyvault", "router", "ledger"):
        lines.append(f"\n## {service.capitalize()}\n\n")
        lines.append("| metric | kind | labels | tells |\n| --- | --- | --- | --- |\n")
        lines += [
            f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or '-'} | {one.text} |\n"
            for one in metrics
            if one.service == service
        ]
    return "".join(lines)


def main() -> None:
    """Write the page's file."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {len(declared())} metrics\n")


if __name__ == "__main__":
    main()
