# SPDX-License-Identifier: Apache-2.0
"""Long jobs through the router's own RPCs, on a real PostgreSQL and the provider simulator."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc
import pytest
from google.protobuf import duration_pb2
from ownkey.keyvault.v1 import key_pb2, sealing_pb2
from ownkey.router.v1 import attempt_pb2, job_pb2, media_pb2, text_pb2

from deploy.local.processes import free_port
from simulator.control import key_digest
from simulator.replicate_api import WEBHOOK_SECRET
from tests.support.jobs import (
    FLUX,
    PROMPT,
    SHARED_KEY,
    VEO,
    eventually,
    native,
    output,
    refused,
    serve_jobs,
    start,
    start_request,
    video,
    wait,
)
from tests.support.postgres import Databases
from tests.support.router_peers import stored_key
from tests.support.router_service import (
    CALL_SECONDS,
    RouterUnderTest,
    attempts_of,
    serve_router,
)
from tests.support.simulated_providers import KEYS, faulty_key

FLUX_NANO_USD = 3_000_000
VEO_NANO_USD_PER_SECOND = 400_000_000
SUCCEEDED = job_pb2.JOB_STATE_SUCCEEDED
FAILED = job_pb2.JOB_STATE_FAILED
CANCELLED = job_pb2.JOB_STATE_CANCELLED


@pytest.fixture
async def router(tmp_path: Path, databases: Databases) -> AsyncIterator[RouterUnderTest]:
    """A router that keeps jobs."""
    async with serve_jobs(tmp_path, databases) as served:
        yield served


def put_own(router: RouterUnderTest, provider: str, secret: str) -> None:
    """Store one own key in place of what the account had."""
    router.keyvault.put("demo", stored_key("demo", "main", provider, secret))


def signed_webhook(body: bytes, *, key: bytes = b"") -> dict[str, str]:
    """Headers of a webhook of this moment, signed with the simulator's secret or another key."""
    now = str(int(time.time()))
    secret = key or base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    digest = hmac.new(secret, f"msg_1.{now}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": now, "webhook-signature": signature}


def _webhook_body(prediction: str) -> bytes:
    return json.dumps({"id": prediction, "status": "succeeded", "output": "believe me"}).encode()


async def _when(ask: Any, holds: Any) -> Any:
    """What was answered, once it holds."""
    answer = await ask()
    return answer if holds(answer) else None


async def requests(router: RouterUnderTest, *, ending: str, secret: str = "") -> list[Any]:
    """The requests that reached the simulator, by the end of their path and their key."""
    found = await router.calls()
    return [
        item
        for item in found
        if item["path"].endswith(ending)
        and (not secret or item["key_sha256"] == key_digest(secret))
    ]


