# SPDX-License-Identifier: Apache-2.0
"""
Starts the parts of the local suite as processes and stops all of them again.

Rules:
1. Each part runs in its own process group, its output in its own log file.
2. A part counts as started when its probe says so; a part that died first is reported with the
   end of its log.
3. Parts stop in reverse order, asked first and killed after a bound.
4. Where the system can (Linux, `setpriv`), a part is stopped also when this process dies.
"""

from __future__ import annotations

import http.client
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.certificates import TlsFiles, read_material
from services.shared.tls import channel_credentials

READY_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 40.0
"""Longer than a service takes to let its running calls end."""
_POLL_SECONDS = 0.05
_PROBE_TIMEOUT_SECONDS = 1.0
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES_MAX = 16 * 1024
_HTTP_OK = 200
PORTS = range(20_000, 32_768)
"""Below what systems give to outgoing connections, which take any port at any moment."""
PORT_TRIES_MAX = 1_000
_next_port = itertools.count(secrets.randbelow(len(PORTS)))
"""One process never gets a port twice in a row; two begin apart."""

Probe = Callable[[], bool]
"""Says whether a part serves; never raises for a part that does not yet."""


class LocalError(Exception):
    """Something local stands in the way; the message names it and the remedy."""


class ProcessDiedError(LocalError):
    """
    A part ended by itself.

    Args:
        name: The part.
        exit_code: As the system gives it; negative for a signal.
        log: Where its output is.
    """

    def __init__(self, *, name: str, exit_code: int, log: Path) -> None:
        self.name = name
        self.exit_code = exit_code
        super().__init__(
            f"{name} ended with exit code {exit_code}; its log, {log}, ends so:\n{tail(log)}"
        )


