# SPDX-License-Identifier: Apache-2.0
"""
A service that neither counts nor logs its calls: what `bench.observe` measures against.

`python -m bench.unobserved <service> <command>` runs what `python -m services.<service>` does.
"""

from __future__ import annotations

import functools
import logging
import runpy
import sys
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.shared import logging as service_logging

CHANGES = {
    Counter: ("inc",),
    Histogram: ("observe",),
    Gauge: ("inc", "dec", "set", "set_function", "set_to_current_time"),
}
"""What changes a metric."""


def nothing(*_: Any, **__: Any) -> None:
    """Stand for what is left out."""


def main() -> None:
    """Leave observation out, then be the service."""
    for kind, changes in CHANGES.items():
        for name in changes:
            setattr(kind, name, nothing)
    # Before the service's own module takes it by name.
    service_logging.configure = functools.partial(service_logging.configure, level=logging.ERROR)
    service, *arguments = sys.argv[1:]
    sys.argv = [f"services.{service}", *arguments]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
