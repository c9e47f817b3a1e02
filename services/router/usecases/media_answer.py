# SPDX-License-Identifier: Apache-2.0
"""
Reads providers' answers that are media, and gives them piece by piece.

An image comes whole, so its bytes are held under the process's budget until the caller has taken
them; sound is handed on as it comes. What an image used is told before its bytes: a caller that
leaves between them has it settled exactly all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.media import MediaAnswer, Medium, chunks_of
from services.router.domain.media_types import HEAD_BYTES, image_type
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Finished, FinishReason, UsageReport
from services.router.providers.base import ProviderBrokenError
from services.router.providers.jobs import OutputAddressError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from services.router.domain.media import AnswerEvent, ImageCall, SpeechCall
    from services.router.providers.base import Credential, Dialect
    from services.router.usecases.byte_budget import ByteBudget
    from services.router.usecases.ports import HTTPAnswer, Transport
    from services.shared.clock import Clock

HTTP_OK = 200
UNKNOWN_BODY_BYTES = 16 * 1024 * 1024
"""Taken for the length of a body that does not tell it."""
COPIES = 2
"""An image is held as its base64 and as its bytes."""
FETCH_SECONDS_MAX = 60.0
"""Time for the head of an image at an address, and for each piece of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReader:
    """
    Reads media.
    """

    transport: Transport
    budget: ByteBudget
    clock: Clock

    async def images(
        self,
        dialect: Dialect,
        call: ImageCall,
        answer: HTTPAnswer,
        *,
        credential: Credential,
        base_url: str,
    ) -> AsyncGenerator[AnswerEvent, None]:
        """
        Give the images of an answer of status 200.

        Raises:
            ProviderError: The provider refused or failed all the same.
        """
        async with self.budget.hold(COPIES * _length(answer)):
            body = await answer.read()
            read = dialect.parse_images(call, answer.headers, body, now=self.clock.now())
            del body
            if read.usage is not None:
                yield UsageReport(read.usage)
            for index, found in enumerate(read.media):
                medium = found
                if found.url:
                    medium = await self._fetched(
                        dialect, found, call, read, credential=credential, base_url=base_url
                    )
                for chunk in chunks_of(index, medium):
                    yield chunk
        yield Finished(FinishReason.STOP, read.usage, read.model)

    async def speech(
        self, dialect: Dialect, call: SpeechCall, answer: HTTPAnswer
    ) -> AsyncGenerator[AnswerEvent, None]:
        """
        Give the sound of an answer of status 200 as it comes.

        Raises:
            ProviderError: The provider refused or failed all the same.
        """
        decoder = dialect.speech_decoder(call, answer.headers, now=self.clock.now())
        async for data in answer.chunks():
            for event in decoder.feed(data):
                yield event
            if decoder.done:
                break
        for event in decoder.finish():
            yield event

    async def _fetched(
        self,
        dialect: Dialect,
        medium: Medium,
        call: ImageCall,
        read: MediaAnswer,
        *,
        credential: Credential,
        base_url: str,
    ) -> Medium:
        """
        Fetch an image from where its provider keeps it.
        """
        try:
            request = dialect.build_fetch(medium, credential, base_url=base_url)
        except OutputAddressError as error:
            raise _broken(str(error), read) from None
        async with self.transport.send(
            request,
            may_send=lambda: True,
            head_seconds=FETCH_SECONDS_MAX,
            idle_seconds=FETCH_SECONDS_MAX,
        ) as answer:
            if answer.status != HTTP_OK:
                raise _broken(f"{dialect.provider} did not give the image it had made", read)
            data = await answer.read()
        media_type = image_type(data[:HEAD_BYTES])
        if not media_type or (call.media_type and media_type != call.media_type):
            raise _broken(f"what {dialect.provider} gave is not the image that was asked for", read)
        return Medium(media_type, data)


def _length(answer: HTTPAnswer) -> int:
    told = answer.headers.get("content-length", "")
    return int(told) if told.isdecimal() else UNKNOWN_BODY_BYTES


def _broken(message: str, read: MediaAnswer) -> ProviderBrokenError:
    return ProviderBrokenError(
        outcome=Outcome.SERVER_ERROR,
        safe_message=f"{message}: try again under a new request id",
        billed=Billed.MAYBE_BILLED,
        http_status=HTTP_OK,
        usage=read.usage,
    )
