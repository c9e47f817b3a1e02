# SPDX-License-Identifier: Apache-2.0
"""Sources and modes, preferences, bad input, the catalogue, probes: the router through gRPC."""

from __future__ import annotations

import time

import grpc
import grpc.aio
import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.router.v1 import attempt_pb2, catalogue_pb2, explain_pb2, probe_pb2, text_pb2

from services.shared.status import from_rpc_error
from tests.support.router_peers import stored_key
from tests.support.router_service import RouterUnderTest, text_input
from tests.support.simulated_providers import KEYS, faulty_key

OWN, CREDITS = attempt_pb2.FUNDING_OWN_KEY, attempt_pb2.FUNDING_CREDITS
AUTO, OWN_KEY, ON_CREDITS = (
    attempt_pb2.SOURCE_AUTO,
    attempt_pb2.SOURCE_OWN_KEY,
    attempt_pb2.SOURCE_CREDITS,
)


@pytest.mark.requirement("R7", "L5")
@pytest.mark.parametrize(
    ("mode", "source", "payer"),
    [
        ("CREDITS", AUTO, CREDITS),
        ("CREDITS", OWN_KEY, "SOURCE_NOT_ALLOWED"),
        ("CREDITS", ON_CREDITS, CREDITS),
        ("OWN_KEY_FIRST", AUTO, OWN),
        ("OWN_KEY_FIRST", OWN_KEY, OWN),
        ("OWN_KEY_FIRST", ON_CREDITS, CREDITS),
        ("OWN_KEY_ONLY", AUTO, OWN),
        ("OWN_KEY_ONLY", OWN_KEY, OWN),
        ("OWN_KEY_ONLY", ON_CREDITS, CREDITS),
    ],
)
async def test_mode_and_source_decide_who_pays(
    router: RouterUnderTest, mode: str, source: attempt_pb2.Source, payer: object
) -> None:
    """The whole table, with a good own key that is always_use."""
    key = stored_key("demo", "main", "openai", KEYS["openai"], always_use=True)
    router.keyvault.put("demo", key)
    router.ledger.mode = mode
    if isinstance(payer, str):
        failure = await router.refused(source=source)
        assert (failure.reason, failure.metadata["field"]) == (payer, "source")
    else:
        assert (await router.generate(source=source)).receipt.payer == payer


@pytest.mark.requirement("R7", "R11")
@pytest.mark.parametrize("mode", ["OWN_KEY_FIRST", "OWN_KEY_ONLY"])
async def test_own_key_only_without_a_key_says_so(router: RouterUnderTest, mode: str) -> None:
    """Both where the source says it and where the mode does."""
    router.keyvault.put("demo")
    router.ledger.mode = mode
    source = AUTO if mode == "OWN_KEY_ONLY" else OWN_KEY
    failure = await router.refused(source=source)
    assert failure.reason == "NO_USABLE_OWN_KEY"


@pytest.mark.requirement("R7", "R10")
async def test_where_credits_pay_anyway_nobody_waits_for_a_cooling_own_key(
    router: RouterUnderTest,
) -> None:
    """The wait of up to two seconds is for accounts that use own keys."""
    mark = key_pb2.KeyHealth(state=key_pb2.HEALTH_STATE_COOLING, remaining_millis=1_500)
    cooling = stored_key("demo", "main", "openai", KEYS["openai"], health=[mark])
    router.keyvault.put("demo", cooling)
    router.ledger.mode = "CREDITS"
    started = time.monotonic()
    assert (await router.generate()).receipt.payer == CREDITS
    assert time.monotonic() - started < 1.0
    router.keyvault.put("demo", cooling)
    router.ledger.mode = "OWN_KEY_FIRST"
    started = time.monotonic()
    assert (await router.generate()).receipt.payer == OWN
    assert time.monotonic() - started > 1.0


