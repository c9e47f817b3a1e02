# SPDX-License-Identifier: Apache-2.0
"""
The gateways that people would pick instead, each installed from its package, pinned, into an
environment of its own: `$OWNKEY_CACHE/peers/<name>-<version>`, by default below `~/.cache/ownkey`.

They run as their documentation says for one process, with nothing stored and no customer's key:
that is all that LiteLLM and Portkey do without a database or a paid plan.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import routing
from bench.load import Target
from deploy.local.processes import Command, LocalError, Supervisor, free_port, http_answers

LITELLM = "1.106.0"
PORTKEY = "1.15.2"
TENSORZERO = "2026.6.0"
MASTER_KEY = "sk-bench-0123456789"
INSTALL_SECONDS_MAX = 20 * 60
START_SECONDS_MAX = 180.0

_TENSORZERO_SCRIPT = Path(__file__).parent / "tensorzero_load.py"


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A gateway that serves.

    Args:
        name: What it is called.
        target: Where it is called, and with what.
        process: Its process.
    """

    name: str
    target: Target
    process: int


def versions() -> dict[str, str]:
    """Name the versions that are measured."""
    return {"litellm": LITELLM, "portkey": PORTKEY, "tensorzero": TENSORZERO}


@contextlib.contextmanager
def litellm(folder: Path, upstream: str) -> Iterator[Peer]:
    """Yield LiteLLM's proxy: https://docs.litellm.ai/docs/proxy/deploy."""
    program = python_package("litellm", LITELLM, "litellm[proxy]") / "litellm"
    config = folder / "litellm.yaml"
    model = {
        "model_name": "gpt-4o-mini",
        "litellm_params": {
            "model": "openai/gpt-4o-mini",
            "api_base": f"http://{upstream}/v1",
            "api_key": "sk-upstream",
        },
    }
    settings = {"model_list": [model], "general_settings": {"master_key": MASTER_KEY}}
    config.write_text(json.dumps(settings))  # JSON is YAML.
    port = free_port()
    arguments = [str(program), "--config", str(config), "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--num_workers", "1"]
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = Command(name="litellm", arguments=arguments, environ=environ)
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    with _serving(command, port, "/health/liveliness", folder) as process:
        target = routing.direct(folder, f"127.0.0.1:{port}", headers=headers)
        yield Peer("litellm", target, process)


@contextlib.contextmanager
def portkey(folder: Path, upstream: str) -> Iterator[Peer]:
    """Yield Portkey's gateway: https://github.com/Portkey-AI/gateway."""
    installed = _node_package("portkey", PORTKEY, "@portkey-ai/gateway")
    port = free_port()
    node = shutil.which("node") or "node"
    script = installed / "build" / "start-server.js"
    arguments = [node, str(script), "--headless", f"--port={port}"]
    command = Command(name="portkey", arguments=arguments, environ={"NODE_ENV": "production"})
    headers = {
        "Authorization": "Bearer sk-upstream",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://{upstream}/v1",
    }
    with _serving(command, port, "/", folder) as process:
        target = routing.direct(folder, f"127.0.0.1:{port}", headers=headers)
        yield Peer("portkey", target, process)


def tensorzero(folder: Path, upstream: str, *, core: int, callers: int, seconds: float) -> float:
    """
    Return the requests a second of TensorZero's gateway, embedded in the process that calls it.

    Its own Python client is the caller, on the same core: there is no server between them.
    """
    python = python_package("tensorzero", TENSORZERO, "tensorzero") / "python"
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n\n"
        '[models.bench]\nrouting = ["upstream"]\n\n'
        '[models.bench.providers.upstream]\ntype = "openai"\nmodel_name = "gpt-4o-mini"\n'
        f'api_base = "http://{upstream}/v1/"\napi_key_location = "none"\n'
    )
    prompt = routing.Pace().prompt()
    arguments = [str(_TENSORZERO_SCRIPT), str(config), prompt, str(callers), str(seconds)]
    done = subprocess.run(
        ["/usr/bin/env", "taskset", "--cpu-list", str(core), str(python), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=START_SECONDS_MAX,
    )
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def _serving(command: Command, port: int, path: str, folder: Path) -> Iterator[int]:
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    with Supervisor(logs) as supervisor:
        process = supervisor.start(
            command, http_answers(port, path), timeout_seconds=START_SECONDS_MAX
        )
        yield process.pid


def _cache() -> Path:
    cache = Path(os.environ.get("OWNKEY_CACHE") or Path.home() / ".cache" / "ownkey")
    return cache / "peers"


def python_package(name: str, version: str, package: str) -> Path:
    """Give the folder of programs of a virtual environment that holds a package."""
    folder = _cache() / f"{name}-{version}"
    if not (folder / "installed").exists():
        print(f"Installing {package} {version} into {folder}")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(folder / "bin/python"), "-m", "pip", "install", "-q", f"{package}=={version}"])
        (folder / "installed").touch()
    return folder / "bin"


def _node_package(name: str, version: str, package: str) -> Path:
    """Give the folder of a package of npm."""
    folder = _cache() / f"{name}-{version}"
    if not (folder / "installed").exists():
        npm = shutil.which("npm")
        if npm is None:
            raise LocalError(f"{package} needs Node.js 20 or newer with npm; install them.")
        print(f"Installing {package} {version} into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        _run([npm, "install", "--prefix", str(folder), *options, f"{package}@{version}"])
        (folder / "installed").touch()
    return folder / "node_modules" / package


def _run(arguments: list[str]) -> None:
    try:
        subprocess.run(arguments, check=True, capture_output=True, timeout=INSTALL_SECONDS_MAX)
    except subprocess.CalledProcessError as exc:
        text = exc.stderr.decode("utf-8", "replace")[-2000:]
        raise LocalError(f"`{' '.join(arguments)}` failed:\n{text}") from exc
