# SPDX-License-Identifier: Apache-2.0
"""
A suite starts whole and stops whole; what stands in its way is told in a sentence, before anything
is started.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.local.processes import LocalError, ProcessDiedError
from deploy.local.state import LAYOUT_VERSION, StateFolder
from deploy.local.suite import Ports, Suite
from tests.support.source import ROOT

EXIT_TIMEOUT_SECONDS = 50
REPLY_TIMEOUT_SECONDS = 5
SERVICES = {
    "keyvault": "ownkey.keyvault.v1.KeyvaultService",
    "router": "ownkey.router.v1.RouterService",
    "ledger": "ownkey.ledger.v1.LedgerService",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with Suite(tmp_path_factory.mktemp("suite") / "state", ports=Ports.any_free()) as running:
        yield running


def processes_of(state: Path) -> list[int]:
    """Every process of this machine that was started with the folder in its arguments."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(state) in " ".join(process.info["cmdline"] or [])
    ]


def make_run(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "run", "--state", str(state)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_SECONDS,
        check=False,
    )


class TestRunning:
    @pytest.mark.requirement("O3")
    @pytest.mark.parametrize("name", SERVICES)
    def test_reflection_describes_the_service(self, suite: Suite, name: str) -> None:
        wanted = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[name])
        with grpc.insecure_channel(getattr(suite.addresses, name)) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            replies = stub.ServerReflectionInfo(iter([wanted]), timeout=REPLY_TIMEOUT_SECONDS)
            reply = next(iter(replies))
        assert reply.file_descriptor_response.file_descriptor_proto, reply.error_response

    @pytest.mark.requirement("O1")
    def test_a_part_that_was_killed_is_reported_and_starts_again(self, suite: Suite) -> None:
        suite.process("router").kill()
        with pytest.raises(ProcessDiedError, match="router ended"):
            suite.check()
        suite.start_part("router")
        suite.check()

    @pytest.mark.requirement("O1")
    def test_the_state_survives_a_restart_and_nothing_is_left_running(self, tmp_path: Path) -> None:
        for _ in range(2):
            with Suite(tmp_path / "state", ports=Ports.any_free()) as suite:
                suite.check()
                pids = [suite.process(name).pid for name in (*SERVICES, "simulator")]
            assert not [pid for pid in pids if psutil.pid_exists(pid)]
            assert not processes_of(tmp_path)


@pytest.mark.requirement("O1")
class TestInTheWay:
    def test_a_port_in_use_is_named_and_nothing_is_left_running(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            suite = Suite(
                tmp_path / "state", ports=Ports(keyvault=0, router=0, simulator=0, ledger=taken)
            )
            with pytest.raises(LocalError, match=f"Port {taken}, which ledger needs, is in use"):
                suite.start()
        assert not suite.postgres.running
        with StateFolder(tmp_path / "state", kek="local"):
            pass

    def test_a_newer_state_folder_ends_make_run_with_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "version").write_text(f"{LAYOUT_VERSION + 1}\n")
        ended = make_run(tmp_path)
        assert ended.returncode == 1
        assert "made by a newer Ownkey" in " ".join(ended.stdout.split())
        assert "Traceback" not in ended.stdout + ended.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["version"]