class TestPreferences:
    @pytest.mark.requirement("R8")
    @pytest.mark.parametrize("sort", [text_pb2.SORT_LATENCY, text_pb2.SORT_THROUGHPUT])
    async def test_sorting_by_measured_speed_is_served(
        self, router: RouterUnderTest, sort: text_pb2.Sort
    ) -> None:
        answer = await router.generate(route=text_pb2.RoutePreferences(sort=sort))
        assert answer.receipt.provider == "openai"

    @pytest.mark.requirement("R8")
    async def test_own_keys_come_first_whatever_the_order_says(
        self, router: RouterUnderTest
    ) -> None:
        router.keyvault.put("demo", stored_key("demo", "or", "openrouter", KEYS["openrouter"]))
        route = text_pb2.RoutePreferences(order=["openai", "openrouter"])
        response = await router.generate(route=route)
        assert response.receipt.provider == "openrouter"
        assert response.receipt.payer == OWN

    @pytest.mark.requirement("R8", "K5")
    async def test_a_backup_serves_only_when_the_account_allows_it(
        self, router: RouterUnderTest
    ) -> None:
        bad = stored_key("demo", "one", "openai", faulty_key("openai", "nocredit"))
        backup = stored_key("demo", "two", "openai", KEYS["openai"], active=False)
        router.keyvault.put("demo", bad, backup)
        assert (await router.refused(source=OWN_KEY)).reason == "KEY_NO_CREDIT"
        router.keyvault.put("demo", bad, backup, use_backups=True)
        response = await router.generate(account="accounts/demo", source=OWN_KEY)
        assert response.receipt.attempts[-1].key == "accounts/demo/keys/two"

    @pytest.mark.requirement("R8")
    async def test_a_max_price_that_excludes_all_names_what_would_do(
        self, router: RouterUnderTest
    ) -> None:
        limit = text_pb2.MaxPrice(output_nano_usd_per_million_tokens=1)
        route = text_pb2.RoutePreferences(max_price=limit)
        failure = await router.refused(route=route)
        assert failure.reason == "NO_CANDIDATE"
        assert "at 150000000 nano-USD per million input tokens and 600000000" in failure.message
        assert failure.metadata["cheapest_model"] == "openai/gpt-4o-mini"

    @pytest.mark.requirement("R8")
    @pytest.mark.parametrize(
        ("route", "field"),
        [
            (text_pb2.RoutePreferences(only=["nobody"]), "route.only"),
            (text_pb2.RoutePreferences(order=["openai", "openai"]), "route.order"),
            (text_pb2.RoutePreferences(only=["openai"], ignore=["openai"]), "route.ignore"),
        ],
    )
    async def test_contradictory_preferences_name_the_field(
        self, router: RouterUnderTest, route: text_pb2.RoutePreferences, field: str
    ) -> None:
        failure = await router.refused(route=route)
        assert failure.reason == "INVALID_ARGUMENT"
        assert failure.metadata["field"] == field

    @pytest.mark.requirement("R8", "R1")
    async def test_a_parameter_the_model_lacks_is_dropped_with_a_note_or_required(
        self, router: RouterUnderTest
    ) -> None:
        """OpenAI's reasoning models take no temperature."""
        fields = {"model": "openai/gpt-5-mini", "input": text_input(temperature=0.5)}
        response = await router.generate(**fields)
        assert any("temperature was dropped" in note for note in response.receipt.notes)
        route = text_pb2.RoutePreferences(require_parameters=True, only=["openai"])
        failure = await router.refused(route=route, **fields)
        assert failure.reason == "NO_CANDIDATE"


class TestBadInput:
    @pytest.mark.requirement("R11")
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"account": "demo"}, "account"),
            ({"account": "accounts/platform"}, "account"),
            ({"request_id": "7"}, "request_id"),
            ({"model": "gpt-4o-mini"}, "model"),
            ({"input": text_pb2.TextInput()}, "input.messages"),
            ({"input": text_input(temperature=9)}, "input.temperature"),
            ({"input": text_input(max_output_tokens=0)}, "input.max_output_tokens"),
            ({"input": text_input("x" * (4 * 1024 * 1024 + 1))}, "input"),
        ],
    )
    async def test_a_field_that_is_wrong_is_named(
        self, router: RouterUnderTest, fields: dict[str, object], field: str
    ) -> None:
        """Nothing is asked of the ledger and nothing is sent."""
        failure = await router.refused(**fields)
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.metadata["field"] == field
        assert not router.ledger.asked

    @pytest.mark.requirement("R5", "R11")
    async def test_a_model_that_nobody_serves_is_not_found(self, router: RouterUnderTest) -> None:
        failure = await router.refused(model="nobody/nothing")
        assert failure.code is grpc.StatusCode.NOT_FOUND
        assert failure.reason == "MODEL_NOT_FOUND"

    @pytest.mark.requirement("R11")
    async def test_a_slow_model_is_a_timeout_that_names_a_faster_one(
        self, router: RouterUnderTest
    ) -> None:
        """The typed answer arrives before the caller's own deadline."""
        slow = stored_key("demo", "main", "openai", faulty_key("openai", "slow"), always_use=True)
        router.keyvault.put("demo", slow)
        failure = await router.refused(model="openai/gpt-5", timeout=1.5)
        assert failure.reason == "PROVIDER_TIMEOUT"
        assert failure.metadata["faster_model"].startswith("openai/")
        assert "try a faster model" in failure.message


