# SPDX-License-Identifier: Apache-2.0
"""
The door: official SDKs call it as they call their provider; only the base address changes.

Account, source and request id come in headers. What the SDK calls its API key is the caller's
service token, or the word `anonymous` on loopback; no provider's key is taken here. A failure
before the first content has a status of its own; after it, the stream ends with an error event.
"""

from __future__ import annotations

import ssl
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from aiohttp import web
from ownkey.router.v1 import attempt_pb2, text_pb2

from services.router.errors import AnswerNotKeptError, ModelNotFoundError
from services.router.http import anthropic_answer, openai_answer
from services.router.http.anthropic_answer import MessageAnswer
from services.router.http.anthropic_request import read_messages
from services.router.http.media_door import MediaDoor
from services.router.http.metrics import HTTP_CALLS, HTTP_SECONDS, NO_ROUTE
from services.router.http.model_names import model_name
from services.router.http.openai_answer import ChatAnswer
from services.router.http.openai_request import read_chat
from services.router.http.repeats import Repeats, not_heard
from services.router.http.telling import (
    ACCOUNT,
    REQUEST_ID,
    SOURCE,
    failure_headers,
    http_status,
    receipt_headers,
    started_headers,
)
from services.router.rpc import mapping_text
from services.router.rpc.policy import SERVICE
from services.router.usecases.engine import Ended, Started
from services.shared import tracing
from services.shared.errors import (
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
)
from services.shared.identity import ANONYMOUS, Caller
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Any

    from services.router.domain.attempts import Receipt
    from services.router.domain.catalogue import Catalogue, Model
    from services.router.domain.media import AnswerEvent
    from services.router.domain.request import Request
    from services.router.usecases.engine import Event
    from services.router.usecases.generate import GenerateText
    from services.shared.access import Access
    from services.shared.clock import Clock
    from services.shared.tracing import Span

BODY_BYTES_MAX = 40 * 1024 * 1024
"""Images come as base64, a third larger than their bytes."""
ANSWER_SECONDS_MAX = 600.0
"""As long as the SDKs wait by default."""
IN_FLIGHT_MAX = 2_048
OVERLOAD_RETRY_SECONDS = 0.5
HTTP_SERVER_FAULT = 500

_NAME: web.RequestKey[str] = web.RequestKey("request_id", str)
_SOURCES = {
    "": attempt_pb2.SOURCE_AUTO,
    "auto": attempt_pb2.SOURCE_AUTO,
    "own_key": attempt_pb2.SOURCE_OWN_KEY,
    "credits": attempt_pb2.SOURCE_CREDITS,
}

log = get_logger()


class Answer(Protocol):
    """
    Writes one answer in an SDK's shape.
    """

    def add(self, event: AnswerEvent) -> None:
        """Take one event of a whole answer in."""
        ...

    def whole(self, receipt: Receipt) -> dict[str, Any]:
        """Write the whole answer."""
        ...

    def begin(self, started: Started) -> bytes:
        """Write a stream's beginning."""
        ...

    def delta(self, event: AnswerEvent) -> bytes:
        """Write one piece of a stream."""
        ...

    def finish(self, receipt: Receipt) -> bytes:
        """Write a stream's end."""
        ...

    def broken(self, error: ServiceError) -> bytes:
        """Write the failure that ends a stream."""
        ...


