# SPDX-License-Identifier: Apache-2.0
"""The settings page's door, and what it may be told and may call."""

from __future__ import annotations

from pathlib import Path

import pytest
from ownkey.keyvault.v1 import keyvault_service_pb2
from ownkey.ledger.v1 import ledger_service_pb2
from ownkey.router.v1 import router_service_pb2

from client.web.calls import ALLOWED, BrokenRequestError, Calls, RefusedError
from client.web.config import read_config
from client.web.door import SESSION_SECONDS, SESSIONS_MAX, Door
from services.shared.config import ConfigError
from services.shared.identity import WEB
from services.shared.policy_file import load_policy
from tests.support.clock import ManualClock
from tests.support.source import ROOT

DESCRIPTORS = {
    "keyvault": keyvault_service_pb2.DESCRIPTOR.services_by_name["KeyvaultService"],
    "router": router_service_pb2.DESCRIPTOR.services_by_name["RouterService"],
    "ledger": ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"],
}
ACCOUNT = "accounts/demo"
OTHERS_KEY = '"clientHeldKeys": [{"key": "accounts/other/keys/a"}]'


class TestDoor:
    @pytest.fixture
    def links(self) -> list[str]:
        return []

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def door(self, clock: ManualClock, links: list[str]) -> Door:
        door = Door(clock=clock, on_link=links.append)
        door.renew_link()
        return door

    @pytest.mark.requirement("O10")
    def test_a_link_lets_one_browser_in_and_is_followed_by_another(
        self, door: Door, links: list[str]
    ) -> None:
        session = door.enter(links[0])

        assert session is not None
        assert door.admits(session)
        assert door.enter(links[0]) is None
        assert len(links) == 2
        assert door.enter(links[1]) is not None

    @pytest.mark.requirement("O10")
    def test_nobody_gets_in_by_anything_else(self, door: Door, links: list[str]) -> None:
        assert door.enter("") is None
        assert door.enter(links[0] + "x") is None
        assert not door.admits("")
        assert not door.admits(links[0])
        assert len(links) == 1

    def test_before_there_is_a_link_nobody_gets_in(self, clock: ManualClock) -> None:
        assert Door(clock=clock, on_link=lambda _: None).enter("") is None

    def test_a_session_ends(self, door: Door, clock: ManualClock, links: list[str]) -> None:
        session = door.enter(links[0])
        assert session is not None

        clock.advance(SESSION_SECONDS - 1)
        assert door.admits(session)
        clock.advance(1)
        assert not door.admits(session)

    def test_the_oldest_session_ends_when_there_are_too_many(
        self, door: Door, links: list[str]
    ) -> None:
        sessions = [door.enter(links[-1]) or "" for _ in range(SESSIONS_MAX + 1)]

        assert not door.admits(sessions[0])
        assert all(door.admits(session) for session in sessions[1:])


class TestCalls:
    @pytest.mark.requirement("O5", "O10")
    @pytest.mark.parametrize("service", ALLOWED)
    def test_the_policies_let_the_page_call_just_what_it_calls(self, service: str) -> None:
        descriptor = DESCRIPTORS[service]
        policy = load_policy(ROOT / "services" / service / "policy.yaml", descriptor)
        allowed = {
            method.name
            for method in descriptor.methods
            if policy.denial(WEB, f"/{descriptor.full_name}/{method.name}", []) is None
        }

        assert allowed == set(ALLOWED[service])

    @pytest.fixture
    def calls(self) -> Calls:
        return Calls(account=ACCOUNT, addresses={}, certificates=None, token=None)

    @pytest.mark.requirement("O10")
    @pytest.mark.parametrize(
        ("rpc", "text"),
        [
            ("ledger/GetBalance", '{"account": "accounts/other"}'),
            ("ledger/GetBalance", "{}"),
            ("keyvault/DeleteKey", '{"name": "accounts/other/keys/a"}'),
            ("keyvault/UpdateSettings", '{"settings": {"name": "accounts/demo-2/settings"}}'),
            ("router/Explain", '{"text": {"account": "accounts/other"}}'),
            ("router/Explain", f'{{"text": {{"account": "{ACCOUNT}", {OTHERS_KEY}}}}}'),
            ("ledger/GrantCredits", '{"account": "accounts/demo"}'),
            ("keyvault/ResolveKeys", "{}"),
            ("nobody/GetBalance", "{}"),
        ],
    )
    async def test_other_accounts_and_other_calls_are_refused(
        self, calls: Calls, rpc: str, text: str
    ) -> None:
        with pytest.raises(RefusedError):
            await calls.unary(*rpc.split("/"), text)

    @pytest.mark.requirement("K8", "O10")
    async def test_a_broken_request_is_not_quoted(self, calls: Calls) -> None:
        with pytest.raises(BrokenRequestError) as raised:
            await calls.unary("keyvault", "CreateKey", '{"parent": 1, "secret": "sk-canary')

        assert "canary" not in str(raised.value)
        assert raised.value.__cause__ is None


class TestConfig:
    @pytest.fixture
    def environ(self, tmp_path: Path) -> dict[str, str]:
        token = tmp_path / "token"
        token.write_text("a-token-of-the-page\n")
        token.chmod(0o600)
        return {"OWNKEY_WEB_ACCOUNT": ACCOUNT, "OWNKEY_WEB_TOKEN_FILE": str(token)}

    def test_the_account_and_a_token_are_enough(self, environ: dict[str, str]) -> None:
        config = read_config(environ)

        assert config.listen == "127.0.0.1:7170"
        assert config.certificates(clock=ManualClock()) is None
        token = config.token()
        assert token is not None
        assert token.reveal() == "a-token-of-the-page"

    @pytest.mark.requirement("O5", "O10")
    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("LISTEN", "0.0.0.0:7170", "is not on loopback"),
            ("LISTEN", "127.0.0.1:0", "needs a port"),
            ("ACCOUNT", "demo", "as in accounts/demo"),
            ("ACCOUNT", "accounts/*", "as in accounts/demo"),
            ("LEDGER_ADDRESS", "ledger:7103", "plain text"),
            ("TLS_KEY_FILE", "/run/tls.key", "TLS_CERTIFICATE_FILE is required"),
            ("ACOUNT", "accounts/demo", "the nearest one is OWNKEY_WEB_ACCOUNT"),
        ],
    )
    def test_what_cannot_be_served_safely_is_refused(
        self, environ: dict[str, str], name: str, value: str, told: str
    ) -> None:
        with pytest.raises(ConfigError, match=told):
            read_config({**environ, f"OWNKEY_WEB_{name}": value})

    def test_without_tls_something_must_show_who_calls(self, environ: dict[str, str]) -> None:
        del environ["OWNKEY_WEB_TOKEN_FILE"]
        with pytest.raises(ConfigError, match="TOKEN_FILE is required"):
            read_config(environ)
