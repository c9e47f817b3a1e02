# SPDX-License-Identifier: Apache-2.0
"""Processes start when they serve, say why they died, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.processes import (
    Command,
    Process,
    ProcessDiedError,
    ProcessNotReadyError,
    Supervisor,
    free_port,
    http_answers,
)

EXIT_TIMEOUT_SECONDS = 10

_PARENT = """
import sys, time
from pathlib import Path
from deploy.local.processes import Command, Process
child = Process(
    Command(name="child", arguments=[sys.executable, "-c", "import time; time.sleep(60)"]),
    log_folder=Path(sys.argv[1]),
)
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def python(name: str, code: str) -> Command:
    return Command(name=name, arguments=[sys.executable, "-c", code])


@pytest.mark.requirement("O1")
class TestProcess:
    def test_a_part_that_dies_is_reported_with_the_end_of_its_log(self, tmp_path: Path) -> None:
        process = Process(
            python("part", "import sys; print('no room left'); sys.exit(3)"), log_folder=tmp_path
        )
        process.start()
        with pytest.raises(ProcessDiedError, match=r"exit code 3(.|\n)*no room left") as caught:
            process.wait_ready(lambda: False)
        assert caught.value.exit_code == 3

    def test_a_part_that_never_serves_is_reported(self, tmp_path: Path) -> None:
        with Supervisor(tmp_path) as supervisor:
            process = supervisor.start(python("part", "import time; time.sleep(60)"), lambda: True)
            with pytest.raises(ProcessNotReadyError, match="did not serve"):
                process.wait_ready(lambda: False, timeout_seconds=0.1)

    def test_a_part_that_ignores_the_request_to_stop_is_killed(self, tmp_path: Path) -> None:
        code = (
            "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            f"pathlib.Path({str(tmp_path / 'deaf')!r}).touch(); time.sleep(60)"
        )
        process = Process(python("part", code), log_folder=tmp_path)
        process.start()
        process.wait_ready((tmp_path / "deaf").exists)
        pid = process.pid
        process.stop(timeout_seconds=0.1)
        assert not process.running
        assert not psutil.pid_exists(pid)

    def test_the_previous_log_is_kept(self, tmp_path: Path) -> None:
        for word in ("first", "second"):
            process = Process(python("part", f"print({word!r})"), log_folder=tmp_path)
            process.start()
            process.wait_ready(lambda started=process: not started.running)
        assert (tmp_path / "part.log").read_text() == "second\n"
        assert (tmp_path / "part.log.1").read_text() == "first\n"


@pytest.mark.requirement("O1")
class TestSupervisor:
    def test_parts_stop_in_reverse_order(self, tmp_path: Path) -> None:
        order = tmp_path / "order"
        with Supervisor(tmp_path) as supervisor:
            for name in ("first", "second"):
                code = (
                    "import pathlib, signal, sys, time\n"
                    "def stop(*_):\n"
                    f"    with open({str(order)!r}, 'a') as f: f.write('{name} ')\n"
                    "    sys.exit()\n"
                    "signal.signal(signal.SIGTERM, stop)\n"
                    f"pathlib.Path({str(tmp_path / name)!r}).touch()\n"
                    "time.sleep(60)\n"
                )
                supervisor.start(python(name, code), (tmp_path / name).exists)
        assert order.read_text() == "second first "

    def test_a_http_part_counts_as_started_when_it_answers(self, tmp_path: Path) -> None:
        port = free_port()
        server = Command(
            name="http",
            arguments=[
                sys.executable,
                "-m",
                "http.server",
                "--bind",
                "127.0.0.1",
                "--directory",
                str(tmp_path),
                str(port),
            ],
        )
        with Supervisor(tmp_path) as supervisor:
            supervisor.start(server, http_answers(port, "/"))
            supervisor.check()
        assert not http_answers(port, "/")()

    def test_a_part_dies_with_the_process_that_started_it(self, tmp_path: Path) -> None:
        parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(EXIT_TIMEOUT_SECONDS)
        parent.stdout.close()
        child.wait(EXIT_TIMEOUT_SECONDS)
        assert not child.is_running()
