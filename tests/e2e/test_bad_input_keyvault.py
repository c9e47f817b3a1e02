# SPDX-License-Identifier: Apache-2.0
"""What keyvault says to bad input, and that nothing changes."""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv

from services.shared.ids import new_id
from tests.e2e.bad_input import (
    INVALID,
    MEBIBYTE,
    REUSED,
    STALE,
    Call,
    Expected,
    Scene,
    case,
    every,
    hold_to,
    page_cases,
)

NO_KEY = (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, "SECRET_MALFORMED")


def create(
    scene: Scene, *, secret: str = "", request_id: str | None = None, **key: Any
) -> Awaitable[object]:
    return scene.clients.keyvault.CreateKey(
        kv.CreateKeyRequest(
            parent=scene.account,
            key=key_pb2.Key(**{"provider": "openai", **key}),
            secret=secret or scene.secret,
            request_id=new_id() if request_id is None else request_id,
        )
    )


def with_secret(secret: str) -> Call:
    def call(scene: Scene) -> Awaitable[object]:
        return scene.clients.keyvault.CreateKey(
            kv.CreateKeyRequest(
                parent=scene.account,
                key=key_pb2.Key(provider="openai"),
                secret=secret,
                request_id=new_id(),
            )
        )

    return call


def update(mask: list[str], **fields: Any) -> Call:
    def call(scene: Scene) -> Awaitable[object]:
        return scene.clients.keyvault.UpdateKey(
            kv.UpdateKeyRequest(
                key=key_pb2.Key(name=scene.key, **fields),
                update_mask={"paths": mask},
                request_id=new_id(),
            )
        )

    return call


def overlapping(seconds: int) -> Call:
    return lambda scene: scene.clients.keyvault.ReplaceKey(
        kv.ReplaceKeyRequest(
            name=scene.key, secret=scene.secret, request_id=new_id(), overlap_seconds=seconds
        )
    )


def on_key(rpc: str, request: type[Any], **fields: Any) -> Call:
    """A call about a key that the account does not store."""

    def call(scene: Scene) -> Awaitable[object]:
        stub = getattr(scene.clients.keyvault, rpc)
        request_id = {} if rpc in {"GetKey", "TestKey"} else {"request_id": new_id()}
        return stub(request(name=f"{scene.account}/keys/nowhere", **request_id, **fields))

    return call


def keyvault(rpc: str, request: Any) -> Call:
    return lambda scene: getattr(scene.clients.keyvault, rpc)(request)


