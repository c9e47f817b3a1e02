# SPDX-License-Identifier: Apache-2.0
"""The settings page in the demo: closed but for a forwarded port, and as the code has it."""

from __future__ import annotations

import importlib.util

import pytest

from client.web.config import PREFIX, WebConfig
from services.shared.config import is_loopback, settings_of
from tests.support.manifests import named, of_kind, workload, workloads

pytestmark = pytest.mark.requirement("O7", "O10")

TLS = {f"{PREFIX}TLS_{part}_FILE" for part in ("CERTIFICATE", "KEY", "CA")}


class TestSettingsPage:
    def test_its_settings_are_known_and_taken(self) -> None:
        known = settings_of(WebConfig, prefix=PREFIX)
        told = workload("demo", "web").environ("web")

        for name, value in told.items():
            known[name].metadata["parse"](value)
        assert told.keys() >= TLS | {f"{PREFIX}ACCOUNT"}
        assert is_loopback(told[f"{PREFIX}LISTEN"])

    def test_it_calls_services_that_there_are(self) -> None:
        told = workload("demo", "web").environ("web")
        for service in ("keyvault", "router", "ledger"):
            host, _, port = told[f"{PREFIX}{service.upper()}_ADDRESS"][len("dns:///") :].partition(
                ":"
            )
            assert host == service
            assert int(port) in {
                one["port"] for one in named("demo", "Service", host)["spec"]["ports"]
            }

    def test_probes_ask_it_where_it_listens(self) -> None:
        found = workload("demo", "web")
        listen = found.environ("web")[f"{PREFIX}LISTEN"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            python, flag, module, address = found.container("web")[probe]["exec"]["command"]
            assert (python, flag, address) == ("python", "-m", listen)
            assert importlib.util.find_spec(module) is not None

    def test_nobody_of_the_cluster_reaches_it(self) -> None:
        policy = named("demo", "NetworkPolicy", "web")["spec"]
        assert policy["ingress"] == []
        assert not [one for one in of_kind("demo", "Service") if one["metadata"]["name"] == "web"]

    def test_production_has_none(self) -> None:
        assert "web" not in {one.name for one in workloads("production")}
