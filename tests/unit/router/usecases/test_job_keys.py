# SPDX-License-Identifier: Apache-2.0
"""Which version of its key a job goes on with when the secret is replaced under it."""

from __future__ import annotations

import dataclasses

import pytest

from services.router.domain.keys import OwnKey
from services.router.usecases.job_keys import JobKey, StoredJobKeys
from tests.support.engine import FakeHeld, FakeKeys
from tests.support.routing import account_keys
from tests.support.stage import KEY
from tests.unit.router.domain.test_jobs import new_job

OVERLAP_ENDS_AT = 60.0
BEFORE = dataclasses.replace(KEY, version=1, ends_at=OVERLAP_ENDS_AT)
REPLACED = dataclasses.replace(KEY, version=2, previous=BEFORE)

pytestmark = pytest.mark.requirement("K7", "K15", "R3")


async def opened(key: OwnKey, *, begun_with: int) -> JobKey | None:
    """What a job opens that was begun with a version of a key."""
    job = new_job(key=key.name, key_version=begun_with)
    return await StoredJobKeys(FakeKeys(account_keys(key))).open(job)


async def test_while_the_overlap_lasts_it_goes_on_with_what_it_was_begun_with() -> None:
    found = await opened(REPLACED, begun_with=1)
    assert found is not None
    assert found.secret.reveal() == f"{KEY.name}@1"


@pytest.mark.parametrize(
    ("key", "begun_with"),
    [
        pytest.param(REPLACED, 2, id="begun with the new one"),
        pytest.param(dataclasses.replace(REPLACED, previous=None), 1, id="after the overlap"),
        pytest.param(
            dataclasses.replace(
                REPLACED, version=3, previous=dataclasses.replace(BEFORE, version=2)
            ),
            1,
            id="replaced twice",
        ),
    ],
)
async def test_else_it_goes_on_with_the_current_one(key: OwnKey, begun_with: int) -> None:
    found = await opened(key, begun_with=begun_with)
    assert found is not None
    assert found.secret.reveal() == f"{KEY.name}@{key.version}"


async def test_a_key_that_was_disabled_ends_both() -> None:
    disabled = dataclasses.replace(REPLACED, enabled=False)
    assert await opened(disabled, begun_with=1) is None


@pytest.mark.parametrize("may_use", [True, False])
async def test_its_own_version_is_held_against_the_end_of_the_overlap(
    monkeypatch: pytest.MonkeyPatch, may_use: bool
) -> None:
    asked: list[int] = []

    def answer(_held: FakeHeld, key: OwnKey) -> bool:
        asked.append(key.version)
        return may_use

    monkeypatch.setattr(FakeHeld, "may_use", answer)
    found = await opened(REPLACED, begun_with=1)
    assert found is not None
    assert found.usable() is may_use
    assert asked == [1]
