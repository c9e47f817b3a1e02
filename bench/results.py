# SPDX-License-Identifier: Apache-2.0
"""Keeps what a benchmark measured: figures as JSON with the machine they are of, and plots."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure as Plot

from bench.figures import Figure

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("aiohttp", "asyncpg", "grpcio", "protobuf", "uvloop")
MEBIBYTE = 1024 * 1024
_TITLES = {
    "direct": "no gateway",
    "router": "Ownkey router",
    "router_credits": "Ownkey router, on credits",
    "suite_on_one_core": "Ownkey, whole suite on one core",
    "litellm": "LiteLLM proxy",
    "portkey": "Portkey gateway",
    "tensorzero": "TensorZero, embedded",
}
_OURS, _THEIRS = "#2456a6", "#9aa5b1"


def machine() -> dict[str, str]:
    """Describe the machine and the versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MEBIBYTE
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{memory} MiB",
        "system": platform.system(),
        "python": platform.python_version(),
        "load average at the end": load,
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write(
    name: str, figures: Sequence[Figure], *, folder: Path, versions: Mapping[str, str]
) -> None:
    """Write `<name>.json`."""
    rows = [
        {
            "figure": figure.name,
            "value": round(figure.value, 4),
            "unit": figure.unit,
            "bar": figure.bar,
            "met": figure.met,
        }
        for figure in figures
    ]
    document = {"machine": machine(), "versions": dict(versions), "figures": rows}
    folder.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / f"{name}.json").write_bytes(text + b"\n")


def plot_rates(rates: Mapping[str, Sequence[float]], *, folder: Path) -> None:
    """Draw the requests a second of every gateway: medians as bars, the range as a line."""
    names = [name for name in reversed(_TITLES) if name in rates and name != "direct"]
    medians = [statistics.median(rates[name]) for name in names]
    below = [middle - min(rates[name]) for name, middle in zip(names, medians, strict=True)]
    above = [max(rates[name]) - middle for name, middle in zip(names, medians, strict=True)]
    colours = [_OURS if name.startswith(("router", "suite")) else _THEIRS for name in names]
    plot = Plot(figsize=(8, 0.6 * len(names) + 1.2), layout="constrained")
    axes = plot.subplots()
    axes.barh(
        [_TITLES[name] for name in names],
        medians,
        xerr=[below, above],
        color=colours,
        height=0.6,
        capsize=3,
    )
    axes.set_xlabel("requests a second on one core (more is better)")
    for place, middle in enumerate(medians):
        axes.annotate(
            f"{middle:,.0f}", (middle + above[place], place), (6, 0), textcoords="offset points",
            verticalalignment="center",
        )  # fmt: skip
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    # Without a date and with fixed ids, the same figures make the same file.
    with mpl.rc_context({"svg.hashsalt": "ownkey"}):
        plot.savefig(folder / "gateways.svg", metadata={"Date": None})
    plot.savefig(folder / "gateways.png", dpi=144)


def write_table(rates: Mapping[str, tuple[float, float]], *, folder: Path) -> None:
    """
    Write the table that the README shows: `gateways.md`.

    Args:
        rates: By gateway, its requests a second and those for each second of its processor time,
            which is no number where it has no process of its own.
        folder: Takes the file.
    """
    lines = [
        "| gateway | requests/s | requests for each second of its processor time |",
        "| --- | --- | --- |",
    ]
    for name, title in _TITLES.items():
        if name in rates:
            rate, efficiency = rates[name]
            told = "not counted" if math.isnan(efficiency) else f"{efficiency:,.0f}"
            lines.append(f"| {title} | {rate:,.0f} | {told} |")
    (folder / "gateways.md").write_text("\n".join(lines) + "\n")
