# SPDX-License-Identifier: Apache-2.0
"""Keyvault on a real Vault by its service account, which a cluster's API vouches for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.vault import LocalVault
from services.keyvault.adapters.vault_login import KubernetesAuth
from services.keyvault.adapters.vault_transit import VaultTransit
from services.keyvault.errors import KekCause, KekUnavailableError
from tests.support.clock import ManualClock
from tests.support.keyvault import OPENAI_KEY, new_request_id, running_keyvault
from tests.support.token_review import (
    API_AUDIENCE,
    AUDIENCE,
    NAMESPACE,
    Cluster,
    running_cluster,
)
from tests.support.vault_transit import vault_environ, vault_transit

pytestmark = pytest.mark.requirement("K9", "O7")

CONTEXT = b"context"
SERVICE_ACCOUNT = "keyvault"
ROLE = "keyvault"
TOKEN_SECONDS = 600


@dataclass
class Pod:
    """
    What keyvault sees of its pod.

    Args:
        cluster: Where it runs.
        mount: Where Vault knows the cluster.
        token_file: Its projected token.
    """

    cluster: Cluster
    mount: str
    token_file: Path

    def project(self, token: str) -> None:
        """Exchange the token as the kubelet does."""
        self.token_file.write_text(token)

    def method(self, role: str = ROLE) -> KubernetesAuth:
        """Its way to log in."""
        return KubernetesAuth(self.mount, role=role, token_file=self.token_file)


@pytest.fixture
async def pod(vault: LocalVault, tmp_path: Path) -> AsyncIterator[Pod]:
    """A pod in a cluster that the shared Vault knows."""
    async with running_cluster() as cluster:
        token_file = tmp_path / "token"
        token_file.touch(mode=0o600)
        pod = Pod(cluster, f"kubernetes-{new_request_id()}", token_file)
        pod.project(cluster.issue(SERVICE_ACCOUNT))
        reviewer = cluster.issue("vault-reviewer", API_AUDIENCE)
        await asyncio.to_thread(_introduce, vault.admin(), pod, reviewer)
        yield pod
        await asyncio.to_thread(vault.admin().sys.disable_auth_method, pod.mount)


def _introduce(admin: Any, pod: Pod, reviewer: str) -> None:
    admin.sys.enable_auth_method("kubernetes", path=pod.mount)
    _configure(admin, pod, reviewer)
    admin.write_data(
        f"auth/{pod.mount}/role/{ROLE}",
        data={
            "bound_service_account_names": SERVICE_ACCOUNT,
            "bound_service_account_namespaces": NAMESPACE,
            "audience": AUDIENCE,
            "token_policies": "keyvault",
            "token_no_default_policy": True,
            "token_ttl": TOKEN_SECONDS,
        },
    )


def _configure(admin: Any, pod: Pod, reviewer: str) -> None:
    """Tell Vault where the cluster is, and by which token to ask it; "" asks by the caller's."""
    admin.write_data(
        f"auth/{pod.mount}/config",
        data={
            "kubernetes_host": pod.cluster.address,
            "token_reviewer_jwt": reviewer,
            "disable_local_ca_jwt": True,
        },
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def transit(vault: LocalVault, pod: Pod, clock: ManualClock) -> AsyncIterator[VaultTransit]:
    """Keyvault's adapter, logged in as the pod's service account."""
    adapter = vault_transit(vault, clock=clock, login=pod.method())
    yield adapter
    await adapter.close()


async def test_a_service_account_wraps_and_unwraps(transit: VaultTransit, pod: Pod) -> None:
    await transit.check_key()
    key = await transit.generate_data_key(CONTEXT)

    assert await transit.unwrap(key.wrapped, CONTEXT) is not None
    assert pod.cluster.reviewed == 1


async def test_a_revoked_token_is_replaced_by_one_login_for_all(
    vault: LocalVault, transit: VaultTransit, pod: Pod
) -> None:
    keys = [await transit.generate_data_key(CONTEXT) for _ in range(4)]
    token = (await transit._login.token()).value
    await asyncio.to_thread(vault.admin().revoke_token, token.reveal())
    opened = await asyncio.gather(*(transit.unwrap(key.wrapped, CONTEXT) for key in keys))

    assert all(secret is not None for secret in opened)
    assert pod.cluster.reviewed == 2


async def test_it_logs_in_ahead_of_the_end_with_the_token_that_is_there_then(
    transit: VaultTransit, pod: Pod, clock: ManualClock
) -> None:
    key = await transit.generate_data_key(CONTEXT)
    first = (pod.token_file).read_text()
    pod.cluster.revoke(first)
    pod.project(pod.cluster.issue(SERVICE_ACCOUNT))
    clock.advance(TOKEN_SECONDS / 2)
    await transit.unwrap(key.wrapped, CONTEXT)
    assert pod.cluster.reviewed == 1

    clock.advance(TOKEN_SECONDS / 4)
    assert await transit.unwrap(key.wrapped, CONTEXT) is not None
    assert pod.cluster.reviewed == 2


async def test_a_login_ahead_of_time_that_fails_costs_nothing_while_the_old_one_lives(
    transit: VaultTransit, pod: Pod, clock: ManualClock
) -> None:
    key = await transit.generate_data_key(CONTEXT)
    pod.cluster.revoke(pod.token_file.read_text())
    clock.advance(TOKEN_SECONDS * 3 / 4)
    assert await transit.unwrap(key.wrapped, CONTEXT) is not None

    clock.advance(TOKEN_SECONDS)
    with pytest.raises(KekUnavailableError) as refused:
        await transit.unwrap(key.wrapped, CONTEXT)
    assert refused.value.cause is KekCause.DENIED


class TestRefusals:
    async def denied(self, vault: LocalVault, login: KubernetesAuth) -> None:
        transit = vault_transit(vault, login=login)
        with pytest.raises(KekUnavailableError) as refused:
            await transit.generate_data_key(CONTEXT)
        await transit.close()
        assert refused.value.cause is KekCause.DENIED

    async def test_a_token_that_the_cluster_does_not_know(
        self, vault: LocalVault, pod: Pod
    ) -> None:
        pod.cluster.revoke(pod.token_file.read_text())
        await self.denied(vault, pod.method())

    async def test_another_service_account(self, vault: LocalVault, pod: Pod) -> None:
        pod.project(pod.cluster.issue("router"))
        await self.denied(vault, pod.method())

    async def test_a_role_that_is_not_there(self, vault: LocalVault, pod: Pod) -> None:
        await self.denied(vault, pod.method(role="mistyped"))

    async def test_what_is_no_token(self, vault: LocalVault, pod: Pod) -> None:
        pod.project("no-token")
        await self.denied(vault, pod.method())

    async def test_a_vault_that_has_no_reviewers_token(self, vault: LocalVault, pod: Pod) -> None:
        """It asks by keyvault's own, which is for Vault and not for the cluster's API."""
        await asyncio.to_thread(_configure, vault.admin(), pod, "")
        await self.denied(vault, pod.method())
        assert pod.cluster.reviewed == 0

    async def test_a_token_that_others_may_read(self, vault: LocalVault, pod: Pod) -> None:
        pod.token_file.chmod(0o644)
        await self.denied(vault, pod.method())
        assert pod.cluster.reviewed == 0


async def test_a_whole_keyvault_runs_by_it(
    tmp_path: Path, keyvault_dsn: str, vault: LocalVault, pod: Pod
) -> None:
    approle = {"VAULT_ROLE_ID_FILE", "VAULT_SECRET_ID_FILE"}
    settings = {name: text for name, text in vault_environ(vault).items() if name not in approle}
    settings |= {
        "VAULT_LOGIN": "kubernetes",
        "VAULT_KUBERNETES_MOUNT": pod.mount,
        "VAULT_KUBERNETES_ROLE": ROLE,
        "VAULT_KUBERNETES_TOKEN_FILE": str(pod.token_file),
    }
    async with running_keyvault(tmp_path, keyvault_dsn, **settings) as vaulted:
        await vaulted.create()
        [account] = (await vaulted.resolve()).accounts

    assert account.keys[0].secret == OPENAI_KEY
    assert pod.cluster.reviewed == 1
