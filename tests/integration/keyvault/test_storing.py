# SPDX-License-Identifier: Apache-2.0
"""Storing keys, through gRPC on a real database."""

from __future__ import annotations

import grpc
import pytest
from ownkey.keyvault.v1 import key_pb2, live_test_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from tests.support.keyvault import (
    OPENAI_KEY,
    OPENROUTER_KEY,
    TOKENS,
    RunningKeyvault,
    new_request_id,
    refusal,
)


@pytest.mark.requirement("K1", "K2", "K5", "K8")
class TestCreateKey:
    async def test_a_pasted_key_is_cleaned_tested_stored_and_comes_back_to_the_router_alone(
        self, vaulted: RunningKeyvault
    ) -> None:
        created = await vaulted.create(
            f'  "Bearer {OPENAI_KEY}"\n',
            key_id="main",
            label="Team",
            default_model="openai/gpt-4o-mini",
            always_use=True,
            order=3,
        )

        key = created.key
        assert key.name == "accounts/demo/keys/main"
        assert (key.provider, key.label, key.always_use, key.order) == ("openai", "Team", True, 3)
        assert key.hint == "sk-proj-…WXYZ"
        assert key.state == key_pb2.KEY_STATE_ENABLED
        assert key.active
        assert key.version == 1
        assert [health.state for health in key.health] == [key_pb2.HEALTH_STATE_ACTIVE]
        assert created.test.result == live_test_pb2.TEST_RESULT_VALID
        assert created.test.credit_checked
        [asked] = vaulted.router.asked
        assert asked.secret == OPENAI_KEY
        assert vaulted.router.tokens == [f"Bearer {TOKENS['keyvault']}"]
        [account] = (await vaulted.resolve()).accounts
        assert [resolved.secret for resolved in account.keys] == [OPENAI_KEY]
        assert account.keys[0].key == key
        assert account.settings.active_provider == "openai"

    async def test_the_second_key_of_a_provider_is_a_backup(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="first")
        second = await vaulted.create(key_id="second")
        other = await vaulted.create(OPENROUTER_KEY, provider="openrouter", key_id="third")

        assert not second.key.active
        assert other.key.active
        settings = await vaulted.stub.GetSettings(
            service_pb2.GetSettingsRequest(name="accounts/demo/settings")
        )
        assert settings.settings.active_provider == "openai"

    async def test_a_repeat_gives_the_recorded_outcome_and_tests_nothing(
        self, vaulted: RunningKeyvault
    ) -> None:
        request_id = new_request_id()
        first = await vaulted.create(request_id=request_id)
        again = await vaulted.create(request_id=request_id)

        assert again == first
        assert len(vaulted.router.asked) == 1

    async def test_a_repeat_with_another_secret_is_refused_by_the_fields_name(
        self, vaulted: RunningKeyvault
    ) -> None:
        request_id = new_request_id()
        await vaulted.create(request_id=request_id)
        status = await refusal(vaulted.create(OPENAI_KEY + "x", request_id=request_id))

        assert status.code is grpc.StatusCode.ALREADY_EXISTS
        assert status.reason == "REQUEST_ID_REUSED"
        assert status.metadata["field"] == "secret"


