# SPDX-License-Identifier: Apache-2.0
"""The manifests and the code agree: settings, files, ports, probes, names, times."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.demo import databases
from deploy.local.suite import SIMULATED_PROVIDERS
from services.shared.boundary import STREAM_SECONDS_MAX
from services.shared.config import settings_of
from tests.support.manifests import OVERLAYS, ROOT, Object, Workload, named, of_kind, workload

NAMES = sorted(path.name for path in OVERLAYS.iterdir())
SERVICES = ("keyvault", "router", "ledger")
BOTH = pytest.mark.parametrize("overlay", NAMES)
EACH = pytest.mark.parametrize("service", SERVICES)
PACKAGED = PurePosixPath("/app")
"""Where the images hold the project's own files."""
CA_FILE = PurePosixPath(databases.CA_FILE)
LISTENS = {"grpc": "LISTEN", "health": "HEALTH_LISTEN", "metrics": "METRICS_LISTEN"}


def settings(service: str) -> dict[str, dataclasses.Field[Any]]:
    """What the service's code can be told, by environment variable."""
    module = importlib.import_module(f"services.{service}.config")
    return settings_of(getattr(module, f"{service.title()}Config"), prefix=prefix(service))


def prefix(service: str) -> str:
    return f"OWNKEY_{service.upper()}_"


def environ(overlay: str, service: str) -> dict[str, str]:
    return workload(overlay, service).environ(service)


def migration(overlay: str, service: str) -> Workload:
    """The Job that brings a service's database forward."""
    (job,) = (
        Workload(one)
        for one in of_kind(overlay, "Job")
        if one["metadata"]["name"].startswith(f"{service}-migrate-")
    )
    return job


def files_of(overlay: str, found: Workload, container: str) -> Iterator[PurePosixPath]:
    """Every path below the container's mounts that its volumes are known to fill."""
    volumes = {one["name"]: one for one in found.pod["volumes"]}
    for mount in found.container(container)["volumeMounts"]:
        for key in _keys(overlay, volumes[mount["name"]]):
            yield PurePosixPath(mount["mountPath"]) / key


def _keys(overlay: str, volume: Object) -> list[str]:
    if "projected" in volume:
        return [one["serviceAccountToken"]["path"] for one in volume["projected"]["sources"]]
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        if name.endswith("-ca"):
            return ["ca.crt"]
        return list(named(overlay, "ConfigMap", name)["data"])
    if volume.get("secret", {}).get("secretName", "").endswith("-tls"):
        return ["tls.crt", "tls.key", "ca.crt"]
    if volume.get("secret", {}).get("secretName", "").endswith("-secrets"):
        return ["database-dsn", "fingerprint-key"]
    return []


