# SPDX-License-Identifier: Apache-2.0
"""
A page in headless Chromium that uses the browser module, served from loopback.

The page's origin also relays: `POST /rpc/{service}/{method}` takes a request as JSON, in the form
of the protos, and answers what the service answers, as a product's backend would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from aiohttp import web
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from deploy.programs import CHROMIUM, ProgramMissingError
from services.shared.status import from_rpc_error
from tests.support.source import ROOT

MODULE = ROOT / "client" / "browser" / "ownkey.js"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CALL_SECONDS_MAX = 20.0
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Keys</title></head>
<body><script type="module">
import * as ownkey from "/ownkey.js";
globalThis.ownkey = ownkey;
globalThis.rpc = async (method, request) => {
  const answer = await fetch(`/rpc/${method}`, { method: "POST", body: JSON.stringify(request) });
  return answer.json();
};
</script></body></html>
"""


@dataclass(frozen=True, slots=True)
class Relay:
    """
    What relays a page's requests.

    Args:
        stubs: By service.
    """

    stubs: Mapping[ServiceDescriptor, Any]

    def app(self) -> web.Application:
        """The page, the module and the relay, as one origin."""
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/ownkey.js", self._module)
        app.router.add_post("/rpc/{service}/{method}", self._relay)
        return app

    async def _page(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text=PAGE, content_type="text/html")

    async def _module(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text=MODULE.read_text(), content_type="text/javascript")

    async def _relay(self, request: web.Request) -> web.Response:
        service, method = request.match_info["service"], request.match_info["method"]
        [(descriptor, stub)] = [
            found for found in self.stubs.items() if found[0].full_name == service
        ]
        input_type = descriptor.methods_by_name[method].input_type
        message = message_factory.GetMessageClass(input_type)()
        json_format.Parse(await request.text(), message)
        call = getattr(stub, method)
        try:
            answer = await call(message, timeout=CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError as fault:
            status = from_rpc_error(fault)
            return web.json_response({"reason": status.reason, "metadata": status.metadata})
        return web.json_response(text=json_format.MessageToJson(answer))


@asynccontextmanager
async def page_origin(stubs: Mapping[ServiceDescriptor, Any]) -> AsyncIterator[str]:
    """The address of a page that is served and relayed for."""
    runner = web.AppRunner(Relay(stubs).app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """
    A browser; what a page keeps is its context's, and gone with it.

    Raises:
        ProgramMissingError: There is none yet; a test's time is too short to install one.
    """
    binary = CHROMIUM.find()
    if binary is None:
        raise ProgramMissingError("The browser module is tested in Chromium; run `make chromium`.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


async def open_page(context: BrowserContext, address: str) -> Page:
    """The page, once the module is loaded."""
    page = await context.new_page()
    await page.goto(address)
    await page.wait_for_function("globalThis.rpc !== undefined")
    return page
