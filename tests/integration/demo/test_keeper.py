# SPDX-License-Identifier: Apache-2.0
"""The demo's keeper makes what is missing, once, on a real PostgreSQL and a real Vault."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import hvac
import pytest

from deploy.demo import databases, keeper
from deploy.demo.cluster import Cluster, ClusterError
from deploy.demo.databases import DatabasesNotReadyError
from deploy.demo.vault import VaultNotReadyError
from deploy.local.certificates import files_in
from deploy.local.postgres import PostgresServer
from deploy.local.processes import Command, Process, free_port, port_is_free
from deploy.programs import VAULT
from services.shared.certificates import TlsFiles, read_material
from tests.support.kubernetes_objects import Objects, kubernetes_objects
from tests.support.postgres_tls import postgres_over_tls
from tests.support.tls import Issuer

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Objects]:
    with kubernetes_objects(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(objects: Objects, tmp_path: Path) -> Cluster:
    return Cluster(objects.address, tmp_path)


def written(cluster: Cluster, identity: str, folder: Path) -> TlsFiles:
    """An identity's certificate, as the kubelet writes its Secret into a pod."""
    content = cluster.secret(f"{identity}-tls")
    assert content is not None
    folder.mkdir()
    for name, value in content.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(value)
    return files_in(folder)


