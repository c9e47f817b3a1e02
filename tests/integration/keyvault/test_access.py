# SPDX-License-Identifier: Apache-2.0
"""Who may call what, and on whose keys."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.keyvault.rpc.policy import DESCRIPTOR, SERVICE
from services.shared.identity import ANONYMOUS, BACKEND, IDENTITIES, OPERATOR, ROUTER, WEB
from services.shared.policy_file import load_policy
from tests.support.keyvault import OPENAI_KEY, RunningKeyvault, new_request_id, refusal
from tests.support.source import ROOT

FOR_ROUTERS = {
    "ResolveKeys",
    "OpenSealedKey",
    "WatchChanges",
    "ReportKeyHealth",
    "ExchangeOutages",
    "LeaseAllotments",
}
FOR_OPERATORS = {
    "GetSharedLimit",
    "SetSharedLimit",
    "VerifyAudit",
    "RotateKek",
    "RetireKekVersions",
    "RewrapKeys",
    "ReencryptKeys",
    "GetKekStatus",
    "ExportRevocations",
    "ReplayRevocations",
    "AcceptRestore",
    "GetRestoreStatus",
}
POLICY = load_policy(ROOT / "services/keyvault/policy.yaml", DESCRIPTOR)
RPCS = [
    method.name for method in service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"].methods
]


@pytest.mark.requirement("O5", "K8")
class TestPolicy:
    @pytest.mark.parametrize("rpc", RPCS)
    def test_each_rpc_is_open_to_those_it_is_for_and_nobody_else(self, rpc: str) -> None:
        allowed = {
            identity
            for identity in {ANONYMOUS, BACKEND, *IDENTITIES}
            if POLICY.denial(identity, f"/{SERVICE}/{rpc}", []) is None
        }

        if rpc in FOR_ROUTERS:
            assert allowed == {ROUTER}
        elif rpc in FOR_OPERATORS:
            assert allowed == {OPERATOR}
        else:
            assert allowed - {WEB} == {ANONYMOUS, BACKEND, OPERATOR}

    async def test_secrets_go_to_the_router_alone(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create()
        request = resolution_pb2.ResolveKeysRequest(accounts=["accounts/demo"])
        for metadata in (None, vaulted.as_operator, vaulted.as_keyvault):
            status = await refusal(vaulted.stub.ResolveKeys(request, metadata=metadata))
            assert (status.code, status.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "ACCESS_DENIED",
            )


@pytest.mark.requirement("K16")
class TestPlatform:
    async def test_operators_keep_the_shared_keys_and_the_router_uses_them(
        self, vaulted: RunningKeyvault
    ) -> None:
        created = await vaulted.create(
            account="platform", key_id="main", metadata=vaulted.as_operator
        )
        await vaulted.create(account="platform", key_id="second", metadata=vaulted.as_operator)
        [account] = (await vaulted.resolve("platform")).accounts

        assert created.key.name == "accounts/platform/keys/main"
        assert [item.secret for item in account.keys] == [OPENAI_KEY] * 2

    @pytest.mark.parametrize("key_id", ["main", "not-there"])
    async def test_nobody_else_learns_even_whether_one_exists(
        self, vaulted: RunningKeyvault, key_id: str
    ) -> None:
        await vaulted.create(account="platform", key_id="main", metadata=vaulted.as_operator)
        stub, name = vaulted.stub, f"accounts/platform/keys/{key_id}"
        request_id = new_request_id()
        calls: list[Any] = [
            vaulted.create(account="platform", key_id=key_id),
            stub.GetKey(service_pb2.GetKeyRequest(name=name)),
            stub.ListKeys(service_pb2.ListKeysRequest(parent="accounts/platform")),
            stub.UpdateKey(service_pb2.UpdateKeyRequest(key=key_pb2.Key(name=name))),
            stub.ReplaceKey(
                service_pb2.ReplaceKeyRequest(name=name, secret=OPENAI_KEY, request_id=request_id)
            ),
            stub.MoveKey(
                service_pb2.MoveKeyRequest(
                    name=name, residence=key_pb2.RESIDENCE_SERVER, request_id=request_id
                )
            ),
            stub.DeleteKey(service_pb2.DeleteKeyRequest(name=name, request_id=request_id)),
            stub.TestKey(service_pb2.TestKeyRequest(name=name)),
            stub.ActivateKey(service_pb2.ActivateKeyRequest(name=name)),
            stub.EnableKey(service_pb2.EnableKeyRequest(name=name)),
            stub.DisableKey(service_pb2.DisableKeyRequest(name=name)),
            stub.GetSettings(service_pb2.GetSettingsRequest(name="accounts/platform/settings")),
            stub.UpdateSettings(
                service_pb2.UpdateSettingsRequest(
                    settings=key_pb2.Settings(name="accounts/platform/settings")
                )
            ),
            stub.ListAuditEvents(service_pb2.ListAuditEventsRequest(parent="accounts/platform")),
        ]
        refused = [await refusal(call) for call in calls]

        assert {status.reason for status in refused} == {"ACCESS_DENIED"}
        assert len({status.message for status in refused}) == 1
