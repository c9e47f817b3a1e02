# SPDX-License-Identifier: Apache-2.0
"""The certificates that are issued in production are those that the services' policies know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.support.manifests import ROOT, Object, of_kind, workload, workloads

OVERLAY = "production"
SERVICES = ("keyvault", "router", "ledger")
CERTIFICATES: Mapping[str, Object] = {
    one["metadata"]["name"]: one["spec"] for one in of_kind(OVERLAY, "Certificate")
}
EACH = pytest.mark.parametrize("name", sorted(CERTIFICATES))
NOT_IN_PRODUCTION = {"web"}
"""The settings page is for trials."""

pytestmark = pytest.mark.requirement("O5", "O7")


def policy_names(service: str) -> dict[str, list[str]]:
    """The names of certificates that a service's packaged policy knows, by identity."""
    path = ROOT / "services" / service / "policy.yaml"
    read: dict[str, Any] = yaml.safe_load(path.read_text())["identities"]
    return {identity: told["certificates"] for identity, told in read.items()}


def callers(service: str) -> set[str]:
    """Who may call a service, by its packaged policy, with a certificate."""
    path = ROOT / "services" / service / "policy.yaml"
    rules = yaml.safe_load(path.read_text())["rules"]
    return {identity for rule in rules for identity in rule["identities"]} - {"anonymous"}


class TestNames:
    @pytest.mark.parametrize("service", SERVICES)
    def test_whoever_may_call_a_service_is_issued_the_name_that_its_policy_knows(
        self, service: str
    ) -> None:
        known = policy_names(service)
        for identity in callers(service) - NOT_IN_PRODUCTION:
            assert CERTIFICATES[identity]["uris"] == known[identity]

    @EACH
    def test_a_certificate_shows_one_identity_alone(self, name: str) -> None:
        uris = CERTIFICATES[name]["uris"]
        assert uris == [f"spiffe://ownkey.internal/{name}"]
        for service in SERVICES:
            # Not by a name of the service either: a DNS name in a policy would be a second one.
            shown = {*uris, *CERTIFICATES[name].get("dnsNames", [])}
            assert {
                identity for identity, names in policy_names(service).items() if shown & set(names)
            } <= {name}

    @EACH
    def test_it_may_be_used_for_what_its_owner_does_and_no_more(self, name: str) -> None:
        calls = any(name in callers(service) for service in SERVICES)
        assert set(CERTIFICATES[name]["usages"]) == {
            "digital signature",
            *(["client auth"] if calls else []),
            *(["server auth"] if name in SERVICES else []),
        }

    @pytest.mark.parametrize("service", SERVICES)
    def test_a_service_is_issued_every_name_by_which_it_is_called(self, service: str) -> None:
        (namespace,) = of_kind(OVERLAY, "Namespace")
        within = f"{service}.{namespace['metadata']['name']}"
        names = CERTIFICATES[service]["dnsNames"]
        assert names == [service, within, f"{within}.svc", f"{within}.svc.cluster.local"]
        called = {
            target.removeprefix("dns:///").partition(":")[0]
            for one in SERVICES
            for target in workload(OVERLAY, one).environ(one).values()
            if target.startswith(f"dns:///{service}:")
        }
        assert called <= set(names)


class TestSecrets:
    def test_every_pod_mounts_the_certificate_of_its_own_identity(self) -> None:
        for found in workloads(OVERLAY):
            mounted = {
                volume["secret"]["secretName"]
                for volume in found.pod["volumes"]
                if volume.get("secret", {}).get("secretName", "").endswith("-tls")
            }
            own = found.labels["app.kubernetes.io/name"]
            assert mounted == ({CERTIFICATES[own]["secretName"]} if own in SERVICES else set())

    @EACH
    def test_it_lives_for_hours_and_is_renewed_well_before_its_end(self, name: str) -> None:
        """The alert of an ending certificate counts on it."""
        told = CERTIFICATES[name]
        assert (told["duration"], told["renewBefore"]) == ("24h", "8h")
        assert told["privateKey"]["rotationPolicy"] == "Always"
        issuers = {one["metadata"]["name"] for one in of_kind(OVERLAY, "Issuer")}
        assert told["issuerRef"]["kind"] == "Issuer"
        assert told["issuerRef"]["name"] in issuers
