# SPDX-License-Identifier: Apache-2.0
"""
What the simulated providers share: admission, faults, and how an answer leaves.

The order is the providers' own: key, permission, request, model, money, answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, auto
from typing import Any

import msgspec
from aiohttp import web

from simulator.control import Control, key_digest
from simulator.faults import Fault, FaultKind, fault_in_key, fault_in_model
from simulator.tokens import Answer, Prompt, make_answer

__all__ = [
    "Generation",
    "InvalidRequestError",
    "Production",
    "ProviderAPI",
    "Refusal",
    "RefusalKind",
    "Settings",
    "json_response",
    "reset",
    "sse",
]

KEY_LENGTH_MIN = 20
"""Shorter keys are no provider's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What the simulator is given from outside.
    """

    now: Callable[[], datetime]
    slow_seconds: float = 5.0
    """How long a `slow` key waits for its first byte, and a `stall` key in the middle of a stream,
    unless its fault is cleared."""
    job_seconds: float = 1.0
    """How long a job runs."""
    webhook_address: str = ""
    """Where webhooks are sent in place of the host they name; empty sends none."""


class RefusalKind(StrEnum):
    """
    Why a request is refused.
    """

    MISSING_KEY = auto()
    INVALID_KEY = auto()
    NO_CREDIT = auto()
    RATE_LIMITED = auto()
    FORBIDDEN = auto()
    ERROR = auto()
    OVERLOADED = auto()
    MODEL_NOT_FOUND = auto()
    INVALID_REQUEST = auto()
    FILTERED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    A refusal, to be said in a provider's own words.
    """

    kind: RefusalKind
    generation: bool = True
    fault: Fault | None = None
    model: str = ""
    detail: str = ""


class InvalidRequestError(Exception):
    """
    The body is not what the provider takes; the message is in the provider's words.
    """


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.kind)
        self.refusal = refusal


