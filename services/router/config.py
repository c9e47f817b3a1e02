# SPDX-License-Identifier: Apache-2.0
"""The router's configuration."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.shared.config import (
    choice,
    existing_file,
    existing_folder,
    listen_address,
    load,
    seconds,
    setting,
)

PREFIX = "OWNKEY_ROUTER_"


def _base_urls(text: str) -> Mapping[str, str]:
    """Check addresses by provider: plain http, on loopback only."""
    try:
        urls = json.loads(text)
    except ValueError:
        urls = None
    if not isinstance(urls, dict) or not all(isinstance(url, str) for url in urls.values()):
        message = 'must be a JSON object such as {"openai": "http://127.0.0.1:7190/openai"}'
        raise ValueError(message)
    for provider, url in urls.items():
        if not _is_loopback(urlsplit(url).hostname or ""):
            message = (
                f"{provider}: keys are sent to their provider's own host only; another address "
                "must be on loopback"
            )
            raise ValueError(message)
    return urls


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig:
    """How the router runs. Secrets are never values here: a setting names the file with one."""

    listen: str = setting(
        "OWNKEY_ROUTER_LISTEN",
        "address to serve on, host:port; plain text on loopback only",
        default="127.0.0.1:7102",
        parse=listen_address,
    )
    keyvault_address: str = setting(
        "OWNKEY_ROUTER_KEYVAULT_ADDRESS", "gRPC target of keyvault", default="127.0.0.1:7101"
    )
    ledger_address: str = setting(
        "OWNKEY_ROUTER_LEDGER_ADDRESS", "gRPC target of the ledger", default="127.0.0.1:7103"
    )
    tokens_dir: Path = setting(
        "OWNKEY_ROUTER_TOKENS_DIR",
        "folder with one token file for each internal identity",
        parse=existing_folder,
    )
    fingerprint_key_file: Path = setting(
        "OWNKEY_ROUTER_FINGERPRINT_KEY_FILE",
        "file with the key of the requests' keyed hashes, shared by all replicas; another key "
        "makes repeated requests look like new bodies",
        parse=existing_file,
    )
    provider_base_urls: Mapping[str, str] | None = setting(
        "OWNKEY_ROUTER_PROVIDER_BASE_URLS",
        "JSON object of provider to address, on loopback only, for the simulator; the providers' "
        "own hosts where unset",
        default=None,
        parse=_base_urls,
    )
    catalogue_file: Path = setting(
        "OWNKEY_ROUTER_CATALOGUE_FILE",
        "the catalogue of providers and models; the packaged one where unset",
        default=Path(__file__).parent / "catalogue.yaml",
        parse=existing_file,
    )
    instance: str = setting(
        "OWNKEY_ROUTER_INSTANCE",
        "name of this process in its logs and claims",
        default="router",
    )
    drain_seconds: float = setting(
        "OWNKEY_ROUTER_DRAIN_SECONDS",
        "how long running calls may go on after a stop was asked for",
        default=30.0,
        parse=seconds(0, 600),
    )
    log_format: str = setting(
        "OWNKEY_ROUTER_LOG_FORMAT",
        "json, or console for people",
        default="json",
        parse=choice("json", "console"),
    )


def read_config(environ: Mapping[str, str]) -> RouterConfig:
    """
    Read the configuration from the environment.

    Raises:
        ConfigError: With every problem found.
    """
    return load(RouterConfig, environ, prefix=PREFIX)