class Door:
    """
    The HTTP face of the router's use cases.

    Args:
        generate: Generates text.
        catalogue: Knows the models.
        access: Knows who calls, and what they may.
        clock: Time.
    """

    def __init__(
        self,
        *,
        generate: GenerateText,
        catalogue: Catalogue,
        access: Access,
        clock: Clock,
    ) -> None:
        self._generate = generate
        self._catalogue = catalogue
        self._access = access
        self._clock = clock
        self._repeats = Repeats(clock)
        self._in_flight = 0

    def app(self) -> web.Application:
        """
        Give the application to serve.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        MediaDoor(
            generate=self._generate,
            catalogue=self._catalogue,
            clock=self._clock,
            allow=self._allow,
            head=self._head,
            naming=lambda request: _naming(request.get(_NAME, "")),
        ).add_to(app)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        return app

    # ---- what every call passes

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        structlog.contextvars.clear_contextvars()
        started = self._clock.monotonic()
        status, reason = 0, ""
        self._in_flight += 1
        route = _route(request)
        with _span(request, route) as span:
            try:
                self._check_load()
                response = await handler(request)
                status = response.status
            except Exception as fault:  # noqa: BLE001 - the task root
                error = _as_failure(fault)
                status, reason = _status_of(fault, error)
                return self._failure(request, error, status)
            else:
                return response
            finally:
                self._in_flight -= 1
                # Without a status it was cancelled: its caller left before there was one.
                self._repeats.ended(request, request.get(_NAME, ""), cancelled=not status)
                seconds = self._clock.monotonic() - started
                HTTP_CALLS.labels(route=route, status=status).inc()
                HTTP_SECONDS.labels(route=route).observe(seconds)
                span.set(http__response__status_code=status, reason=reason)
                if status >= HTTP_SERVER_FAULT:
                    span.fail(reason)
                log.info(
                    "http",
                    method=request.method,
                    path=request.path,
                    status=status,
                    reason=reason,
                    duration_ms=round(seconds * 1000, 3),
                )

    def _check_load(self) -> None:
        if self._in_flight > IN_FLIGHT_MAX:
            raise OverloadedError(
                f"{IN_FLIGHT_MAX} calls are being served already; try again shortly",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )

    def _failure(self, request: web.Request, error: ServiceError, status: int) -> web.Response:
        body = anthropic_answer if _speaks_anthropic(request) else openai_answer
        return web.json_response(
            body.error_body(error),
            status=status,
            headers={**failure_headers(error), **_naming(request.get(_NAME, ""))},
        )

    def _allow(self, request: web.Request, rpc: str) -> None:
        """
        Find out who calls, and whether they may.

        Raises:
            UnauthenticatedError: What was sent as the SDK's API key is not known here.
            AccessDeniedError: The caller may not do this.
        """
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = request.headers.get("X-Api-Key", "") or bearer
        caller = _caller(request, token="" if token == ANONYMOUS else token)
        full_name = f"/{SERVICE}/{rpc}"
        try:
            identity = self._access.identify(caller, full_name)
        except UnauthenticatedError as fault:
            if caller.names:
                raise
            raise UnauthenticatedError(
                "what the SDK sent as its API key is no service token of Ownkey; set it to the "
                f"caller's service token, or to '{ANONYMOUS}' in plain text on loopback. A "
                "provider's key does not belong here: store it in keyvault"
            ) from fault
        account = request.headers.get(ACCOUNT, "")
        self._access.check(identity, full_name, [account] if account else [])

    # ---- text

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self._allow(request, "GenerateText")
        chat = read_chat(await _body(request))
        call = await self._call(
            request, chat.model, chat.input, stream=chat.stream, vendor="openai"
        )
        created = int(self._clock.now().timestamp())
        answer = ChatAnswer(call.request_id, created=created, include_usage=chat.include_usage)
        return await self._answer(request, call, answer)

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        self._allow(request, "GenerateText")
        asked = read_messages(await _body(request))
        call = await self._call(
            request, asked.model, asked.input, stream=asked.stream, vendor="anthropic"
        )
        return await self._answer(request, call, MessageAnswer(call.request_id))

    async def _head(self, request: web.Request) -> dict[str, Any]:
        """
        Read what every request says in its headers: account, request id and source.

        Raises:
            InvalidArgumentError: Naming the header.
        """
        request_id = self._repeats.name(request, await request.read())
        request[_NAME] = request_id
        source = request.headers.get(SOURCE, "").lower()
        if source not in _SOURCES:
            raise InvalidArgumentError.of(SOURCE, "must be auto, own_key or credits")
        account = request.headers.get(ACCOUNT, "")
        if not account:
            raise InvalidArgumentError.of(
                ACCOUNT, "is required: a header that names the account, as accounts/{account}"
            )
        structlog.contextvars.bind_contextvars(account=account, request_id=request_id)
        return {"account": account, "request_id": request_id, "source": _SOURCES[source]}

    async def _call(
        self,
        request: web.Request,
        model: str,
        text_input: text_pb2.TextInput,
        *,
        stream: bool,
        vendor: str,
    ) -> Request:
        """
        Make the use case's request of headers and body.
        """
        message = text_pb2.StreamTextRequest if stream else text_pb2.GenerateTextRequest
        return mapping_text.text_request(
            message(
                **await self._head(request),
                model=model_name(model, self._catalogue, vendor=vendor),
                input=text_input,
            )
        )

    async def _answer(
        self, request: web.Request, call: Request, answer: Answer
    ) -> web.StreamResponse:
        deadline = self._clock.monotonic() + ANSWER_SECONDS_MAX
        async with aclosing(self._generate(call, deadline=deadline)) as events:
            first = await anext(events)
            if not isinstance(first, Started):
                raise InternalError("a generation began without saying who pays")
            if call.stream:
                return await self._stream(request, first, events, answer)
            return await self._whole(request, first, events, answer)

    async def _whole(
        self, request: web.Request, started: Started, events: AsyncIterator[Event], answer: Answer
    ) -> web.Response:
        async for event in events:
            if isinstance(event, Ended):
                _check_kept(event)
                headers = {
                    **started_headers(started),
                    **receipt_headers(event.receipt),
                    **_naming(request[_NAME]),
                }
                return web.json_response(answer.whole(event.receipt), headers=headers)
            if not isinstance(event, Started):
                answer.add(event)
        raise InternalError("a generation ended without an end")

    async def _stream(
        self, request: web.Request, started: Started, events: AsyncIterator[Event], answer: Answer
    ) -> web.StreamResponse:
        # A repeat has no content: it ends before anything was sent, and so has a status.
        event = await anext(events)
        if isinstance(event, Ended):
            _check_kept(event)
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                **started_headers(started),
                **_naming(request[_NAME]),
            }
        )
        # Its caller may leave at any moment; leaving ends the events, which is all there is to do.
        try:
            await response.prepare(request)
            await response.write(answer.begin(started))
            await response.write(_written(event, answer))
            try:
                async for event in events:
                    await response.write(_written(event, answer))
            except ConnectionResetError:
                raise
            except Exception as fault:  # noqa: BLE001 - past the status, it is told in the stream
                await response.write(answer.broken(_as_failure(fault)))
            await response.write_eof()
        except ConnectionResetError:
            not_heard(request)
        return response

    # ---- models

    async def _models(self, request: web.Request) -> web.Response:
        self._allow(request, "ListModels")
        models = [model for _, model in sorted(self._catalogue.models.items())]
        body = anthropic_answer if _speaks_anthropic(request) else openai_answer
        return web.json_response(body.model_list(models))

    async def _model(self, request: web.Request) -> web.Response:
        self._allow(request, "GetModel")
        anthropic = _speaks_anthropic(request)
        asked = request.match_info["model"]
        vendor = "anthropic" if anthropic else "openai"
        name = model_name(asked, self._catalogue, vendor=vendor)
        found: Model | None = self._catalogue.models.get(name)
        if found is None:
            raise ModelNotFoundError(
                f"the catalogue has no model '{asked}'; /v1/models lists them",
                metadata={"model": asked},
            )
        body = anthropic_answer if anthropic else openai_answer
        return web.json_response(body.model_object(found))


def _route(request: web.Request) -> str:
    """
    Give the pattern of the path.
    """
    resource = request.match_info.route.resource
    return NO_ROUTE if resource is None else resource.canonical


def _span(request: web.Request, route: str) -> Span:
    """
    Begin the span of a call; its trace is named in every line of the log.
    """
    if not tracing.active():
        return tracing.NO_SPAN
    header = request.headers.get(tracing.HEADER, "")
    span = tracing.serving(f"{request.method} {route}", header, http__route=route)
    structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
    return span


def _caller(request: web.Request, *, token: str) -> Caller:
    """
    Tell what a caller shows; a certificate, where there is one, was checked by the handshake.
    """
    if request.transport is None or request.transport.get_extra_info("sslcontext") is None:
        return Caller(token=token)
    certificate = request.transport.get_extra_info("peercert") or {}
    shown = certificate.get("subjectAltName", ())
    names = tuple(name for kind, name in shown if kind in ("URI", "DNS"))
    end = certificate.get("notAfter")
    return Caller(
        encrypted=True,
        names=names,
        token=token,
        certificate_end=None if end is None else _time_of(end),
    )


def _time_of(end: str) -> datetime:
    """
    Read a certificate's end as the standard library tells it, `Nov 21 12:00:00 2026 GMT`.
    """
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(end), UTC)


def _written(event: Event, answer: Answer) -> bytes:
    if isinstance(event, Ended):
        return answer.finish(event.receipt)
    return b"" if isinstance(event, Started) else answer.delta(event)


def _check_kept(ended: Ended) -> None:
    """
    Refuse to pass a repeat's empty answer off as the model's.

    Raises:
        AnswerNotKeptError: The request had ended before.
    """
    if ended.receipt.replayed:
        raise AnswerNotKeptError(
            "a request of this id was served before, and its text is not kept; nothing was charged "
            f"anew. Send a new {REQUEST_ID} to generate again"
        )


async def _body(request: web.Request) -> object:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, RecursionError):
        raise InvalidArgumentError.of("body", "is not JSON text") from None


def _speaks_anthropic(request: web.Request) -> bool:
    return request.path.startswith("/v1/messages") or "anthropic-version" in request.headers


def _naming(request_id: str) -> dict[str, str]:
    """
    Name the request as both SDKs look for it.
    """
    if not request_id:
        return {}
    return {REQUEST_ID: request_id, "x-request-id": request_id, "request-id": request_id}


def _as_failure(fault: Exception) -> ServiceError:
    if isinstance(fault, ServiceError):
        return fault
    if isinstance(fault, web.HTTPException):
        return InvalidArgumentError(
            f"this door does not serve that ({fault.reason}); it has /v1/chat/completions, "
            "/v1/messages, /v1/images/generations, /v1/audio/speech and /v1/models"
        )
    log.error("http_failed_unexpectedly", exc_info=fault)
    return InternalError("something went wrong inside the service; it is logged")


def _status_of(fault: Exception, error: ServiceError) -> tuple[int, str]:
    status, reason = http_status(error)
    return (fault.status if isinstance(fault, web.HTTPException) else status), reason
