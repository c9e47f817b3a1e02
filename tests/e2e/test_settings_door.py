# SPDX-License-Identifier: Apache-2.0
"""The settings page's server refuses whatever its own page, in a browser let in, did not send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from client.web.app import HEADERS
from deploy.local.suite import Suite
from tests.e2e import support

pytestmark = pytest.mark.requirement("O10")


class Visitor:
    """
    Calls as a browser's page would, or as others do.

    Args:
        suite: Whose page it visits.
        http: Keeps no cookies of its own.
    """

    def __init__(self, suite: Suite, http: aiohttp.ClientSession) -> None:
        self.host = suite.addresses.web
        self.origin = f"http://{self.host}"
        self._suite = suite
        self._http = http

    @property
    def token(self) -> str:
        """The newest link's."""
        return self._suite.settings_link.partition("#token=")[2]

    async def post(
        self, path: str, body: object, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, document and headers of an answer."""
        sent = {"Origin": self.origin, **(headers or {})}
        async with self._http.post(
            f"{self.origin}{path}", json=body, headers={k: v for k, v in sent.items() if v}
        ) as answer:
            return answer.status, await answer.json(), answer.headers

    async def enter(self) -> SimpleCookie:
        """Use the link; the cookie that came."""
        status, _, headers = await self.post("/session", {"token": self.token})
        assert status == 200
        return SimpleCookie(headers["Set-Cookie"])


@pytest_asyncio.fixture
async def visitor(suite: Suite, settings_account: str) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Visitor(suite, http)


@pytest_asyncio.fixture
async def cookie(visitor: Visitor) -> dict[str, str]:
    """The header of a browser that was let in."""
    [morsel] = (await visitor.enter()).values()
    return {"Cookie": f"{morsel.key}={morsel.value}"}


class TestDoor:
    async def test_a_link_opens_once(self, visitor: Visitor) -> None:
        token = visitor.token
        first, _, _ = await visitor.post("/session", {"token": token})
        second, told, headers = await visitor.post("/session", {"token": token})

        assert (first, second, told["reason"]) == (200, 403, "LINK_USED")
        assert "Set-Cookie" not in headers

    async def test_scripts_and_other_sites_do_not_get_the_cookie(self, visitor: Visitor) -> None:
        [morsel] = (await visitor.enter()).values()

        assert (morsel["httponly"], morsel["samesite"], morsel["domain"]) == (True, "Strict", "")

    async def test_nobody_calls_without_a_session(
        self, visitor: Visitor, settings_account: str
    ) -> None:
        for headers in ({}, {"Cookie": f"ownkey_session={visitor.token}"}):
            status, told, _ = await visitor.post(
                "/api/ledger/GetBalance", {"account": settings_account}, headers=headers
            )
            assert (status, told["reason"]) == (401, "NO_SESSION")

    @pytest.mark.parametrize("origin", ["", "null", "https://example.com", "http://127.0.0.1:1"])
    async def test_other_origins_are_refused(
        self, visitor: Visitor, cookie: dict[str, str], settings_account: str, origin: str
    ) -> None:
        status, told, _ = await visitor.post(
            "/api/ledger/GetBalance",
            {"account": settings_account},
            headers={**cookie, "Origin": origin},
        )
        assert (status, told["reason"]) == (403, "WRONG_ORIGIN")

    @pytest.mark.parametrize("host", ["ownkey.example", "127.0.0.1", "127.0.0.1.example:7170"])
    async def test_other_names_are_refused(
        self, visitor: Visitor, cookie: dict[str, str], host: str
    ) -> None:
        headers = {**cookie, "Host": host, "Origin": f"http://{host}"}
        status, told, _ = await visitor.post("/api/session", {}, headers=headers)

        assert (status, told["reason"]) == (421, "WRONG_HOST")

    async def test_a_form_of_another_page_is_refused(
        self, visitor: Visitor, cookie: dict[str, str]
    ) -> None:
        status, told, _ = await visitor.post(
            "/api/session", {}, headers={**cookie, "Content-Type": "text/plain"}
        )
        assert (status, told["reason"]) == (415, "WRONG_TYPE")


class TestCalls:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("ledger/GetBalance", {"account": "accounts/demo"}),
            ("keyvault/ListKeys", {"parent": "accounts/platform"}),
            ("ledger/GrantCredits", {}),
            ("keyvault/RotateKek", {}),
        ],
    )
    async def test_the_page_acts_for_one_account_and_calls_little(
        self, visitor: Visitor, cookie: dict[str, str], path: str, body: dict[str, str]
    ) -> None:
        status, told, _ = await visitor.post(f"/api/{path}", body, headers=cookie)

        assert (status, told["reason"]) == (403, "NOT_ALLOWED")

    @pytest.mark.requirement("K8")
    async def test_what_is_refused_is_not_shown_again(
        self, suite: Suite, visitor: Visitor, cookie: dict[str, str], settings_account: str
    ) -> None:
        secret = support.new_secret(fault="revoked")
        bodies = [
            {"parent": settings_account, "secret": secret, "key": {"provider": "openai"}},
            {"parent": settings_account, "secret": [secret]},
        ]
        told = [
            await visitor.post("/api/keyvault/CreateKey", body, headers=cookie) for body in bodies
        ]

        assert [status for status, _, _ in told] == [502, 400]
        assert all(secret not in str(document) for _, document, _ in told)
        assert secret not in (suite.state.logs / "web.log").read_text()

    async def test_a_request_larger_than_any_of_the_page_is_refused(
        self, visitor: Visitor, cookie: dict[str, str]
    ) -> None:
        status, _, _ = await visitor.post("/api/session", {}, headers=cookie)
        large, told, headers = await visitor.post(
            "/api/router/Explain", {"a": "x" * 200_000}, headers=cookie
        )

        assert (status, large, told["reason"]) == (200, 413, "REFUSED")
        assert headers["Cache-Control"] == "no-store"


class TestHeaders:
    @pytest.mark.parametrize(
        "path", ["/", "/style.css", "/main.js", "/ownkey.js", "/none", "/../x"]
    )
    async def test_every_answer_keeps_other_code_and_other_pages_out(
        self, visitor: Visitor, path: str
    ) -> None:
        async with aiohttp.ClientSession() as http, http.get(f"{visitor.origin}{path}") as answer:
            text = await answer.text()

        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        if path == "/":
            assert "<script>" not in text
            assert "style=" not in text
