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
    listen_address,
    load,
    seconds,
    setting,
    whole,
)
from services.shared.serving_config import ServingConfig

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
class RouterConfig(ServingConfig):
    """How the router runs. Secrets are never values here: a setting names the file with one."""

    listen: str = setting(
        "OWNKEY_ROUTER_LISTEN",
        "address to serve on, host:port",
        default="127.0.0.1:7102",
        parse=listen_address,
    )
    policy_file: Path = setting(
        "OWNKEY_ROUTER_POLICY_FILE",
        "who may call what, YAML; read at start, a change needs a restart; the packaged one where "
        "unset",
        default=Path(__file__).parent / "policy.yaml",
        parse=existing_file,
    )
    http_listen: str | None = setting(
        "OWNKEY_ROUTER_HTTP_LISTEN",
        "address of the HTTP door for official SDKs, host:port; no door where unset",
        default=None,
        parse=listen_address,
    )
    keyvault_address: str = setting(
        "OWNKEY_ROUTER_KEYVAULT_ADDRESS", "gRPC target of keyvault", default="127.0.0.1:7101"
    )
    ledger_address: str = setting(
        "OWNKEY_ROUTER_LEDGER_ADDRESS", "gRPC target of the ledger", default="127.0.0.1:7103"
    )
    database_dsn_file: Path | None = setting(
        "OWNKEY_ROUTER_DATABASE_DSN_FILE",
        "file with the DSN of the router's PostgreSQL database, mode 0600; off this machine it "
        "must say sslmode=verify-full and sslrootcert; it keeps long jobs, and they are not served "
        "where unset",
        default=None,
        parse=existing_file,
    )
    job_lease_seconds: float = setting(
        "OWNKEY_ROUTER_JOB_LEASE_SECONDS",
        "how long one step of a job may take; a job whose replica died goes on after it. Shorter "
        "than the ledger's lease of 60 seconds, or its holds lapse",
        default=45.0,
        parse=seconds(1, 50),
    )
    jobs_active_max: int = setting(
        "OWNKEY_ROUTER_JOBS_ACTIVE_MAX",
        "jobs of one account that may run at a time",
        default=100,
        parse=whole(1, 10_000),
    )
    webhook_listen: str | None = setting(
        "OWNKEY_ROUTER_WEBHOOK_LISTEN",
        "address for Replicate's webhooks, host:port; needs WEBHOOK_URL and WEBHOOK_SECRET_FILE; "
        "none where unset, jobs are polled in any case",
        default=None,
        parse=listen_address,
    )
    webhook_url: str = setting(
        "OWNKEY_ROUTER_WEBHOOK_URL",
        "where Replicate reaches that address from outside, https://.../webhooks/replicate; sent "
        "with jobs on the product's own keys, whose account signs with the secret",
        default="",
    )
    webhook_secret_file: Path | None = setting(
        "OWNKEY_ROUTER_WEBHOOK_SECRET_FILE",
        "file with the secret that Replicate signs webhooks with, whsec_..., mode 0600",
        default=None,
        parse=existing_file,
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
        "how long running calls may go on after a stop was asked for, 0 to 3600",
        default=30.0,
        parse=seconds(0, 3600),
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
    config = load(RouterConfig, environ, prefix=PREFIX)
    config.check_connections(
        PREFIX,
        listens={
            "LISTEN": config.listen,
            "HTTP_LISTEN": config.http_listen,
            "WEBHOOK_LISTEN": config.webhook_listen,
        },
        peers={
            "KEYVAULT_ADDRESS": config.keyvault_address,
            "LEDGER_ADDRESS": config.ledger_address,
        },
    )
    return config
