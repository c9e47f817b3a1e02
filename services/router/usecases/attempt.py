# SPDX-License-Identifier: Apache-2.0
"""
One call at one provider: build, send, decode, classify.

Whole answers and streams come out as the same events. Content is counted as it passes, so that a
checkpoint can be told at any time and an answer without a usage can be estimated.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

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

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from services.router.domain.plan import Candidate
    from services.router.domain.text import Completion, StreamEvent, TextCall, Usage
    from services.router.providers.base import AccessToken, Credential, Dialect
    from services.router.usecases.access import AccessTokens
    from services.router.usecases.ports import HTTPAnswer, Transport
    from services.shared.clock import Clock
    from services.shared.secret import Secret

HTTP_OK = 200
HTTP_UNAUTHORIZED = 401
FIRST_BYTE_SECONDS_MAX = 60.0
"""Time for the head of a stream."""
FIRST_CONTENT_SECONDS_MAX = 90.0
"""Time from the head of a stream to its first content."""
WHOLE_ANSWER_SECONDS_MAX = 300.0
IDLE_SECONDS_MAX = 60.0
"""Time between two pieces of a stream."""


class Sink(Protocol):
    """
    Takes the events of an attempt.
    """

    async def put(self, event: StreamEvent) -> None:
        """Take one event; waits while the reader is behind."""
        ...


@dataclass(slots=True)
class Delivered:
    """
    What an attempt has delivered so far.
    """

    content_bytes: int = 0
    usage: Usage | None = None
    content: bool = False
    sent: bool = False
    """Whether bytes may have left."""

    def count(self, event: StreamEvent) -> None:
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
            case UsageReport():
                self.usage = event.usage
            case Finished():
                self.usage = event.usage or self.usage


@dataclass(frozen=True, slots=True)
class Served:
    """
    The attempt served the request.
    """

    finish_reason: FinishReason
    usage: Usage | None


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
    clock: Clock

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

    def _base_url(self, dialect: Dialect) -> str:
        return self.base_urls.get(dialect.provider, dialect.default_base_url)

    async def _send(
        self,
        call: TextCall,
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
        left = max(0.0, deadline - self.clock.monotonic())

        def check() -> bool:
            delivered.sent = access.may_send()
            return delivered.sent

        head_max = FIRST_BYTE_SECONDS_MAX if call.stream else WHOLE_ANSWER_SECONDS_MAX
        async with (
            self.transport.send(
                request,
                may_send=check,
                head_seconds=min(head_max, left),
                idle_seconds=min(IDLE_SECONDS_MAX, left),
            ) as answer,
            contextlib.aclosing(self._events(dialect, answer, streams=call.stream)) as events,
        ):
            return await self._take(events, deadline, delivered, sink, streams=call.stream)

    async def _events(
        self, dialect: Dialect, answer: HTTPAnswer, *, streams: bool
    ) -> AsyncGenerator[StreamEvent, None]:
        now = self.clock.now()
        if answer.status != HTTP_OK:
            raise dialect.parse_error(answer.status, answer.headers, await answer.read(), now=now)
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
        events: AsyncIterator[StreamEvent],
        deadline: float,
        delivered: Delivered,
        sink: Sink,
        *,
        streams: bool,
    ) -> Served | Failure:
        left = max(0.0, deadline - self.clock.monotonic())
        first_max = FIRST_CONTENT_SECONDS_MAX if streams else WHOLE_ANSWER_SECONDS_MAX
        started = asyncio.get_running_loop().time()
        try:
            # Until the first content another candidate may still serve: a bound of its own.
            async with asyncio.timeout(min(first_max, left)) as limit:
                async for event in events:
                    delivered.count(event)
                    if isinstance(event, Finished):
                        return Served(event.finish_reason, delivered.usage)
                    if delivered.content:
                        limit.reschedule(started + left)
                    await sink.put(event)
        except TimeoutError:
            return Failure(
                outcome=Outcome.TIMEOUT,
                billed=Billed.MAYBE_BILLED,
                message="the answer did not come in time",
                http_status=HTTP_OK,
                content_sent=delivered.content,
                # Past the first content only the request's own deadline is left to run out.
                deadline_passed=delivered.content,
                usage=delivered.usage,
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
        usage=error.usage or delivered.usage,
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
