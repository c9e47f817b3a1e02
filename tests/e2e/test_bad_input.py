# SPDX-License-Identifier: Apache-2.0
"""
What bad input gets: a clear code, one ErrorInfo, a sentence for a person, and nothing changed.

Each case is sent to an account that has credits, an entry and a key; everything on record of it is
the same before and after.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import timestamp_pb2
from ownkey.keyvault.v1 import key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as kv
from ownkey.ledger.v1 import account_pb2, authorization_pb2, entry_pb2, grant_pb2
from ownkey.ledger.v1 import usage_pb2 as ledger_usage_pb2
from ownkey.router.v1 import catalogue_pb2, media_pb2, router_service_pb2_grpc, text_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.identity import call_metadata
from services.shared.ids import new_id
from services.shared.secret import Secret
from services.shared.status import from_rpc_error
from tests.e2e.support import add_key, new_account
from tests.e2e.witness import domain, hold_to_the_rules, refused, whole

NANO = 1_000_000_000
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
CREDITS_MAX = 10**18
MEBIBYTE = 1024 * 1024
MODEL = "openai/gpt-4o-mini"
TINY_DEADLINE_SECONDS = 0.015
TINY_DEADLINE_TRIES_MAX = 100
"""A client may notice its own deadline before the service's word of it arrives."""

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
REUSED = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
NO_KEY = (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
NO_ACCOUNT = (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
NO_MODEL = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, "SECRET_MALFORMED")
NOT_SUPPORTED = (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_NOT_SUPPORTED")
STALE = (grpc.StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH")
NOT_SERVED = (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")

Expected = tuple[grpc.StatusCode, str]


@dataclass(frozen=True, slots=True)
class Scene:
    """The account that a case is tried on, and who tries."""

    clients: Clients
    account: str
    key: str
    secret: str
    router: tuple[tuple[str, str], ...]
    """Metadata of the router's identity."""


Call = Callable[[Scene], Awaitable[object]]


@pytest.fixture
async def scene(suite: Suite, clients: Clients) -> Scene:
    """An account with credits, an entry and a key."""
    account = await new_account(
        clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST, nano_credits=100 * NANO
    )
    key = await add_key(clients, account)
    token = call_metadata(Secret(suite.state.token("router")))
    return Scene(clients, account, key.name, key.secret, token)


def case(name: str, expected: Expected, call: Call) -> Any:
    return pytest.param(call, expected, id=name)


async def hold_to(scene: Scene, call: Call, expected: Expected, *, service: str) -> None:
    """A case is refused as expected and changes nothing."""
    before = await whole(scene.clients, scene.account)
    status = await refused(call(scene))
    assert (status.code, status.reason) == expected, status.message
    assert domain(status) == f"{service}.ownkey"
    after = await whole(scene.clients, scene.account)
    assert before.differences(after) == []


# ---- keyvault


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
    case("limit_not_served", NOT_SUPPORTED, lambda s: create(s, monthly_limit_nano_usd=NANO)),
    case("limit_negative", NOT_SUPPORTED, lambda s: create(s, monthly_limit_nano_usd=-1)),
    case(
        "overlap_not_served",
        NOT_SUPPORTED,
        lambda s: s.clients.keyvault.ReplaceKey(
            kv.ReplaceKeyRequest(
                name=s.key, secret=s.secret, request_id=new_id(), overlap_seconds=60
            )
        ),
    ),
    case("mask_empty", INVALID, update([], label="new")),
    case("mask_star", INVALID, update(["*"], label="new")),
    case("mask_output_only", INVALID, update(["state"], label="new")),
    case("mask_limit", NOT_SUPPORTED, update(["monthly_limit_nano_usd"])),
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
                settings=key_pb2.Settings(
                    name=f"{s.account}/settings", active_provider="gemini"
                ),
                update_mask={"paths": ["active_provider"]},
            )
        ),
    ),
    case(
        "page_negative",
        INVALID,
        lambda s: s.clients.keyvault.ListKeys(kv.ListKeysRequest(parent=s.account, page_size=-1)),
    ),
    case(
        "page_token_made_up",
        INVALID,
        lambda s: s.clients.keyvault.ListKeys(
            kv.ListKeysRequest(parent=s.account, page_token="bm90aGluZyBvZiBvdXJz")
        ),
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
    case("sealing_not_served", NOT_SERVED, keyvault("GetSealingKey", kv.GetSealingKeyRequest())),
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
class TestKeyvault:
    @pytest.mark.parametrize(("call", "expected"), KEYVAULT_CASES)
    async def test_bad_input_is_refused_and_changes_nothing(
        self, scene: Scene, call: Call, expected: Expected
    ) -> None:
        await hold_to(scene, call, expected, service="keyvault")

    @pytest.mark.requirement("L11")
    async def test_a_request_id_with_another_body_is_refused(self, scene: Scene) -> None:
        request_id = new_id()
        await create(scene, label="first", request_id=request_id)
        await hold_to(
            scene,
            lambda s: create(s, label="second", request_id=request_id),
            REUSED,
            service="keyvault",
        )


# ---- router


def text_input(text: str = "Hello", **fields: Any) -> text_pb2.TextInput:
    part = text_pb2.Part(text=text)
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[part])
    return text_pb2.TextInput(messages=[message], **{"max_output_tokens": 16, **fields})


def ask(scene: Scene, *, timeout: float | None = None, **fields: Any) -> Awaitable[object]:
    known: dict[str, Any] = {
        "account": scene.account,
        "request_id": new_id(),
        "model": MODEL,
        "input": text_input(),
    }
    request = text_pb2.GenerateTextRequest(**{**known, **fields})
    answer: Awaitable[object] = scene.clients.router.GenerateText(request, timeout=timeout)
    return answer


def asking(**fields: Any) -> Call:
    return lambda scene: ask(scene, **fields)


def saying(**fields: Any) -> Call:
    """A request whose input has these fields."""
    return lambda scene: ask(scene, input=text_input(**fields))


def messages(*sent: text_pb2.Message) -> Call:
    return lambda scene: ask(scene, input=text_pb2.TextInput(messages=sent, max_output_tokens=16))


def route(**fields: Any) -> Call:
    return lambda scene: ask(scene, route=text_pb2.RoutePreferences(**fields))


def user(*parts: text_pb2.Part) -> text_pb2.Message:
    return text_pb2.Message(role=text_pb2.ROLE_USER, parts=parts)


def image(**fields: Any) -> text_pb2.Message:
    return user(text_pb2.Part(image=text_pb2.Image(**fields)))


ROUTER_CASES = [
    case("unknown_account", NO_ACCOUNT, asking(account="accounts/nobody-here")),
    case("malformed_account", INVALID, asking(account="nobody")),
    case("no_account", INVALID, asking(account="")),
    case("no_request_id", INVALID, asking(request_id="")),
    case("request_id_is_no_uuid", INVALID, asking(request_id="7")),
    case("unknown_model", NO_MODEL, asking(model="nobody/nothing-1")),
    case("malformed_model", INVALID, asking(model="gpt-4o-mini")),
    case("model_too_long", INVALID, asking(model="openai/" + "m" * 300)),
    case("unknown_source", INVALID, asking(source=99)),
    case("unknown_tier", INVALID, asking(tier=99)),
    case("empty", INVALID, lambda s: s.clients.router.GenerateText(text_pb2.GenerateTextRequest())),
    case("no_input", INVALID, lambda s: ask(s, input=text_pb2.TextInput())),
    case("message_without_parts", INVALID, messages(user())),
    case("part_without_content", INVALID, messages(user(text_pb2.Part()))),
    case("no_role", INVALID, messages(text_pb2.Message(parts=[text_pb2.Part(text="Hello")]))),
    case(
        "parts_too_many", INVALID, messages(user(*[text_pb2.Part(text="x") for _ in range(257)]))
    ),
    case(
        "messages_too_many",
        INVALID,
        messages(*[user(text_pb2.Part(text="x")) for _ in range(1_001)]),
    ),
    case("text_too_large", INVALID, saying(text="x" * (4 * MEBIBYTE + 1))),
    case("message_too_large", INVALID, lambda s: ask_unbounded(s, text="x" * 33 * MEBIBYTE)),
    case("image_without_type", INVALID, messages(image(data=b"\x89PNG"))),
    case("image_of_wrong_type", INVALID, messages(image(data=b"BM", media_type="image/bmp"))),
    case("image_over_http", INVALID, messages(image(url="http://example.org/i.png"))),
    case(
        "image_too_large",
        INVALID,
        messages(image(data=b"x" * (20 * MEBIBYTE + 1), media_type="image/png")),
    ),
    case("temperature_too_high", INVALID, saying(temperature=2.1)),
    case("temperature_negative", INVALID, saying(temperature=-0.1)),
    case("temperature_is_no_number", INVALID, saying(temperature=float("nan"))),
    case("top_p_zero", INVALID, saying(top_p=0.0)),
    case("top_p_too_high", INVALID, saying(top_p=1.1)),
    case("stops_too_many", INVALID, saying(stop=["a", "b", "c", "d", "e"])),
    case("stop_empty", INVALID, saying(stop=[""])),
    case("stop_too_long", INVALID, saying(stop=["x" * 257])),
    case("no_output_tokens", INVALID, saying(max_output_tokens=0)),
    case("output_tokens_negative", INVALID, saying(max_output_tokens=-1)),
    case("output_tokens_too_many", INVALID, saying(max_output_tokens=1_000_001)),
    case("unknown_effort", INVALID, saying(reasoning_effort=99)),
    case("tools_too_many", INVALID, saying(tools=[text_pb2.Tool(name=f"t{n}") for n in range(129)])),
    case("tool_without_name", INVALID, saying(tools=[text_pb2.Tool()])),
    case("tool_name_malformed", INVALID, saying(tools=[text_pb2.Tool(name="a b")])),
    case(
        "tool_schema_is_no_object",
        INVALID,
        saying(tools=[text_pb2.Tool(name="t", parameters_json="[]")]),
    ),
    case(
        "tool_schema_is_no_json",
        INVALID,
        saying(tools=[text_pb2.Tool(name="t", parameters_json="{")]),
    ),
    case(
        "answer_schema_is_no_json",
        INVALID,
        saying(response_schema=text_pb2.ResponseSchema(name="s", schema_json="{")),
    ),
    case("unknown_provider_only", INVALID, route(only=["nobody"])),
    case("unknown_provider_first", INVALID, route(order=["nobody"])),
    case("unknown_provider_ignored", INVALID, route(ignore=["nobody"])),
    case("order_too_long", INVALID, route(order=["openai"] * 33)),
    case(
        "price_limit_negative",
        INVALID,
        route(max_price=text_pb2.MaxPrice(input_nano_usd_per_million_tokens=-1)),
    ),
    case("sort_not_served", NOT_SERVED, route(sort=text_pb2.SORT_LATENCY)),
    case(
        "nobody_left",
        (grpc.StatusCode.FAILED_PRECONDITION, "NO_CANDIDATE"),
        route(only=["anthropic"]),
    ),
    case(
        "unknown_model_read",
        NO_MODEL,
        lambda s: s.clients.router.GetModel(
            catalogue_pb2.GetModelRequest(name="models/nobody/nothing-1")
        ),
    ),
    case(
        "images_not_served",
        NOT_SERVED,
        lambda s: read_one(s.clients.router.GenerateImage(media_pb2.GenerateImageRequest())),
    ),
    case(
        "deadline_too_short",
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"),
        asking(timeout=0.4),
    ),
]


async def ask_unbounded(scene: Scene, *, text: str) -> object:
    """Asks by a client that sends whatever it is given."""
    request = text_pb2.GenerateTextRequest(
        account=scene.account, request_id=new_id(), model=MODEL, input=text_input(text)
    )
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(scene.clients.addresses.router, options) as channel:
        stub = router_service_pb2_grpc.RouterServiceStub(channel)
        answer: object = await stub.GenerateText(request)
        return answer


async def read_one(stream: Any) -> object:
    return await stream.read()


@pytest.mark.requirement("R5", "R7", "R8", "R11")
class TestRouter:
    @pytest.mark.parametrize(("call", "expected"), ROUTER_CASES)
    async def test_bad_input_is_refused_and_changes_nothing(
        self, scene: Scene, call: Call, expected: Expected
    ) -> None:
        await hold_to(scene, call, expected, service="router")

    async def test_a_stream_refuses_as_a_single_answer_does(self, scene: Scene) -> None:
        def call(s: Scene) -> Awaitable[object]:
            return read_one(
                s.clients.router.StreamText(
                    text_pb2.StreamTextRequest(
                        account=s.account,
                        request_id=new_id(),
                        model="nobody/nothing-1",
                        input=text_input(),
                    )
                )
            )

        await hold_to(scene, call, NO_MODEL, service="router")

    @pytest.mark.requirement("R14", "L11")
    @pytest.mark.parametrize(
        "changed",
        [
            {"model": "openai/gpt-4o"},
            {"input": text_input("Something else")},
            {"input": text_input(max_output_tokens=17)},
            {"source": 3},
        ],
        ids=["model", "text", "tokens", "source"],
    )
    async def test_a_request_id_with_another_body_is_refused(
        self, scene: Scene, changed: dict[str, Any]
    ) -> None:
        request_id = new_id()
        await ask(scene, request_id=request_id)
        await hold_to(
            scene, asking(request_id=request_id, **changed), REUSED, service="router"
        )


# ---- ledger


def ledger(rpc: str, request: Any) -> Call:
    return lambda scene: getattr(scene.clients.ledger, rpc)(request)


def grant(amount: int, **fields: Any) -> Call:
    return lambda scene: scene.clients.ledger.GrantCredits(
        grant_pb2.GrantCreditsRequest(
            **{
                "request_id": new_id(),
                "account": scene.account,
                "kind": grant_pb2.GRANT_KIND_PURCHASED,
                "amount_nano_credits": amount,
                **fields,
            }
        )
    )


def adjust(amount: int, reason: str = "a correction") -> Call:
    return lambda scene: scene.clients.ledger.AdjustCredits(
        grant_pb2.AdjustCreditsRequest(
            request_id=new_id(), account=scene.account, amount_nano_credits=amount, reason=reason
        )
    )


def open_account(**fields: Any) -> Call:
    known = {"account_id": f"x{new_id()}"[:20].rstrip("-"), "plan": "plans/standard"}
    return lambda scene: scene.clients.ledger.CreateAccount(
        account_pb2.CreateAccountRequest(**{"request_id": new_id(), **known, **fields})
    )


def change(mask: list[str], mode: int = 0, **fields: Any) -> Call:
    return lambda scene: scene.clients.ledger.UpdateAccount(
        account_pb2.UpdateAccountRequest(
            request_id=new_id(),
            account=account_pb2.Account(name=scene.account, **fields),
            update_mask={"paths": mask},
            billing_mode=mode,
        )
    )


def authorize(**fields: Any) -> Call:
    """An Authorize by the router's identity, sound but for these fields."""
    price = authorization_pb2.PriceRow(model=MODEL, provider="openai", price_id="p")
    known: dict[str, Any] = {
        "claimant": "claimant-0123456789",
        "sequence": 1,
        "fingerprint": bytes(32),
        "fingerprint_version": 1,
        "source": authorization_pb2.SOURCE_CREDITS,
        "own_key_state": authorization_pb2.OWN_KEY_STATE_NONE_STORED,
        "operation": authorization_pb2.OPERATION_TEXT,
        "credits": authorization_pb2.CreditTerms(price=price, worst_case_nano_usd=1),
    }

    def call(scene: Scene) -> Awaitable[object]:
        request = authorization_pb2.AuthorizeRequest(
            **{"account": scene.account, "request_id": new_id(), **known, **fields}
        )
        answer: Awaitable[object] = scene.clients.ledger.Authorize(request, metadata=scene.router)
        return answer

    return call


def worst_case(nano_usd: int) -> Call:
    price = authorization_pb2.PriceRow(model=MODEL, provider="openai", price_id="p")
    return authorize(
        credits=authorization_pb2.CreditTerms(price=price, worst_case_nano_usd=nano_usd)
    )


def statement(scene: Scene, **fields: Any) -> Awaitable[object]:
    request = entry_pb2.ExportStatementRequest(**{"account": scene.account, **fields})
    return read_one(scene.clients.ledger.ExportStatement(request))


def stamp(moment: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


NOW = datetime.now(UTC)
NOBODY = "accounts/nobody-here"

LEDGER_CASES = [
    case(
        "unknown_account_read",
        NO_ACCOUNT,
        ledger("GetAccount", account_pb2.GetAccountRequest(name=NOBODY)),
    ),
    case(
        "unknown_account_balance",
        NO_ACCOUNT,
        ledger("GetBalance", grant_pb2.GetBalanceRequest(account=NOBODY)),
    ),
    case("unknown_account_granted", NO_ACCOUNT, grant(NANO, account=NOBODY)),
    case(
        "unknown_account_switched",
        NO_ACCOUNT,
        lambda s: s.clients.ledger.SetBillingMode(
            account_pb2.SetBillingModeRequest(
                request_id=new_id(), account=NOBODY, billing_mode=account_pb2.BILLING_MODE_CREDITS
            )
        ),
    ),
    case(
        "unknown_account_entries",
        NO_ACCOUNT,
        ledger("ListEntries", entry_pb2.ListEntriesRequest(parent=NOBODY)),
    ),
    case(
        "unknown_account_usage",
        NO_ACCOUNT,
        ledger("GetUsage", ledger_usage_pb2.GetUsageRequest(account=NOBODY)),
    ),
    case("unknown_account_statement", NO_ACCOUNT, lambda s: statement(s, account=NOBODY, format=1)),
    case("unknown_account_authorized", NO_ACCOUNT, authorize(account=NOBODY)),
    case(
        "unknown_authorization",
        (grpc.StatusCode.NOT_FOUND, "AUTHORIZATION_NOT_FOUND"),
        lambda s: s.clients.ledger.GetAuthorization(
            authorization_pb2.GetAuthorizationRequest(account=s.account, request_id=new_id())
        ),
    ),
    case("malformed_account", INVALID, grant(NANO, account="demo")),
    case("empty_grant", INVALID, ledger("GrantCredits", grant_pb2.GrantCreditsRequest())),
    case("empty_adjustment", INVALID, ledger("AdjustCredits", grant_pb2.AdjustCreditsRequest())),
    case("empty_account", INVALID, ledger("CreateAccount", account_pb2.CreateAccountRequest())),
    case("empty_update", INVALID, ledger("UpdateAccount", account_pb2.UpdateAccountRequest())),
    case("empty_switch", INVALID, ledger("SetBillingMode", account_pb2.SetBillingModeRequest())),
    case("grant_zero", INVALID, grant(0)),
    case("grant_negative", INVALID, grant(-1)),
    case("grant_lowest", INVALID, grant(INT64_MIN)),
    case("grant_too_much", INVALID, grant(CREDITS_MAX + 1)),
    case("grant_highest", INVALID, grant(INT64_MAX)),
    case("grant_past_what_an_account_may_own", INVALID, grant(CREDITS_MAX)),
    case("grant_without_kind", INVALID, grant(NANO, kind=0)),
    case("grant_of_adjustment", INVALID, grant(NANO, kind=grant_pb2.GRANT_KIND_ADJUSTMENT)),
    case("grant_expired", INVALID, grant(NANO, expire_time=stamp(NOW - timedelta(days=1)))),
    case(
        "grant_at_no_time",
        INVALID,
        grant(NANO, expire_time=timestamp_pb2.Timestamp(seconds=INT64_MAX)),
    ),
    case("note_too_long", INVALID, grant(NANO, note="x" * 201)),
    case("grant_without_request_id", INVALID, grant(NANO, request_id="")),
    case("message_too_large", INVALID, grant(NANO, note="x" * 5 * MEBIBYTE)),
    case("adjust_zero", INVALID, adjust(0)),
    case("adjust_without_reason", INVALID, adjust(NANO, reason="")),
    case("adjust_too_much", INVALID, adjust(CREDITS_MAX + 1)),
    case("adjust_lowest", INVALID, adjust(INT64_MIN)),
    case("adjust_past_what_an_account_may_own", INVALID, adjust(CREDITS_MAX)),
    case(
        "adjust_below_what_is_there",
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"),
        adjust(-101 * NANO),
    ),
    case("account_id_malformed", INVALID, open_account(account_id="Demo_1")),
    case("account_id_too_long", INVALID, open_account(account_id="a" * 64)),
    case(
        "account_exists",
        (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS"),
        lambda s: open_account(account_id=s.account.removeprefix("accounts/"))(s),
    ),
    case(
        "unknown_plan",
        (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_NOT_FOUND"),
        open_account(plan="plans/nothing"),
    ),
    case("malformed_plan", INVALID, open_account(plan="nothing")),
    case("cap_negative", INVALID, open_account(fallback_daily_cap_nano_credits=-1)),
    case("unknown_mode", INVALID, open_account(billing_mode=99)),
    case(
        "switch_to_nothing",
        INVALID,
        lambda s: s.clients.ledger.SetBillingMode(
            account_pb2.SetBillingModeRequest(request_id=new_id(), account=s.account)
        ),
    ),
    case("mask_empty", INVALID, change([])),
    case("mask_star", INVALID, change(["*"])),
    case("mask_output_only", INVALID, change(["mode_epoch"])),
    case(
        "update_cap_negative",
        INVALID,
        change(["fallback_daily_cap_nano_credits"], fallback_daily_cap_nano_credits=-1),
    ),
    case("update_no_consent", INVALID, change(["fallback_consent"])),
    case("update_stale", STALE, change(["fallback_consent"], fallback_consent=1, etag="stale")),
    case(
        "page_negative",
        INVALID,
        lambda s: s.clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(parent=s.account, page_size=-1)
        ),
    ),
    case(
        "page_token_made_up",
        INVALID,
        lambda s: s.clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(parent=s.account, page_token="bm90aGluZyBvZiBvdXJz")
        ),
    ),
    case(
        "range_reversed",
        INVALID,
        lambda s: s.clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(
                parent=s.account,
                start_time=stamp(NOW),
                end_time=stamp(NOW - timedelta(seconds=1)),
            )
        ),
    ),
    case(
        "day_malformed",
        INVALID,
        lambda s: s.clients.ledger.GetUsage(
            ledger_usage_pb2.GetUsageRequest(account=s.account, start_day="yesterday")
        ),
    ),
    case("statement_without_format", INVALID, statement),
    case("authorize_cost_negative", INVALID, worst_case(-1)),
    case("authorize_cost_overflowing", INVALID, worst_case(INT64_MAX)),
    case(
        "authorize_cost_unaffordable",
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_CREDITS"),
        worst_case(10**13),
    ),
    case("authorize_no_attempt", INVALID, authorize(sequence=0)),
    case("authorize_attempt_too_many", INVALID, authorize(sequence=33)),
    case("authorize_short_fingerprint", INVALID, authorize(fingerprint=b"x")),
    case("authorize_claimant_malformed", INVALID, authorize(claimant="me")),
    case("authorize_no_source", INVALID, authorize(source=0)),
    case("authorize_no_key_state", INVALID, authorize(own_key_state=0)),
    case(
        "settle_nothing",
        INVALID,
        lambda s: s.clients.ledger.BatchSettle(
            authorization_pb2.BatchSettleRequest(), metadata=s.router
        ),
    ),
    case(
        "capture_negative",
        INVALID,
        lambda s: s.clients.ledger.Capture(
            authorization_pb2.CaptureRequest(
                account=s.account,
                request_id=new_id(),
                claimant="claimant-0123456789",
                sequence=1,
                capture=authorization_pb2.CaptureTerms(vendor_cost_nano_usd=-1, basis=1),
            ),
            metadata=s.router,
        ),
    ),
]


@pytest.mark.requirement("L2", "L3", "L12")
class TestLedger:
    @pytest.mark.parametrize(("call", "expected"), LEDGER_CASES)
    async def test_bad_input_is_refused_and_changes_nothing(
        self, scene: Scene, call: Call, expected: Expected
    ) -> None:
        await hold_to(scene, call, expected, service="ledger")

    @pytest.mark.requirement("L11")
    async def test_a_request_id_with_another_body_is_refused(self, scene: Scene) -> None:
        request_id = new_id()
        await grant(NANO, request_id=request_id)(scene)
        await hold_to(scene, grant(2 * NANO, request_id=request_id), REUSED, service="ledger")
        await hold_to(
            scene,
            lambda s: s.clients.ledger.AdjustCredits(
                grant_pb2.AdjustCreditsRequest(
                    request_id=request_id,
                    account=s.account,
                    amount_nano_credits=NANO,
                    reason="the same id for another thing",
                )
            ),
            REUSED,
            service="ledger",
        )


# ---- all of them


@pytest.mark.requirement("R11", "L11", "O3")
class TestEverywhere:
    @pytest.mark.parametrize("service", ["keyvault", "ledger"])
    async def test_a_deadline_too_short_to_try_changes_nothing(
        self, scene: Scene, service: str
    ) -> None:
        """What arrives with hardly any time left is refused before anything is tried."""
        before = await whole(scene.clients, scene.account)
        for _ in range(TINY_DEADLINE_TRIES_MAX):
            try:
                if service == "keyvault":
                    await scene.clients.keyvault.DisableKey(
                        kv.DisableKeyRequest(name=scene.key, request_id=new_id()),
                        timeout=TINY_DEADLINE_SECONDS,
                    )
                else:
                    await scene.clients.ledger.GrantCredits(
                        grant_pb2.GrantCreditsRequest(
                            request_id=new_id(),
                            account=scene.account,
                            kind=grant_pb2.GRANT_KIND_PURCHASED,
                            amount_nano_credits=NANO,
                        ),
                        timeout=TINY_DEADLINE_SECONDS,
                    )
            except grpc.aio.AioRpcError as fault:
                assert fault.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                status = from_rpc_error(fault)
                if status.reason:
                    break
            else:
                pytest.fail("a call with no time left was carried out")
        assert status.reason == "DEADLINE_TOO_SHORT"
        hold_to_the_rules(status)
        assert before.differences(await whole(scene.clients, scene.account)) == []

    @pytest.mark.parametrize(
        "method",
        [
            "/ownkey.keyvault.v1.KeyvaultService/CreateKey",
            "/ownkey.router.v1.RouterService/GenerateText",
            "/ownkey.ledger.v1.LedgerService/GrantCredits",
        ],
    )
    async def test_bytes_that_are_no_message_are_refused(self, suite: Suite, method: str) -> None:
        name = method.split(".")[1]
        address = getattr(suite.addresses, name)
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(method)
            status = await refused(call(b"\xff\xff\xff\xff not a message at all", timeout=5))
        assert (status.code, status.reason) == INVALID
        assert domain(status) == f"{name}.ownkey"
