# SPDX-License-Identifier: Apache-2.0
"""Each fault at Vault's boundary: what is said of it, how often Vault is asked, what follows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.keyvault.adapters.vault_http import ATTEMPTS_MAX, VaultSettings
from services.keyvault.adapters.vault_login import AppRole
from services.keyvault.adapters.vault_transit import VaultTransit
from services.keyvault.domain.envelope import WrappedKey
from services.keyvault.errors import KekCause, KekUnavailableError
from services.keyvault.usecases.data_keys import BATCH_MAX, BATCHES_IN_FLIGHT_MAX, DataKeys
from services.shared.clock import SystemClock
from services.shared.secret import Secret
from tests.support.faulty_vault import (
    PLAINTEXT,
    Fault,
    FaultyVault,
    answer,
    faulty_vault,
    results,
)

NAME = "vault:transit/ownkey"
DECRYPT = "/v1/transit/decrypt/ownkey"
CANARY = "canary-of-vaults-own-words"
ITEMS = [
    (WrappedKey(NAME, 1, f"vault:v1:{'QUJD' * 8}{number}AAA".encode()), b"context")
    for number in range(3)
]
OK = HTTPStatus.OK

# What goes wrong each time: its cause to the caller, and how often Vault is asked.
LASTING: dict[str, tuple[Any, KekCause, int]] = {
    "sealed": (answer(503, errors=["Vault is sealed"]), KekCause.SEALED, 1),
    "no leader": (answer(503, errors=[CANARY]), KekCause.UNREACHABLE, ATTEMPTS_MAX),
    "rate limited": (answer(429, errors=[CANARY]), KekCause.BUSY, ATTEMPTS_MAX),
    "internal error": (answer(500, errors=[CANARY]), KekCause.BROKEN, ATTEMPTS_MAX),
    "token refused": (answer(403, errors=[CANARY]), KekCause.DENIED, 2),
    "path unknown": (answer(404, errors=[CANARY]), KekCause.BROKEN, 1),
    "body refused": (answer(400, errors=[CANARY]), KekCause.BROKEN, 1),
    "redirect": (
        Fault(307, location="https://127.0.0.1:1/elsewhere"),
        KekCause.BROKEN,
        1,
    ),
    "no answer": (Fault(silent=True), KekCause.UNREACHABLE, ATTEMPTS_MAX),
    "reset in mid-body": (Fault(OK, b'{"data":', cut=True), KekCause.UNREACHABLE, ATTEMPTS_MAX),
    "truncated JSON": (Fault(OK, b'{"data": {"batch'), KekCause.BROKEN, ATTEMPTS_MAX),
    "no JSON": (Fault(OK, b"<html>"), KekCause.BROKEN, ATTEMPTS_MAX),
    "no object": (Fault(OK, b"[]"), KekCause.BROKEN, ATTEMPTS_MAX),
    "no data": (answer(OK, data=None), KekCause.BROKEN, 1),
    "no results": (answer(OK, data={}), KekCause.BROKEN, 1),
    "wrong order": (results(lambda items: items[::-1]), KekCause.BROKEN, 1),
    "an item short": (results(lambda items: items[1:]), KekCause.BROKEN, 1),
    "an item twice": (results(lambda items: [items[0], *items[:2]]), KekCause.BROKEN, 1),
    "no references": (
        results(lambda items: [{"plaintext": item["plaintext"]} for item in items]),
        KekCause.BROKEN,
        1,
    ),
    "no plaintext": (
        results(lambda items: [{"reference": item["reference"]} for item in items]),
        KekCause.BROKEN,
        1,
    ),
    "a short plaintext": (
        results(lambda items: [{**item, "plaintext": "QUJD"} for item in items]),
        KekCause.BROKEN,
        1,
    ),
}
# What is over at the second try costs the caller nothing.
MENDED = [
    "no leader",
    "rate limited",
    "internal error",
    "token refused",
    "no answer",
    "reset in mid-body",
    "truncated JSON",
    "no JSON",
    "no object",
]


@pytest.fixture
async def vault() -> AsyncIterator[FaultyVault]:
    """A server that fails as it is told to."""
    async with faulty_vault() as server:
        yield server


def make_transit(
    vault: FaultyVault, folder: Path, *, call_seconds: float, namespace: str = ""
) -> VaultTransit:
    secret = folder / "id"
    secret.touch(mode=0o600)
    secret.write_text("id-of-the-role")
    settings = VaultSettings(
        address=vault.address,
        ca_file=None,
        namespace=namespace,
        transit_mount="transit",
        transit_key="ownkey",
        login=AppRole("approle", role_id_file=secret, secret_id_file=secret),
        call_seconds=call_seconds,
        connections=4,
    )
    return VaultTransit(settings, clock=SystemClock())


@pytest.fixture
async def transit(vault: FaultyVault, tmp_path: Path) -> AsyncIterator[VaultTransit]:
    """Keyvault's adapter on it."""
    adapter = make_transit(vault, tmp_path, call_seconds=5.0)
    yield adapter
    await adapter.close()


