# SPDX-License-Identifier: Apache-2.0
"""Images and speech through the whole suite: who pays, what it costs, faults and leaving."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from ownkey.keyvault.v1 import live_test_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2, media_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.ids import new_id
from services.shared.status import RichStatus, from_rpc_error
from simulator.media import image, image_bytes, sound
from tests.e2e import support
from tests.e2e.support import CREDITS, OWN_KEY
from tests.e2e.terminal import Person

STABLE = "stability/core"
STABLE_NANO_USD = 30_000_000
PICTURE = image("image/png", size=image_bytes("medium"))
OWN_KEY_FIRST = account_pb2.BILLING_MODE_OWN_KEY_FIRST


class Made:
    """What a media stream came to."""

    def __init__(self) -> None:
        self.data = b""
        self.start: media_pb2.MediaStart | None = None
        self.finish: media_pb2.MediaFinish | None = None
        self.error: RichStatus | None = None

    @property
    def receipt(self) -> attempt_pb2.Receipt:
        assert self.finish is not None, self.error
        return self.finish.receipt


def draw(clients: Clients, account: str, **fields: Any) -> Any:
    """Begin to draw; the call is to be iterated or cancelled."""
    request = media_pb2.GenerateImageRequest(
        **{
            "account": account,
            "request_id": new_id(),
            "model": STABLE,
            "prompt": "A lighthouse",
            **fields,
        }
    )
    return clients.router.GenerateImage(request, timeout=support.CALL_SECONDS_MAX)


def speak(clients: Clients, account: str, text: str, model: str = "openai/tts-1") -> Any:
    """Begin to speak; as `draw`."""
    request = media_pb2.SynthesizeSpeechRequest(
        account=account, request_id=new_id(), model=model, text=text, media_type="audio/mpeg"
    )
    return clients.router.SynthesizeSpeech(request, timeout=support.CALL_SECONDS_MAX)


async def all_of(call: Any) -> Made:
    """Read a call to its end, whatever that is."""
    made = Made()
    try:
        async for message in call:
            if message.HasField("start"):
                made.start = message.start
            elif message.HasField("chunk"):
                made.data += message.chunk.data
            else:
                made.finish = message.finish
    except grpc.aio.AioRpcError as failure:
        made.error = from_rpc_error(failure)
    return made


CELLS: dict[tuple[str, str], Any] = {
    ("CREDITS", "AUTO"): CREDITS,
    ("CREDITS", "OWN_KEY"): "SOURCE_NOT_ALLOWED",
    ("CREDITS", "CREDITS"): CREDITS,
    ("OWN_KEY_FIRST", "AUTO"): OWN_KEY,
    ("OWN_KEY_FIRST", "OWN_KEY"): OWN_KEY,
    ("OWN_KEY_FIRST", "CREDITS"): CREDITS,
    ("OWN_KEY_ONLY", "AUTO"): OWN_KEY,
    ("OWN_KEY_ONLY", "OWN_KEY"): OWN_KEY,
    ("OWN_KEY_ONLY", "CREDITS"): CREDITS,
}


class TestWhoPays:
    @pytest.mark.requirement("R3", "R7", "L5")
    async def test_images_are_paid_by_the_same_table_as_text(self, clients: Clients) -> None:
        """Each cell with a key that serves; credits pay the list price by the plan."""
        account = await support.new_account(clients)
        await support.add_key(clients, account, provider="stability")
        modes = ("CREDITS", "OWN_KEY_FIRST", "OWN_KEY_ONLY")
        for mode in modes:
            if mode != "CREDITS":
                await support.set_mode(
                    clients, account, account_pb2.BillingMode.Value(f"BILLING_MODE_{mode}")
                )
            for source in ("AUTO", "OWN_KEY", "CREDITS"):
                wanted = CELLS[mode, source]
                value = attempt_pb2.Source.Value(f"SOURCE_{source}")
                made = await all_of(draw(clients, account, source=value))
                if isinstance(wanted, str):
                    assert made.error is not None, (mode, source)
                    assert made.error.reason == wanted
                    continue
                assert made.data == PICTURE, (mode, source)
                assert made.receipt.payer == wanted, (mode, source)
                assert made.receipt.cost_nano_usd == STABLE_NANO_USD
                charged = support.credit_price(STABLE_NANO_USD) if wanted == CREDITS else 0
                assert made.receipt.charged_nano_credits == charged

    @pytest.mark.requirement("R9", "L9")
    async def test_credits_stand_in_for_a_key_that_is_refused(self, clients: Clients) -> None:
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        key = await support.add_key(clients, account, provider="stability")
        async with support.fault(clients, key.secret, "nocredit"):
            made = await all_of(draw(clients, account))
        assert made.receipt.payer == CREDITS
        assert made.receipt.fallback
        assert [a.outcome for a in made.receipt.attempts] == [
            attempt_pb2.OUTCOME_INSUFFICIENT_CREDIT,
            attempt_pb2.OUTCOME_OK,
        ]

    @pytest.mark.requirement("R3", "L3")
    async def test_speech_on_credits_is_charged_by_the_character(self, clients: Clients) -> None:
        account = await support.new_account(clients)
        made = await all_of(speak(clients, account, "Good evening"))
        assert made.data == sound("audio/mpeg", "Good evening")
        assert made.receipt.cost_nano_usd == 12 * 15_000
        assert made.receipt.charged_nano_credits == support.credit_price(12 * 15_000)


class TestFaults:
    @pytest.mark.requirement("L9", "R3")
    async def test_a_fault_after_bytes_is_an_error_once_and_free(self, clients: Clients) -> None:
        """Credits are refused to pay for what broke, and no other key is tried."""
        account = await support.new_account(clients, mode=OWN_KEY_FIRST)
        key = await support.add_key(clients, account)
        before = await support.balance(clients, account)
        async with support.fault(clients, key.secret, "cut"):
            made = await all_of(speak(clients, account, "Good evening " * 200))
        assert made.data
        assert made.error is not None
        assert made.error.reason == "STREAM_BROKEN"
        calls = await support.recorded_requests(clients, key.secret)
        assert len([call for call in calls if call["path"].endswith("/audio/speech")]) == 1
        after = await support.balance(clients, account)
        assert after.available_nano_credits == before.available_nano_credits

    @pytest.mark.requirement("L9")
    async def test_a_caller_that_leaves_pays_for_what_was_drawn(self, clients: Clients) -> None:
        """The provider goes on and bills, so the image is settled exactly."""
        account = await support.new_account(clients)
        fields = {"model": "openai/gpt-image-1-mini", "quality": "high", "count": 3}
        call = draw(clients, account, **fields)
        async for message in call:
            if message.HasField("chunk"):
                break
        call.cancel()

        async def settled() -> bool:
            found = await support.authorizations(clients, account)
            return any(row.charged_nano_credits > 0 for row in found)

        async with asyncio.timeout(support.EVENTUALLY_SECONDS):
            while not await settled():
                await asyncio.sleep(0.05)
        [row] = await support.authorizations(clients, account)
        cost = 2 * 2_000 + 3 * 4160 * 8_000
        assert row.charged_nano_credits == support.credit_price(cost)
        assert row.units.image_count == 3


class TestKeys:
    @pytest.mark.requirement("K3")
    async def test_a_stability_key_is_tested_by_its_balance(self, clients: Clients) -> None:
        """NO_CREDIT is told from RATE_LIMITED; the hint shows prefix and end alone."""
        account = await support.new_account(clients)
        results = {}
        for fault in ("", "nocredit", "ratelimited"):
            secret = support.new_secret("stability", fault=fault)
            created = await support.create_key(clients, account, secret, provider="stability")
            results[fault] = created.test.result
            assert created.key.hint == f"sk-…{secret[-4:]}"
            assert not await support.recorded_requests(clients, secret), "nothing was generated"
        assert results == {
            "": live_test_pb2.TEST_RESULT_VALID,
            "nocredit": live_test_pb2.TEST_RESULT_NO_CREDIT,
            "ratelimited": live_test_pb2.TEST_RESULT_RATE_LIMITED,
        }
        refused = await support.refusal(
            support.create_key(
                clients,
                account,
                support.new_secret("stability", fault="revoked"),
                provider="stability",
            )
        )
        assert refused.reason == "KEY_INVALID"


class TestCommand:
    @pytest.mark.requirement("O4", "R3")
    def test_images_and_speech_are_saved_and_shown_by_path(
        self, suite: Suite, tmp_path: Path
    ) -> None:
        async def account() -> str:
            async with support.clients_of(suite) as clients:
                return await support.new_account(clients)

        person = Person(suite, asyncio.run(account()), tmp_path)
        made = person.run("image", "A boat", "--model", STABLE, "-o", "boat.png")
        assert made.out == "boat.png\n"
        assert "credits pay" in made.err
        assert "1 image" in made.err
        assert (tmp_path / "boat.png").read_bytes() == PICTURE

        refused = person.run("image", "A boat", "--model", STABLE, "-o", "boat.png", code=2)
        assert "--force" in refused.err
        line = "image Boats --count 2 --quality low --format webp --out boats --json"
        lines = person.run(*line.split()).lines
        assert lines[-1]["paths"] == ["boats.webp", "boats-2.webp"]
        assert int(lines[-1]["finish"]["receipt"]["cost_nano_usd"]) > 0
        redrawn = person.run("image", "A bird", "--from", "boat.png", "-o", "boat.png", "--force")
        assert redrawn.out == "boat.png\n"

        spoken = person.run("speech", "Good evening", "--model", "openai/tts-1", "-o", "evening")
        assert spoken.out == "evening.mp3\n"
        assert "12 characters" in spoken.err
        assert (tmp_path / "evening.mp3").read_bytes() == sound("audio/mpeg", "Good evening")
        wrong = person.run("speech", "Hello", "--voice", "nobody", "--json", code=2)
        assert wrong.failure["reason"] == "INVALID_ARGUMENT"
        assert not list(tmp_path.glob(".*part"))
