# SPDX-License-Identifier: Apache-2.0
"""Keyvault's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.keyvault.config import read_config
from services.shared.config import ConfigError
from tests.support.keyvault import write_environ


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return write_environ(tmp_path, "postgresql://nowhere", router_port=1)


@pytest.mark.requirement("O1")
class TestConfig:
    def test_what_the_local_suite_sets_is_enough(self, environ: dict[str, str]) -> None:
        config = read_config(environ)

        assert config.kek == "local"
        assert config.cache_seconds == 300

    def test_a_keyring_is_required_where_it_is_used(self, environ: dict[str, str]) -> None:
        del environ["OWNKEY_KEYVAULT_KEYRING_FILE"]

        with pytest.raises(ConfigError, match="KEYRING_FILE is required"):
            read_config(environ)

    def test_all_that_vault_needs_is_named_at_once(self, environ: dict[str, str]) -> None:
        with pytest.raises(ConfigError) as refused:
            read_config({**environ, "OWNKEY_KEYVAULT_KEK": "vault"})

        assert len(refused.value.problems) == 3

    def test_what_vault_needs_depends_on_the_login(self, environ: dict[str, str]) -> None:
        settings = {"KEK": "vault", "VAULT_LOGIN": "kubernetes", "VAULT_ADDRESS": "https://vault"}
        named = {f"OWNKEY_KEYVAULT_{name}": value for name, value in settings.items()}
        with pytest.raises(ConfigError) as refused:
            read_config({**environ, **named})

        assert [problem.split(" is required")[0] for problem in refused.value.problems] == [
            "OWNKEY_KEYVAULT_VAULT_KUBERNETES_ROLE",
            "OWNKEY_KEYVAULT_VAULT_KUBERNETES_TOKEN_FILE",
        ]

    def test_vault_in_plain_text_is_refused(self, environ: dict[str, str], tmp_path: Path) -> None:
        role = str(tmp_path / "dsn")
        settings = {
            "KEK": "vault",
            "VAULT_ADDRESS": "http://vault:8200",
            "VAULT_ROLE_ID_FILE": role,
            "VAULT_SECRET_ID_FILE": role,
        }
        named = {f"OWNKEY_KEYVAULT_{name}": value for name, value in settings.items()}

        with pytest.raises(ConfigError, match="https://"):
            read_config({**environ, **named})

    @pytest.mark.parametrize(("age", "grace"), [("30", "30"), ("10", "600")])
    def test_a_grace_as_long_as_the_age_is_refused(
        self, environ: dict[str, str], age: str, grace: str
    ) -> None:
        settings = {"CACHE_SECONDS": age, "CACHE_GRACE_SECONDS": grace}
        named = {f"OWNKEY_KEYVAULT_{name}": value for name, value in settings.items()}

        with pytest.raises(ConfigError, match=r"CACHE_GRACE_SECONDS .* must be less than"):
            read_config({**environ, **named})

    def test_a_cache_that_is_off_needs_no_grace(self, environ: dict[str, str]) -> None:
        config = read_config({**environ, "OWNKEY_KEYVAULT_CACHE_SECONDS": "0"})

        assert config.cache_seconds == 0

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CACHE_SECONDS", "3601"),
            ("CACHE_GRACE_SECONDS", "601"),
            ("CACHE_SECONDS", "-1"),
            ("CACHE_KEYS", "0"),
            ("VAULT_CALL_SECONDS", "0"),
            ("VAULT_CONNECTIONS", "65"),
            ("KEK", "other"),
            ("LISTEN", "0.0.0.0:7101"),
            ("CASH_SECONDS", "1"),
        ],
    )
    def test_values_out_of_range_and_unknown_names_are_refused(
        self, environ: dict[str, str], name: str, value: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"OWNKEY_KEYVAULT_{name}"):
            read_config({**environ, f"OWNKEY_KEYVAULT_{name}": value})