class NewVault:
    """A Vault that nobody has initialised, with the keeper's certificate."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        keeper.keep_certificates(cluster, now=NOW)
        content = cluster.secret("vault-tls")
        assert content is not None
        for name, value in content.items():
            (folder / name).write_bytes(value)
        port = free_port()
        self.address = f"https://127.0.0.1:{port}"
        self.ca_file = folder / "ca.crt"
        config = {
            "storage": {"file": {"path": str(folder / "store")}},
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{port}",
                    "tls_cert_file": str(folder / "tls.crt"),
                    "tls_key_file": str(folder / "tls.key"),
                }
            },
            "disable_mlock": True,
        }
        (folder / "config.json").write_text(json.dumps(config))
        arguments = [str(VAULT.find()), "server", f"-config={folder / 'config.json'}"]
        self.process = Process(Command(name="vault", arguments=arguments), log_folder=folder)
        self._listens = lambda: not port_is_free(port)

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(self._listens)


@pytest.fixture
def new_vault(cluster: Cluster, tmp_path: Path) -> Iterator[NewVault]:
    folder = tmp_path / "vault"
    folder.mkdir()
    server = NewVault(cluster, folder)
    server.start()
    yield server
    server.process.stop()


@pytest.mark.requirement("O7")
class TestSecrets:
    def test_certificates_are_what_the_services_take(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        assert keeper.keep_certificates(cluster, now=NOW)
        assert not keeper.keep_certificates(cluster, now=NOW)
        for identity in (*keeper.SERVICES, "operator", "backend", *keeper.TLS_SERVERS):
            files = written(cluster, identity, tmp_path / identity)
            names = read_material(files, now=NOW).names
            assert {f"spiffe://ownkey.internal/{identity}", identity} <= set(names)

    def test_what_is_there_is_left_alone(self, cluster: Cluster, objects: Objects) -> None:
        made = keeper.keep_passwords(cluster)
        assert made == ["postgres-secrets", "keyvault-secrets", "router-secrets", "ledger-secrets"]
        before = dict(objects.stored)
        assert keeper.keep_passwords(cluster) == []
        assert objects.stored == before

    def test_a_lost_one_is_made_to_fit_the_others(self, cluster: Cluster, objects: Objects) -> None:
        keeper.keep_passwords(cluster)
        before = cluster.secret("router-secrets")
        del objects.stored["secrets/router-secrets"]
        assert keeper.keep_passwords(cluster) == ["router-secrets"]
        after = cluster.secret("router-secrets")
        assert before is not None
        assert after is not None
        assert after["database-dsn"] == before["database-dsn"]

    def test_a_refusal_says_what_the_role_must_allow(
        self, objects: Objects, tmp_path: Path
    ) -> None:
        objects.token = "another"
        with pytest.raises(ClusterError, match="status 401; the keeper's Role must allow"):
            keeper.keep_passwords(Cluster(objects.address, tmp_path))


@pytest.mark.requirement("O7")
class TestDatabases:
    async def test_each_service_gets_one_that_it_alone_enters(
        self, cluster: Cluster, postgres: PostgresServer, tmp_path: Path
    ) -> None:
        keeper.keep_certificates(cluster, now=NOW)
        keeper.keep_passwords(cluster)
        files = written(cluster, "postgres", tmp_path / "postgres")
        try:
            async with postgres_over_tls(postgres.dsn, files, trusted=files) as dsn:
                # The authority is the one that the keeper hands over.
                bare = dsn.removesuffix(str(files.ca))
                made = await keeper.keep_databases(cluster, lambda _, ca_file: f"{bare}{ca_file}")
                assert made == [f"ownkey_{service}" for service in keeper.SERVICES]
                again = await keeper.keep_databases(cluster, lambda _, ca_file: f"{bare}{ca_file}")
                assert again == []
            stored = cluster.secret("ledger-secrets")
            assert stored is not None
            own = urlsplit(stored["database-dsn"].decode())
            dsn = postgres.dsn_for(
                "ownkey_ledger", user=own.username or "", password=own.password or ""
            )
            connection = await asyncpg.connect(dsn)
            await connection.execute("CREATE TABLE t ()")
            await connection.close()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(dsn.replace("/ownkey_ledger?", "/ownkey_keyvault?"))
        finally:
            for service in keeper.SERVICES:
                postgres.drop_database(f"ownkey_{service}")

    def test_its_pods_speak_to_it_over_tls_alone(self, cluster: Cluster) -> None:
        keeper.keep_passwords(cluster)
        for service in keeper.SERVICES:
            stored = cluster.secret(f"{service}-secrets")
            assert stored is not None
            own = urlsplit(stored["database-dsn"].decode())
            assert parse_qs(own.query) == {
                "sslmode": ["verify-full"],
                "sslrootcert": [str(databases.CA_FILE)],
            }

    async def test_a_server_of_another_authority_is_told(
        self, cluster: Cluster, postgres: PostgresServer, tmp_path: Path
    ) -> None:
        keeper.keep_certificates(cluster, now=NOW)
        keeper.keep_passwords(cluster)
        files = Issuer().issue(tmp_path / "other", "postgres")
        async with postgres_over_tls(postgres.dsn, files, trusted=files) as dsn:
            bare = dsn.removesuffix(str(files.ca))
            with pytest.raises(DatabasesNotReadyError, match="certificate is not accepted"):
                await keeper.keep_databases(cluster, lambda _, ca_file: f"{bare}{ca_file}")

    async def test_one_that_is_away_is_said_without_its_password(self, cluster: Cluster) -> None:
        keeper.keep_certificates(cluster, now=NOW)
        keeper.keep_passwords(cluster)
        with pytest.raises(DatabasesNotReadyError) as refused:
            await keeper.keep_databases(
                cluster,
                lambda password, _: f"postgresql://postgres:{password}@127.0.0.1:1/postgres",
            )
        stored = cluster.secret("postgres-secrets")
        assert stored is not None
        assert stored["password"].decode() not in str(refused.value)


@pytest.mark.requirement("O7", "K9")
class TestVault:
    def test_it_is_opened_set_up_and_opened_again_after_a_restart(
        self, cluster: Cluster, new_vault: NewVault
    ) -> None:
        assert keeper.keep_vault(cluster, address=new_vault.address) == "initialised"
        assert keeper.keep_vault(cluster, address=new_vault.address) == "open"
        new_vault.process.stop()
        with pytest.raises(VaultNotReadyError):
            keeper.keep_vault(cluster, address=new_vault.address)
        new_vault.start()
        assert keeper.keep_vault(cluster, address=new_vault.address) == "unsealed"

        stored = cluster.secret("vault-unseal")
        assert stored is not None
        admin = hvac.Client(url=new_vault.address, verify=str(new_vault.ca_file))
        admin.token = json.loads(stored["init.json"])["root_token"]
        key = admin.secrets.transit.read_key("ownkey")["data"]
        assert key["derived"] is True
        assert key["exportable"] is False
        assert admin.read("transit/config/keys")["data"]["disable_upsert"] is True
        role = admin.read("auth/kubernetes/role/ownkey-keyvault")["data"]
        assert role["bound_service_account_names"] == ["keyvault"]
        assert role["bound_service_account_namespaces"] == [cluster.namespace]
        assert role["audience"] == "vault"
        assert role["token_policies"] == ["keyvault"]

    def test_what_opens_it_is_never_made_anew(
        self, cluster: Cluster, objects: Objects, new_vault: NewVault
    ) -> None:
        keeper.keep_vault(cluster, address=new_vault.address)
        del objects.stored["secrets/vault-unseal"]
        with pytest.raises(VaultNotReadyError, match="is gone: put it back"):
            keeper.keep_vault(cluster, address=new_vault.address)
