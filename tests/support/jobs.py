# SPDX-License-Identifier: Apache-2.0
"""What tests of long jobs do again and again: a router with a database, jobs, their ends."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2
from ownkey.router.v1 import job_pb2

from services.router.bootstrap import MIGRATIONS
from services.shared.migrate import migrate
from services.shared.status import RichStatus, from_rpc_error
from tests.support.postgres import Databases
from tests.support.router_peers import stored_key
from tests.support.router_service import CALL_SECONDS, RouterUnderTest, serve_router
from tests.support.simulated_providers import KEYS

FLUX = "black-forest-labs/flux-schnell"
VEO = "google/veo-3.1"
PROMPT = "a canary in a coal mine, oil on canvas"
SHARED_KEY = "r8_shared-sim-0123456789abcdefghijklmn"


def write_dsn(folder: Path, dsn: str) -> str:
    """Keep a DSN in a file as the router reads it; give the file's path."""
    path = folder / "router.dsn"
    path.write_text(dsn)
    path.chmod(0o600)
    return str(path)


@asynccontextmanager
async def serve_jobs(
    tmp_path: Path, databases: Databases, **environ: str
) -> AsyncIterator[RouterUnderTest]:
    """Serve a router that keeps jobs, with an own and a shared key at Replicate."""
    with databases.empty() as dsn:
        await migrate(dsn, MIGRATIONS)
        settings = {"OWNKEY_ROUTER_DATABASE_DSN_FILE": write_dsn(tmp_path, dsn), **environ}
        async with serve_router(tmp_path, **settings) as served:
            served.keyvault.put("demo", stored_key("demo", "main", "replicate", KEYS["replicate"]))
            served.keyvault.put(
                "platform", stored_key("platform", "shared", "replicate", SHARED_KEY)
            )
            yield served


def native(**fields: Any) -> job_pb2.NativeInput:
    """Give a provider's own input, a prompt by default."""
    return job_pb2.NativeInput(input_json=json.dumps({"prompt": PROMPT, **fields}))


def video(seconds: int | None = None, **fields: Any) -> job_pb2.VideoInput:
    """Give the input of a video."""
    length = None if seconds is None else duration_pb2.Duration(seconds=seconds)
    return job_pb2.VideoInput(prompt=PROMPT, length=length, **fields)


def start_request(**fields: Any) -> job_pb2.StartJobRequest:
    """Give a request of the account `demo`, for a FLUX image by default."""
    if not {"video", "native"} & set(fields):
        fields["native"] = native()
    return job_pb2.StartJobRequest(
        **{
            "account": "accounts/demo",
            "request_id": str(uuid.uuid4()),
            "model": FLUX,
            **fields,
        }
    )


async def start(stub: Any, **fields: Any) -> job_pb2.Job:
    """Start a job."""
    answer = await stub.StartJob(start_request(**fields), timeout=CALL_SECONDS)
    return answer.job


async def refused(call: Any) -> RichStatus:
    """Give the status of a call that is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as fault:
        return from_rpc_error(fault)
    raise AssertionError("the call was served")


async def wait(stub: Any, name: str) -> list[job_pb2.Job]:
    """Wait for a job's end; give it as it stood at each change."""
    request = job_pb2.WaitJobRequest(name=name)
    return [answer.job async for answer in stub.WaitJob(request, timeout=CALL_SECONDS)]


async def output(stub: Any, name: str) -> dict[int, tuple[str, bytes]]:
    """Read a job's output: by index, the media type and the bytes."""
    media: dict[int, tuple[str, bytes]] = {}
    request = job_pb2.GetJobOutputRequest(name=name)
    async for answer in stub.GetJobOutput(request, timeout=CALL_SECONDS):
        chunk = answer.chunk
        assert len(chunk.data) <= 256 * 1024
        media_type, data = media.get(chunk.index, ("", b""))
        media[chunk.index] = (media_type or chunk.media_type, data + chunk.data)
    return media


async def eventually(found: Any, *, seconds: float = 15.0) -> Any:
    """Ask until the answer is truthy; what it was."""
    async with asyncio.timeout(seconds):
        while True:
            answer = await found()
            if answer:
                return answer
            await asyncio.sleep(0.05)