class ProcessNotReadyError(LocalError):
    """
    A part runs but did not serve in time.

    Args:
        name: The part.
        seconds: How long it was given.
        log: Where its output is.
    """

    def __init__(self, *, name: str, seconds: float, log: Path) -> None:
        self.name = name
        super().__init__(
            f"{name} did not serve within {seconds:.0f} seconds; "
            f"its log, {log}, ends so:\n{tail(log)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start."""

    name: str
    """What people call the part; also the name of its log."""

    arguments: Sequence[str]
    """The program and its arguments; never a secret, other users of the machine can read them."""

    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to this process's own environment."""

    user_id: int | None = None
    """Another user to run as; only root can ask for it."""

    stop_signal: signal.Signals = signal.SIGTERM
    """What asks the program to end in order."""


class Process:
    """
    One part as a process.

    Args:
        command: What to start.
        log_folder: Gets `<name>.log`; the previous run's becomes `<name>.log.1`.
    """

    def __init__(self, command: Command, *, log_folder: Path) -> None:
        self.command = command
        self.log = log_folder / f"{command.name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the process must have been started."""
        assert self._child is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts the program without waiting for it to serve."""
        assert not self.running, f"{self.command.name} is running already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("wb") as output:
            self._child = subprocess.Popen(
                leashed(self.command),
                env={**os.environ, **self.command.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, probe: Probe, *, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """
        Waits until the probe says that the part serves.

        Raises:
            ProcessDiedError: It ended first.
            ProcessNotReadyError: It did not serve in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not probe():
            self.check()
            if time.monotonic() > deadline:
                raise ProcessNotReadyError(
                    name=self.command.name, seconds=timeout_seconds, log=self.log
                )
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """
        Makes sure that the part still runs.

        Raises:
            ProcessDiedError: It does not.
        """
        assert self._child is not None
        exit_code = self._child.poll()
        if exit_code is not None:
            raise ProcessDiedError(name=self.command.name, exit_code=exit_code, log=self.log)

    def stop(self, *, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Asks the part to end and kills it, with all it started, when it does not in time."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(self.command.stop_signal)
            try:
                self._child.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._child = None

    def kill(self) -> None:
        """Ends the part, and all it started, without asking: a crash, for tests."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(STOP_TIMEOUT_SECONDS)


class Supervisor:
    """
    Several processes, stopped together; a context manager.

    Args:
        log_folder: Where each part's log goes.
    """

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self._processes: list[Process] = []

    def start(
        self,
        command: Command,
        probe: Probe,
        *,
        timeout_seconds: float = READY_TIMEOUT_SECONDS,
    ) -> Process:
        """
        Starts a part and waits until it serves.

        Raises:
            LocalError: It did not; what ran before goes on running.
        """
        process = self.begin(command)
        process.wait_ready(probe, timeout_seconds=timeout_seconds)
        return process

    def begin(self, command: Command) -> Process:
        """Starts a part without waiting for it to serve."""
        process = Process(command, log_folder=self.log_folder)
        self._processes.append(process)
        process.start()
        return process

    def run(self, *commands: Command, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """
        Runs programs to their end, beside each other.

        Raises:
            LocalError: One failed or did not end in time; none of them goes on.
        """
        running = [Process(command, log_folder=self.log_folder) for command in commands]
        try:
            for process in running:
                process.start()
            for process in running:
                _await_end(process, timeout_seconds)
        finally:
            for process in running:
                process.kill()

    def check(self) -> None:
        """
        Makes sure that all parts run.

        Raises:
            ProcessDiedError: One ended by itself.
        """
        for process in self._processes:
            process.check()

    def stop(self) -> None:
        """Stops all parts, the last started first."""
        while self._processes:
            self._processes.pop().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _await_end(process: Process, timeout_seconds: float) -> None:
    """
    Waits until a program has ended well.

    Raises:
        LocalError: It failed or did not end in time.
    """
    process.wait_ready(lambda: not process.running, timeout_seconds=timeout_seconds)
    try:
        process.check()
    except ProcessDiedError as exc:
        if exc.exit_code != 0:
            raise


def leashed(command: Command) -> list[str]:
    """
    Puts the program on a leash: it is stopped when this process dies, and runs as another user
    where asked.

    Another user gets one of root's capabilities, to pass closed folders: so nothing outside its
    own data has to be opened to everybody. See https://man7.org/linux/man-pages/man1/setpriv.1.html

    Raises:
        LocalError: Another user is asked for and `setpriv` is missing.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if command.user_id is not None:
            raise LocalError(
                f"{command.name} does not run as root and `setpriv` is missing to run it as "
                "another user; run as an ordinary user, or install util-linux."
            )
        return list(command.arguments)
    leash = [setpriv, "--pdeathsig", command.stop_signal.name.removeprefix("SIG")]
    if command.user_id is not None:
        leash += [
            f"--reuid={command.user_id}",
            f"--regid={command.user_id}",
            "--clear-groups",
            "--inh-caps=-all,+dac_override",
            "--ambient-caps=-all,+dac_override",
        ]
    return [*leash, "--", *command.arguments]


def tail(log: Path) -> str:
    """The last lines of a log, or a word that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES_MAX))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (it wrote nothing)"


def free_port() -> int:
    """
    A TCP port on loopback that nobody listens on, and that no outgoing connection takes meanwhile.

    Raises:
        LocalError: None was found.
    """
    for _ in range(PORT_TRIES_MAX):
        port = PORTS[next(_next_port) % len(PORTS)]
        if port_is_free(port):
            return port
    raise LocalError(
        f"no free port was found from {PORTS.start} to {PORTS.stop - 1}; end what listens there"
    )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def grpc_serving(address: str, files: TlsFiles | None = None) -> Probe:
    """
    A probe by the standard health service.

    See https://github.com/grpc/grpc/blob/master/doc/health-checking.md

    Args:
        address: Where it listens.
        files: A certificate that it trusts, where it speaks TLS.
    """

    def probe() -> bool:
        # A pool of its own, so that a refused connection does not hold up the next try.
        options = (("grpc.use_local_subchannel_pool", 1),)
        with _channel(address, files, options) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # Its type names no methods.
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_SECONDS)
            except grpc.RpcError:
                return False
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    return probe


def _channel(
    address: str, files: TlsFiles | None, options: Sequence[tuple[str, Any]]
) -> grpc.Channel:
    if files is None:
        return grpc.insecure_channel(address, options=options)
    credentials = channel_credentials(read_material(files, now=datetime.now(UTC)))
    return grpc.secure_channel(address, credentials, options=options)


def http_answers(port: int, path: str) -> Probe:
    """A probe by a GET on loopback that answers 200."""

    def probe() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == _HTTP_OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe
