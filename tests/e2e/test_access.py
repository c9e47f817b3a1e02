# SPDX-License-Identifier: Apache-2.0
"""Who may call what, and what every service tells about itself."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from ownkey.keyvault.v1 import kek_pb2, key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import authorization_pb2, verification_pb2
from ownkey.router.v1 import probe_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.channel import open_channel
from services.shared.identity import call_metadata
from services.shared.ids import new_id
from services.shared.secret import Secret
from tests.e2e.support import PLATFORM, add_key, new_account, new_secret, recorded_requests
from tests.e2e.witness import domain, refused, whole

SERVICES = {
    "keyvault": "ownkey.keyvault.v1.KeyvaultService",
    "router": "ownkey.router.v1.RouterService",
    "ledger": "ownkey.ledger.v1.LedgerService",
}
CALL_SECONDS_MAX = 10

Metadata = tuple[tuple[str, str], ...]


def router_calls() -> dict[str, tuple[str, Any]]:
    """What only the router may call: the service's name and a request that is otherwise sound."""
    authorize = authorization_pb2.AuthorizeRequest(account="accounts/demo", request_id=new_id())
    return {
        "ResolveKeys": (
            "keyvault",
            resolution_pb2.ResolveKeysRequest(accounts=["accounts/demo"]),
        ),
        "ReportKeyHealth": (
            "keyvault",
            resolution_pb2.ReportKeyHealthRequest(
                key="accounts/demo/keys/main", version=1, outcome=resolution_pb2.OUTCOME_INVALID_KEY
            ),
        ),
        "OpenSealedKey": ("keyvault", kv.OpenSealedKeyRequest()),
        "Authorize": ("ledger", authorize),
        "Renew": ("ledger", authorization_pb2.RenewRequest()),
        "Capture": ("ledger", authorization_pb2.CaptureRequest()),
        "Release": ("ledger", authorization_pb2.ReleaseRequest()),
        "BatchAuthorize": (
            "ledger",
            authorization_pb2.BatchAuthorizeRequest(requests=[authorize]),
        ),
        "BatchRenew": ("ledger", authorization_pb2.BatchRenewRequest()),
        "BatchSettle": ("ledger", authorization_pb2.BatchSettleRequest()),
    }


@pytest.fixture(params=["anonymous", "operator", "keyvault"])
def not_the_router(request: pytest.FixtureRequest, suite: Suite) -> Metadata | None:
    """Metadata of everybody but the router."""
    if request.param == "anonymous":
        return None
    return call_metadata(Secret(suite.state.token(request.param)))