@pytest.mark.requirement("R3")
class TestLives:
    async def test_an_image_on_an_own_key_from_start_to_output(
        self, router: RouterUnderTest
    ) -> None:
        job = await start(router.stub, native=native(num_outputs=2))
        assert job.state == job_pb2.JOB_STATE_QUEUED
        assert not job.HasField("receipt")
        ended = (await wait(router.stub, job.name))[-1]
        assert (ended.state, ended.output_count) == (SUCCEEDED, 2)
        assert ended.receipt.cost_nano_usd == 2 * FLUX_NANO_USD
        assert ended.receipt.usage.image_count == 2
        assert ended.expire_time.seconds - ended.end_time.seconds == 3600
        media = await output(router.stub, job.name)
        assert [(kind, len(data)) for kind, data in media.values()] == [("image/png", 600_000)] * 2
        assert media[0][1] != media[1][1]
        (settled,) = router.ledger.settled
        assert settled.capture.capture.vendor_cost_nano_usd == 2 * FLUX_NANO_USD
        assert settled.capture.end.succeeded

    @pytest.mark.parametrize("provider", ["gemini", "google-vertex", "replicate"])
    async def test_a_video_at_each_provider_is_paid_by_its_length(
        self, router: RouterUnderTest, provider: str
    ) -> None:
        put_own(router, provider, KEYS[provider])
        job = await start(router.stub, model=VEO, video=video(6, aspect_ratio="9:16"))
        ended = (await wait(router.stub, job.name))[-1]
        assert (ended.state, ended.provider) == (SUCCEEDED, provider)
        assert ended.receipt.cost_nano_usd == 6 * VEO_NANO_USD_PER_SECOND
        assert ended.receipt.usage.media_milliseconds == 6_000
        media = await output(router.stub, job.name)
        assert [(kind, len(data)) for kind, data in media.values()] == [("video/mp4", 600_000)]

    async def test_credits_pay_exactly_once_on_a_shared_key(self, router: RouterUnderTest) -> None:
        router.keyvault.put("demo")
        job = await start(router.stub, model=VEO, video=video())
        ended = (await wait(router.stub, job.name))[-1]
        # The default length is the catalogue's: eight seconds.
        assert ended.receipt.charged_nano_credits == 8 * VEO_NANO_USD_PER_SECOND
        assert len(router.ledger.settled) == 1
        assert await requests(router, ending="/predictions", secret=SHARED_KEY)

    async def test_a_model_outside_the_catalogue_passes_on_an_own_key_unpriced(
        self, router: RouterUnderTest
    ) -> None:
        name = (
            "replicate/hello-world:5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
        )
        hello = job_pb2.NativeInput(input_json='{"text": "Hi"}')
        job = await start(router.stub, model=name, native=hello)
        ended = (await wait(router.stub, job.name))[-1]
        assert ended.state == SUCCEEDED
        assert not ended.receipt.HasField("cost_nano_usd")
        assert await output(router.stub, job.name) == {0: ("text/plain", b"hello Hi")}

    @pytest.mark.requirement("R4")
    async def test_a_flux_image_is_also_made_while_the_caller_waits(
        self, router: RouterUnderTest
    ) -> None:
        request = media_pb2.GenerateImageRequest(
            account="accounts/demo",
            request_id=str(uuid.uuid4()),
            model=FLUX,
            prompt=PROMPT,
            count=2,
            size="16:9",
            media_type="image/png",
        )
        data, receipt = {0: b"", 1: b""}, None
        async for message in router.stub.GenerateImage(request, timeout=CALL_SECONDS):
            if message.HasField("chunk"):
                data[message.chunk.index] += message.chunk.data
            elif message.HasField("finish"):
                receipt = message.finish.receipt
        assert [len(image) for image in data.values()] == [600_000] * 2
        assert receipt is not None
        assert receipt.cost_nano_usd == 2 * FLUX_NANO_USD

    async def test_jobs_are_listed_newest_first_in_pages(self, router: RouterUnderTest) -> None:
        names = [(await start(router.stub)).name for _ in range(3)]
        request = job_pb2.ListJobsRequest(parent="accounts/demo", page_size=2)
        first = await router.stub.ListJobs(request, timeout=CALL_SECONDS)
        request.page_token = first.next_page_token
        second = await router.stub.ListJobs(request, timeout=CALL_SECONDS)
        assert [job.name for job in (*first.jobs, *second.jobs)] == names[::-1]
        assert not second.next_page_token

    async def test_a_webhook_hastens_a_poll_and_is_believed_in_nothing(
        self, tmp_path: Path, databases: Databases
    ) -> None:
        """A forged one is refused; a genuine one that says `succeeded` is only asked about."""
        secret = tmp_path / "webhook"
        secret.write_text(WEBHOOK_SECRET)
        secret.chmod(0o600)
        listen = f"127.0.0.1:{free_port()}"
        environ = {
            "OWNKEY_ROUTER_WEBHOOK_LISTEN": listen,
            "OWNKEY_ROUTER_WEBHOOK_URL": "https://hooks.example/webhooks/replicate",
            "OWNKEY_ROUTER_WEBHOOK_SECRET_FILE": str(secret),
        }
        async with serve_jobs(tmp_path, databases, **environ) as router:
            router.keyvault.put("demo")
            stalled = faulty_key("replicate", "stall")
            router.keyvault.put("platform", stored_key("platform", "s", "replicate", stalled))
            job = await start(router.stub)

            async def polls() -> list[str]:
                return [item["path"] for item in await router.requests("GET")]

            asked = await eventually(polls)
            prediction = asked[-1].rpartition("/")[2]
            url, body = f"http://{listen}/webhooks/replicate", _webhook_body(prediction)
            async with aiohttp.ClientSession() as session:
                forged = signed_webhook(body, key=b"another key")
                async with session.post(url, data=body, headers=forged) as answer:
                    assert answer.status == 401
                async with session.post(url, data=body, headers=signed_webhook(body)) as answer:
                    assert answer.status == 204
            before = len(await polls())
            await eventually(lambda: _when(polls, lambda found: len(found) > before))
            found = await router.stub.GetJob(
                job_pb2.GetJobRequest(name=job.name), timeout=CALL_SECONDS
            )
            assert found.job.state == job_pb2.JOB_STATE_RUNNING


