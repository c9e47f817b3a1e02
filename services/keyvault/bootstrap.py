# SPDX-License-Identifier: Apache-2.0
"""The wiring: the only place that knows every part of keyvault."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc.aio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from ownkey.keyvault.v1 import keyvault_service_pb2_grpc

from services.keyvault.adapters.local_keyring import LocalKeyring
from services.keyvault.adapters.metrics import (
    PrometheusCacheMeter,
    show_broken_chains,
    show_waiting_restore,
)
from services.keyvault.adapters.postgres_audit import PostgresAuditLog
from services.keyvault.adapters.postgres_audit_chain import PostgresAuditChain
from services.keyvault.adapters.postgres_keys import PostgresKeyStore
from services.keyvault.adapters.postgres_proofs import PostgresProofs
from services.keyvault.adapters.postgres_records import PostgresRecords
from services.keyvault.adapters.postgres_restoring import PostgresRestoring
from services.keyvault.adapters.postgres_service_keys import PostgresServiceKeys
from services.keyvault.adapters.postgres_sharing import PostgresSharing
from services.keyvault.adapters.router_prober import RouterProber
from services.keyvault.adapters.vault_http import VaultSettings
from services.keyvault.adapters.vault_login import AppRole, KubernetesAuth, LoginMethod
from services.keyvault.adapters.vault_transit import VaultTransit
from services.keyvault.config import (
    KEK_VAULT,
    LOGIN_KUBERNETES,
    PROMOTIONS_TRUST,
    KeyvaultConfig,
)
from services.keyvault.domain.sealing import Lifetimes
from services.keyvault.rpc.policy import DESCRIPTOR, SERVICE
from services.keyvault.rpc.servicer import KeyvaultServicer, UseCases
from services.keyvault.rpc.status import STATUS
from services.keyvault.usecases.audit_chain import AuditChainer, VerifyAudit
from services.keyvault.usecases.change_feed import ChangeFeed
from services.keyvault.usecases.change_keys import ChangeKeys
from services.keyvault.usecases.change_settings import ChangeSettings
from services.keyvault.usecases.create_key import CreateKey
from services.keyvault.usecases.data_keys import DataKeys
from services.keyvault.usecases.end_overlaps import EndOverlaps
from services.keyvault.usecases.housekeeping import Housekeeping
from services.keyvault.usecases.idempotency import Fingerprinter
from services.keyvault.usecases.kek import KekOperations
from services.keyvault.usecases.move_key import MoveKey
from services.keyvault.usecases.open_sealed_key import OpenSealedKey
from services.keyvault.usecases.ports import KeyEncryption, RecordStore
from services.keyvault.usecases.read_keys import ReadKeys
from services.keyvault.usecases.reencrypt_keys import ReencryptKeys
from services.keyvault.usecases.releases import Releases
from services.keyvault.usecases.replace_key import ReplaceKey
from services.keyvault.usecases.report_health import ReportHealth
from services.keyvault.usecases.resolve_keys import ResolveKeys
from services.keyvault.usecases.restore_watch import RestoreWatch
from services.keyvault.usecases.restoring import Restoring
from services.keyvault.usecases.rewrap_keys import RewrapKeys
from services.keyvault.usecases.sealed_secrets import SealedSecrets
from services.keyvault.usecases.sealing_keys import SealingKeys
from services.keyvault.usecases.service_keys import (
    AUDIT,
    CLIENT_HELD,
    REVOCATIONS,
    ServiceKeys,
)
from services.keyvault.usecases.shared_reads import SharedReads
from services.keyvault.usecases.sharing import Sharing
from services.keyvault.usecases.stored_secrets import SecretBox
from services.keyvault.usecases.test_key import Confirmations, TestKey
from services.shared.access import Access
from services.shared.boundary import Boundary
from services.shared.certificates import Certificates
from services.shared.channel import open_channel
from services.shared.clock import Clock, SystemClock
from services.shared.config import ConfigError, read_secret_file
from services.shared.dsn import read_dsn
from services.shared.identity import KEYVAULT
from services.shared.metrics import observe_rpc
from services.shared.migrate import check_schema
from services.shared.paging import PageTokens
from services.shared.policy_file import load_policy
from services.shared.postgres import Database
from services.shared.secret import Secret
from services.shared.server import ServerSpec

APPLICATION_NAME = "ownkey-keyvault"
MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA_CODE = 9
SCHEMA_NEEDED = 9
KEY_ID_BYTES = 8
DERIVED_KEY_BYTES = 32


@asynccontextmanager
async def keyvault(
    config: KeyvaultConfig, *, clock: Clock | None = None
) -> AsyncIterator[ServerSpec]:
    """
    Build the service; everything opened is closed at the end, in reverse order.

    Args:
        config: How it runs.
        clock: Time; the system's by default.

    Raises:
        ConfigError: If the database, the key-encryption key or a file does not fit.
        KekUnavailableError: If Vault cannot be used at start.
    """
    clock = clock or SystemClock()
    policy = load_policy(config.policy_file, DESCRIPTOR)
    access = Access(policy, tokens_dir=config.tokens_dir, clock=clock)
    certificates = config.certificates(clock=clock)
    async with AsyncExitStack() as stack:
        database = Database(
            lambda: read_dsn(config.database_dsn_file),
            application_name=APPLICATION_NAME,
            pool_size=config.database_pool_size,
        )
        stack.push_async_callback(database.close)
        await database.open()
        await check_schema(database, code=SCHEMA_CODE, needed=SCHEMA_NEEDED)
        store, audit = PostgresKeyStore(database), PostgresAuditLog(database)
        kek = await _open_kek(config, clock=clock, stack=stack)
        records = PostgresRecords(database)
        await _check_records(records, kek)
        await records.make_floor(kek.name)
        restore_store = PostgresRestoring(database)
        await restore_store.trust_promotions(trusted=config.promotions == PROMOTIONS_TRUST)
        await _start_restore_watch(restore_store, clock=clock, stack=stack)
        service_keys = ServiceKeys(kek=kek, store=PostgresServiceKeys(database))
        audit_key = await service_keys.open(AUDIT)
        chains = PostgresAuditChain(database)
        chainer = _start_chaining(chains, audit_key, clock=clock, stack=stack)
        channel = open_channel(config.router_address, certificates)
        stack.push_async_callback(channel.close)
        prober = RouterProber(channel, token=config.token(KEYVAULT), clock=clock)
        data_keys = DataKeys(
            kek,
            clock=clock,
            age_seconds_max=config.cache_seconds,
            grace_seconds=config.cache_grace_seconds,
            count_max=config.cache_keys,
            meter=PrometheusCacheMeter(),
        )
        stack.push_async_callback(data_keys.close)
        sealing_keys = SealingKeys(
            kek=kek,
            data_keys=data_keys,
            store=PostgresServiceKeys(database),
            lifetimes=Lifetimes(
                seal=timedelta(days=config.sealing_key_days),
                overlap=timedelta(days=config.sealed_key_days),
            ),
        )
        sealed = SealedSecrets(
            keys=sealing_keys,
            proofs=PostgresProofs(database),
            mac_key=await service_keys.open(CLIENT_HELD),
            clock=clock,
        )
        box = SecretBox(kek, data_keys=data_keys, random_bytes=os.urandom)
        master = read_secret_file(config.fingerprint_key_file)
        fingerprinter = Fingerprinter(_derive(master, "fingerprints"))
        reader = ReadKeys(
            store=store,
            audit=audit,
            tokens=PageTokens(_derive(master, "page tokens").reveal_bytes()),
        )
        releases = Releases(audit)
        stack.push_async_callback(releases.close)
        reads = SharedReads(store)
        stack.push_async_callback(reads.close)
        test_key = TestKey(store=store, prober=prober, box=box, sealed=sealed, releases=releases)
        confirmations = Confirmations(test_key)
        stack.push_async_callback(confirmations.close)
        feed = ChangeFeed(store)
        stack.push_async_callback(feed.close)
        housekeeping = Housekeeping(store, clock=clock)
        stack.push_async_callback(housekeeping.close)
        housekeeping.start()
        end_overlaps = EndOverlaps(store, clock=clock)
        stack.push_async_callback(end_overlaps.close)
        end_overlaps.start()
        servicer = KeyvaultServicer(
            UseCases(
                read=reader,
                create=CreateKey(
                    store=store,
                    prober=prober,
                    box=box,
                    sealed=sealed,
                    fingerprinter=fingerprinter,
                    clock=clock,
                    new_key_id=lambda: f"key-{secrets.token_hex(KEY_ID_BYTES)}",
                ),
                replace=ReplaceKey(
                    store=store,
                    reader=reader,
                    prober=prober,
                    box=box,
                    sealed=sealed,
                    fingerprinter=fingerprinter,
                ),
                move=MoveKey(store=store, box=box, sealed=sealed, fingerprinter=fingerprinter),
                change=ChangeKeys(
                    store=store, reader=reader, prober=prober, fingerprinter=fingerprinter
                ),
                settings=ChangeSettings(store=store, fingerprinter=fingerprinter),
                test=test_key,
                sealing_keys=sealing_keys,
                open_sealed=OpenSealedKey(reader=reader, sealed=sealed),
                resolve=ResolveKeys(reads=reads, box=box, releases=releases),
                feed=feed,
                report=ReportHealth(store=store, confirmations=confirmations),
                kek=KekOperations(
                    kek=kek,
                    store=store,
                    records=records,
                    fingerprinter=fingerprinter,
                ),
                rewrap=RewrapKeys(
                    kek=kek,
                    store=store,
                    records=records,
                    service_keys=service_keys,
                    clock=clock,
                ),
                reencrypt=ReencryptKeys(store=store, records=records, box=box, clock=clock),
                verify_audit=VerifyAudit(chains, chainer=chainer, key=audit_key),
                sharing=Sharing(PostgresSharing(database)),
                restoring=Restoring(restore_store, key=await service_keys.open(REVOCATIONS)),
            )
        )
        yield _spec(
            config, servicer, feed=feed, access=access, certificates=certificates, clock=clock
        )


def _start_chaining(
    chains: PostgresAuditChain, key: Secret, *, clock: Clock, stack: AsyncExitStack
) -> AuditChainer:
    chainer = AuditChainer(chains, key=key, clock=clock)
    show_broken_chains(chainer.broken)
    stack.push_async_callback(chainer.close)
    chainer.start()
    return chainer


async def _start_restore_watch(
    store: PostgresRestoring, *, clock: Clock, stack: AsyncExitStack
) -> None:
    watch = RestoreWatch(store, clock=clock)
    show_waiting_restore(watch.waiting)
    # Before anything is served, so that it is told from the first moment on.
    await watch()
    stack.push_async_callback(watch.close)
    watch.start()


def _spec(
    config: KeyvaultConfig,
    servicer: KeyvaultServicer,
    *,
    feed: ChangeFeed,
    access: Access,
    certificates: Certificates | None,
    clock: Clock,
) -> ServerSpec:
    def register(server: grpc.aio.Server) -> None:
        keyvault_service_pb2_grpc.add_KeyvaultServiceServicer_to_server(servicer, server)

    return ServerSpec(
        listen=config.listen,
        services=[SERVICE],
        register=register,
        boundary=Boundary(
            table=STATUS,
            access=access,
            clock=clock,
            observe=observe_rpc,
        ),
        certificates=certificates,
        health_listen=config.health_listen,
        metrics_listen=config.metrics_listen,
        connection_seconds=config.connection_seconds,
        drain_seconds=config.drain_seconds,
        on_stop=[feed.close],
    )


async def _open_kek(
    config: KeyvaultConfig, *, clock: Clock, stack: AsyncExitStack
) -> KeyEncryption:
    if config.kek != KEK_VAULT:
        if config.keyring_file is None:
            raise ConfigError(["OWNKEY_KEYVAULT_KEYRING_FILE is required when KEK is local"])
        return LocalKeyring(config.keyring_file)
    vault = VaultTransit(_vault_settings(config), clock=clock)
    stack.push_async_callback(vault.close)
    await vault.check_key()
    return vault


def _vault_settings(config: KeyvaultConfig) -> VaultSettings:
    return VaultSettings(
        address=config.vault_address,
        ca_file=config.vault_ca_file,
        namespace=config.vault_namespace,
        transit_mount=config.vault_transit_mount,
        transit_key=config.vault_transit_key,
        login=_vault_login(config),
        call_seconds=config.vault_call_seconds,
        connections=config.vault_connections,
    )


def _vault_login(config: KeyvaultConfig) -> LoginMethod:
    if config.vault_login == LOGIN_KUBERNETES:
        if config.vault_kubernetes_token_file is None:
            raise ConfigError(["Vault's Kubernetes token file is required"])
        return KubernetesAuth(
            config.vault_kubernetes_mount,
            role=config.vault_kubernetes_role,
            token_file=config.vault_kubernetes_token_file,
        )
    if config.vault_role_id_file is None or config.vault_secret_id_file is None:
        raise ConfigError(["Vault's role id file and secret id file are required"])
    return AppRole(
        config.vault_approle_mount,
        role_id_file=config.vault_role_id_file,
        secret_id_file=config.vault_secret_id_file,
    )


async def _check_records(records: RecordStore, kek: KeyEncryption) -> None:
    """Refuse to start on records that this key-encryption key cannot open."""
    others = {name for name, _ in await records.count() if name != kek.name}
    if others:
        problem = (
            f"the database holds secrets wrapped by {', '.join(sorted(others))}, but keyvault is "
            f"set up with {kek.name}: set it up with that key-encryption key, or restore its "
            "keyring from a backup"
        )
        raise ConfigError([problem])


def _derive(master: Secret, purpose: str) -> Secret:
    """Return a key of its own for each purpose (HKDF, RFC 5869)."""
    derivation = HKDF(
        algorithm=hashes.SHA256(),
        length=DERIVED_KEY_BYTES,
        salt=None,
        info=f"ownkey/keyvault/{purpose}".encode(),
    )
    return Secret(derivation.derive(master.reveal_bytes()))
