# SPDX-License-Identifier: Apache-2.0
"""`python -m deploy.demo`: the keeper of the demo overlay, until it is stopped."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal

import structlog

from deploy.demo import databases, keeper, vault
from deploy.demo.cluster import Cluster, ClusterError

PERIOD_SECONDS = 10.0
"""Between two rounds; a restarted Vault is unsealed within this time."""

log = structlog.get_logger()


async def _round(cluster: Cluster) -> None:
    """One look at everything; what cannot be done yet is done in a later one."""
    try:
        if await asyncio.to_thread(keeper.keep_certificates, cluster, now=dt.datetime.now(dt.UTC)):
            log.info("certificates_issued")
        for name in await asyncio.to_thread(keeper.keep_passwords, cluster):
            log.info("secret_made", secret=name)
        for name in await keeper.keep_databases(cluster):
            log.info("database_made", database=name)
    except (ClusterError, databases.DatabasesNotReadyError) as exc:
        log.warning("not_yet", what=str(exc))
    try:
        done = await asyncio.to_thread(keeper.keep_vault, cluster)
        if done != vault.OPEN:
            log.info("vault_opened", how=done)
    except (ClusterError, vault.VaultNotReadyError) as exc:
        log.warning("not_yet", what=str(exc))


async def _main() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    cluster = Cluster()
    while not stopped.is_set():
        await _round(cluster)
        try:
            await asyncio.wait_for(stopped.wait(), PERIOD_SECONDS)
        except TimeoutError:
            continue


if __name__ == "__main__":
    asyncio.run(_main())