def is_denied(status: Any, service: str) -> None:
    assert (status.code, status.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    assert domain(status) == f"{service}.ownkey"


@pytest.mark.requirement("K8", "L3")
class TestOnlyTheRouter:
    @pytest.mark.parametrize("rpc", sorted(router_calls()))
    async def test_nobody_else_may(
        self, clients: Clients, not_the_router: Metadata | None, rpc: str
    ) -> None:
        """Denied before anything else is looked at: the account need not exist."""
        service, request = router_calls()[rpc]
        method = getattr(getattr(clients, service), rpc)
        is_denied(
            await refused(method(request, metadata=not_the_router, timeout=CALL_SECONDS_MAX)),
            service,
        )

    async def test_nobody_else_may_watch(
        self, clients: Clients, not_the_router: Metadata | None
    ) -> None:
        """Denied before a question is read, so none is asked: it would race with the refusal."""
        call = clients.keyvault.WatchChanges(metadata=not_the_router, timeout=CALL_SECONDS_MAX)
        is_denied(await refused(call.read()), "keyvault")

    async def test_a_denied_release_leaves_no_trace_of_one(self, clients: Clients) -> None:
        account = await new_account(clients)
        await add_key(clients, account)
        before = await whole(clients, account)
        await refused(
            clients.keyvault.ResolveKeys(resolution_pb2.ResolveKeysRequest(accounts=[account]))
        )
        assert before.differences(await whole(clients, account)) == []


@pytest.mark.requirement("K3", "K8")
class TestOnlyKeyvault:
    @pytest.mark.parametrize("identity", ["anonymous", "operator", "router"])
    async def test_nobody_else_may_probe(
        self, clients: Clients, suite: Suite, identity: str
    ) -> None:
        """A probe would let anybody try keys at providers from our address."""
        metadata = None
        if identity != "anonymous":
            metadata = call_metadata(Secret(suite.state.token(identity)))
        secret = new_secret()
        status = await refused(
            clients.router.ProbeKey(
                probe_pb2.ProbeKeyRequest(provider="openai", secret=secret),
                metadata=metadata,
                timeout=CALL_SECONDS_MAX,
            )
        )
        is_denied(status, "router")
        assert secret not in status.message
        assert await recorded_requests(clients, secret) == []


@pytest.mark.requirement("K16")
class TestOnlyOperators:
    async def test_the_shared_keys_are_invisible_to_others(self, clients: Clients) -> None:
        shared = await clients.keyvault.ListKeys(
            kv.ListKeysRequest(parent=PLATFORM), metadata=clients.operator
        )
        name = shared.keys[0].name
        calls = [
            clients.keyvault.ListKeys(kv.ListKeysRequest(parent=PLATFORM)),
            clients.keyvault.ListAuditEvents(kv.ListAuditEventsRequest(parent=PLATFORM)),
            clients.keyvault.GetKey(kv.GetKeyRequest(name=name)),
            clients.keyvault.GetKey(kv.GetKeyRequest(name=f"{PLATFORM}/keys/nowhere")),
            clients.keyvault.TestKey(kv.TestKeyRequest(name=name)),
            clients.keyvault.GetSettings(kv.GetSettingsRequest(name=f"{PLATFORM}/settings")),
            clients.keyvault.DisableKey(kv.DisableKeyRequest(name=name, request_id=new_id())),
            clients.keyvault.EnableKey(kv.EnableKeyRequest(name=name, request_id=new_id())),
            clients.keyvault.ActivateKey(kv.ActivateKeyRequest(name=name, request_id=new_id())),
            clients.keyvault.DeleteKey(kv.DeleteKeyRequest(name=name, request_id=new_id())),
            clients.keyvault.UpdateKey(
                kv.UpdateKeyRequest(
                    key=key_pb2.Key(name=name, label="mine"), update_mask={"paths": ["label"]}
                )
            ),
            clients.keyvault.ReplaceKey(
                kv.ReplaceKeyRequest(name=name, secret=new_secret(), request_id=new_id())
            ),
            clients.keyvault.CreateKey(
                kv.CreateKeyRequest(
                    parent=PLATFORM,
                    key=key_pb2.Key(provider="openai"),
                    secret=new_secret(),
                    request_id=new_id(),
                )
            ),
        ]
        for call in calls:
            is_denied(await refused(call), "keyvault")
        after = await clients.keyvault.ListKeys(
            kv.ListKeysRequest(parent=PLATFORM), metadata=clients.operator
        )
        assert [key.etag for key in after.keys] == [key.etag for key in shared.keys]

    async def test_the_key_encryption_key_is_theirs(self, clients: Clients) -> None:
        for call in (
            clients.keyvault.GetKekStatus(kv.GetKekStatusRequest()),
            clients.keyvault.RotateKek(kv.RotateKekRequest(request_id=new_id())),
            clients.keyvault.RewrapKeys(kv.RewrapKeysRequest()).read(),
            clients.keyvault.ReencryptKeys(kv.ReencryptKeysRequest()).read(),
            clients.keyvault.VerifyAudit(kv.VerifyAuditRequest(parent="accounts/demo")),
        ):
            is_denied(await refused(call), "keyvault")
        answer = await clients.keyvault.GetKekStatus(
            kv.GetKekStatusRequest(), metadata=clients.operator
        )
        assert isinstance(answer.status, kek_pb2.KekStatus)
        assert answer.status.available

    async def test_proving_the_whole_ledger_is_theirs(self, clients: Clients) -> None:
        request = verification_pb2.VerifyLedgerRequest()
        is_denied(await refused(clients.ledger.VerifyLedger(request).read()), "ledger")


@pytest.mark.requirement("O3")
class TestIdentity:
    @pytest.mark.parametrize("service", sorted(SERVICES))
    async def test_an_unknown_token_is_no_anonymous_caller(
        self, clients: Clients, service: str
    ) -> None:
        made_up = call_metadata(Secret("made-up-token-of-nobody-0123456789"))
        call = {
            "keyvault": lambda: clients.keyvault.GetKey(kv.GetKeyRequest(), metadata=made_up),
            "router": lambda: clients.router.ProbeKey(
                probe_pb2.ProbeKeyRequest(), metadata=made_up
            ),
            "ledger": lambda: clients.ledger.Authorize(
                authorization_pb2.AuthorizeRequest(), metadata=made_up
            ),
        }[service]()
        status = await refused(call)
        assert (status.code, status.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        assert "made-up-token" not in status.message


@pytest.mark.requirement("O3")
@pytest.mark.parametrize("service", sorted(SERVICES))
class TestSelfDescription:
    async def test_health_is_told_for_the_server_and_the_service(
        self, suite: Suite, service: str
    ) -> None:
        async with open_channel(getattr(suite.addresses, service)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICES[service]):
                answer = await stub.Check(
                    health_pb2.HealthCheckRequest(service=name), timeout=CALL_SECONDS_MAX
                )
                assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_reflection_gives_every_rpc_with_its_messages(
        self, suite: Suite, service: str
    ) -> None:
        async with open_channel(getattr(suite.addresses, service)) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

            async def ask(**question: str) -> reflection_pb2.ServerReflectionResponse:
                request = reflection_pb2.ServerReflectionRequest(**question)
                call = stub.ServerReflectionInfo(iter([request]), timeout=CALL_SECONDS_MAX)
                answer: reflection_pb2.ServerReflectionResponse = await call.read()
                return answer

            listed = await ask(list_services="")
            names = {found.name for found in listed.list_services_response.service}
            assert SERVICES[service] in names
            described = await ask(file_containing_symbol=SERVICES[service])
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(text)
            for text in described.file_descriptor_response.file_descriptor_proto
        ]
        rpcs = {
            method.name
            for file in files
            for found in file.service
            if f"{file.package}.{found.name}" == SERVICES[service]
            for method in found.method
        }
        assert len(rpcs) > 10