@pytest.mark.requirement("K2", "K3")
class TestRefusals:
    @pytest.mark.parametrize(
        ("secret", "fault"),
        [
            ("", "EMPTY"),
            ("two words", "INNER_SPACES"),
            ("sk-", "TRUNCATED"),
            (OPENROUTER_KEY, "OTHER_PROVIDER"),
            ("sk-proj-…WXYZ", "MASKED"),
            ("sk-admin-abcdefgh", "ADMIN_KEY"),
        ],
    )
    async def test_a_secret_that_cannot_be_a_key_is_refused_without_a_test(
        self, vaulted: RunningKeyvault, secret: str, fault: str
    ) -> None:
        status = await refusal(vaulted.create(secret))

        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (status.reason, status.metadata["fault"]) == ("SECRET_MALFORMED", fault)
        assert vaulted.router.asked == []
        await self.nothing_is_stored(vaulted)

    @pytest.mark.parametrize(
        ("result", "code", "reason"),
        [
            ("INVALID", grpc.StatusCode.INVALID_ARGUMENT, "KEY_INVALID"),
            ("FORBIDDEN", grpc.StatusCode.FAILED_PRECONDITION, "KEY_FORBIDDEN"),
            ("UNREACHABLE", grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNREACHABLE"),
        ],
    )
    async def test_a_key_that_fails_its_test_is_refused_and_nothing_is_stored(
        self, vaulted: RunningKeyvault, result: str, code: grpc.StatusCode, reason: str
    ) -> None:
        vaulted.router.finds(result, missing_permission="model.request")
        status = await refusal(vaulted.create())

        assert (status.code, status.reason) == (code, reason)
        assert status.metadata["provider"] == "openai"
        if result == "FORBIDDEN":
            assert status.metadata["missing_permission"] == "model.request"
            assert "model.request" in status.message
        await self.nothing_is_stored(vaulted)

    @pytest.mark.parametrize("result", ["INVALID", "FORBIDDEN"])
    async def test_store_unverified_does_not_store_what_was_verified_to_be_wrong(
        self, vaulted: RunningKeyvault, result: str
    ) -> None:
        vaulted.router.finds(result)
        await refusal(vaulted.create(store_unverified=True))

        await self.nothing_is_stored(vaulted)

    @pytest.mark.parametrize(
        ("result", "state"),
        [
            ("NO_CREDIT", key_pb2.HEALTH_STATE_NO_CREDIT),
            ("RATE_LIMITED", key_pb2.HEALTH_STATE_COOLING),
            ("UNREACHABLE", key_pb2.HEALTH_STATE_SUSPECT),
        ],
    )
    async def test_other_results_are_stored_with_their_state(
        self, vaulted: RunningKeyvault, result: str, state: key_pb2.HealthState
    ) -> None:
        vaulted.router.finds(result)
        created = await vaulted.create(store_unverified=True)

        [health] = created.key.health
        assert health.state == state
        assert health.reason
        assert health.next_step
        assert created.test.result == live_test_pb2.TestResult.Value(f"TEST_RESULT_{result}")

    async def test_a_refused_request_id_runs_anew(self, vaulted: RunningKeyvault) -> None:
        request_id = new_request_id()
        vaulted.router.finds("UNREACHABLE")
        await refusal(vaulted.create(request_id=request_id))
        vaulted.router.finds("VALID")

        assert (await vaulted.create(request_id=request_id)).key.version == 1

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"provider": "nowhere", "secret": "of-no-known-shape"}, "key.provider"),
            ({"provider": "No Where"}, "key.provider"),
            ({"default_model": "openai/not-curated"}, "key.default_model"),
            ({"default_model": "no-vendor"}, "key.default_model"),
            ({"allowed_models": ["openai/a", "openai/a"]}, "key.allowed_models"),
            ({"label": "x" * 101}, "key.label"),
            ({"label": "a\nb"}, "key.label"),
            ({"order": -1}, "key.order"),
            ({"monthly_limit_nano_usd": 0}, "key.monthly_limit_nano_usd"),
            ({"monthly_limit_nano_usd": -1}, "key.monthly_limit_nano_usd"),
            ({"monthly_limit_nano_usd": 10**18 + 1}, "key.monthly_limit_nano_usd"),
            ({"order": 1_000_001}, "key.order"),
            ({"key_id": "-bad"}, "key_id"),
            ({"account": "Bad"}, "parent"),
            ({"request_id": "not-a-uuid"}, "request_id"),
            ({"secret": "x" * (16 * 1024 + 1)}, "secret"),
        ],
    )
    async def test_bad_input_names_its_field(
        self, vaulted: RunningKeyvault, fields: dict[str, object], field: str
    ) -> None:
        status = await refusal(vaulted.create(**fields))  # type: ignore[arg-type]

        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (status.reason, status.metadata["field"]) == ("INVALID_ARGUMENT", field)
        await self.nothing_is_stored(vaulted)

    async def test_a_request_without_an_id_is_refused(self, vaulted: RunningKeyvault) -> None:
        request = service_pb2.CreateKeyRequest(
            parent="accounts/demo", key=key_pb2.Key(provider="openai"), secret=OPENAI_KEY
        )

        assert (await refusal(vaulted.stub.CreateKey(request))).metadata["field"] == "request_id"

    async def test_a_name_is_never_given_twice(self, vaulted: RunningKeyvault) -> None:
        await vaulted.create(key_id="main")
        assert (await refusal(vaulted.create(key_id="main"))).metadata["deleted"] == "false"
        await vaulted.stub.DeleteKey(
            service_pb2.DeleteKeyRequest(
                name="accounts/demo/keys/main", request_id=new_request_id()
            )
        )

        status = await refusal(vaulted.create(key_id="main"))
        assert (status.reason, status.metadata["deleted"]) == ("KEY_ALREADY_EXISTS", "true")

    async def test_the_hundred_and_first_key_is_refused(self, vaulted: RunningKeyvault) -> None:
        for _ in range(100):
            await vaulted.create()
        asked = len(vaulted.router.asked)
        status = await refusal(vaulted.create())

        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEY_LIMIT_REACHED",
        )
        assert len(vaulted.router.asked) == asked
        assert (await vaulted.create(account="other")).key.version == 1

    async def nothing_is_stored(self, vaulted: RunningKeyvault) -> None:
        listed = await vaulted.stub.ListKeys(service_pb2.ListKeysRequest(parent="accounts/demo"))
        assert list(listed.keys) == []
        assert [len(account.keys) for account in (await vaulted.resolve()).accounts] == [0]