KEYVAULT_CASES = [
    case("unknown_key_read", NO_KEY, on_key("GetKey", kv.GetKeyRequest)),
    case("unknown_key_tested", NO_KEY, on_key("TestKey", kv.TestKeyRequest)),
    case("unknown_key_deleted", NO_KEY, on_key("DeleteKey", kv.DeleteKeyRequest)),
    case("unknown_key_enabled", NO_KEY, on_key("EnableKey", kv.EnableKeyRequest)),
    case("unknown_key_disabled", NO_KEY, on_key("DisableKey", kv.DisableKeyRequest)),
    case("unknown_key_activated", NO_KEY, on_key("ActivateKey", kv.ActivateKeyRequest)),
    case(
        "unknown_key_replaced",
        NO_KEY,
        on_key(
            "ReplaceKey", kv.ReplaceKeyRequest, secret="sk-proj-canary-replaces-nobody-0123456789"
        ),
    ),
    case(
        "unknown_key_updated",
        NO_KEY,
        lambda s: s.clients.keyvault.UpdateKey(
            kv.UpdateKeyRequest(
                key=key_pb2.Key(name=f"{s.account}/keys/nowhere", label="x"),
                update_mask={"paths": ["label"]},
            )
        ),
    ),
    case("malformed_name", INVALID, keyvault("GetKey", kv.GetKeyRequest(name="accounts/A/keys/1"))),
    case("empty_name", INVALID, keyvault("GetKey", kv.GetKeyRequest())),
    case("malformed_parent", INVALID, keyvault("ListKeys", kv.ListKeysRequest(parent="demo"))),
    case("empty_create", INVALID, keyvault("CreateKey", kv.CreateKeyRequest())),
    case("empty_replace", INVALID, keyvault("ReplaceKey", kv.ReplaceKeyRequest())),
    case("empty_delete", INVALID, keyvault("DeleteKey", kv.DeleteKeyRequest())),
    case("empty_test", INVALID, keyvault("TestKey", kv.TestKeyRequest())),
    case("empty_update", INVALID, keyvault("UpdateKey", kv.UpdateKeyRequest())),
    case("empty_settings", INVALID, keyvault("UpdateSettings", kv.UpdateSettingsRequest())),
    case("secret_empty", MALFORMED, with_secret("")),
    case("secret_blank", MALFORMED, with_secret(' "\n" ')),
    case("secret_inner_space", MALFORMED, with_secret("sk-proj-canary 0123456789abcdefghij")),
    case("secret_prefix_cut", MALFORMED, with_secret("k-proj-canary0123456789abcdefghijkl")),
    case("secret_prefix_only", MALFORMED, with_secret("sk-proj-")),
    case("secret_of_another", MALFORMED, with_secret("sk-or-v1-canary0123456789abcdefghijkl")),
    case("secret_masked", MALFORMED, with_secret("sk-proj-canary************wxyz")),
    case("secret_of_admin", MALFORMED, with_secret("sk-admin-canary0123456789abcdefghijkl")),
    case("secret_too_long", INVALID, with_secret("sk-proj-canary" + "x" * 16 * 1024)),
    case("no_request_id", INVALID, lambda s: create(s, request_id="")),
    case("request_id_is_no_uuid", INVALID, lambda s: create(s, request_id="again")),
    case(
        "unknown_provider",
        INVALID,
        lambda s: create(s, provider="nobody", secret="canary-of-no-known-shape-0123456789"),
    ),
    case("malformed_provider", INVALID, lambda s: create(s, provider="Open AI")),
    case("no_provider", INVALID, lambda s: create(s, provider="")),
    case("model_not_curated", INVALID, lambda s: create(s, default_model="openai/gpt-none")),
    case("model_malformed", INVALID, lambda s: create(s, default_model="gpt-4o-mini")),
    case("model_allowed_malformed", INVALID, lambda s: create(s, allowed_models=["mini"])),
    case(
        "models_too_many",
        INVALID,
        lambda s: create(s, allowed_models=[f"openai/m{n}" for n in range(101)]),
    ),
    case("label_too_long", INVALID, lambda s: create(s, label="x" * 101)),
    case("order_negative", INVALID, lambda s: create(s, order=-1)),
    case("order_too_high", INVALID, lambda s: create(s, order=1_000_001)),
    case("limit_zero", INVALID, lambda s: create(s, monthly_limit_nano_usd=0)),
    case("limit_negative", INVALID, lambda s: create(s, monthly_limit_nano_usd=-1)),
    case("limit_too_high", INVALID, lambda s: create(s, monthly_limit_nano_usd=10**18 + 1)),
    case("overlap_zero", INVALID, overlapping(0)),
    case("overlap_negative", INVALID, overlapping(-1)),
    case("overlap_too_long", INVALID, overlapping(604_801)),
    case("mask_empty", INVALID, update([], label="new")),
    case("mask_star", INVALID, update(["*"], label="new")),
    case("mask_output_only", INVALID, update(["state"], label="new")),
    case(
        "update_limit_zero", INVALID, update(["monthly_limit_nano_usd"], monthly_limit_nano_usd=0)
    ),
    case("update_label_too_long", INVALID, update(["label"], label="x" * 101)),
    case("update_stale", STALE, update(["label"], label="new", etag="0-0")),
    case(
        "delete_stale",
        STALE,
        lambda s: s.clients.keyvault.DeleteKey(
            kv.DeleteKeyRequest(name=s.key, etag="0-0", request_id=new_id())
        ),
    ),
    case(
        "active_provider_without_key",
        (grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_WITHOUT_KEY"),
        lambda s: s.clients.keyvault.UpdateSettings(
            kv.UpdateSettingsRequest(
                settings=key_pb2.Settings(name=f"{s.account}/settings", active_provider="gemini"),
                update_mask={"paths": ["active_provider"]},
            )
        ),
    ),
    *page_cases(
        lambda s, **fields: s.clients.keyvault.ListKeys(
            kv.ListKeysRequest(parent=s.account, **fields)
        )
    ),
    case(
        "audit_page_negative",
        INVALID,
        lambda s: s.clients.keyvault.ListAuditEvents(
            kv.ListAuditEventsRequest(parent=s.account, page_size=-1)
        ),
    ),
    case(
        "message_too_large",
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        lambda s: create(s, label="x" * 5 * MEBIBYTE),
    ),
    case("sealing_without_suite", INVALID, keyvault("GetSealingKey", kv.GetSealingKeyRequest())),
    case(
        "report_of_no_outcome",
        INVALID,
        lambda s: s.clients.keyvault.ReportKeyHealth(
            resolution_pb2.ReportKeyHealthRequest(key=s.key, version=1), metadata=s.router
        ),
    ),
    case(
        "resolve_nobody",
        INVALID,
        lambda s: s.clients.keyvault.ResolveKeys(
            resolution_pb2.ResolveKeysRequest(), metadata=s.router
        ),
    ),
    case(
        "resolve_too_many",
        INVALID,
        lambda s: s.clients.keyvault.ResolveKeys(
            resolution_pb2.ResolveKeysRequest(accounts=[f"accounts/a{n}" for n in range(65)]),
            metadata=s.router,
        ),
    ),
]


@pytest.mark.requirement("K1", "K2", "K8")
@every(KEYVAULT_CASES)
async def test_bad_input_is_refused(scene: Scene, call: Call, expected: Expected) -> None:
    await hold_to(scene, call, expected, service="keyvault")


@pytest.mark.requirement("K1", "L11")
async def test_a_request_id_with_another_body_is_refused(scene: Scene) -> None:
    request_id = new_id()
    await create(scene, label="first", request_id=request_id)
    other = functools.partial(create, label="second", request_id=request_id)
    await hold_to(scene, other, REUSED, service="keyvault")