class TestCatalogue:
    @pytest.mark.requirement("R5")
    async def test_providers_have_key_page_shape_and_default(self, router: RouterUnderTest) -> None:
        answer = await router.stub.ListProviders(catalogue_pb2.ListProvidersRequest(), timeout=5)
        defaults = {item.provider_id: item.default_model for item in answer.providers}
        assert defaults["anthropic"] == "anthropic/claude-sonnet-4-6"
        assert defaults["openai"] == "openai/gpt-4o-mini"
        assert defaults["gemini"] == "google/gemini-3.1-flash-lite"
        assert all(p.key_page_url.startswith("https://") for p in answer.providers)

    @pytest.mark.requirement("R5")
    async def test_models_are_paged_and_each_can_be_read(self, router: RouterUnderTest) -> None:
        names: list[str] = []
        token = ""
        while True:
            page = await router.stub.ListModels(
                catalogue_pb2.ListModelsRequest(page_size=5, page_token=token), timeout=5
            )
            names += [model.name for model in page.models]
            token = page.next_page_token
            if not token:
                break
        assert names == sorted(names)
        assert len(names) == len(set(names)) > 10
        answer = await router.stub.GetModel(
            catalogue_pb2.GetModelRequest(name="models/openai/gpt-4o-mini"), timeout=5
        )
        offer = answer.model.offers[0]
        assert offer.provider == "openai"
        assert offer.price.input_nano_usd_per_million_tokens == 150_000_000


class TestExplain:
    @pytest.mark.requirement("R13")
    async def test_the_plan_is_told_without_spending(self, router: RouterUnderTest) -> None:
        """Own key first, then shared; a disabled key is named; nothing is claimed."""
        off = stored_key("demo", "off", "anthropic", KEYS["anthropic"], state=2)
        main = stored_key("demo", "main", "openai", KEYS["openai"])
        router.keyvault.put("demo", main, off)
        request = explain_pb2.ExplainRequest(
            text=text_pb2.GenerateTextRequest(
                account="accounts/demo", model="openai/gpt-4o-mini", input=text_input()
            )
        )
        answer = await router.stub.Explain(request, timeout=5)
        fundings = [candidate.funding for candidate in answer.candidates]
        assert fundings == [OWN, CREDITS]
        assert answer.payer == OWN
        reasons = {item.key: item.reason for item in answer.exclusions if item.key}
        assert reasons["accounts/demo/keys/off"] == explain_pb2.EXCLUSION_REASON_DISABLED
        assert not router.ledger.runs
        assert not await router.calls()


class TestProbe:
    @pytest.mark.requirement("K3", "K4")
    @pytest.mark.parametrize("provider", sorted(KEYS))
    @pytest.mark.parametrize(
        ("fault", "result"),
        [
            ("", probe_pb2.PROBE_RESULT_VALID),
            ("revoked", probe_pb2.PROBE_RESULT_INVALID),
            ("ratelimited-seconds3", probe_pb2.PROBE_RESULT_RATE_LIMITED),
            ("nocredit", probe_pb2.PROBE_RESULT_NO_CREDIT),
            ("forbidden", probe_pb2.PROBE_RESULT_FORBIDDEN),
            ("down", probe_pb2.PROBE_RESULT_UNREACHABLE),
        ],
    )
    async def test_a_key_is_tested_live(
        self, router: RouterUnderTest, provider: str, fault: str, result: probe_pb2.ProbeResult
    ) -> None:
        secret = faulty_key(provider, fault) if fault else KEYS[provider]
        answer = await _probe(router, provider=provider, secret=secret)
        assert answer.result == result
        assert answer.detail
        if fault == "" and provider != "openrouter":
            assert answer.credit_checked
            # Stability's balance shows the credit without making anything.
            assert (answer.cost_nano_usd > 0) == (provider != "stability")

    @pytest.mark.requirement("R5", "K3")
    async def test_a_default_model_must_be_curated(self, router: RouterUnderTest) -> None:
        """Also when only asked to check; nobody is called."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _probe(
                router, provider="openai", default_model="openai/o1-preview", check_only=True
            )
        assert from_rpc_error(caught.value).reason == "MODEL_NOT_CURATED"
        await _probe(router, provider="openai", default_model="openai/gpt-4o", check_only=True)

    @pytest.mark.requirement("O5")
    async def test_only_keyvault_may_probe(self, router: RouterUnderTest) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await router.stub.ProbeKey(probe_pb2.ProbeKeyRequest(), timeout=5)
        assert from_rpc_error(caught.value).reason == "ACCESS_DENIED"


async def _probe(router: RouterUnderTest, **fields: object) -> probe_pb2.ProbeKeyResponse:
    token = (router.tokens / "keyvault").read_text()
    response: probe_pb2.ProbeKeyResponse = await router.stub.ProbeKey(
        probe_pb2.ProbeKeyRequest(**fields),  # type: ignore[arg-type]
        timeout=20,
        metadata=(("authorization", f"Bearer {token}"),),
    )
    return response