class _DownError(Exception):
    """
    The key asks for a reset connection.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """
    A request for text, read.
    """

    prompt: Prompt
    stream: bool
    include_usage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """
    Media as a provider answers with them, and as faults have it.
    """

    content_type: str
    body: bytes = b""
    empty: bytes = b""
    """The answer without any medium."""
    headers: dict[str, str] = field(default_factory=dict)
    frames: list[bytes] = field(default_factory=list)
    """In place of a body, where the answer leaves piece by piece."""
    filtered: str = ""
    """What a filtered request is refused with; empty where it is answered all the same."""
    blurred: bytes = b""
    """The answer to a filtered request; empty for the same body."""
    blurred_headers: dict[str, str] = field(default_factory=dict)


_REFUSED_BY = {
    FaultKind.REVOKED: RefusalKind.INVALID_KEY,
    FaultKind.NO_CREDIT: RefusalKind.NO_CREDIT,
    FaultKind.RATE_LIMITED: RefusalKind.RATE_LIMITED,
    FaultKind.FORBIDDEN: RefusalKind.FORBIDDEN,
    FaultKind.ERROR: RefusalKind.ERROR,
    FaultKind.OVERLOADED: RefusalKind.OVERLOADED,
}


class ProviderAPI(ABC):
    """
    One simulated provider.
    """

    name: str
    key_prefixes: tuple[str, ...]
    foreign_prefixes: tuple[str, ...] = ()
    """Longer prefixes under the own ones that belong to other providers."""
    stream_type = "text/event-stream"
    """What a stream says it is."""

    def __init__(self, control: Control, settings: Settings) -> None:
        self._control = control
        self._settings = settings

    @property
    def now(self) -> datetime:
        """
        The current time.
        """
        return self._settings.now()

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """

    @abstractmethod
    def key_of(self, request: web.Request) -> str:
        """
        Take the key out of its header; empty where it is missing.
        """

    async def doubt(self, request: web.Request, key: str) -> str:  # noqa: ARG002 - a hook
        """
        Say what is wrong with a request's credential, "" for nothing.
        """
        known = key.startswith(self.key_prefixes) and not key.startswith(
            self.foreign_prefixes or ("\0",)
        )
        return "" if known and len(key) >= KEY_LENGTH_MIN else "unknown"

    def missing_permission(
        self,
        request: web.Request,  # noqa: ARG002 - a hook
        key: str,  # noqa: ARG002 - a hook
        *,
        generation: bool,  # noqa: ARG002 - a hook
    ) -> str:
        """
        Name the permission that a credential lacks for a generation or a free call; empty where it
        has it.
        """
        return ""

    @abstractmethod
    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:
        """
        Give model and stream flag for the recording, whatever the body is worth.
        """

    @abstractmethod
    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.

        Raises:
            InvalidRequestError: The provider would refuse it.
        """

    @abstractmethod
    def knows(self, model: str) -> bool:
        """
        Tell whether a model is served.
        """

    @abstractmethod
    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in the provider's words.
        """

    @abstractmethod
    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """

    @abstractmethod
    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give a stream's frames, the end included.
        """

    @abstractmethod
    def error_frame(self) -> bytes:
        """
        Give the frame of a failure in mid-stream.
        """

    async def admit(
        self, request: web.Request, model: str, *, generation: bool
    ) -> Fault | web.Response | None:
        """
        Record a request, check its key and let faults strike; gives the fault that is left to the
        work itself, or the refusal.
        """
        self._record(request, model, stream=False)
        try:
            fault = await self._admit(request, model, generation=generation)
            if generation:
                self._refuse_by(fault, FaultKind.NO_CREDIT, FaultKind.RATE_LIMITED)
        except _RefusedError as error:
            return self.refuse(error.refusal)
        except _DownError:
            return reset(request)
        return fault

    async def free(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """
        Answer a free call.
        """
        self._record(request, "", stream=False)
        try:
            fault = await self._admit(request, "", generation=False)
        except _RefusedError as error:
            return self.refuse(error.refusal)
        except _DownError:
            return reset(request)
        return json_response(self.free_body(body, fault))

    def free_body(self, body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """
        Give a free call's answer as a fault would have it.
        """
        return body

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """
        Answer a request for text.
        """
        body = await request.read()
        model, stream = self.peek(request, body)
        self._record(request, model, stream=stream)
        try:
            fault = await self._admit(request, model, generation=True)
            generation = self.read(request, body)
            self._find_model(generation.prompt.model)
            self._refuse_by(fault, FaultKind.NO_CREDIT, FaultKind.RATE_LIMITED)
        except InvalidRequestError as error:
            return self.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        except _RefusedError as error:
            return self.refuse(error.refusal)
        except _DownError:
            return reset(request)
        return await self._respond(request, generation, fault)

    async def produce(
        self,
        request: web.Request,
        model: str,
        data: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Production],
    ) -> web.StreamResponse:
        """
        Answer a request for media.

        Args:
            request: The request.
            model: The model it names.
            data: Its fields.
            read: Reads them strictly, and makes what they ask for.
        """
        self._record(request, model, stream=False)
        try:
            fault = await self._admit(request, model, generation=True)
            plain, _ = fault_in_model(model)
            self._find_model(model)
            made = read({**data, "model": plain} if "model" in data else data)
            self._refuse_by(fault, FaultKind.NO_CREDIT, FaultKind.RATE_LIMITED)
        except InvalidRequestError as error:
            return self.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        except _RefusedError as error:
            return self.refuse(error.refusal)
        except _DownError:
            return reset(request)
        return await self._hand_over(request, made, None if fault is None else fault.kind)

    async def _hand_over(
        self, request: web.Request, made: Production, kind: FaultKind | None
    ) -> web.StreamResponse:
        if kind is FaultKind.FILTERED and made.filtered:
            return self.refuse(Refusal(kind=RefusalKind.FILTERED, detail=made.filtered))
        if made.frames:
            frames = made.frames
            if kind is FaultKind.EMPTY:
                frames = frames[-1:] if made.content_type == self.stream_type else []
            elif kind is FaultKind.MIDSTREAM:
                if made.content_type != self.stream_type:
                    return self.broken_answer()
                frames = [*frames[: len(frames) // 2], self.error_frame()]
            return await self._stream(request, frames, kind, content_type=made.content_type)
        if kind is FaultKind.MIDSTREAM:
            return self.broken_answer()
        body, headers = made.body, made.headers
        if kind is FaultKind.FILTERED:
            body, headers = made.blurred or body, made.blurred_headers
        elif kind is FaultKind.EMPTY:
            body = made.empty
        if kind is FaultKind.CUT:
            return await self._cut(request, body, content_type=made.content_type)
        return web.Response(body=body, headers=headers, content_type=made.content_type)

    def _record(self, request: web.Request, model: str, *, stream: bool) -> None:
        key = self.key_of(request)
        self._control.record(
            {
                "provider": self.name,
                "method": request.method,
                "path": request.path,
                "key_sha256": key_digest(key) if key else "",
                "model": model,
                "stream": stream,
                "time": self.now.isoformat(),
            }
        )

    async def _admit(self, request: web.Request, model: str, *, generation: bool) -> Fault | None:
        """
        Check the key and let the faults before any work strike.
        """
        key = self.key_of(request)
        if not key:
            raise _RefusedError(Refusal(kind=RefusalKind.MISSING_KEY, generation=generation))
        doubt = await self.doubt(request, key)
        if doubt:
            raise _RefusedError(
                Refusal(kind=RefusalKind.INVALID_KEY, generation=generation, detail=doubt)
            )
        lacking = self.missing_permission(request, key, generation=generation)
        if lacking:
            raise _RefusedError(
                Refusal(kind=RefusalKind.FORBIDDEN, generation=generation, detail=lacking)
            )
        fault = self._fault(key, model, generation=generation)
        if fault is None:
            return None
        if fault.kind is FaultKind.DOWN:
            raise _DownError
        if fault.kind is FaultKind.SLOW:
            await self._control.wait(key, self._settings.slow_seconds)
        if fault.kind is FaultKind.NO_LIST and not generation:
            raise _RefusedError(Refusal(kind=RefusalKind.FORBIDDEN, generation=False))
        early = [FaultKind.REVOKED, FaultKind.FORBIDDEN, FaultKind.ERROR, FaultKind.OVERLOADED]
        if not generation:
            early.append(FaultKind.RATE_LIMITED)
        self._refuse_by(fault, *early, generation=generation)
        return fault

    def _fault(self, key: str, model: str, *, generation: bool) -> Fault | None:
        found = (
            self._control.take_fault(key, generation=generation)
            or fault_in_key(key)
            or fault_in_model(model)[1]
        )
        if found is not None and found.generations_only and not generation:
            return None
        return found

    def _find_model(self, model: str) -> None:
        plain_model, _ = fault_in_model(model)
        if not self.knows(plain_model):
            raise _RefusedError(Refusal(kind=RefusalKind.MODEL_NOT_FOUND, model=plain_model))

    def _refuse_by(self, fault: Fault | None, *kinds: FaultKind, generation: bool = True) -> None:
        if fault is not None and fault.kind in kinds:
            raise _RefusedError(
                Refusal(kind=_REFUSED_BY[fault.kind], generation=generation, fault=fault)
            )

    async def _respond(
        self, request: web.Request, generation: Generation, fault: Fault | None
    ) -> web.StreamResponse:
        kind = None if fault is None else fault.kind
        answer = make_answer(
            generation.prompt,
            empty=kind is FaultKind.EMPTY,
            filtered=kind is FaultKind.FILTERED,
        )
        if generation.stream:
            frames = self.frames(answer, include_usage=generation.include_usage)
            if kind is FaultKind.MIDSTREAM:
                frames = [*frames[: len(frames) // 2], self.error_frame()]
            return await self._stream(request, frames, kind)
        if kind is FaultKind.MIDSTREAM:
            return self.broken_answer()
        if kind is FaultKind.CUT:
            return await self._cut(request, msgspec.json.encode(self.answer(answer)))
        return json_response(self.answer(answer))

    def broken_answer(self) -> web.Response:
        """
        Say that the work failed after it began, in an answer that is no stream.
        """
        return self.refuse(Refusal(kind=RefusalKind.ERROR))

    async def _stream(
        self,
        request: web.Request,
        frames: list[bytes],
        kind: FaultKind | None,
        *,
        content_type: str = "",
    ) -> web.StreamResponse:
        half = len(frames) // 2
        stream_type = content_type or self.stream_type
        response = web.StreamResponse(
            headers={"Content-Type": stream_type, "Cache-Control": "no-cache"}
        )
        # A client that hangs up ends its stream; that is its right.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for frame in frames[:half]:
                await response.write(frame)
            if kind is FaultKind.CUT:
                _close(request)
                return response
            if kind is FaultKind.STALL:
                await self._control.wait(self.key_of(request), self._settings.slow_seconds)
            for frame in frames[half:]:
                await response.write(frame)
            await response.write_eof()
        return response

    async def _cut(
        self, request: web.Request, body: bytes, *, content_type: str = "application/json"
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.content_length = len(body)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _close(request)
        return response


def json_response(
    body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """
    Give a JSON answer.
    """
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers=headers,
        content_type="application/json",
    )


def sse(body: dict[str, Any], *, event: str = "", end: str = "\n\n") -> bytes:
    """
    Give one server-sent event; `end` is the blank line in the provider's line ends.
    """
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {msgspec.json.encode(body).decode()}{end}".encode()


def _close(request: web.Request) -> None:
    """
    Close the connection after what was written, without the answer's end.
    """
    if request.transport is not None:
        request.transport.close()


def reset(request: web.Request) -> web.Response:
    """
    Reset the connection: a lingering time of zero makes the kernel send RST.

    The answer that is given leaves nowhere.
    """
    if request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
