# SPDX-License-Identifier: Apache-2.0
"""Who may call what, and for which accounts: denied unless the policy says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from ownkey.keyvault.v1 import key_pb2, resolution_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2 as keyvault
from ownkey.ledger.v1 import account_pb2, authorization_pb2, grant_pb2, ledger_service_pb2
from ownkey.router.v1 import router_service_pb2

from services.shared.config import ConfigError
from services.shared.policy import Policy
from services.shared.policy_file import load_policy
from tests.support.source import ROOT

SERVICES = {
    "keyvault": keyvault.DESCRIPTOR.services_by_name["KeyvaultService"],
    "router": router_service_pb2.DESCRIPTOR.services_by_name["RouterService"],
    "ledger": ledger_service_pb2.DESCRIPTOR.services_by_name["LedgerService"],
}
LEDGER = SERVICES["ledger"]
BALANCE, PLANS, VERIFY = (
    f"{LEDGER.full_name}/{name}" for name in ("GetBalance", "ListPlans", "VerifyLedger")
)
IDENTITIES = 'identities:\n  acme:\n    certificates: ["spiffe://ownkey.internal/acme"]\n'

FOR_ACME = "identities: [acme]"
MAY_READ = f"identities: [acme], rpcs: [{BALANCE}]"


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def limited(folder: Path, *accounts: str, rpcs: str = f"{LEDGER.full_name}/GetBalance") -> Policy:
    rule = f"{{identities: [acme], rpcs: [{rpcs}], accounts: {list(accounts)}}}"
    text = f"{IDENTITIES}rules: [{rule}]"
    return load_policy(written(folder, text), LEDGER)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as fault:
        load_policy(written(folder, text), LEDGER)
    return fault.value.problems


@pytest.mark.requirement("O5")
class TestPackaged:
    @pytest.mark.parametrize("service", sorted(SERVICES))
    def test_every_rpc_may_be_called_by_somebody(self, service: str) -> None:
        policy = load_policy(ROOT / "services" / service / "policy.yaml", SERVICES[service])
        called = {rpc for _, rpc in policy.grants}
        assert called == {
            f"/{SERVICES[service].full_name}/{rpc.name}" for rpc in SERVICES[service].methods
        }

    @pytest.mark.parametrize("service", sorted(SERVICES))
    def test_a_backend_may_what_anybody_on_loopback_may(self, service: str) -> None:
        policy = load_policy(ROOT / "services" / service / "policy.yaml", SERVICES[service])
        allowed = {
            who: {rpc for identity, rpc in policy.grants if identity == who}
            for who in ("backend", "anonymous")
        }
        assert allowed["backend"] == allowed["anonymous"]

    def test_only_the_router_may_have_secrets_resolved(self) -> None:
        policy = load_policy(ROOT / "services/keyvault/policy.yaml", SERVICES["keyvault"])
        for name in ("ResolveKeys", "OpenSealedKey"):
            rpc = f"/{SERVICES['keyvault'].full_name}/{name}"
            assert {identity for identity, one in policy.grants if one == rpc} == {"router"}


@pytest.mark.requirement("O5")
class TestAccounts:
    @pytest.mark.parametrize(
        ("allowed", "account", "expected"),
        [
            ("accounts/acme", "accounts/acme", True),
            ("accounts/acme", "accounts/acme-1", False),
            ("accounts/acme-*", "accounts/acme-1", True),
            ("accounts/acme-*", "accounts/acme", False),
            ("accounts/acme-*", "accounts/other", False),
            ("accounts/acme-*", "accounts/acme-1/../other", True),
            ("accounts/acme-*", "", False),
        ],
    )
    def test_an_account_is_allowed_by_its_name_or_prefix(
        self, tmp_path: Path, allowed: str, account: str, expected: bool
    ) -> None:
        policy = limited(tmp_path, allowed)
        request = grant_pb2.GetBalanceRequest(account=account)
        named = policy.accounts_in(f"/{BALANCE}", request)
        assert (policy.denial("acme", f"/{BALANCE}", named) is None) is expected

    def test_every_account_named_must_be_allowed(self, tmp_path: Path) -> None:
        policy = limited(tmp_path, "accounts/acme")
        for accounts in (["accounts/acme", "accounts/other"], []):
            denial = policy.denial("acme", f"/{BALANCE}", accounts)
            assert denial is not None
            assert denial.reason == "account_not_allowed"
            assert "accounts/acme" in denial.advice

    @pytest.mark.parametrize(
        ("service", "rpc", "request_", "expected"),
        [
            ("ledger", "CreateAccount", account_pb2.CreateAccountRequest(account_id="a"), {"a"}),
            (
                "ledger",
                "UpdateAccount",
                account_pb2.UpdateAccountRequest(account={"name": "accounts/a"}),
                {"a"},
            ),
            (
                "ledger",
                "BatchAuthorize",
                authorization_pb2.BatchAuthorizeRequest(
                    requests=[{"account": "accounts/a"}, {"account": "accounts/b"}]
                ),
                {"a", "b"},
            ),
            (
                "keyvault",
                "UpdateKey",
                keyvault.UpdateKeyRequest(key=key_pb2.Key(name="accounts/a/keys/k")),
                {"a"},
            ),
            (
                "keyvault",
                "CreateKey",
                keyvault.CreateKeyRequest(
                    parent="accounts/a", key=key_pb2.Key(name="accounts/b/keys/k")
                ),
                {"a", "b"},
            ),
            (
                "keyvault",
                "ResolveKeys",
                resolution_pb2.ResolveKeysRequest(accounts=["accounts/a", "accounts/b"]),
                {"a", "b"},
            ),
        ],
    )
    def test_accounts_are_found_wherever_a_request_names_them(
        self, service: str, rpc: str, request_: Message, expected: set[str]
    ) -> None:
        policy = load_policy(ROOT / "services" / service / "policy.yaml", SERVICES[service])
        found = policy.accounts_in(f"/{SERVICES[service].full_name}/{rpc}", request_)
        assert set(found) == {f"accounts/{name}" for name in expected}


@pytest.mark.requirement("O5")
class TestFile:
    def test_a_wildcard_stands_for_all_of_the_service(self, tmp_path: Path) -> None:
        text = f"{IDENTITIES}rules:\n  - {{identities: [acme], rpcs: ['{LEDGER.full_name}/*']}}"
        policy = load_policy(written(tmp_path, text), LEDGER)
        assert len(policy.grants) == len(LEDGER.methods)
        assert policy.identity_of_name == {"spiffe://ownkey.internal/acme": "acme"}

    def test_what_is_not_listed_is_denied(self, tmp_path: Path) -> None:
        policy = limited(tmp_path, "accounts/acme")
        denial = policy.denial("acme", f"/{PLANS}", [])
        assert denial is not None
        assert denial.reason == "rpc_not_allowed"

    def test_every_fault_is_told_at_once_by_line_and_with_the_nearest_word(
        self, tmp_path: Path
    ) -> None:
        text = (
            "identities:\n"
            "  acme:\n"
            "    certificate: [x]\n"
            "    token: maybe\n"
            "  other: {certificates: [Not_A_Name]}\n"
            "rules:\n"
            "  - identities: [acne]\n"
            f"    rpcs: [{LEDGER.full_name}/GetBalanse, {BALANCE}, {BALANCE}]\n"
            "    accounts: [demo]\n"
            "more: {}\n"
        )
        found = problems(tmp_path, text)
        told = "\n".join(found)
        for expected in (
            "line 3: acme: 'certificate' is no key; the nearest one is 'certificates'",
            "line 4: acme.token must be true or false",
            "line 5: 'Not_A_Name' is neither a SPIFFE URI",
            "line 7: 'acne' is no identity; the nearest one is 'acme'",
            f"GetBalanse' is no RPC of this service; the nearest one is '{BALANCE}'",
            f"line 8: rule 1.rpcs: '{BALANCE}' stands there twice",
            "line 9: 'demo' must be as accounts/acme",
            "line 10: the file: 'more' is no key",
        ):
            assert expected in told
        assert len(found) == 8

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "the file must be a mapping"),
            ("identities: {}\n", "the file needs the key 'rules'"),
            ("identities: {a: {}}\nrules: []\n", "nothing shows 'a'"),
            ("identities: {anonymous: {token: true}}\nrules: []\n", "cannot be an identity's name"),
            ("identities: {a: {token: true}, a: {token: true}}\nrules: []\n", "'a' stands there"),
            ("identities: []\nrules: {}\n", "identities must be a mapping"),
            ("identities: [\n", "is not YAML"),
            (IDENTITIES + "rules: [{identities: [acme]}]\n", "rule 1 needs the key 'rpcs'"),
            (
                f"{IDENTITIES}rules: [{{identities: [], rpcs: [{BALANCE}]}}]\n",
                "rule 1.identities is empty",
            ),
            (
                f"{IDENTITIES}  b: {{certificates: [spiffe://ownkey.internal/acme]}}\nrules: []\n",
                "shows both acme and b",
            ),
            (
                f"{IDENTITIES}rules: [&one {{identities: [acme], rpcs: [{BALANCE}]}}, *one]\n",
                f"acme is allowed {BALANCE} twice",
            ),
            (
                f"{IDENTITIES}rules: [{{{MAY_READ}}}, {{{MAY_READ}, accounts: [accounts/acme]}}]",
                f"acme is allowed {BALANCE} twice",
            ),
            (
                f"{IDENTITIES}rules: [{{{FOR_ACME}, rpcs: ['{LEDGER.full_name}/*', {BALANCE}]}}]",
                f"acme is allowed {BALANCE} twice",
            ),
            (
                f"{IDENTITIES}rules: [{{{MAY_READ}, accounts: [accounts/a-*, accounts/a-1]}}]",
                "'accounts/a-1' lies within 'accounts/a-*'",
            ),
            (
                f"{IDENTITIES}rules: [{{{MAY_READ}, accounts: ['accounts/*', accounts/a-*]}}]",
                "'accounts/a-*' lies within 'accounts/*'",
            ),
            (
                f"{IDENTITIES}rules: [{{{FOR_ACME}, rpcs: [{PLANS}], accounts: [accounts/a]}}]",
                f"{PLANS} names no account",
            ),
        ],
    )
    def test_each_fault_has_its_sentence(self, tmp_path: Path, text: str, expected: str) -> None:
        assert any(expected in problem for problem in problems(tmp_path, text))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            load_policy(tmp_path / "none.yaml", LEDGER)


def test_a_rule_for_accounts_leaves_runs_over_all_of_them_denied(tmp_path: Path) -> None:
    """VerifyLedger without an account is about everybody's."""
    policy = limited(tmp_path, "accounts/acme", rpcs=VERIFY)
    assert policy.denial("acme", f"/{VERIFY}", []) is not None


def test_accounts_are_not_looked_for_where_all_are_allowed() -> None:
    policy = Policy(grants={("router", "/x"): None})

    def looked() -> Any:
        raise AssertionError
        yield

    assert policy.denial("router", "/x", looked()) is None
