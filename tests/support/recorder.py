# SPDX-License-Identifier: Apache-2.0
"""
The provider simulator in a thread of its own, with a recording of every call: whose credential was
shown at which host, for which request, and how it was answered.

A request is known by a sentence in its prompt, `request <id> of <account>`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from simulator.aws_signature import access_key_id
from tests.support.simulated_providers import BOUND_TO_HOSTS, serve_simulator

STARTING_SECONDS_MAX = 20.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ASKED = re.compile(r"request ([0-9a-f-]{36}) of ([a-z0-9-]+)")
_KEY_HEADERS = ("x-api-key", "x-goog-api-key", "api-key")


@dataclass(frozen=True, slots=True)
class Call:
    """
    One call as a provider saw it.

    Args:
        provider: Its id.
        host: The host that was called; empty where the provider has only one.
        credential: The key, or what names a structured one: a signature's access key id, or a
            service account's address.
        account: Whose request it was; empty for a live test.
        request_id: Which request it was; empty for a live test.
        status: What was answered.
    """

    provider: str
    host: str
    credential: str = field(repr=False)
    account: str
    request_id: str
    status: int


@dataclass
class Recorder:
    """A simulator that records."""

    address: str = ""
    calls: list[Call] = field(default_factory=list)
    open: int = 0
    """Calls that have arrived and are not recorded yet."""

    @web.middleware
    async def record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Stand before the simulator."""
        provider, *rest = request.path.strip("/").split("/")
        if provider == "control":
            return await handler(request)
        self.open += 1
        try:
            asked = _ASKED.search((await request.read()).decode())
            response = await handler(request)
            account, request_id = (asked[2], asked[1]) if asked else ("", "")
            host = rest[0] if provider in BOUND_TO_HOSTS else ""
            shown = await _credential(request)
            self.calls.append(Call(provider, host, shown, account, request_id, response.status))
        finally:
            self.open -= 1
        return response

    async def idle(self) -> bool:
        """Tell whether all that arrived is recorded."""
        return not self.open


async def _credential(request: web.Request) -> str:
    """Give what names the credential of a request."""
    for header in _KEY_HEADERS:
        if header in request.headers:
            return request.headers[header]
    authorization = request.headers.get("authorization", "")
    bearer = authorization.removeprefix("Bearer ")
    if bearer.startswith("ya29."):
        return base64.urlsafe_b64decode(bearer.removeprefix("ya29.")).decode().split(" ")[-1]
    if not authorization:
        # A service account shows itself by an assertion, https://www.rfc-editor.org/rfc/rfc7523
        claims = str((await request.post())["assertion"]).split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"])
    return access_key_id(authorization) or bearer


@contextmanager
def recording_simulator() -> Iterator[Recorder]:
    """Serve a simulator that records, beside whatever the caller's thread does."""
    recorder = Recorder()
    loop = asyncio.new_event_loop()
    serving, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with serve_simulator(middlewares=[recorder.record]) as recorder.address:
            serving.set()
            await stopping.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="simulator")
    thread.start()
    try:
        assert serving.wait(STARTING_SECONDS_MAX), "the simulator did not start"
        yield recorder
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