async def opened(transit: VaultTransit) -> list[bytes | None]:
    secrets = await transit.unwrap_many(ITEMS)
    return [secret.reveal_bytes() if secret else None for secret in secrets]


@pytest.mark.requirement("K8", "K9")
class TestFaults:
    @pytest.mark.parametrize("name", LASTING)
    async def test_one_that_lasts_has_its_cause_and_bound_and_all_is_well_after_it(
        self, vault: FaultyVault, transit: VaultTransit, name: str
    ) -> None:
        vault.lasting, cause, asked = LASTING[name]
        with capture_logs() as lines, pytest.raises(KekUnavailableError) as refused:
            await transit.unwrap_many(ITEMS)

        assert refused.value.cause is cause
        assert [path for path, _ in vault.uses] == [DECRYPT] * asked
        assert CANARY not in f"{refused.value!r}{refused.value.message}{lines}"
        vault.lasting = None
        assert await opened(transit) == [PLAINTEXT] * 3

    @pytest.mark.parametrize("name", MENDED)
    async def test_one_that_passes_costs_nothing(
        self, vault: FaultyVault, transit: VaultTransit, name: str
    ) -> None:
        vault.faults.append(LASTING[name][0])

        assert await opened(transit) == [PLAINTEXT] * 3
        assert len(vault.uses) == 2

    async def test_an_answer_that_never_comes_ends_with_the_calls_time(
        self, vault: FaultyVault, tmp_path: Path
    ) -> None:
        vault.lasting = Fault(hangs=True)
        loop = asyncio.get_running_loop()
        began = loop.time()
        transit = make_transit(vault, tmp_path, call_seconds=0.3)
        with pytest.raises(KekUnavailableError) as refused:
            await transit.unwrap_many(ITEMS)
        await transit.close()

        assert refused.value.cause is KekCause.UNREACHABLE
        assert loop.time() - began < 2
        assert len(vault.uses) == 1

    async def test_of_a_batch_that_fails_in_part_the_rest_is_good(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        def partly(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
            refused = {"reference": items[1]["reference"], "error": CANARY}
            return [items[0], refused, items[2]]

        vault.lasting = results(partly)
        with capture_logs() as lines:
            assert await opened(transit) == [PLAINTEXT, None, PLAINTEXT]

        assert [line["event"] for line in lines if line["log_level"] == "error"] == [
            "vault_refused_item"
        ]
        assert CANARY not in f"{lines}"

    async def test_an_expired_token_costs_one_login_however_many_meet_it(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        await transit.unwrap_many(ITEMS)
        vault.faults.extend([answer(403, errors=[CANARY])] * 4)
        answers = await asyncio.gather(*(opened(transit) for _ in range(20)))

        assert all(secrets == [PLAINTEXT] * 3 for secrets in answers)
        assert vault.logins == 2
        await transit.unwrap_many(ITEMS)
        assert vault.uses[-1] == (DECRYPT, "token-2")

    async def test_a_sealed_login_says_sealed(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        vault.login_fault = answer(503, errors=["Vault is sealed"])
        with pytest.raises(KekUnavailableError) as refused:
            await transit.unwrap_many(ITEMS)

        assert refused.value.cause is KekCause.SEALED

    async def test_logins_and_uses_alike_name_the_namespace(
        self, vault: FaultyVault, tmp_path: Path
    ) -> None:
        transit = make_transit(vault, tmp_path, call_seconds=5.0, namespace="/teams/keys/")
        keys = [
            (WrappedKey(transit.name, key.kek_version, key.wrapped), context)
            for key, context in ITEMS
        ]
        secrets = await transit.unwrap_many(keys)
        await transit.close()

        assert transit.name == "vault:teams/keys/transit/ownkey"
        assert all(secret is not None for secret in secrets)
        assert vault.namespaces == {"/teams/keys/"}

    async def test_a_redirect_is_never_followed_with_a_token(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        async with faulty_vault() as other:
            vault.lasting = Fault(307, location=f"{other.address}{DECRYPT}")
            with pytest.raises(KekUnavailableError):
                await transit.unwrap_many(ITEMS)

            assert (other.uses, other.logins) == ([], 0)


@pytest.mark.requirement("K9")
class TestStorms:
    """Through the cache, as reads go: what Vault sees of ten thousand callers."""

    @staticmethod
    def cache(transit: VaultTransit) -> DataKeys:
        return DataKeys(
            transit, clock=SystemClock(), age_seconds_max=300, grace_seconds=30, count_max=20_000
        )

    async def test_ten_thousand_reads_of_one_cold_key_are_one_call(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        cache = self.cache(transit)
        answers = await asyncio.gather(*(cache.unwrap_each(ITEMS[:1]) for _ in range(10_000)))

        assert all(isinstance(result, Secret) for [result] in answers)
        assert len(vault.uses) == 1

    async def test_ten_thousand_cold_keys_are_a_handful_of_batches(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        cache = self.cache(transit)
        [(wrapped, _), *_] = ITEMS
        cold = [(wrapped, str(number).encode()) for number in range(10_000)]
        answers = await asyncio.gather(*(cache.unwrap_each([item]) for item in cold))

        assert all(isinstance(result, Secret) for [result] in answers)
        assert len(vault.uses) <= math.ceil(len(cold) / BATCH_MAX) + BATCHES_IN_FLIGHT_MAX

    async def test_a_vault_that_comes_back_meets_no_storm(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        cache = self.cache(transit)
        vault.lasting = LASTING["sealed"][0]
        calls = [cache.unwrap_each(ITEMS[:1]) for _ in range(10_000)]
        answers = await asyncio.gather(*calls)
        assert all(isinstance(result, KekUnavailableError) for [result] in answers)
        assert len(vault.uses) == 1

        vault.lasting = None
        await asyncio.gather(*(cache.unwrap_each(ITEMS[:1]) for _ in range(10_000)))
        assert len(vault.uses) == 2

    async def test_how_many_versions_wrap_the_keys_costs_no_further_call(
        self, vault: FaultyVault, transit: VaultTransit
    ) -> None:
        """Keys of as many versions as a batch holds are one batch, to unwrap and to rewrap."""
        [(wrapped, context), *_] = ITEMS
        _, _, body = wrapped.wrapped.split(b":")
        items = [
            (WrappedKey(NAME, version, b"vault:v%d:%s" % (version, body)), context)
            for version in range(1, BATCH_MAX + 1)
        ]
        cache = self.cache(transit)
        assert all(isinstance(found, Secret) for found in await cache.unwrap_each(items))
        assert len(vault.uses) == 1

        rewrapped = await transit.rewrap_many(items)
        assert len(vault.uses) == 2
        assert len(rewrapped) == len(items)
