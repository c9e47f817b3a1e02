# SPDX-License-Identifier: Apache-2.0
"""Who calls, from what they show."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.shared.config import ConfigError
from services.shared.errors import CertificateEndedError, UnauthenticatedError
from services.shared.identity import ANONYMOUS, Caller, Identities
from services.shared.policy import Policy
from tests.support.clock import EPOCH

TOKEN = "token-of-router-0123456789"
POLICY = Policy(
    identity_of_name={
        "spiffe://ownkey.internal/router": "router",
        "router.ownkey.svc": "router",
        "spiffe://ownkey.internal/operator": "operator",
    },
    with_token=frozenset({"router"}),
    grants={},
)


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    (tmp_path / "router").touch(mode=0o600)
    (tmp_path / "router").write_text(TOKEN)
    return Identities(POLICY, tokens_dir=tmp_path)


@pytest.mark.requirement("O5")
class TestIdentify:
    @pytest.mark.parametrize(
        ("caller", "expected"),
        [
            (Caller(), ANONYMOUS),
            (Caller(token=TOKEN), "router"),
            (Caller(encrypted=True, token=TOKEN), "router"),
            (Caller(encrypted=True, names=("spiffe://ownkey.internal/router",)), "router"),
            (Caller(encrypted=True, names=("x", "router.ownkey.svc")), "router"),
            (
                Caller(encrypted=True, names=("spiffe://ownkey.internal/operator",), token=TOKEN),
                "operator",
            ),
        ],
    )
    def test_a_certificate_decides_then_a_token(
        self, identities: Identities, caller: Caller, expected: str
    ) -> None:
        assert identities.identify(caller, now=EPOCH) == expected

    @pytest.mark.parametrize(
        ("caller", "told"),
        [
            (Caller(token="made-up"), "not known to this service"),
            (Caller(encrypted=True), "showed neither a certificate"),
            (Caller(encrypted=True, names=("a.b",)), "no identity of the policy has a name"),
            (Caller(encrypted=True, names=("a.b",), token=TOKEN), "no identity of the policy"),
            (
                Caller(
                    encrypted=True,
                    names=("router.ownkey.svc", "spiffe://ownkey.internal/operator"),
                ),
                "several identities of the policy, operator and router",
            ),
        ],
    )
    def test_what_nobody_owns_is_refused_with_what_to_do(
        self, identities: Identities, caller: Caller, told: str
    ) -> None:
        with pytest.raises(UnauthenticatedError, match=told) as fault:
            identities.identify(caller, now=EPOCH)
        assert "made-up" not in str(fault.value)

    @pytest.mark.parametrize("names", [("spiffe://ownkey.internal/router",), ()])
    def test_a_certificate_serves_until_its_end_and_not_at_it(
        self, identities: Identities, names: tuple[str, ...]
    ) -> None:
        """A token beside it does not make it good again."""
        end = EPOCH + timedelta(seconds=1)
        caller = Caller(encrypted=True, names=names, token=TOKEN, certificate_end=end)
        assert identities.identify(caller, now=EPOCH) == "router"
        with pytest.raises(CertificateEndedError, match="ended at 2026-01-01 00:00:01 UTC"):
            identities.identify(caller, now=end)

    def test_without_a_folder_no_token_is_anybodys(self) -> None:
        with pytest.raises(UnauthenticatedError):
            Identities(POLICY, tokens_dir=None).identify(Caller(token=TOKEN), now=EPOCH)

    def test_a_missing_token_file_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            Identities(POLICY, tokens_dir=tmp_path)

    def test_a_token_is_not_shown(self) -> None:
        assert TOKEN not in repr(Caller(token=TOKEN))
