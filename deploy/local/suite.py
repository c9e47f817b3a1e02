# SPDX-License-Identifier: Apache-2.0
"""
The whole suite on this machine: PostgreSQL, Vault where asked for, the provider simulator and the
three services, each a process of its own, all on loopback.

Tests, `make run` and `make tour` start it through this one class.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from deploy.local.certificates import files_in, write_suite_certificates
from deploy.local.clients import Addresses, Clients
from deploy.local.postgres import EmbeddedPostgres
from deploy.local.processes import (
    Command,
    LocalError,
    Probe,
    Process,
    Supervisor,
    free_port,
    grpc_serving,
    http_answers,
    port_is_free,
)
from deploy.local.state import Kek, StateFolder
from deploy.local.vault import TRANSIT_KEY, TRANSIT_MOUNT, LocalVault, Storage
from deploy.programs import VAULT, ProgramMissingError
from services.shared.certificates import TlsFiles
from services.shared.identity import OPERATOR, WEB

SIMULATOR = "simulator"
START_ORDER = (SIMULATOR, "ledger", "keyvault", "router")
LISTENERS = (*START_ORDER, "http", WEB)
"""Every part, the router's HTTP door, and the settings page."""
STORED_IN = {name: f"ownkey_{name}" for name in ("keyvault", "ledger", "router")}
"""The database of each service."""
METRICS_LISTENERS = tuple(f"{service}_metrics" for service in STORED_IN)
"""Where the services' metrics are read."""

_PLANS_FILE = Path(__file__).parent / "plans.yaml"
SIMULATED_PROVIDERS = (
    "amazon-bedrock/{host}",
    "anthropic",
    "azure/{host}",
    "deepseek",
    "gemini",
    "google-vertex/{host}",
    "openai",
    "openrouter",
    "replicate/{host}",
    "stability",
)
"""Where each provider is simulated; `{host}` is the host that a credential is bound to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the parts listen on loopback; 0 takes a free port."""

    keyvault: int = 7101
    router: int = 7102
    ledger: int = 7103
    http: int = 7180
    simulator: int = 7190
    web: int = 7170
    keyvault_metrics: int = 7121
    router_metrics: int = 7122
    ledger_metrics: int = 7123

    @classmethod
    def any_free(cls) -> Ports:
        """Free ports for all parts: suites of tests run beside each other."""
        return cls(**{field.name: 0 for field in fields(cls)})