@pytest.mark.requirement("R14", "R3")
class TestStarts:
    @pytest.mark.requirement("K10")
    async def test_a_client_held_key_that_was_sealed_anew_goes_back_to_its_browser(
        self, router: RouterUnderTest
    ) -> None:
        held = stored_key(
            "demo", "main", "replicate", "", residence=key_pb2.RESIDENCE_CLIENT_HELD, hint="r8_…"
        )
        router.keyvault.put("demo", held)
        router.keyvault.sealed[held.key.name] = KEYS["replicate"]
        request = start_request(source=attempt_pb2.SOURCE_OWN_KEY)
        job = f"accounts/demo/jobs/job-{request.request_id}"
        sealed = sealing_pb2.SealedKey(blob=b"sealed")
        request.client_held_keys.add(
            key=held.key.name, sealed_key=sealed, proof=sealing_pb2.SealedKeyProof(job=job)
        )
        started = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        assert started.job.name == job
        [anew] = started.resealed_keys
        assert (anew.key, anew.sealed_key) == (held.key.name, sealed)
        again = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        assert (again.job.name, len(again.resealed_keys)) == (job, 0)

    async def test_a_repeat_gives_the_same_job_and_another_body_is_refused(
        self, router: RouterUnderTest
    ) -> None:
        request = start_request()
        first = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        again = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        assert again.job.name == first.job.name
        assert len(await requests(router, ending="/predictions")) == 1
        request.native.CopyFrom(native(num_outputs=3))
        status = await refused(router.stub.StartJob(request, timeout=CALL_SECONDS))
        assert (status.code, status.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )

    async def test_a_repeat_of_a_forgotten_job_gives_what_the_ledger_knows(
        self, router: RouterUnderTest
    ) -> None:
        request = start_request()
        first = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        await wait(router.stub, first.job.name)
        connection = await asyncpg.connect((router.tokens / "router.dsn").read_text())
        try:
            await connection.execute("DELETE FROM jobs")
        finally:
            await connection.close()
        again = (await router.stub.StartJob(request, timeout=CALL_SECONDS)).job
        assert (again.name, again.state) == (first.job.name, SUCCEEDED)
        assert again.receipt.replayed
        assert again.receipt.cost_nano_usd == FLUX_NANO_USD
        assert len(await requests(router, ending="/predictions")) == 1

    async def test_a_refused_start_leaves_no_job_and_runs_anew(
        self, router: RouterUnderTest
    ) -> None:
        put_own(router, "replicate", faulty_key("replicate", "nocredit"))
        router.ledger.consent = "NEVER"
        request = start_request()
        status = await refused(router.stub.StartJob(request, timeout=CALL_SECONDS))
        assert status.reason in {"KEY_NO_CREDIT", "FALLBACK_NOT_ALLOWED"}
        name = f"accounts/demo/jobs/job-{request.request_id}"
        asked = job_pb2.GetJobRequest(name=name)
        gone = await refused(router.stub.GetJob(asked, timeout=CALL_SECONDS))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        put_own(router, "replicate", KEYS["replicate"])
        started = await router.stub.StartJob(request, timeout=CALL_SECONDS)
        assert started.job.name == name

    @pytest.mark.requirement("R9")
    async def test_a_refused_own_key_falls_back_to_credits_by_consent(
        self, router: RouterUnderTest
    ) -> None:
        put_own(router, "replicate", faulty_key("replicate", "nocredit"))
        job = await start(router.stub)
        ended = (await wait(router.stub, job.name))[-1]
        assert ended.receipt.fallback
        assert [a.outcome for a in ended.receipt.attempts] == [5, 1]
        assert ended.receipt.charged_nano_credits == FLUX_NANO_USD

    @pytest.mark.parametrize("provider", ["replicate", "gemini"])
    async def test_a_start_whose_fate_is_unknown_is_never_repeated(
        self, router: RouterUnderTest, provider: str
    ) -> None:
        """The provider took it and the answer was lost: the job says so, and nobody pays twice."""
        secret = faulty_key(provider, "cut")
        put_own(router, provider, secret)
        request = start_request(model=VEO, video=video(4))
        for _ in range(2):
            status = await refused(router.stub.StartJob(request, timeout=CALL_SECONDS))
            assert (status.code, status.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "JOB_START_UNKNOWN",
            )
        assert len(attempts_of(status)) == 1
        assert len([c for c in await router.calls() if c["key_sha256"] == key_digest(secret)]) == (
            1
        )
        asked = job_pb2.GetJobRequest(name=status.metadata["job"])
        job = (await router.stub.GetJob(asked, timeout=CALL_SECONDS)).job
        assert (job.state, job.error.code) == (FAILED, 9)
        (settled,) = router.ledger.settled
        capture = settled.capture.capture
        assert (capture.vendor_cost_nano_usd, capture.delivered) == (
            4 * VEO_NANO_USD_PER_SECOND,
            False,
        )

    async def test_an_account_has_a_bound_of_running_jobs(
        self, tmp_path: Path, databases: Databases
    ) -> None:
        environ = {"OWNKEY_ROUTER_JOBS_ACTIVE_MAX": "1"}
        async with serve_jobs(tmp_path, databases, **environ) as router:
            put_own(router, "replicate", faulty_key("replicate", "stall"))
            await start(router.stub)
            status = await refused(router.stub.StartJob(start_request(), timeout=CALL_SECONDS))
            assert (status.code, status.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_JOBS",
            )