@pytest.mark.requirement("O7")
class TestSettings:
    @BOTH
    @EACH
    def test_each_is_known_to_the_service_and_has_a_value_it_takes(
        self, overlay: str, service: str
    ) -> None:
        known = settings(service)
        for name, value in environ(overlay, service).items():
            assert name in known
            if not name.endswith(("_FILE", "_DIR")):
                known[name].metadata["parse"](value)

    @BOTH
    @EACH
    def test_none_that_is_required_is_missing(self, overlay: str, service: str) -> None:
        required = {
            name
            for name, field in settings(service).items()
            if field.default is dataclasses.MISSING
        }
        assert required <= environ(overlay, service).keys()

    @BOTH
    @EACH
    def test_every_file_is_mounted_or_packaged(self, overlay: str, service: str) -> None:
        mounted = set(files_of(overlay, workload(overlay, service), service))
        for name, value in environ(overlay, service).items():
            if name.endswith("_FILE"):
                path = PurePosixPath(value)
                if path.is_relative_to(PACKAGED):
                    assert (ROOT / path.relative_to(PACKAGED)).is_file(), name
                else:
                    assert path in mounted, name

    @BOTH
    @EACH
    def test_everything_is_spoken_over_tls(self, overlay: str, service: str) -> None:
        told = environ(overlay, service)
        assert {
            f"{prefix(service)}TLS_{part}_FILE" for part in ("CERTIFICATE", "KEY", "CA")
        } <= told.keys()
        assert f"{prefix(service)}TOKENS_DIR" not in told

    @BOTH
    @EACH
    def test_what_postgresql_is_checked_against_is_mounted_wherever_a_dsn_is(
        self, overlay: str, service: str
    ) -> None:
        """In the demo its DSNs name the file; in production those of docs/operate do."""
        for found in (workload(overlay, service), migration(overlay, service)):
            (container,) = (
                one for one in found.containers if one["image"].startswith(f"ownkey/{service}:")
            )
            assert CA_FILE in set(files_of(overlay, found, container["name"]))
        shown = (ROOT / "docs/operate/kubernetes.md").read_text()
        assert f"sslmode=verify-full&sslrootcert={CA_FILE}" in shown

    @EACH
    def test_production_sends_traces_where_the_network_lets_it(self, service: str) -> None:
        told = environ("production", service)
        collector = urlsplit(told[f"{prefix(service)}OTLP_ENDPOINT"])
        assert collector.scheme == "https"
        assert f"{prefix(service)}OTLP_CA_FILE" in told
        policy = named("production", "NetworkPolicy", service)["spec"]
        (way,) = (
            rule
            for rule in policy["egress"]
            if collector.port in {one["port"] for one in rule["ports"]}
        )
        assert way["to"] == [
            {"namespaceSelector": {"matchLabels": {"ownkey.dev/monitoring": "true"}}}
        ]

    def test_the_demo_sends_no_providers_key_to_the_provider(self) -> None:
        """Each is simulated, where it is on this machine too."""
        told = json.loads(environ("demo", "router")["OWNKEY_ROUTER_PROVIDER_BASE_URLS"])
        simulator = workload("demo", "router").container("simulator")["args"][-1]
        assert told == {
            path.partition("/")[0]: f"http://{simulator}/{path}" for path in SIMULATED_PROVIDERS
        }

    def test_production_never_asks_the_demos_own_vault(self) -> None:
        address = "OWNKEY_KEYVAULT_VAULT_ADDRESS"
        demos, ours = (environ(overlay, "keyvault")[address] for overlay in ("demo", "production"))
        assert urlsplit(demos).hostname == named("demo", "Service", "vault")["metadata"]["name"]
        assert urlsplit(ours).hostname != urlsplit(demos).hostname

    @BOTH
    @EACH
    def test_its_migration_needs_nothing_but_the_database(self, overlay: str, service: str) -> None:
        job = migration(overlay, service)
        name = f"{prefix(service)}DATABASE_DSN_FILE"
        assert job.environ("migrate") == {name: environ(overlay, service)[name]}
        # A Job cannot be changed, so each release brings its own.
        image = workload(overlay, service).container(service)["image"]
        assert job.container("migrate")["image"] == image
        release = image.partition(":")[2].replace(".", "-")
        assert job.name == f"{service}-migrate-{release}"


@pytest.mark.requirement("O3", "O7")
class TestPorts:
    @BOTH
    @EACH
    def test_containers_name_what_the_service_listens_on(self, overlay: str, service: str) -> None:
        told = environ(overlay, service)
        listens = dict(LISTENS, http="HTTP_LISTEN") if service == "router" else LISTENS
        ports = {
            one["name"]: one["containerPort"]
            for one in workload(overlay, service).container(service)["ports"]
        }
        assert ports == {
            name: int(told[prefix(service) + setting].rpartition(":")[2])
            for name, setting in listens.items()
        }

    @BOTH
    @EACH
    def test_the_service_leads_to_ports_that_there_are(self, overlay: str, service: str) -> None:
        ports = {one["name"] for one in workload(overlay, service).container(service)["ports"]}
        led_to = {one["targetPort"] for one in named(overlay, "Service", service)["spec"]["ports"]}
        # Probes come from the node itself, and from nobody else.
        assert led_to == ports - {"health"}

    @BOTH
    @EACH
    def test_probes_ask_the_health_service(self, overlay: str, service: str) -> None:
        container = workload(overlay, service).container(service)
        health = next(one for one in container["ports"] if one["name"] == "health")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["grpc"]["port"] == health["containerPort"]
        stubs = importlib.import_module(f"ownkey.{service}.v1.{service}_service_pb2")
        (served,) = stubs.DESCRIPTOR.services_by_name.values()
        assert container["readinessProbe"]["grpc"]["service"] == served.full_name

    @BOTH
    @EACH
    def test_peers_are_services_that_there_are(self, overlay: str, service: str) -> None:
        for name, target in environ(overlay, service).items():
            if target.startswith("dns:///"):
                host, _, port = target.removeprefix("dns:///").partition(":")
                ports = named(overlay, "Service", host)["spec"]["ports"]
                assert int(port) in {one["port"] for one in ports}, name


@pytest.mark.requirement("O7")
class TestDrain:
    @BOTH
    @EACH
    def test_a_pod_is_left_the_time_that_its_drain_takes(self, overlay: str, service: str) -> None:
        found = workload(overlay, service)
        leaving = found.container(service)["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = float(environ(overlay, service)[f"{prefix(service)}DRAIN_SECONDS"])
        assert found.pod["terminationGracePeriodSeconds"] > leaving + drain

    @BOTH
    @EACH
    def test_a_drain_outlasts_the_longest_stream(self, overlay: str, service: str) -> None:
        drain = float(environ(overlay, service)[f"{prefix(service)}DRAIN_SECONDS"])
        assert drain > STREAM_SECONDS_MAX
