# SPDX-License-Identifier: Apache-2.0
"""
Measure what the manifests ask a cluster for: memory of each part, processor time of a request.

`make bench-resources`. A whole suite, its router asked by many callers at once, on an own key and
on credits in turn. Memory is what Linux counts as resident, at rest and at its highest (`VmRSS` and
`VmHWM` of proc_pid_status(5)); a migration's is the highest of a process of its own. The manifests'
requests and limits are held to these figures by tests/deploy/test_resources.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import uvloop
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2, grant_pb2
from ownkey.router.v1 import attempt_pb2, text_pb2

from bench import processor, results
from bench.figures import Figure
from deploy.local.clients import Clients
from deploy.local.processes import Process
from deploy.local.suite import SIMULATOR, STORED_IN, Ports, Suite
from services.shared.identity import WEB
from services.shared.ids import new_id

ACCOUNT = "bench"
CALL_SECONDS = 60.0
GRANT_NANO_CREDITS = 10**15
KIBIBYTES_OF_MEBIBYTE = 1024
MIGRATION_SECONDS_MAX = 60
MIGRATE = """
import runpy, sys
module = sys.argv[1]
del sys.argv[1]
runpy.run_module(module, run_name="__main__")
print(open("/proc/self/status").read())
"""
"""Runs a module and then tells about its own process: what a parent is told counts the parent."""
SOURCES = (attempt_pb2.SOURCE_OWN_KEY, attempt_pb2.SOURCE_CREDITS)


@dataclass(frozen=True, slots=True)
class Options:
    """
    How much to ask for.

    Args:
        requests: Requests that are counted, after as many that are not.
        callers: Requests under way at the same time.
        results: Takes the figures.
    """

    requests: int
    callers: int
    results: Path


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.resources", description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    return Options(**vars(parser.parse_args(arguments)))


def memory(process: Process, field: str) -> float:
    """Return a process's memory in MiB: `VmRSS`, as it is, or `VmHWM`, at its highest."""
    return mebibytes(Path(f"/proc/{process.pid}/status").read_text(), field)


def mebibytes(status: str, field: str) -> float:
    """Read a field of a process's status."""
    (kibibytes,) = re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kibibytes) / KIBIBYTES_OF_MEBIBYTE


async def prepare(clients: Clients) -> None:
    """Make an account that can pay either way, and a shared key."""
    created = await clients.ledger.CreateAccount(
        account_pb2.CreateAccountRequest(
            request_id=new_id(),
            account_id=ACCOUNT,
            plan="plans/standard",
            billing_mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST,
        ),
        timeout=CALL_SECONDS,
    )
    await clients.ledger.GrantCredits(
        grant_pb2.GrantCreditsRequest(
            request_id=new_id(),
            account=created.account.name,
            kind=grant_pb2.GRANT_KIND_PURCHASED,
            amount_nano_credits=GRANT_NANO_CREDITS,
        ),
        timeout=CALL_SECONDS,
    )
    for parent in (created.account.name, "accounts/platform"):
        await clients.keyvault.CreateKey(
            keyvault_service_pb2.CreateKeyRequest(
                parent=parent,
                key=key_pb2.Key(provider="openai"),
                secret=f"sk-proj-bench-{new_id()}",
                request_id=new_id(),
            ),
            metadata=clients.operator,
            timeout=CALL_SECONDS,
        )


async def load(clients: Clients, options: Options) -> None:
    """Send all requests, each to its end."""
    left = iter(range(options.requests))

    async def caller() -> None:
        for number in left:
            await clients.router.GenerateText(_request(number), timeout=CALL_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(options.callers):
            group.create_task(caller())


def _request(number: int) -> text_pb2.GenerateTextRequest:
    part = text_pb2.Part(text="What is a data key?")
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[part])
    return text_pb2.GenerateTextRequest(
        account=f"accounts/{ACCOUNT}",
        request_id=new_id(),
        model="openai/gpt-4o-mini",
        source=SOURCES[number % len(SOURCES)],
        input=text_pb2.TextInput(messages=[message], max_output_tokens=64),
    )


async def measure(suite: Suite, options: Options) -> list[Figure]:
    """Load a suite and return what its parts took."""
    async with suite.clients() as clients:
        await prepare(clients)
        suite.start_settings_page(f"accounts/{ACCOUNT}")
        parts = {name: suite.process(name) for name in (*STORED_IN, SIMULATOR, WEB)}
        rest = {name: memory(process, "VmRSS") for name, process in parts.items()}
        await load(clients, options)
        before = {name: processor.seconds(parts[name].pid) for name in STORED_IN}
        await load(clients, options)
    figures = []
    for name, process in parts.items():
        figures += [
            Figure(f"{name}_memory_at_rest", rest[name], "MiB"),
            Figure(f"{name}_memory_at_most", memory(process, "VmHWM"), "MiB"),
        ]
    for name, seconds in before.items():
        spent = (processor.seconds(parts[name].pid) - seconds) / options.requests
        figures.append(Figure(f"{name}_processor_time_of_a_request", 1000 * spent, "ms"))
    return figures


def migration(suite: Suite, service: str) -> Figure:
    """Run a service's migration once more and return the memory that it takes."""
    done = subprocess.run(
        [sys.executable, "-c", MIGRATE, f"services.{service}", "migrate"],
        env={**os.environ, **suite.process(service).command.environ},
        capture_output=True,
        text=True,
        timeout=MIGRATION_SECONDS_MAX,
        check=True,
    )
    return Figure(f"{service}-migrate_memory_at_most", mebibytes(done.stdout, "VmHWM"), "MiB")


def main() -> None:
    """Measure, print and keep."""
    options = read_options(sys.argv[1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        Suite(Path(folder) / "state", ports=Ports.any_free(), metrics=True) as suite,
    ):
        figures = uvloop.run(measure(suite, options))
        figures += [migration(suite, service) for service in STORED_IN]
    results.write("resources", figures, folder=options.results, versions={})
    for figure in figures:
        print(figure.line())


if __name__ == "__main__":
    main()
