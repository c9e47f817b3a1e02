# SPDX-License-Identifier: Apache-2.0
"""The router's configuration."""

from __future__ import annotations

import ipaddress
import json
import re
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
    whole,
)

PREFIX = "OWNKEY_ROUTER_"

_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,3}-\d{1,2}")


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


def _region(text: str) -> str:
    """Check the name of an AWS Region."""
    if not _REGION.fullmatch(text):
        raise ValueError("must be the name of an AWS Region such as us-east-1")
    return text


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
    http_listen: str | None = setting(
        "OWNKEY_ROUTER_HTTP_LISTEN",
        "address of the HTTP door for official SDKs, host:port; plain text on loopback only; no "
        "door where unset",
        default=None,
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
    bedrock_region: str = setting(
        "OWNKEY_ROUTER_BEDROCK_REGION",
        "the AWS Region where Bedrock API keys are tried that name none",
        default="us-east-1",
        parse=_region,
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
    breaker_failures: int = setting(
        "OWNKEY_ROUTER_BREAKER_FAILURES",
        "failures of a provider's model in short time, half of its calls at least, after which it "
        "is passed over for a while; 0 for never",
        default=5,
        parse=whole(0, 1_000_000),
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
