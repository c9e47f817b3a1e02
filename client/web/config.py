# SPDX-License-Identifier: Apache-2.0
"""The settings page's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.shared.certificates import Certificates, TlsFiles
from services.shared.clock import Clock
from services.shared.config import (
    ConfigError,
    choice,
    existing_file,
    is_loopback,
    listen_address,
    load,
    read_secret_file,
    setting,
)
from services.shared.names import ID_PATTERN
from services.shared.secret import Secret

PREFIX = "OWNKEY_WEB_"
_ACCOUNT = re.compile(rf"accounts/{ID_PATTERN}")


def _account(text: str) -> str:
    if not _ACCOUNT.fullmatch(text):
        raise ValueError("must be one account's name, as in accounts/demo")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class WebConfig:
    """How the settings page runs. Secrets are never values here: a setting names the file."""

    account: str = setting(
        "OWNKEY_WEB_ACCOUNT",
        "the one account that the page acts for, accounts/{account}",
        parse=_account,
    )
    listen: str = setting(
        "OWNKEY_WEB_LISTEN",
        "loopback address to serve the page on, host:port",
        default="127.0.0.1:7170",
        parse=listen_address,
    )
    keyvault_address: str = setting(
        "OWNKEY_WEB_KEYVAULT_ADDRESS", "gRPC target of keyvault", default="127.0.0.1:7101"
    )
    router_address: str = setting(
        "OWNKEY_WEB_ROUTER_ADDRESS", "gRPC target of the router", default="127.0.0.1:7102"
    )
    ledger_address: str = setting(
        "OWNKEY_WEB_LEDGER_ADDRESS", "gRPC target of the ledger", default="127.0.0.1:7103"
    )
    tls_certificate_file: Path | None = setting(
        "OWNKEY_WEB_TLS_CERTIFICATE_FILE",
        "PEM certificate shown to the services; read again when it changes. With it come "
        "TLS_KEY_FILE and TLS_CA_FILE; without the three, plain text is spoken, on loopback only",
        default=None,
        parse=Path,
    )
    tls_key_file: Path | None = setting(
        "OWNKEY_WEB_TLS_KEY_FILE",
        "PEM private key of TLS_CERTIFICATE_FILE, unencrypted, mode 0600",
        default=None,
        parse=Path,
    )
    tls_ca_file: Path | None = setting(
        "OWNKEY_WEB_TLS_CA_FILE",
        "PEM certificates of the authorities that the services' certificates are checked against",
        default=None,
        parse=Path,
    )
    token_file: Path | None = setting(
        "OWNKEY_WEB_TOKEN_FILE",
        "file with the token that shows the services who calls, mode 0600; needed without TLS",
        default=None,
        parse=existing_file,
    )
    link_file: Path | None = setting(
        "OWNKEY_WEB_LINK_FILE",
        "file that always holds the link which opens the page next, mode 0600; unset: the link is "
        "in the log alone",
        default=None,
        parse=Path,
    )
    log_format: str = setting(
        "OWNKEY_WEB_LOG_FORMAT",
        "json, or console for people",
        default="json",
        parse=choice("json", "console"),
    )

    def certificates(self, *, clock: Clock) -> Certificates | None:
        """
        Read the certificate; None where plain text is spoken.

        Raises:
            ConfigError: If its files cannot be used.
        """
        certificate, key, ca = self.tls_certificate_file, self.tls_key_file, self.tls_ca_file
        if certificate is None or key is None or ca is None:
            return None
        return Certificates(TlsFiles(certificate=certificate, key=key, ca=ca), clock=clock)

    def token(self) -> Secret | None:
        """
        Read the token; None where the certificate shows who calls.

        Raises:
            ConfigError: If its file cannot be used.
        """
        if self.tls_certificate_file is not None or self.token_file is None:
            return None
        return read_secret_file(self.token_file)


def read_config(environ: Mapping[str, str]) -> WebConfig:
    """
    Read the configuration.

    Raises:
        ConfigError: With every problem found.
    """
    config = load(WebConfig, environ, prefix=PREFIX)
    problems = [*_listen_problems(config), *_connection_problems(config)]
    if problems:
        raise ConfigError(problems)
    return config


def _listen_problems(config: WebConfig) -> list[str]:
    if config.listen.endswith(":0"):
        return [f"{PREFIX}LISTEN needs a port from 1 to 65535: the link and Host name it"]
    if is_loopback(config.listen):
        return []
    problem = (
        f"{PREFIX}LISTEN ({config.listen}) is not on loopback; the page acts for an account for "
        "whoever has its link, so it is served to this machine alone: listen on 127.0.0.1, and "
        "forward a port (ssh -L, kubectl port-forward) to reach it from elsewhere"
    )
    return [problem]


def _connection_problems(config: WebConfig) -> list[str]:
    tls = {
        f"{PREFIX}TLS_CERTIFICATE_FILE": config.tls_certificate_file,
        f"{PREFIX}TLS_KEY_FILE": config.tls_key_file,
        f"{PREFIX}TLS_CA_FILE": config.tls_ca_file,
    }
    missing = [name for name, path in tls.items() if path is None]
    if not missing:
        return []
    if len(missing) < len(tls):
        return [f"{name} is required where the others of TLS are set" for name in missing]
    peers = {
        f"{PREFIX}KEYVAULT_ADDRESS": config.keyvault_address,
        f"{PREFIX}ROUTER_ADDRESS": config.router_address,
        f"{PREFIX}LEDGER_ADDRESS": config.ledger_address,
    }
    problems = [
        f"{name} ({address}) is not on loopback, and without TLS keys would cross the network in "
        f"plain text: set {', '.join(tls)}"
        for name, address in peers.items()
        if not is_loopback(address)
    ]
    if config.token_file is None:
        problems.append(f"{PREFIX}TOKEN_FILE is required without TLS: nothing else shows who calls")
    return problems
