# SPDX-License-Identifier: Apache-2.0
"""
One call at one provider: build, send, decode, classify.

Whole answers and streams come out as the same events. Content is counted as it passes, so that a
checkpoint can be told at any time and an answer without a usage can be estimated.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from services.router.domain.catalogue import Timeouts
from services.router.domain.media import ImageCall, MediaChunk, SpeechCall
from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import (
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from services.router.providers.base import (
    APIKeyCredential,
    CredentialMalformedError,
    ProviderError,
)
from services.router.usecases.ports import BODY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from services.router.domain.media import AnswerEvent
    from services.router.domain.plan import Candidate
    from services.router.domain.text import Completion, StreamEvent, Usage
    from services.router.domain.work import Call
    from services.router.providers.base import AccessToken, Credential, Dialect
    from services.router.usecases.access import AccessTokens
    from services.router.usecases.media_answer import MediaReader
    from services.router.usecases.ports import HTTPAnswer, Transport
    from services.shared.clock import Clock
    from services.shared.secret import Secret

HTTP_OK = 200
HTTP_SERVED = (200, 201)
"""Replicate answers with 201: it created a prediction."""
HTTP_UNAUTHORIZED = 401
IMAGES_BYTES_MAX = 64 * 1024 * 1024
"""Ten of the largest images, in base64."""
IDLE_SECONDS_MAX = 60.0
"""Time between two pieces of a stream."""


class Sink(Protocol):
    """
    Takes the events of an attempt.
    """

    async def put(self, event: AnswerEvent) -> None:
        """Take one event; waits while the reader is behind."""
        ...


@dataclass(slots=True)
class Delivered:
    """
    What an attempt has delivered so far.
    """

    content_bytes: int = 0
    usage: Usage | None = None
    reported_bytes: int = 0
    """How much of the content the usage counts."""
    content: bool = False
    sent: bool = False
    """Whether bytes may have left."""

    def count(self, event: AnswerEvent) -> None:
        """
        Count an event in.
        """
        match event:
            case TextDelta():
                self.content_bytes += len(event.text.encode())
                self.content = True
            case ReasoningDelta():
                self.content_bytes += len(event.text.encode())
                self.content = True
            case ToolCallDelta():
                self.content_bytes += len(event.name) + len(event.arguments.encode())
                self.content = True
            case MediaChunk():
                self.content_bytes += len(event.data)
                # What was told before the first byte counts all of them.
                self.reported_bytes = self.content_bytes if self.usage is not None else 0
                self.content = self.content or bool(event.data)
            case UsageReport():
                self.usage = event.usage
                self.reported_bytes = self.content_bytes
            case Finished():
                self.usage = event.usage or self.usage


@dataclass(frozen=True, slots=True)
class Served:
    """
    The attempt served the request.
    """

    finish_reason: FinishReason
    usage: Usage | None
    model: str = ""
    """The model that answered, by the provider's word; empty where it does not say."""


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """
    What lets one request in.
    """

    credential: Credential
    token: AccessToken | None
    may_send: Callable[[], bool]
    """Whether the key may still be used; asked right before bytes are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """
    Calls providers.
    """

    dialects: Mapping[str, Dialect]
    base_urls: Mapping[str, str]
    """Provider to address, where it is not the dialect's own."""
    transport: Transport
    tokens: AccessTokens
    media: MediaReader
    clock: Clock
    timeouts: Mapping[str, Timeouts] = field(default_factory=dict)
    """By provider; the usual ones where it is not named."""

    def unsupported(self, provider: str, call: object) -> list[str]:
        """
        Name the fields of a call that a provider does not take.
        """
        return self.dialects[provider].unsupported(call)  # type: ignore[arg-type]

    def host(self, provider: str) -> str:
        """
        Give the host a provider is called at; empty where each key brings its own.
        """
        base_url = self.base_urls.get(provider, self.dialects[provider].default_base_url)
        return "" if "{" in base_url else urlsplit(base_url).netloc

    async def call(
        self,
        candidate: Candidate,
        secret: Secret,
        *,
        may_send: Callable[[], bool],
        deadline: float,
        delivered: Delivered,
        sink: Sink,
    ) -> Served | Failure:
        """
        Make one call.

        Args:
            candidate: Whom to call, and with what.
            secret: The key.
            may_send: Whether the key may still be used; asked right before bytes are sent.
            deadline: Monotonic seconds.
            delivered: Is kept up to date while the answer comes.
            sink: Takes the events.

        Raises:
            StaleKeyError: `may_send` said no; nothing was sent.
        """
        dialect = self.dialects[candidate.offer.provider]
        credential = APIKeyCredential(secret)
        owner = candidate.key.name
        renewed = False
        while True:
            token: AccessToken | None = None
            try:
                token = await self.tokens.token(
                    owner,
                    dialect,
                    credential,
                    base_url=self._base_url(dialect),
                    may_send=may_send,
                    deadline=deadline,
                )
                return await self._send(
                    candidate.call,
                    dialect,
                    Access(credential, token, may_send),
                    deadline=deadline,
                    delivered=delivered,
                    sink=sink,
                )
            except CredentialMalformedError as error:
                return Failure(
                    outcome=Outcome.INVALID_KEY, billed=Billed.NOT_SENT, message=str(error)
                )
            except ProviderError as error:
                # A token may end before its time: once, and only once, another one is fetched.
                if token is None or renewed or error.http_status != HTTP_UNAUTHORIZED:
                    return _failure(error, delivered)
                self.tokens.forget(owner, dialect.provider, credential, token)
                renewed = True
            finally:
                if token is not None and candidate.key.client_held:
                    # Nothing of a client-held key is kept beyond its run.
                    self.tokens.forget(owner, dialect.provider, credential, token)

    def _base_url(self, dialect: Dialect) -> str:
        return self.base_urls.get(dialect.provider, dialect.default_base_url)

    async def _send(
        self,
        call: Call,
        dialect: Dialect,
        access: Access,
        *,
        deadline: float,
        delivered: Delivered,
        sink: Sink,
    ) -> Served | Failure:
        base_url = self._base_url(dialect)
        built = dialect.build_request(call, access.credential, base_url=base_url)
        request = dialect.authorize(
            built,
            access.credential,
            base_url=base_url,
            now=self.clock.now(),
            token=access.token,
        )
        timeouts = self.timeouts.get(dialect.provider, Timeouts())
        left = min(timeouts.answer_seconds, max(0.0, deadline - self.clock.monotonic()))
        # Until the first content another candidate may still serve: a bound of its own.
        first = min(timeouts.first_content_seconds, left) if call.stream else left
        began = asyncio.get_running_loop().time()

        def check() -> bool:
            delivered.sent = access.may_send()
            return delivered.sent

        async with (
            self.transport.send(
                request,
                may_send=check,
                head_seconds=first,
                idle_seconds=min(IDLE_SECONDS_MAX, left),
                body_bytes_max=IMAGES_BYTES_MAX if isinstance(call, ImageCall) else BODY_BYTES_MAX,
            ) as answer,
            contextlib.aclosing(self._events(call, dialect, answer, access)) as events,
        ):
            return await self._take(
                events, delivered, sink, first_until=began + first, until=began + left
            )

    def _events(
        self, call: Call, dialect: Dialect, answer: HTTPAnswer, access: Access
    ) -> AsyncGenerator[AnswerEvent, None]:
        """
        Read an answer by what was asked for.
        """
        if answer.status not in HTTP_SERVED:
            return self._refusal(dialect, answer)
        match call:
            case ImageCall():
                return self.media.images(
                    dialect,
                    call,
                    answer,
                    credential=access.credential,
                    base_url=self._base_url(dialect),
                )
            case SpeechCall():
                return self.media.speech(dialect, call, answer)
            case _:
                return self._text(dialect, answer, streams=call.stream)

    async def _refusal(
        self, dialect: Dialect, answer: HTTPAnswer
    ) -> AsyncGenerator[AnswerEvent, None]:
        body = await answer.read()
        raise dialect.parse_error(answer.status, answer.headers, body, now=self.clock.now())
        yield  # type: ignore[unreachable]  # it makes this a generator, as the others are

    async def _text(
        self, dialect: Dialect, answer: HTTPAnswer, *, streams: bool
    ) -> AsyncGenerator[AnswerEvent, None]:
        now = self.clock.now()
        if not streams:
            body = await answer.read()
            completion = dialect.parse_response(answer.status, answer.headers, body, now=now)
            for event in _as_events(completion):
                yield event
            return
        decoder = dialect.stream_decoder(now=now)
        async for data in answer.chunks():
            for event in decoder.feed(data):
                yield event
            if decoder.done:
                # The provider's end marker is the end, whenever it closes the connection.
                break
        for event in decoder.finish():
            yield event

    async def _take(
        self,
        events: AsyncIterator[AnswerEvent],
        delivered: Delivered,
        sink: Sink,
        *,
        first_until: float,
        until: float,
    ) -> Served | Failure:
        """
        Hand the answer over; the times are the event loop's.
        """
        try:
            async with asyncio.timeout_at(first_until) as limit:
                async for event in events:
                    delivered.count(event)
                    if isinstance(event, Finished):
                        return Served(event.finish_reason, delivered.usage, event.model)
                    if delivered.content:
                        limit.reschedule(until)
                    await sink.put(event)
        except TimeoutError:
            return Failure(
                outcome=Outcome.TIMEOUT,
                billed=Billed.MAYBE_BILLED,
                message="the answer did not come in time",
                http_status=HTTP_OK,
                content_sent=delivered.content,
                # Past the first content only the time for the whole answer is left to run out.
                deadline_passed=delivered.content,
            )
        raise AssertionError("a decoder's last event is Finished, or it raises")


def _failure(error: ProviderError, delivered: Delivered) -> Failure:
    return Failure(
        outcome=error.outcome,
        billed=error.billed,
        message=error.safe_message,
        http_status=error.http_status,
        retry_after_seconds=error.retry_after_seconds,
        retryable=error.retryable,
        content_sent=delivered.content,
        usage=error.usage,
    )


def _as_events(completion: Completion) -> list[StreamEvent]:
    """
    Give a whole answer as the events of a stream.
    """
    events: list[StreamEvent] = []
    if completion.reasoning or completion.reasoning_signature:
        events.append(ReasoningDelta(completion.reasoning, completion.reasoning_signature))
    if completion.text:
        events.append(TextDelta(completion.text))
    events += [
        ToolCallDelta(index, call.id, call.name, call.arguments, call.signature)
        for index, call in enumerate(completion.tool_calls)
    ]
    events.append(Finished(completion.finish_reason, completion.usage, completion.model))
    return events
