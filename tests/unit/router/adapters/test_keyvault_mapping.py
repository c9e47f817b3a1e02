# SPDX-License-Identifier: Apache-2.0
"""What the router reads from keyvault's messages."""

from __future__ import annotations

import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import resolution_pb2 as pb

from services.router.adapters.keyvault_mapping import account_keys
from services.router.domain.keys import OwnKey
from simulator.credentials import service_account
from tests.support.simulated_providers import PRIVATE_KEY

NAME = "accounts/demo/keys/main"
ASKED_AT = 100.0
ANSWERED_AT = 103.0


def read(item: pb.ResolvedKey) -> OwnKey:
    answer = pb.AccountKeys(account="accounts/demo", keys=[item])
    [key] = account_keys(answer.account, answer, asked_at=ASKED_AT, now=ANSWERED_AT).keys
    return key


def resolved(**fields: object) -> pb.ResolvedKey:
    key = key_pb2.Key(
        name=NAME,
        provider="openai",
        version=2,
        hint="sk-…wxyz",
        state=key_pb2.KEY_STATE_ENABLED,
        monthly_limit_nano_usd=5,
    )
    return pb.ResolvedKey(key=key, **fields)  # type: ignore[arg-type]


@pytest.mark.requirement("K7", "K15")
def test_an_overlap_is_counted_from_the_question_so_that_no_transit_extends_it() -> None:
    previous = pb.PreviousVersion(version=1, secret="old", remaining_millis=1_500)
    key = read(resolved(secret="new", previous=previous))

    assert (key.version, key.ends_at) == (2, None)
    assert key.previous is not None
    assert (key.previous.name, key.previous.version) == (NAME, 1)
    assert key.previous.ends_at == ASKED_AT + 1.5
    assert key.previous.hint == ""


@pytest.mark.requirement("K7")
def test_without_an_overlap_there_is_no_version_before() -> None:
    assert read(resolved(secret="new")).previous is None


@pytest.mark.requirement("K9", "R9")
def test_a_key_that_cannot_be_opened_is_neither_absent_nor_disabled() -> None:
    unopened = read(resolved(unavailable_cause="SEALED"))
    assert (unopened.enabled, unopened.is_unopened) == (True, True)

    damaged = read(resolved())
    assert (damaged.enabled, damaged.is_unopened) == (False, False)


@pytest.mark.requirement("K1", "L8")
def test_the_spending_limit_comes_along_and_none_is_none() -> None:
    assert read(resolved(secret="new")).monthly_limit_nano_usd == 5
    without = resolved(secret="new")
    without.key.ClearField("monthly_limit_nano_usd")
    assert read(without).monthly_limit_nano_usd is None


@pytest.mark.requirement("R6", "K11")
@pytest.mark.parametrize("region", ["global", "europe-west1"])
def test_a_vertex_key_serves_in_the_region_of_its_credential(region: str) -> None:
    """Prices go by it; of one that only its browser holds the hint tells it."""
    account = pb.ResolvedKey(
        key=key_pb2.Key(name=NAME, provider="google-vertex", hint=f"acme {region} …0123"),
        secret=service_account(region=region, private_key=PRIVATE_KEY),
    )
    assert read(account).region == region
    account.ClearField("secret")
    account.key.residence = key_pb2.RESIDENCE_CLIENT_HELD
    assert read(account).region == region


@pytest.mark.requirement("R6")
def test_no_other_key_has_a_region_and_a_broken_credential_tells_none() -> None:
    assert read(resolved(secret="sk-new")).region == ""
    broken = pb.ResolvedKey(key=key_pb2.Key(name=NAME, provider="google-vertex"), secret="{}")
    assert read(broken).region == ""