@pytest.mark.requirement("R3")
class TestEnds:
    async def test_a_cancelled_job_is_cancelled_at_its_provider(
        self, router: RouterUnderTest
    ) -> None:
        secret = faulty_key("replicate", "stall")
        put_own(router, "replicate", secret)
        job = await start(router.stub)
        request = job_pb2.CancelJobRequest(name=job.name)
        answer = await router.stub.CancelJob(request, timeout=CALL_SECONDS)
        assert answer.job.state == CANCELLED
        assert answer.job.error.message
        assert len(await requests(router, ending="/cancel", secret=secret)) == 1
        again = await router.stub.CancelJob(request, timeout=CALL_SECONDS)
        assert again.job.state == CANCELLED
        (settled,) = router.ledger.settled
        assert not settled.capture.capture.delivered

    async def test_without_a_way_to_cancel_the_job_ends_at_its_estimate(
        self, router: RouterUnderTest
    ) -> None:
        put_own(router, "gemini", faulty_key("gemini", "stall"))
        job = await start(router.stub, model=VEO, video=video(4))
        request = job_pb2.CancelJobRequest(name=job.name)
        answer = await router.stub.CancelJob(request, timeout=CALL_SECONDS)
        assert answer.job.state == CANCELLED
        assert answer.job.receipt.cost_nano_usd == 4 * VEO_NANO_USD_PER_SECOND

    @pytest.mark.requirement("L9", "R11")
    @pytest.mark.parametrize(
        ("fault", "outcome"),
        [
            ("midstream", "server_error"),
            ("filtered", "content_filtered"),
            ("empty", "server_error"),
        ],
    )
    async def test_a_job_without_output_says_why_and_costs_no_credits(
        self, router: RouterUnderTest, fault: str, outcome: str
    ) -> None:
        router.keyvault.put("demo")
        shared = stored_key("platform", "s", "replicate", faulty_key("replicate", fault))
        router.keyvault.put("platform", shared)
        job = await start(router.stub)
        ended = (await wait(router.stub, job.name))[-1]
        assert ended.state == FAILED
        assert ended.receipt.charged_nano_credits == 0
        assert outcome in str(ended.error)

    @pytest.mark.requirement("K15")
    async def test_a_withdrawn_key_cancels_its_job_at_the_provider_within_a_second(
        self, router: RouterUnderTest
    ) -> None:
        secret = faulty_key("replicate", "stall")
        put_own(router, "replicate", secret)
        job = await start(router.stub)
        router.keyvault.put("demo")
        withdrawn = datetime.now(UTC)

        async def cancelled() -> list[Any]:
            return await requests(router, ending="/cancel", secret=secret)

        await eventually(cancelled)
        [cancel, *_] = await cancelled()
        assert datetime.fromisoformat(cancel["time"]) - withdrawn < timedelta(seconds=1)
        ended = (await wait(router.stub, job.name))[-1]
        assert ended.state == CANCELLED
        before = len(await router.calls())
        await asyncio.sleep(0.5)
        assert len(await router.calls()) == before


