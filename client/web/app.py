# SPDX-License-Identifier: Apache-2.0
"""
The page's own HTTP: its files, the door, and the calls.

    GET  /, /style.css, /*.js …    the page, the same for everybody, without anybody's data
    GET  /healthz                  whether this process serves
    POST /session                  the link's token for a session's cookie, once
    POST /api/session              what the page needs to begin
    POST /api/{service}/{method}   one RPC; a stream comes as JSON lines, ended by {"end": true} or
                                   {"failure": {...}}

1. A request must name this server in Host: a page of another name that was made to lead here
   (DNS rebinding) is refused. Whatever calls must come from this origin, as Origin says.
2. Scripts and styles come from files of this origin alone, nothing is kept by caches, no other
   page may frame it. See https://www.w3.org/TR/CSP3/ and https://w3c.github.io/trusted-types/
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aiohttp import web

from client.ownkey_client.failure import Failure
from client.web.calls import (
    BrokenRequestError,
    Calls,
    FailedError,
    RefusedError,
    failure_document,
)
from client.web.door import SESSION_SECONDS, Door

BODY_BYTES_MAX = 128 * 1024
"""A prompt, or a sealed key beside a request; more is refused."""
CALLS_MAX = 32
"""Calls under way at the same time; more are refused."""
NAMES = ("127.0.0.1", "localhost", "[::1]")

_PAGE = Path(__file__).parent / "page"
_BROWSER_MODULE = Path(__file__).parents[1] / "browser" / "ownkey.js"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """
    Serves the page.

    Args:
        account: The one account it acts for.
        port: Where it listens: Host must name it.
        door: Lets browsers in.
        calls: Makes calls.
    """

    def __init__(self, *, account: str, port: int, door: Door, calls: Calls) -> None:
        self._account = account
        self._hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self._cookie = f"ownkey_session_{port}"
        self._door = door
        self._calls = calls
        self._running = 0
        self._files = {f"/{path.name}": path for path in (*_PAGE.iterdir(), _BROWSER_MODULE)}
        self._files["/"] = _PAGE / "index.html"

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(
            middlewares=[_with_headers, self._from_here], client_max_size=BODY_BYTES_MAX
        )
        app.router.add_get("/healthz", _healthy)
        app.router.add_post("/session", self._enter)
        app.router.add_post("/api/session", self._session)
        app.router.add_post("/api/{service}/{method}", self._call)
        app.router.add_get("/{file:.*}", self._file)
        return app

    @web.middleware
    async def _from_here(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what was not meant for this server, and calls that its page did not make."""
        host = request.headers.get("Host", "")
        if host not in self._hosts:
            return _told(
                421,
                "WRONG_HOST",
                "This server goes by 127.0.0.1 and localhost at its own port; open the link as "
                "printed, and forward the same port.",
            )
        if request.method != "GET":
            if request.headers.get("Origin") != f"http://{host}":
                return _told(403, "WRONG_ORIGIN", "Only the page's own origin may call.")
            if request.content_type != "application/json":
                return _told(415, "WRONG_TYPE", "Calls are JSON.")
        if request.path.startswith("/api/") and not self._door.admits(
            request.cookies.get(self._cookie, "")
        ):
            return _told(
                401,
                "NO_SESSION",
                "This browser has not been let in, or its session is over; open the newest link.",
            )
        return await handler(request)

    async def _file(self, request: web.Request) -> web.Response:
        path = self._files.get(request.path)
        if path is None:
            return _told(404, "NOT_FOUND", "There is no such page; the settings are at /.")
        return web.Response(
            body=path.read_bytes(), content_type=_TYPES[path.suffix], charset="utf-8"
        )

    async def _enter(self, request: web.Request) -> web.Response:
        body = await _json(request)
        token = body.get("token")
        session = self._door.enter(token) if isinstance(token, str) else None
        if session is None:
            return _told(
                403,
                "LINK_USED",
                "This link was used before, or is not this server's; open the newest one.",
            )
        answer = web.json_response({})
        answer.set_cookie(
            self._cookie,
            session,
            httponly=True,
            samesite="Strict",
            path="/",
            max_age=round(SESSION_SECONDS),
        )
        return answer

    async def _session(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"account": self._account})

    async def _call(self, request: web.Request) -> web.StreamResponse:
        if self._running >= CALLS_MAX:
            return _told(429, "OVERLOADED", "Too much at the same time; try again in a moment.")
        self._running += 1
        try:
            return await self._make_call(request)
        except RefusedError as refused:
            return _told(403, "NOT_ALLOWED", str(refused))
        except BrokenRequestError as broken:
            return _told(400, "BROKEN_REQUEST", str(broken))
        except FailedError as failed:
            return _failed(failed.failure)
        finally:
            self._running -= 1

    async def _make_call(self, request: web.Request) -> web.StreamResponse:
        service, method = request.match_info["service"], request.match_info["method"]
        text = await request.text()
        if not self._calls.streams(service, method):
            return web.json_response(text=await self._calls.unary(service, method, text))
        response = web.StreamResponse(headers=dict(HEADERS))
        response.content_type = "application/x-ndjson"
        end: Mapping[str, Any] = {"end": True}
        async with aclosing(self._calls.stream(service, method, text)) as answers:
            try:
                async for answer in answers:
                    if not response.prepared:
                        await response.prepare(request)
                    await response.write(answer.encode() + b"\n")
            except FailedError as failed:
                if not response.prepared:
                    # Failed before it began, it is a failed call like any other.
                    raise
                end = {"failure": failure_document(failed.failure)}
        await response.write(json.dumps(end).encode() + b"\n")
        return response


@web.middleware
async def _with_headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put the headers on every answer, errors of the server itself included."""
    try:
        response = await handler(request)
    except web.HTTPException as fault:
        response = _told(fault.status, "REFUSED", f"The server refused this: {fault.reason}.")
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


async def _healthy(request: web.Request) -> web.Response:
    del request
    return web.json_response({"serving": True})


async def _json(request: web.Request) -> Mapping[str, Any]:
    try:
        body = json.loads(await request.text())
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _told(status: int, reason: str, message: str) -> web.Response:
    """Answer a failure of this server's own, in the form of the services' failures."""
    return web.json_response({"reason": reason, "message": message}, status=status)


def _failed(failure: Failure) -> web.Response:
    return web.json_response(failure_document(failure), status=502)


async def serve_app(
    app: web.Application, address: str, *, on_serving: Callable[[], None], stop: asyncio.Event
) -> None:
    """
    Serve until told to stop; running calls may end within a second.

    Args:
        app: What to serve.
        address: `host:port`.
        on_serving: Told that it serves.
        stop: Ends it.

    Raises:
        OSError: The address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    # A browser that leaves ends its call: nobody waits for the answer.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        on_serving()
        await stop.wait()
    finally:
        await runner.cleanup()
