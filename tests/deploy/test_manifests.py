# SPDX-License-Identifier: Apache-2.0
"""The manifests are accepted by Kubernetes, and every pod is as confined as it can be."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest

from tests.support import custom_resources
from tests.support.manifests import (
    OVERLAYS,
    Object,
    Workload,
    named,
    of_kind,
    rendered,
    selects,
    workloads,
)

KUBERNETES_VERSIONS = ("1.32", "1.36")
"""The oldest and the newest that are promised."""
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
OPERATORS_KINDS = ("Certificate", "Issuer", "PrometheusRule", "ServiceMonitor")
"""Kinds that operators add to a cluster; Kubernetes itself has no schema for them."""
ALL_WORKLOADS = [(name, workload) for name in NAMES for workload in workloads(name)]
ALL_CONTAINERS = [
    (name, workload, container)
    for name, workload in ALL_WORKLOADS
    for container in workload.containers
]


def identify(value: object) -> str:
    if isinstance(value, Workload):
        return value.name
    return value["name"] if isinstance(value, dict) else str(value)


@pytest.mark.requirement("O7")
class TestObjects:
    @pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
    @pytest.mark.parametrize("overlay", NAMES)
    def test_kubernetes_accepts_each_strictly(self, overlay: str, version: str) -> None:
        for one in rendered(overlay):
            if one["kind"] not in OPERATORS_KINDS:
                kubernetes_validate.validate(one, version, strict=True)

    @pytest.mark.parametrize("kind", OPERATORS_KINDS)
    def test_its_operator_accepts_each_strictly(self, kind: str) -> None:
        found = list(of_kind("production", kind))
        assert found
        for one in found:
            custom_resources.validate(one)

    @pytest.mark.parametrize(
        ("kind", "change", "told"),
        [
            ("Certificate", {"spec": {"dnsName": ["x"]}}, "dnsName"),
            ("Certificate", {"spec": {"duration": 24}}, "24 is not of type 'string'"),
            ("Certificate", {"apiVersion": "cert-manager.io/v1beta1"}, "v1beta1"),
            ("Issuer", {"spec": {"ca": {"secret": "ownkey-ca"}}}, "secret"),
            ("PrometheusRule", {"spec": {"groups": [{"rules": []}]}}, "'name' is a required"),
            ("ServiceMonitor", {"spec": {"endpoints": [{"interval": "often"}]}}, "often"),
        ],
    )
    def test_what_an_operator_would_not_take_is_refused(
        self, kind: str, change: Object, told: str
    ) -> None:
        """Else the test before this one would prove nothing."""
        one = next(of_kind("production", kind))
        spec = {**one["spec"], **change.get("spec", {})}
        with pytest.raises(custom_resources.RefusedError, match=re.escape(told)):
            custom_resources.validate({**one, **change, "spec": spec})

    @pytest.mark.parametrize("overlay", NAMES)
    def test_each_stands_in_the_overlays_own_namespace(self, overlay: str) -> None:
        (namespace,) = of_kind(overlay, "Namespace")
        cluster_wide = {"Namespace", "ClusterRoleBinding"}
        assert {
            one["metadata"].get("namespace")
            for one in rendered(overlay)
            if one["kind"] not in cluster_wide
        } == {namespace["metadata"]["name"]}
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_vault_is_given_a_token_that_may_have_others_reviewed(self) -> None:
        secret = named("production", "Secret", "vault-reviewer")
        account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
        assert secret["type"] == "kubernetes.io/service-account-token"
        found = named("production", "ServiceAccount", account)["metadata"]
        (binding,) = of_kind("production", "ClusterRoleBinding")
        assert binding["roleRef"]["name"] == "system:auth-delegator"
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": account, "namespace": found["namespace"]}
        ]

    def test_the_demo_needs_nothing_installed_in_the_cluster(self) -> None:
        assert not list(of_kind("demo", *OPERATORS_KINDS))


@pytest.mark.requirement("O7")
class TestPods:
    @pytest.mark.parametrize(("overlay", "workload"), ALL_WORKLOADS, ids=identify)
    def test_run_as_a_user_without_rights(self, overlay: str, workload: Workload) -> None:
        context = workload.pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert workload.pod["enableServiceLinks"] is False

    @pytest.mark.parametrize(("overlay", "workload"), ALL_WORKLOADS, ids=identify)
    def test_see_the_api_server_only_where_they_must(
        self, overlay: str, workload: Workload
    ) -> None:
        sees = workload.pod["automountServiceAccountToken"]
        assert sees is (workload.name in {"keeper", "vault"})

    @pytest.mark.parametrize(("overlay", "workload", "container"), ALL_CONTAINERS, ids=identify)
    def test_containers_are_confined(
        self, overlay: str, workload: Workload, container: Object
    ) -> None:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["privileged"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}

    @pytest.mark.parametrize(("overlay", "workload", "container"), ALL_CONTAINERS, ids=identify)
    def test_containers_say_what_they_need(
        self, overlay: str, workload: Workload, container: Object
    ) -> None:
        resources = container["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}
        # No limit on processors: a throttled pod is late everywhere, a busy one only shares.
        assert resources["limits"].keys() == {"memory"}

    @pytest.mark.parametrize(("overlay", "workload", "container"), ALL_CONTAINERS, ids=identify)
    def test_images_are_pinned(self, overlay: str, workload: Workload, container: Object) -> None:
        name, _, tag = container["image"].partition(":")
        assert tag[:1].isdigit()
        # Our own get their digest where they are built; what others built is one exact image.
        own = name.startswith("ownkey/")
        assert own or re.search(r"@sha256:[0-9a-f]{64}$", tag)

    @pytest.mark.parametrize(("overlay", "workload", "container"), ALL_CONTAINERS, ids=identify)
    def test_every_mount_has_its_volume(
        self, overlay: str, workload: Workload, container: Object
    ) -> None:
        volumes = {one["name"] for one in workload.pod["volumes"]}
        volumes |= {
            claim["metadata"]["name"]
            for claim in workload.owner["spec"].get("volumeClaimTemplates", [])
        }
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.requirement("O7", "O8")
class TestReplicas:
    @pytest.mark.parametrize("overlay", NAMES)
    @pytest.mark.parametrize("service", ["keyvault", "router", "ledger"])
    def test_each_service_scales_and_is_never_taken_away_whole(
        self, overlay: str, service: str
    ) -> None:
        deployment = named(overlay, "Deployment", service)
        scaler = named(overlay, "HorizontalPodAutoscaler", service)["spec"]
        assert scaler["scaleTargetRef"]["name"] == service
        # An apply must not undo what the autoscaler set.
        assert "replicas" not in deployment["spec"]
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        budget = named(overlay, "PodDisruptionBudget", service)["spec"]
        assert budget["maxUnavailable"] == 1
        labels = Workload(deployment).labels
        assert budget["selector"]["matchLabels"]
        assert selects(budget["selector"], labels)
        spreads = Workload(deployment).pod["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spreads} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        for spread in spreads:
            assert selects(spread["labelSelector"], labels)

    @pytest.mark.parametrize("service", ["keyvault", "router", "ledger"])
    def test_production_never_runs_on_one_replica(self, service: str) -> None:
        scaler = named("production", "HorizontalPodAutoscaler", service)["spec"]
        assert scaler["minReplicas"] >= 2
        assert scaler["maxReplicas"] > scaler["minReplicas"]

    @pytest.mark.parametrize("overlay", NAMES)
    @pytest.mark.parametrize("service", ["keyvault", "router", "ledger"])
    def test_callers_resolve_every_replica(self, overlay: str, service: str) -> None:
        found = named(overlay, "Service", service)["spec"]
        assert found["clusterIP"] == "None"
        assert selects(
            {"matchLabels": found["selector"]},
            Workload(named(overlay, "Deployment", service)).labels,
        )
