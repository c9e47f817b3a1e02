# SPDX-License-Identifier: Apache-2.0
"""Client-held keys through the whole suite: brought with each request, paid by, never stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ownkey.keyvault.v1 import key_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault_pb2
from ownkey.ledger.v1 import account_pb2
from ownkey.router.v1 import attempt_pb2, client_held_key_pb2, explain_pb2, job_pb2, text_pb2

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.ids import new_id
from tests.e2e import support
from tests.support.client_held import HYBRID, X25519, FakeBrowser
from tests.support.keyvault import database

HELD = key_pb2.RESIDENCE_CLIENT_HELD
SERVER = key_pb2.RESIDENCE_SERVER


class Holder:
    """
    An account whose one key a browser holds.

    Args:
        clients: Stubs.
        browser: Holds the key.
        key: Its name.
        secret: Its secret.
    """

    def __init__(self, clients: Clients, browser: FakeBrowser, key: str, secret: str) -> None:
        self.clients = clients
        self.browser = browser
        self.account = browser.account
        self.key = key
        self.secret = secret
        self.tests = 0

    async def sent(self) -> int:
        """How many generations reached the provider with the key, the live test's left out."""
        return len(await support.recorded_requests(self.clients, self.secret)) - self.tests

    def brought(self, request_id: str, **proof: str) -> client_held_key_pb2.ClientHeldKey:
        """The key with a fresh proof."""
        fields = self.browser.bring(request_id, **proof)
        del fields["request_id"]
        return client_held_key_pb2.ClientHeldKey(key=self.key, **fields)

    def request(
        self, request_id: str = "", *, bring: bool = True, **fields: Any
    ) -> text_pb2.GenerateTextRequest:
        """A request that brings the key."""
        request_id = request_id or new_id()
        return text_pb2.GenerateTextRequest(
            account=self.account,
            request_id=request_id,
            model=support.MODELS["openai"],
            input=support.question(),
            client_held_keys=[self.brought(request_id)] if bring else [],
            **fields,
        )

    async def generate(self, request: text_pb2.GenerateTextRequest) -> Any:
        """Generate text."""
        return await self.clients.router.GenerateText(request, timeout=support.CALL_SECONDS_MAX)

    async def refused(self, request: text_pb2.GenerateTextRequest) -> tuple[str, str]:
        """Reason and fault of a request that must fail."""
        status = await support.refusal(self.generate(request))
        assert self.secret not in str(status)
        return status.reason, status.metadata.get("fault", "")


async def holder(
    clients: Clients,
    *,
    suite: Any = X25519,
    mode: account_pb2.BillingMode.ValueType = account_pb2.BILLING_MODE_OWN_KEY_FIRST,
    fault: str = "",
    **fields: Any,
) -> Holder:
    """An account with a client-held key at openai."""
    account, secret = await support.new_account(clients, mode=mode), support.new_secret(fault=fault)
    browser = FakeBrowser(clients.keyvault, account=account)
    await browser.seal(secret, suite)
    created = await clients.keyvault.CreateKey(
        keyvault_pb2.CreateKeyRequest(
            parent=account,
            key=key_pb2.Key(provider="openai", residence=HELD, **fields),
            **browser.bring(),
        ),
        timeout=support.CALL_SECONDS_MAX,
    )
    who = Holder(clients, browser, created.key.name, secret)
    who.tests = await who.sent()
    return who


@pytest.mark.requirement("K10", "R12", "L5")
class TestServing:
    @pytest.mark.parametrize("suite_of", [X25519, HYBRID])
    async def test_a_request_that_brings_the_key_is_served_and_paid_by_it(
        self, clients: Clients, suite_of: Any
    ) -> None:
        who = await holder(clients, suite=suite_of)
        answer = await who.generate(who.request())
        [attempt] = answer.receipt.attempts

        assert answer.text == support.predicted_text("openai")
        assert (attempt.funding, attempt.key) == (support.OWN_KEY, who.key)
        assert attempt.key_hint == f"sk-proj-…{who.secret[-4:]}"
        assert not answer.resealed_keys
        assert await who.sent() == 1
        await support.assert_untouched(clients, who.account)

    async def test_a_stream_is_served_by_it_too(self, clients: Clients) -> None:
        who, request_id = await holder(clients), new_id()
        call = clients.router.StreamText(
            text_pb2.StreamTextRequest(
                account=who.account,
                request_id=request_id,
                model=support.MODELS["openai"],
                input=support.question(),
                client_held_keys=[who.brought(request_id)],
            ),
            timeout=support.CALL_SECONDS_MAX,
        )
        events = [message async for message in call]

        assert events[0].start.payer == support.OWN_KEY
        assert events[-1].finish.receipt.attempts[0].key == who.key

    async def test_it_is_opened_once_for_all_attempts_of_a_run(
        self, clients: Clients, suite: Suite
    ) -> None:
        who = await holder(clients)
        request = who.request()
        async with support.fault(clients, who.secret, "ratelimited", count=1):
            answer = await who.generate(request)
        async with database(suite_dsn(suite)) as connection:
            opened = await connection.fetchval(
                "SELECT count(*) FROM audit_events WHERE request_id = $1 AND action = 'RELEASE'",
                request.request_id,
            )

        assert len(answer.receipt.attempts) == 2
        assert opened == 1

    async def test_a_repeat_gets_the_recorded_outcome_though_its_proof_is_spent(
        self, clients: Clients
    ) -> None:
        who = await holder(clients)
        request = who.request()
        first = await who.generate(request)
        again = await who.generate(request)

        assert first.text
        assert again.text == ""
        assert again.receipt.attempts[0].key == who.key
        assert await who.sent() == 1


