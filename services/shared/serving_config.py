# SPDX-License-Identifier: Apache-2.0
"""
The settings that every service has: how it shows who it is, and how its connections live.

Each is named after its service: `OWNKEY_KEYVAULT_TLS_KEY_FILE` for `TLS_KEY_FILE`, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.shared.certificates import Certificates, TlsFiles
from services.shared.clock import Clock
from services.shared.config import (
    ConfigError,
    existing_file,
    existing_folder,
    is_loopback,
    listen_address,
    otlp_endpoint,
    ratio,
    read_secret_file,
    seconds,
    setting,
)
from services.shared.secret import Secret

CONNECTION_SECONDS_DEFAULT = 120.0
TRACE_RATIO_DEFAULT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """Base of every service's configuration. Secrets are never values: a setting names a file."""

    tls_certificate_file: Path | None = setting(
        "TLS_CERTIFICATE_FILE",
        "PEM certificate of this service, shown to callers and to the services it calls; read "
        "again when it changes. With it come TLS_KEY_FILE and TLS_CA_FILE; without the three, "
        "plain text is spoken, on loopback only",
        default=None,
        parse=Path,
    )
    tls_key_file: Path | None = setting(
        "TLS_KEY_FILE",
        "PEM private key of TLS_CERTIFICATE_FILE, unencrypted, mode 0600",
        default=None,
        parse=Path,
    )
    tls_ca_file: Path | None = setting(
        "TLS_CA_FILE",
        "PEM certificates of the authorities that callers' and services' certificates are checked "
        "against",
        default=None,
        parse=Path,
    )
    tokens_dir: Path | None = setting(
        "TOKENS_DIR",
        "folder with a token file for each identity that the policy gives a token; needed without "
        "TLS, and for the SDKs at the HTTP door",
        default=None,
        parse=existing_folder,
    )
    health_listen: str | None = setting(
        "HEALTH_LISTEN",
        "address, host:port, where the standard health service alone is served in plain text, for "
        "probes that have no certificate; it tells nothing but whether this process serves",
        default=None,
        parse=listen_address,
    )
    metrics_listen: str | None = setting(
        "METRICS_LISTEN",
        "address, host:port, where Prometheus reads the metrics in plain text; they name no "
        "account and hold no secret; nowhere where unset",
        default=None,
        parse=listen_address,
    )
    otlp_endpoint: str | None = setting(
        "OTLP_ENDPOINT",
        "OpenTelemetry collector that traces are sent to by OTLP over gRPC, https://host:port, or "
        "http:// on loopback; no traces where unset",
        default=None,
        parse=otlp_endpoint,
    )
    otlp_ca_file: Path | None = setting(
        "OTLP_CA_FILE",
        "PEM certificates that the collector's is checked against; the system's where unset",
        default=None,
        parse=existing_file,
    )
    trace_ratio: float = setting(
        "TRACE_RATIO",
        "share of requests that are traced, 0 to 1; where the caller has decided, its word stands",
        default=TRACE_RATIO_DEFAULT,
        parse=ratio,
    )
    connection_seconds: float = setting(
        "CONNECTION_SECONDS",
        "age at which a caller is asked to connect anew, which spreads callers over replicas that "
        "were added and ends connections of old certificates, 1 to 3600; running calls end first",
        default=CONNECTION_SECONDS_DEFAULT,
        parse=seconds(1, 3600),
    )

    def certificates(self, *, clock: Clock) -> Certificates | None:
        """
        Read the certificate; None where plain text is spoken.

        Raises:
            ConfigError: If its files cannot be used.
        """
        files = (self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)
        certificate, key, ca = files
        if certificate is None or key is None or ca is None:
            return None
        return Certificates(TlsFiles(certificate=certificate, key=key, ca=ca), clock=clock)

    def token(self, identity: str) -> Secret | None:
        """
        Read the token to call others with; None where the certificate shows who calls.

        Raises:
            ConfigError: If its file cannot be used.
        """
        if self.tls_certificate_file is not None or self.tokens_dir is None:
            return None
        return read_secret_file(self.tokens_dir / identity)

    def check_connections(
        self, prefix: str, *, listens: Mapping[str, str | None], peers: Mapping[str, str]
    ) -> None:
        """
        Check that plain text stays on loopback.

        Args:
            prefix: Of the service's settings.
            listens: Addresses it serves on, by setting without the prefix.
            peers: gRPC targets it calls, by setting without the prefix.

        Raises:
            ConfigError: With every problem found.
        """
        tls = {
            f"{prefix}TLS_CERTIFICATE_FILE": self.tls_certificate_file,
            f"{prefix}TLS_KEY_FILE": self.tls_key_file,
            f"{prefix}TLS_CA_FILE": self.tls_ca_file,
        }
        missing = [name for name, path in tls.items() if path is None]
        if not missing:
            return
        problems = []
        if len(missing) < len(tls):
            problems = [f"{name} is required where the others of TLS are set" for name in missing]
        else:
            problems = [
                f"{prefix}{name} ({address}) is not on loopback, and without TLS everything would "
                f"cross the network in plain text, keys included: set {', '.join(tls)}, or use a "
                "loopback address such as 127.0.0.1"
                for name, address in {**listens, **peers}.items()
                if address is not None and not is_loopback(address)
            ]
            if self.tokens_dir is None:
                problems.append(
                    f"{prefix}TOKENS_DIR is required without TLS: nothing else shows who calls"
                )
        if problems:
            raise ConfigError(problems)