class Suite:
    """
    A running suite; a context manager.

    Args:
        state_folder: Keeps everything that outlives a run.
        kek: What wraps the keys: a local keyring, or a real Vault.
        vault_storage: Where that Vault keeps what it has.
        tls: Whether the parts speak mutual TLS instead of plain text.
        metrics: Whether the services' metrics can be read.
        ports: Where the parts listen.
        environ: More settings, by service.
        simulator: More arguments of the simulator.
        say: Told, in a few words, what begins.
    """

    def __init__(
        self,
        state_folder: Path,
        *,
        kek: Kek = "local",
        vault_storage: Storage = "file",
        tls: bool = False,
        metrics: bool = False,
        ports: Ports | None = None,
        environ: Mapping[str, Mapping[str, str]] | None = None,
        simulator: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.state = StateFolder(state_folder, kek=kek)
        self.ports = ports or Ports()
        self.postgres = EmbeddedPostgres(self.state.postgres, log_folder=self.state.logs)
        self.vault: LocalVault | None = None
        self._vault_storage = vault_storage
        self.tls = tls
        self.metrics = metrics
        self._environ = environ or {}
        self._simulator = simulator
        self._say = say
        self._supervisor = Supervisor(self.state.logs)
        self._processes: dict[str, Process] = {}

    @property
    def addresses(self) -> Addresses:
        """Where the parts listen; settled once the suite has started."""
        return Addresses(**{name: self._address(name) for name in LISTENERS})

    @property
    def operator_token(self) -> str:
        """What an operator shows to the services."""
        return self.state.token(OPERATOR)

    def metrics_address(self, service: str) -> str:
        """Where a service's metrics are read, `host:port`."""
        return self._address(f"{service}_metrics")

    def tls_files(self, identity: str) -> TlsFiles | None:
        """An identity's certificate; None where plain text is spoken."""
        return files_in(self.state.tls / identity) if self.tls else None

    def clients(self) -> Clients:
        """Stubs to it, as an operator over TLS."""
        files = self.tls_files(OPERATOR)
        return Clients(self.addresses, operator_token=self.operator_token, files=files)

    def start(self) -> None:
        """
        Starts every part, each when those it needs serve; on a failure nothing is left running.

        Raises:
            LocalError: A part did not start, or something is in the way.
        """
        self.state.open()
        try:
            self._take_ports()
            if self.tls:
                write_suite_certificates(self.state.tls, now=datetime.now(UTC))
            self._say("PostgreSQL")
            self.postgres.start()
            self._make_databases()
            if self.state.kek == "vault":
                self._start_vault()
            self._say("migrations")
            self._supervisor.run(*(self._service_command(name, "migrate") for name in STORED_IN))
            # The router calls the others from its first moment on; they call it later, if at all.
            *before, last = START_ORDER
            self._start_together(before)
            self._start_together([last])
        except BaseException:
            self.stop()
            raise

    def _start_together(self, names: Sequence[str]) -> None:
        probes = []
        for name in names:
            self._say(f"{name} on port {getattr(self.ports, name)}")
            command, probe = self._part(name)
            self._processes[name] = self._supervisor.begin(command)
            probes.append(probe)
        for name, probe in zip(names, probes, strict=True):
            self._processes[name].wait_ready(probe)

    def stop(self) -> None:
        """Stops every part, the last started first, and gives the state folder free."""
        self._supervisor.stop()
        self._processes.clear()
        if self.vault is not None:
            self.vault.stop()
            self.vault = None
        self.postgres.stop()
        self.state.close()

    def start_part(self, name: str) -> None:
        """
        Starts the simulator or a service again, after `process(name).stop()` or `.kill()`.

        Raises:
            LocalError: It did not start.
        """
        _, probe = self._part(name)
        self._processes[name].start()
        self._processes[name].wait_ready(probe)

    def start_settings_page(self, account: str) -> None:
        """
        Starts the settings page; `settings_link` then opens it.

        Args:
            account: The one account that it acts for, `accounts/{account}`.

        Raises:
            LocalError: It did not start.
        """
        self._say(f"settings page on port {self.ports.web}")
        files = self.tls_files(WEB)
        settings = {
            "ACCOUNT": account,
            "LISTEN": self._address(WEB),
            "LINK_FILE": str(self.state.settings_link_file),
            "TOKEN_FILE": str(self.state.tokens / WEB),
            **{
                f"{service.upper()}_ADDRESS": self._address(service)
                for service in ("keyvault", "router", "ledger")
            },
            **({} if files is None else _tls_settings(files)),
        }
        command = Command(
            name=WEB,
            arguments=[sys.executable, "-m", "client.web", "serve"],
            environ={f"OWNKEY_WEB_{name}": value for name, value in settings.items()},
        )
        probe = http_answers(self.ports.web, "/healthz")
        self._processes[WEB] = self._supervisor.start(command, probe)

    @property
    def settings_link(self) -> str:
        """What opens the settings page next, in one browser."""
        return self.state.settings_link_file.read_text().strip()

    def process(self, name: str) -> Process:
        """The process of the simulator or a service, for stopping, pausing and killing it."""
        return self._processes[name]

    def check(self) -> None:
        """
        Makes sure that every part runs.

        Raises:
            ProcessDiedError: One ended by itself.
        """
        self.postgres.check()
        if self.vault is not None:
            self.vault.check()
        self._supervisor.check()

    def _address(self, name: str) -> str:
        return f"127.0.0.1:{getattr(self.ports, name)}"

    def _take_ports(self) -> None:
        """Picks free ports where any will do and refuses those that others listen on."""
        for name in (*LISTENERS, *(METRICS_LISTENERS if self.metrics else ())):
            port = getattr(self.ports, name)
            if port == 0:
                self.ports = replace(self.ports, **{name: free_port()})
            elif not port_is_free(port):
                raise LocalError(
                    f"Port {port}, which {name} needs, is in use; stop the program that listens "
                    f"there (`ss -ltnp 'sport = :{port}'` names it)."
                )

    def _make_databases(self) -> None:
        server = self.postgres.server
        for service, database in STORED_IN.items():
            password = self.state.database_password(service)
            if not server.has_database(database):
                server.create_database(database, password=password)
            # Written anew each time: the socket's folder may be another one after a move.
            dsn = server.dsn_for(database, user=database, password=password)
            self.state.write_dsn(service, dsn)

    def _start_vault(self) -> None:
        self._say("Vault")
        try:
            binary = VAULT.path(say=self._say)
        except ProgramMissingError as exc:
            raise LocalError(str(exc)) from exc
        self.vault = LocalVault(
            self.state.vault,
            log_folder=self.state.logs,
            binary=binary,
            storage=self._vault_storage,
        )
        self.vault.start()

    def _part(self, name: str) -> tuple[Command, Probe]:
        if name == SIMULATOR:
            arguments = [sys.executable, "-m", "simulator", "--listen", self._address(name)]
            probe = http_answers(self.ports.simulator, "/healthz")
            return Command(name=name, arguments=[*arguments, *self._simulator]), probe
        probe = grpc_serving(self._address(name), self.tls_files(OPERATOR))
        return self._service_command(name, "serve"), probe

    def _service_command(self, service: str, verb: str) -> Command:
        prefix = f"OWNKEY_{service.upper()}_"
        settings = {**self._settings(service), **self._environ.get(service, {})}
        return Command(
            name=service if verb == "serve" else f"{service}-{verb}",
            arguments=[sys.executable, "-m", f"services.{service}", verb],
            environ={f"{prefix}{name}": value for name, value in settings.items()},
        )

    def _settings(self, service: str) -> dict[str, str]:
        """The service's settings without their prefix; secrets go by file."""
        own: Mapping[str, Callable[[], dict[str, str]]] = {
            "keyvault": self._keyvault_settings,
            "ledger": self._ledger_settings,
            "router": self._router_settings,
        }
        files = self.tls_files(service)
        return {
            "LISTEN": self._address(service),
            "TOKENS_DIR": str(self.state.tokens),
            **({} if files is None else _tls_settings(files)),
            **self._metrics_settings(service),
            "FINGERPRINT_KEY_FILE": str(self.state.fingerprint_key_file(service)),
            **own[service](),
        }

    def _metrics_settings(self, service: str) -> dict[str, str]:
        return {"METRICS_LISTEN": self._address(f"{service}_metrics")} if self.metrics else {}

    def _ledger_settings(self) -> dict[str, str]:
        return {
            "DATABASE_DSN_FILE": str(self.state.dsn_file("ledger")),
            "PLANS_FILE": str(_PLANS_FILE),
        }

    def _keyvault_settings(self) -> dict[str, str]:
        settings = {
            "DATABASE_DSN_FILE": str(self.state.dsn_file("keyvault")),
            "ROUTER_ADDRESS": self._address("router"),
            "KEK": self.state.kek,
        }
        if self.vault is None:
            return {**settings, "KEYRING_FILE": str(self.state.keyring)}
        return {
            **settings,
            "VAULT_ADDRESS": self.vault.address,
            "VAULT_CA_FILE": str(self.vault.ca_file),
            "VAULT_ROLE_ID_FILE": str(self.vault.role_id_file),
            "VAULT_SECRET_ID_FILE": str(self.vault.secret_id_file),
            "VAULT_TRANSIT_MOUNT": TRANSIT_MOUNT,
            "VAULT_TRANSIT_KEY": TRANSIT_KEY,
        }

    def _router_settings(self) -> dict[str, str]:
        simulator = f"http://{self._address(SIMULATOR)}"
        simulated = {path.partition("/")[0]: f"{simulator}/{path}" for path in SIMULATED_PROVIDERS}
        return {
            "KEYVAULT_ADDRESS": self._address("keyvault"),
            "LEDGER_ADDRESS": self._address("ledger"),
            "DATABASE_DSN_FILE": str(self.state.dsn_file("router")),
            "HTTP_LISTEN": self._address("http"),
            "PROVIDER_BASE_URLS": json.dumps(simulated),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _tls_settings(files: TlsFiles) -> dict[str, str]:
    return {
        "TLS_CERTIFICATE_FILE": str(files.certificate),
        "TLS_KEY_FILE": str(files.key),
        "TLS_CA_FILE": str(files.ca),
    }