@pytest.mark.requirement("K10", "R9")
class TestNotBrought:
    async def test_a_request_that_does_not_bring_it_falls_back_under_consent(
        self, clients: Clients
    ) -> None:
        who = await holder(clients)
        answer = await who.generate(who.request(bring=False))

        assert answer.receipt.attempts[0].funding == support.CREDITS
        assert answer.receipt.attempts[0].fallback

    async def test_where_it_alone_may_pay_the_caller_is_told_to_bring_it(
        self, clients: Clients
    ) -> None:
        only = await holder(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        always = await holder(clients, always_use=True)
        asked = await holder(clients)
        own_key = only.request(bring=False, source=attempt_pb2.SOURCE_OWN_KEY)
        missing = ("SEALED_KEY_REFUSED", "MISSING")

        assert await only.refused(only.request(bring=False)) == missing
        assert await always.refused(always.request(bring=False)) == missing
        own_key.account = asked.account
        assert await asked.refused(own_key) == missing
        await support.assert_untouched(clients, always.account)

    async def test_explain_names_it_and_takes_its_name_for_bringing_it(
        self, clients: Clients
    ) -> None:
        who = await holder(clients)
        bare = who.request(bring=False)
        told = await clients.router.Explain(explain_pb2.ExplainRequest(text=bare))
        bare.client_held_keys.add(key=who.key)
        brought = await clients.router.Explain(explain_pb2.ExplainRequest(text=bare))

        reasons = {item.key: item.reason for item in told.exclusions}
        assert reasons[who.key] == explain_pb2.EXCLUSION_REASON_NOT_BROUGHT
        assert brought.candidates[0].key == who.key


@pytest.mark.requirement("K10", "R11")
class TestRefusals:
    async def test_a_proof_that_was_used_or_is_anothers_stops_the_request_before_it_is_sent(
        self, clients: Clients
    ) -> None:
        who = await holder(clients)
        used = who.request()
        await who.generate(used)
        replayed, foreign = who.request(), who.request()
        replayed.client_held_keys[0].proof.CopyFrom(used.client_held_keys[0].proof)
        foreign.client_held_keys[0].proof.CopyFrom(
            (await holder(clients)).brought(foreign.request_id).proof
        )

        assert await who.refused(replayed) == ("PROOF_REFUSED", "SIGNATURE")
        assert await who.refused(foreign) == ("PROOF_REFUSED", "SIGNATURE")
        assert await who.sent() == 1
        await support.assert_untouched(clients, who.account)

    async def test_a_failed_run_may_be_repeated_with_a_fresh_proof_and_not_with_the_old(
        self, clients: Clients
    ) -> None:
        who = await holder(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        request = who.request()
        async with support.fault(clients, who.secret, "forbidden", count=1):
            await who.refused(request)
        old = await who.refused(request)
        answer = await who.generate(who.request(request.request_id))

        assert old == ("PROOF_REFUSED", "REPLAYED")
        assert answer.text

    async def test_a_blob_of_another_account_is_refused(self, clients: Clients) -> None:
        who, other = await holder(clients), await holder(clients)
        request = who.request()
        request.client_held_keys[0].sealed_key.CopyFrom(other.browser.sealed)

        assert await who.refused(request) == ("SEALED_KEY_REFUSED", "OTHER_ACCOUNT")

    async def test_what_is_brought_is_named_whole_and_once(self, clients: Clients) -> None:
        who, other = await holder(clients), await holder(clients)
        twice, elsewhere, bare = who.request(), who.request(), who.request()
        twice.client_held_keys.append(twice.client_held_keys[0])
        elsewhere.client_held_keys[0].key = other.key
        bare.client_held_keys[0].ClearField("proof")

        for request in (twice, elsewhere, bare):
            assert (await who.refused(request))[0] == "INVALID_ARGUMENT"


@pytest.mark.requirement("K10", "K15")
class TestChanging:
    async def test_a_disabled_key_serves_no_more_although_it_is_brought(
        self, clients: Clients
    ) -> None:
        who = await holder(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        await clients.keyvault.DisableKey(
            keyvault_pb2.DisableKeyRequest(name=who.key, request_id=new_id())
        )
        await asyncio.sleep(1.0)

        assert (await who.refused(who.request()))[0] == "NO_USABLE_OWN_KEY"
        assert await who.sent() == 0

    async def test_a_key_moves_to_the_server_and_back_and_serves_from_either(
        self, clients: Clients
    ) -> None:
        who = await holder(clients, mode=account_pb2.BILLING_MODE_OWN_KEY_ONLY)
        await clients.keyvault.MoveKey(
            keyvault_pb2.MoveKeyRequest(name=who.key, residence=SERVER, **who.browser.bring())
        )
        stored = await who.generate(who.request(bring=False))
        fields = who.browser.bring()
        del fields["sealed_key"]
        moved = await clients.keyvault.MoveKey(
            keyvault_pb2.MoveKeyRequest(
                name=who.key,
                residence=HELD,
                signing_key=who.browser.keys.signing_key,
                suite=HYBRID,
                **fields,
            )
        )
        who.browser.sealed = moved.sealed_key
        held = await who.generate(who.request())

        assert stored.receipt.attempts[0].key == held.receipt.attempts[0].key == who.key
        assert await who.sent() == 2


@pytest.mark.requirement("K10", "R3")
async def test_a_job_keeps_it_sealed_until_its_end_and_then_forgets_it(
    clients: Clients, suite: Suite
) -> None:
    mode = account_pb2.BILLING_MODE_OWN_KEY_ONLY
    account, secret = await support.new_account(clients, mode=mode), f"r8_canary-{new_id()}"
    support.SECRETS.append(secret)
    browser = FakeBrowser(clients.keyvault, account=account, provider="replicate")
    await browser.seal(secret)
    created = await clients.keyvault.CreateKey(
        keyvault_pb2.CreateKeyRequest(
            parent=account,
            key=key_pb2.Key(provider="replicate", residence=HELD),
            **browser.bring(),
        ),
        timeout=support.CALL_SECONDS_MAX,
    )
    who, request_id = Holder(clients, browser, created.key.name, secret), new_id()
    name = f"{account}/jobs/job-{request_id}"
    request = job_pb2.StartJobRequest(
        account=account,
        request_id=request_id,
        model="black-forest-labs/flux-schnell",
        native=job_pb2.NativeInput(input_json='{"prompt": "a seal"}'),
        client_held_keys=[who.brought(request_id)],
    )
    unnamed = await support.refusal(clients.router.StartJob(request))
    request.client_held_keys[0].CopyFrom(who.brought(request_id, job=name))
    brought = request.client_held_keys[0]
    await clients.router.StartJob(request, timeout=support.CALL_SECONDS_MAX)
    wait = job_pb2.WaitJobRequest(name=name)
    async for answer in clients.router.WaitJob(wait, timeout=support.CALL_SECONDS_MAX):
        ended = answer.job
    bare = await support.refusal(
        clients.router.GetJobOutput(job_pb2.GetJobOutputRequest(name=name)).read()
    )
    output = job_pb2.GetJobOutputRequest(name=name, client_held_key=brought)
    pieces = [piece.chunk.data async for piece in clients.router.GetJobOutput(output)]
    async with database(suite_dsn(suite, "router")) as connection:
        document = await connection.fetchval(
            "SELECT document::text FROM jobs WHERE job_id = $1", f"job-{request_id}"
        )

    assert (unnamed.reason, unnamed.metadata["field"]) == (
        "INVALID_ARGUMENT",
        "client_held_keys[0].proof.job",
    )
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED
    assert ended.receipt.attempts[0].key == who.key
    assert bare.reason == "KEY_CHANGED"
    assert b"".join(pieces)
    assert who.key in document
    assert "sealed_key" not in document


@pytest.mark.requirement("K8", "K10")
async def test_the_secret_is_in_no_database(clients: Clients, suite: Suite) -> None:
    """Logs are searched at the suite's end, by its fixture."""
    who = await holder(clients)
    await who.generate(who.request())
    for name in ("keyvault", "ledger"):
        async with database(suite_dsn(suite, name)) as connection:
            tables = await connection.fetch(
                "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
            )
            for table in tables:
                query = f"SELECT count(*) FROM {table['name']} t WHERE strpos(t::text, $1) > 0"  # noqa: S608
                for needle in (who.secret, who.secret.encode().hex()):
                    assert await connection.fetchval(query, needle) == 0, table["name"]


def suite_dsn(suite: Suite, service: str = "keyvault") -> str:
    """The DSN of a service's database."""
    return suite.state.dsn_file(service).read_text().strip()
