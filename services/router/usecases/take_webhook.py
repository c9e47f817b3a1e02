# SPDX-License-Identifier: Apache-2.0
"""
Takes a provider's word that a job has ended: the job is asked about sooner, nothing is believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.providers.replicate import PROVIDER
from services.router.providers.replicate_webhook import WebhookRefusedError, read_webhook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.router.usecases.job_ports import JobStore
    from services.shared.clock import Clock
    from services.shared.secret import Secret


__all__ = ["TakeWebhook", "WebhookRefusedError"]


class TakeWebhook:
    """
    The use case.

    Args:
        store: The jobs of all replicas.
        key: What Replicate signs with.
        clock: Time.
    """

    def __init__(self, store: JobStore, *, key: Secret, clock: Clock) -> None:
        self._store = store
        self._key = key
        self._clock = clock

    async def __call__(self, headers: Mapping[str, str], body: bytes) -> bool:
        """
        Take one webhook; tells whether a job waits for it.

        Raises:
            WebhookRefusedError: Its signature or its time does not fit.
        """
        now = self._clock.now()
        provider_job = read_webhook(headers, body, key=self._key, now=now)
        return await self._store.hasten(PROVIDER, provider_job, now)
