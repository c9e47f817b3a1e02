# SPDX-License-Identifier: Apache-2.0
"""
Relays a job's output from its provider, piece by piece; nothing of it is kept.

Its address must be at the provider's own delivery hosts, redirects are not followed, and what comes
must be the medium it says it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from services.router.domain.jobs import JobState
from services.router.domain.media import CHUNK_BYTES_MAX, MediaChunk, Medium, chunks_of
from services.router.domain.media_types import HEAD_BYTES, audio_type, container_type, image_type
from services.router.errors import (
    JobNotDoneError,
    JobOutputGoneError,
    KeyChangedError,
    StreamBrokenError,
)
from services.router.providers.base import ProviderError
from services.router.providers.jobs import OutputAddressError, OutputData
from services.router.usecases.job_calls import FETCH_HEAD_SECONDS_MAX, OUTPUT_BYTES_MAX
from services.router.usecases.ports import StaleKeyError

if TYPE_CHECKING:
    from services.router.domain.jobs import Job
    from services.router.domain.keys import BroughtKey
    from services.router.usecases.job_calls import JobCalls
    from services.router.usecases.job_keys import JobKey, JobKeys
    from services.router.usecases.ports import HTTPAnswer
    from services.router.usecases.read_jobs import ReadJobs

HTTP_OK = 200
SENDS_MAX = 3
"""How often a key's lease may run out at the moment of sending."""
PLAIN_TYPES = frozenset({"text/plain", "application/json", "model/gltf-binary"})
"""Media without a signature that are relayed by their word; nothing that a browser would run."""


class ReadJobOutput:
    """
    The use case.

    Args:
        jobs: Reads jobs.
        calls: Calls at providers.
        keys: Opens jobs' keys.
    """

    def __init__(self, jobs: ReadJobs, *, calls: JobCalls, keys: JobKeys) -> None:
        self._jobs = jobs
        self._calls = calls
        self._keys = keys

    async def __call__(
        self, account: str, job_id: str, *, brought: BroughtKey | None = None
    ) -> AsyncGenerator[MediaChunk, None]:
        """
        Give the output's media in order, each in its pieces.

        Args:
            account: `accounts/{account}`.
            job_id: The job's id.
            brought: The client-held key that served it.

        Raises:
            JobNotFoundError: There is no such job.
            JobNotDoneError: It has no output, or none yet.
            JobOutputGoneError: The provider no longer serves it, or not as a medium.
            KeyChangedError: Its key was withdrawn.
            StreamBrokenError: It broke off on the way.
        """
        job = await self._jobs.get(account, job_id)
        if job.state is not JobState.SUCCEEDED:
            raise JobNotDoneError(job.name, state=job.state)
        if brought is not None and brought.key == job.key:
            job = dataclasses.replace(job, brought=brought)
        inline = await self._inline(job)
        left = OUTPUT_BYTES_MAX
        for index, output in enumerate(job.outputs):
            pieces = (
                self._fetched(job, output.url, index) if output.url else _given(job, inline, index)
            )
            async for chunk in pieces:
                left -= len(chunk.data)
                if left < 0:
                    raise JobOutputGoneError(
                        job.name, why=f"it is larger than {OUTPUT_BYTES_MAX} bytes"
                    )
                yield chunk

    async def _key(self, job: Job) -> JobKey:
        key = await self._keys.open(job)
        if key is None:
            raise KeyChangedError(
                "the job's key was disabled or deleted, or a browser holds it and the request does "
                "not bring it, so the output is not fetched"
            )
        return key

    async def _inline(self, job: Job) -> tuple[OutputData, ...]:
        """
        Ask for the media that stand in the provider's own answer.
        """
        if all(output.url for output in job.outputs):
            return ()
        for _ in range(SENDS_MAX):
            key = await self._key(job)
            try:
                report = await self._calls.poll(
                    job, key.secret, may_send=key.usable, seconds=FETCH_HEAD_SECONDS_MAX
                )
            except StaleKeyError:
                continue
            except ProviderError as error:
                raise JobOutputGoneError(job.name, why=error.safe_message) from None
            return tuple(item for item in report.outputs if isinstance(item, OutputData))
        raise KeyChangedError("the job's key was changed again and again: try again shortly")

    async def _fetched(self, job: Job, url: str, index: int) -> AsyncIterator[MediaChunk]:
        """
        Fetch one medium from its address.
        """
        for _ in range(SENDS_MAX):
            key = await self._key(job)
            begun = False
            try:
                async with self._calls.fetch(job, url, key.secret, may_send=key.usable) as answer:
                    if answer.status != HTTP_OK:
                        raise JobOutputGoneError(
                            job.name, why=f"its provider answered {answer.status} for it"
                        )
                    async for chunk in _pieces(job, answer, index):
                        begun = True
                        yield chunk
                    return
            except StaleKeyError:
                continue
            except OutputAddressError as error:
                raise JobOutputGoneError(job.name, why=str(error)) from None
            except ProviderError as error:
                if not begun:
                    raise JobOutputGoneError(job.name, why=error.safe_message) from None
                raise StreamBrokenError(
                    f"the output of {job.name} broke off ({error.safe_message}): read it again",
                    metadata={"provider": job.provider, "model": job.model},
                ) from None
        raise KeyChangedError("the job's key was changed again and again: try again shortly")


async def _given(job: Job, inline: tuple[OutputData, ...], index: int) -> AsyncIterator[MediaChunk]:
    """
    Cut a medium that stood in the provider's answer.
    """
    position = sum(1 for output in job.outputs[:index] if not output.url)
    if position >= len(inline):
        raise JobOutputGoneError(job.name, why="its provider no longer tells it")
    medium = inline[position]
    checked = _checked_type(job, medium.media_type, medium.data[:HEAD_BYTES])
    for chunk in chunks_of(index, Medium(checked, medium.data)):
        yield chunk


async def _pieces(job: Job, answer: HTTPAnswer, index: int) -> AsyncIterator[MediaChunk]:
    """
    Cut an answer's body into pieces, its type checked by its first bytes; the last one says so.
    """
    declared = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    media_type, waiting = "", b""
    async for data in answer.chunks():
        waiting += data
        if not media_type and len(waiting) >= HEAD_BYTES:
            media_type = _checked_type(job, declared, waiting[:HEAD_BYTES])
        # One piece waits until it is known whether it is the last.
        while media_type and len(waiting) > CHUNK_BYTES_MAX:
            piece, waiting = waiting[:CHUNK_BYTES_MAX], waiting[CHUNK_BYTES_MAX:]
            yield MediaChunk(index, media_type, piece, last=False)
    media_type = media_type or _checked_type(job, declared, waiting)
    yield MediaChunk(index, media_type, waiting, last=True)


def _checked_type(job: Job, declared: str, head: bytes) -> str:
    """
    Give the media type that a medium's first bytes bear out.

    Raises:
        JobOutputGoneError: They do not.
    """
    if declared in PLAIN_TYPES:
        return declared
    seen = image_type(head) or container_type(head) or audio_type(head)
    same_kind = seen.partition("/")[0] == declared.partition("/")[0]
    if not seen or not (same_kind or declared in ("", "application/octet-stream")):
        raise JobOutputGoneError(
            job.name, why="what its provider serves is not the medium it says it is"
        )
    return seen
