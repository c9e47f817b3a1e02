# SPDX-License-Identifier: Apache-2.0
"""Configuration is read at once, and every fault of it is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from services.shared.config import (
    ConfigError,
    choice,
    is_loopback,
    listen_address,
    load,
    otlp_endpoint,
    ratio,
    read_secret_file,
    setting,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "OWNKEY_SAMPLE_"


@dataclass(frozen=True)
class SampleConfig:
    listen: str = setting("OWNKEY_SAMPLE_LISTEN", "where to serve", parse=listen_address)
    workers: int = setting(
        "OWNKEY_SAMPLE_WORKERS", "how many work at once", default=4, parse=whole(1, 9)
    )
    style: str = setting(
        "OWNKEY_SAMPLE_STYLE", "how logs look", default="json", parse=choice("json", "console")
    )


def test_values_and_defaults_are_read() -> None:
    config = load(SampleConfig, {"OWNKEY_SAMPLE_LISTEN": "127.0.0.1:0"}, prefix=PREFIX)
    assert config == SampleConfig(listen="127.0.0.1:0", workers=4, style="json")


def test_all_problems_are_told_at_once() -> None:
    environ = {"OWNKEY_SAMPLE_WORKERS": "10", "OWNKEY_SAMPLE_STILE": "json", "PATH": "/bin"}
    with pytest.raises(ConfigError) as failure:
        load(SampleConfig, environ, prefix=PREFIX)
    text = " ".join(failure.value.problems)
    assert len(failure.value.problems) == 3
    assert "the nearest one is OWNKEY_SAMPLE_STYLE" in text
    assert "OWNKEY_SAMPLE_LISTEN is required" in text
    assert "from 1 to 9" in text


@pytest.mark.parametrize("address", ["7101", "127.0.0.1:x", "127.0.0.1:65536", ":7101"])
def test_an_address_to_listen_on_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ConfigError, match="must be host:port"):
        load(SampleConfig, {"OWNKEY_SAMPLE_LISTEN": address}, prefix=PREFIX)


@pytest.mark.requirement("O5")
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7101", True),
        ("127.0.0.12:7101", True),
        ("localhost:7101", True),
        ("[::1]:7101", True),
        ("dns:///localhost:7101", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("0.0.0.0:7101", False),
        ("[::]:7101", False),
        ("10.0.0.1:7101", False),
        ("ledger:7101", False),
        ("dns:///ledger:7101", False),
        ("dns://127.0.0.1:53/ledger:7101", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("localhost.example:7101", False),
        ("unix:/tmp/socket", False),
    ],
)
def test_loopback_is_told_from_the_network(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


class TestSecretFiles:
    def test_a_private_file_is_read_and_stripped(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(" canary-token \n")
        path.chmod(0o600)
        assert read_secret_file(path).reveal() == "canary-token"

    def test_a_file_that_others_may_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("canary-token")
        path.chmod(0o640)
        with pytest.raises(ConfigError, match="chmod 600") as failure:
            read_secret_file(path)
        assert "canary" not in str(failure.value)

    @pytest.mark.parametrize("content", ["", " \n", "x" * 70_000])
    def test_an_empty_or_oversized_file_is_refused(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "token"
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="must hold"):
            read_secret_file(path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            read_secret_file(tmp_path / "none")


@pytest.mark.requirement("O6")
class TestTraceSettings:
    @pytest.mark.parametrize(
        "text", ["https://collector:4317", "http://127.0.0.1:4317", "http://[::1]:4317/"]
    )
    def test_a_collector_is_reached_over_tls_or_on_loopback(self, text: str) -> None:
        assert otlp_endpoint(text) == text

    @pytest.mark.parametrize(
        ("text", "advice"),
        [
            ("collector:4317", "must be https://host:port"),
            ("https://collector", "must be https://host:port"),
            ("https://collector:99999", "must be https://host:port"),
            ("https://collector:4317/v1/traces", "must be https://host:port"),
            ("http://collector:4317", "would cross the network in plain text"),
        ],
    )
    def test_another_address_is_refused_with_the_remedy(self, text: str, advice: str) -> None:
        with pytest.raises(ValueError, match=advice):
            otlp_endpoint(text)

    def test_a_share_is_from_nothing_to_all(self) -> None:
        assert [ratio(text) for text in ("0", "0.01", "1")] == [0.0, 0.01, 1.0]
        for text in ("-0.1", "1.1", "nan", "1 %"):
            with pytest.raises(ValueError, match="must be a share from 0 to 1"):
                ratio(text)
