# SPDX-License-Identifier: Apache-2.0
"""What a suite keeps in its folder survives a stop and a start; a newer folder is left alone."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf.message import Message
from ownkey.keyvault.v1 import live_test_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2

from deploy.local.processes import LocalError
from deploy.local.state import LAYOUT_VERSION, Kek
from deploy.local.suite import Ports, Suite
from services.shared.ids import new_id
from tests.e2e.support import (
    OWN_KEY,
    StoredKey,
    add_key,
    check_key,
    clients_of,
    generate,
    new_account,
    recorded_requests,
    refusal,
    running_suite,
)
from tests.e2e.witness import Whole, whole

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True, slots=True)
class Before:
    """
    What was on record when the suite stopped.

    Args:
        account: Its name.
        key: Its key.
        own_id: Id of a request that the own key paid.
        credits_id: Id of a request that credits paid.
        own: What the first came to.
        credits: What the second came to.
        whole: All that was on record.
    """

    account: str
    key: StoredKey
    own_id: str
    credits_id: str
    own: attempt_pb2.Receipt
    credits: attempt_pb2.Receipt
    whole: Whole


@dataclass(frozen=True, slots=True)
class Stopped:
    """
    A suite that has done some work and was stopped.

    Args:
        folder: Its state.
        copy: The same, for a test that changes it.
        kek: What wraps its keys.
        before: What was on record.
    """

    folder: Path
    copy: Path
    kek: Kek
    before: Before


@pytest.fixture(scope="module", params=["local", "vault"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A stopped suite, once with either key-encryption key."""
    folder = tmp_path_factory.mktemp("restart") / "state"
    with running_suite(folder, kek=request.param) as suite:
        before = asyncio.run(work(suite))
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    return Stopped(folder, copy, request.param, before)


async def work(suite: Suite) -> Before:
    """Puts something of everything on record."""
    async with clients_of(suite) as clients:
        account = await new_account(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_FIRST)
        key = await add_key(clients, account)
        own_id, credits_id = new_id(), new_id()
        own = await generate(clients, account, request_id=own_id)
        paid = await generate(
            clients, account, request_id=credits_id, source=attempt_pb2.SOURCE_CREDITS
        )
        assert own.receipt.payer == OWN_KEY
        assert paid.receipt.charged_nano_credits > 0
        return Before(
            account,
            key,
            own_id,
            credits_id,
            own.receipt,
            paid.receipt,
            await whole(clients, account),
        )


@dataclass(frozen=True, slots=True)
class Again:
    """
    The suite, started again on the same folder.

    Args:
        suite: It, on other ports.
        before: What was on record when it stopped.
        whole: What was on record right after it started.
    """

    suite: Suite
    before: Before
    whole: Whole


@pytest.fixture(scope="module")
def again(stopped: Stopped) -> Iterator[Again]:
    """The suite, started again on the same folder."""
    with Suite(stopped.folder, ports=Ports.any_free(), kek=stopped.kek) as suite:
        yield Again(suite, stopped.before, asyncio.run(on_record(suite, stopped.before.account)))


async def on_record(suite: Suite, account: str) -> Whole:
    async with clients_of(suite) as clients:
        return await whole(clients, account)


def contents(folder: Path) -> dict[str, tuple[str, float, int]]:
    """Digest, time of change and mode of every file."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime,
            path.stat().st_mode,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.requirement("O1")
class TestNewerFolder:
    def test_it_is_refused_and_not_touched(self, stopped: Stopped) -> None:
        """A folder with real data, of a layout that this version does not know."""
        (stopped.copy / "version").write_text(f"{LAYOUT_VERSION + 1}\n")
        before = contents(stopped.copy)
        suite = Suite(stopped.copy, ports=Ports.any_free(), kek=stopped.kek)
        with pytest.raises(LocalError, match="newer Ownkey"):
            suite.start()
        assert contents(stopped.copy) == before
        assert not suite.postgres.running


class TestSameFolder:
    @pytest.mark.requirement("K9", "L4", "L11", "L12")
    async def test_everything_on_record_stands(self, again: Again) -> None:
        assert again.before.whole.differences(again.whole) == []

    @pytest.mark.requirement("K4", "K9")
    async def test_keys_still_decrypt(self, again: Again) -> None:
        """The provider gets the very secret that was stored before."""
        before = again.before
        async with clients_of(again.suite) as clients:
            test, _ = await check_key(clients, before.key)
            assert test.result == live_test_pb2.TEST_RESULT_VALID
            sent = len(await recorded_requests(clients, before.key.secret))
            answer = await generate(clients, before.account)
            assert answer.receipt.payer == OWN_KEY
            assert answer.receipt.key_hint == before.key.hint
            assert len(await recorded_requests(clients, before.key.secret)) == sent + 1

    @pytest.mark.requirement("R14", "R15", "L11")
    async def test_outcomes_of_requests_are_still_told(self, again: Again) -> None:
        """A repeat calls nobody and tells the same, without the text."""
        before = again.before
        async with clients_of(again.suite) as clients:
            held = await whole(clients, before.account)
            sent = len(await recorded_requests(clients, before.key.secret))
            own = await generate(clients, before.account, request_id=before.own_id)
            paid = await generate(
                clients,
                before.account,
                request_id=before.credits_id,
                source=attempt_pb2.SOURCE_CREDITS,
            )
            for told, first in ((own, before.own), (paid, before.credits)):
                assert told.receipt.replayed
                assert told.text == ""
                assert essence(told.receipt) == essence(first)
            assert len(await recorded_requests(clients, before.key.secret)) == sent
            assert held.differences(await whole(clients, before.account)) == []

    @pytest.mark.requirement("L11")
    async def test_another_body_under_an_old_id_is_still_refused(self, again: Again) -> None:
        before = again.before
        async with clients_of(again.suite) as clients:
            status = await refusal(
                generate(clients, before.account, request_id=before.own_id, model="openai/gpt-4o")
            )
        assert status.reason == "REQUEST_ID_REUSED"


def essence(receipt: attempt_pb2.Receipt) -> dict[str, object]:
    """What a repeat must tell as the first answer did."""
    names = ("payer", "provider", "model", "key_hint", "charged_nano_credits", "cost_nano_usd")
    parts: dict[str, object] = {name: getattr(receipt, name) for name in names}
    usage: Message = receipt.usage
    return {**parts, "usage": str(usage), "attempts": len(receipt.attempts)}