@pytest.mark.requirement("R3", "R16")
class TestOutput:
    async def test_a_reader_that_leaves_disturbs_nobody(self, router: RouterUnderTest) -> None:
        job = await start(router.stub)
        await wait(router.stub, job.name)
        call = router.stub.GetJobOutput(job_pb2.GetJobOutputRequest(name=job.name))
        async for _ in call:
            break
        call.cancel()
        media = await output(router.stub, job.name)
        assert len(media[0][1]) == 600_000

    async def test_output_that_is_gone_is_told(self, router: RouterUnderTest) -> None:
        put_own(router, "replicate", faulty_key("replicate", "gone"))
        job = await start(router.stub)
        await wait(router.stub, job.name)
        status = await refused(output(router.stub, job.name))
        assert (status.code, status.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "JOB_OUTPUT_GONE",
        )
        assert "404" in status.message

    async def test_a_job_without_output_says_where_it_stands(self, router: RouterUnderTest) -> None:
        put_own(router, "replicate", faulty_key("replicate", "stall"))
        job = await start(router.stub)
        status = await refused(output(router.stub, job.name))
        assert status.reason == "JOB_NOT_DONE"


@pytest.mark.requirement("R15", "K8")
async def test_what_is_kept_of_a_job_holds_no_prompt_no_secret_and_no_bytes(
    tmp_path: Path, databases: Databases
) -> None:
    async with serve_jobs(tmp_path, databases) as router:
        job = await start(router.stub, model=VEO, video=video())
        ended = (await wait(router.stub, job.name))[-1]
        assert ended.state == SUCCEEDED
        dsn = (tmp_path / "router.dsn").read_text()
        connection = await asyncpg.connect(dsn)
        try:
            rows = await connection.fetch("SELECT jobs::text AS kept FROM jobs")
        finally:
            await connection.close()
        (kept,) = [row["kept"] for row in rows]
        assert FLUX not in kept
        assert PROMPT not in kept
        assert KEYS["replicate"] not in kept
        assert len(kept) < 8 * 1024


BAD_INPUT: list[tuple[dict[str, Any], str]] = [
    ({"account": "accounts/platform"}, "account"),
    ({"account": "demo"}, "account"),
    ({"request_id": "x"}, "request_id"),
    ({"model": ""}, "model"),
    ({"model": "flux"}, "model"),
    ({"native": job_pb2.NativeInput(input_json="[]")}, "native.input_json"),
    ({"native": job_pb2.NativeInput(input_json="{")}, "native.input_json"),
    ({"native": job_pb2.NativeInput()}, "native.input_json"),
    ({"video": job_pb2.VideoInput()}, "video.prompt"),
    ({"video": video(601)}, "video.length"),
    (
        {"video": job_pb2.VideoInput(prompt="x", length=duration_pb2.Duration(nanos=500_000_000))},
        "video.length",
    ),
    ({"video": video(4, aspect_ratio="wide")}, "video.aspect_ratio"),
    ({"video": video(4, image=text_pb2.Image(url="https://a.example/x"))}, "video.image.url"),
    (
        {"video": video(4, image=text_pb2.Image(data=b"GIF89a", media_type="image/png"))},
        "video.image.media_type",
    ),
]


@pytest.mark.requirement("R11")
async def test_bad_input_is_refused_by_field_before_anything_is_sent(
    router: RouterUnderTest,
) -> None:
    for fields, field in BAD_INPUT:
        status = await refused(router.stub.StartJob(start_request(**fields), timeout=CALL_SECONDS))
        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(status.status)
    assert await router.calls() == []


async def test_names_of_no_job_are_told_apart(router: RouterUnderTest) -> None:
    missing = f"accounts/demo/jobs/job-{uuid.uuid4()}"
    for name, reason in ((missing, "JOB_NOT_FOUND"), ("jobs/x", "INVALID_ARGUMENT")):
        request = job_pb2.GetJobRequest(name=name)
        status = await refused(router.stub.GetJob(request, timeout=CALL_SECONDS))
        assert status.reason == reason
        cancel = job_pb2.CancelJobRequest(name=name)
        status = await refused(router.stub.CancelJob(cancel, timeout=CALL_SECONDS))
        assert status.reason == reason


async def test_without_a_database_jobs_are_not_served(tmp_path: Path) -> None:
    async with serve_router(tmp_path) as router:
        status = await refused(router.stub.StartJob(start_request(), timeout=CALL_SECONDS))
        assert status.reason == "NOT_SERVED"
