# SPDX-License-Identifier: Apache-2.0
"""The ledger's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.ledger.domain.requests import RETENTION_DAYS_MIN
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

PREFIX = "OWNKEY_LEDGER_"


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerConfig(ServingConfig):
    """How the ledger runs. Secrets are never values here: a setting names the file with one."""

    listen: str = setting(
        "OWNKEY_LEDGER_LISTEN",
        "address to serve on, host:port",
        default="127.0.0.1:7103",
        parse=listen_address,
    )
    policy_file: Path = setting(
        "OWNKEY_LEDGER_POLICY_FILE",
        "who may call what, YAML; read at start, a change needs a restart; the packaged one where "
        "unset",
        default=Path(__file__).parent / "policy.yaml",
        parse=existing_file,
    )
    database_dsn_file: Path = setting(
        "OWNKEY_LEDGER_DATABASE_DSN_FILE",
        "file with the DSN of the ledger's PostgreSQL database, mode 0600; off this machine it "
        "must say sslmode=verify-full and sslrootcert",
        parse=existing_file,
    )
    database_pooler: str = setting(
        "OWNKEY_LEDGER_DATABASE_POOLER",
        "none, or pgbouncer where one in transaction mode stands before the database: statements "
        "are not kept prepared, and the role must carry the session settings",
        default="none",
        parse=choice("none", "pgbouncer"),
    )
    lanes: int = setting(
        "OWNKEY_LEDGER_LANES",
        "batches under way at the same time, 1 to 64; connections are as many and two more",
        default=2,
        parse=whole(1, 64),
    )
    lane_queue: int = setting(
        "OWNKEY_LEDGER_LANE_QUEUE",
        "commands that wait in a lane at most, 1 to 100000; more are refused as overload",
        default=4096,
        parse=whole(1, 100_000),
    )
    batch_size: int = setting(
        "OWNKEY_LEDGER_BATCH_SIZE",
        "commands of one batch at most, 1 to 4096",
        default=512,
        parse=whole(1, 4096),
    )
    batch_buckets: str = setting(
        "OWNKEY_LEDGER_BATCH_BUCKETS",
        "many, or one where the database is sharded by bucket (Citus): a batch then stays on one "
        "shard",
        default="many",
        parse=choice("many", "one"),
    )
    plans_file: Path = setting("OWNKEY_LEDGER_PLANS_FILE", "the plans, YAML", parse=existing_file)
    fingerprint_key_file: Path = setting(
        "OWNKEY_LEDGER_FINGERPRINT_KEY_FILE",
        "file with the key of keyed hashes and pause receipts, shared by all replicas; with "
        "another key old receipts no longer prove and repeated requests look like new bodies",
        parse=existing_file,
    )
    lease_seconds: float = setting(
        "OWNKEY_LEDGER_LEASE_SECONDS",
        "how long a claim lasts unless renewed, 1 to 600; routers renew every 20 s",
        default=60.0,
        parse=seconds(1, 600),
    )
    sweep_seconds: float = setting(
        "OWNKEY_LEDGER_SWEEP_SECONDS",
        "time between two looks for leases that ran out, 0.1 to 600",
        default=5.0,
        parse=seconds(0.1, 600),
    )
    retention_days: int = setting(
        "OWNKEY_LEDGER_RETENTION_DAYS",
        "how long requests, their attempts and the answers of operations are kept, 400 to 3650; "
        "entries, usage and budgets are kept for good",
        default=RETENTION_DAYS_MIN,
        parse=whole(RETENTION_DAYS_MIN, 3650),
    )
    retention_seconds: float = setting(
        "OWNKEY_LEDGER_RETENTION_SECONDS",
        "time between two looks for what is older than that, 0.1 to 86400",
        default=600.0,
        parse=seconds(0.1, 86_400),
    )
    drain_seconds: float = setting(
        "OWNKEY_LEDGER_DRAIN_SECONDS",
        "how long running calls may go on after a stop was asked for, 0 to 3600",
        default=10.0,
        parse=seconds(0, 3600),
    )
    log_format: str = setting(
        "OWNKEY_LEDGER_LOG_FORMAT",
        "json, or console for people",
        default="json",
        parse=choice("json", "console"),
    )


def read_config(environ: Mapping[str, str]) -> LedgerConfig:
    """
    Read the configuration.

    Raises:
        ConfigError: With every problem found.
    """
    config = load(LedgerConfig, environ, prefix=PREFIX)
    config.check_connections(PREFIX, listens={"LISTEN": config.listen}, peers={})
    return config
