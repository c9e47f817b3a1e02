# SPDX-License-Identifier: Apache-2.0
"""
Where the credential of a running job comes from.

A job outlives the request that started it, so it names its key and asks for the secret anew at each
step. A key that is disabled or gone opens nothing: that is how a job learns that it was withdrawn.
While a replaced secret's overlap lasts, what was begun with it goes on with it.

A client-held key is opened with what the job was started with, once in each process that works on
the job, and forgotten with its end.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.router.errors import ProofRefusedError, SealedKeyRefusedError
from services.shared.logging import get_logger

if TYPE_CHECKING:
    from services.router.domain.jobs import Job
    from services.router.domain.keys import OwnKey
    from services.router.usecases.ports import HeldKeys, Keys
    from services.shared.secret import Secret

OPENED_MAX = 1_000
"""Jobs whose client-held keys are open in this process; the oldest are opened again."""

log = get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class JobKey:
    """
    A job's key, for one step.
    """

    key: OwnKey
    """At the version that is used."""
    secret: Secret
    held: HeldKeys
    """Its lease."""

    def usable(self) -> bool:
        """
        Tell whether it may be used still; asked again right before bytes are sent.
        """
        return self.held.may_use(self.key)


class JobKeys(Protocol):
    """
    Opens jobs' keys.
    """

    async def open(self, job: Job) -> JobKey | None:
        """
        Give a job's key; None where it was disabled or deleted.

        Raises:
            PeerUnavailableError: Keyvault is away: nobody can tell.
            StaleKeyError: The key was changed this moment.
        """
        ...

    def forget(self, job: Job) -> None:
        """
        Forget what was opened for a job; it has ended.
        """
        ...


class StoredJobKeys:
    """
    Keys as keyvault stores them, an account's own or the product's, or opens them for their job.

    Args:
        keys: Keyvault.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._opened: OrderedDict[str, tuple[int, Secret]] = OrderedDict()
        """By job: the key's version, and its secret."""

    async def open(self, job: Job) -> JobKey | None:
        """
        Give a job's key at the version that it was begun with, else at its current one; see the
        port.
        """
        held = await self._keys.held(job.key.partition("/keys/")[0])
        for key in held.keys.keys:
            if key.name == job.key and key.enabled:
                version = _begun_with(job, key)
                secret = await self._secret(job, version, held)
                return None if secret is None else JobKey(version, secret, held)
        return None

    def forget(self, job: Job) -> None:
        """
        Forget what was opened for a job.
        """
        self._opened.pop(job.name, None)

    async def _secret(self, job: Job, key: OwnKey, held: HeldKeys) -> Secret | None:
        """
        Give a key's secret; None where the job does not bring a client-held one any more, or
        keyvault no longer takes it.
        """
        if not key.client_held:
            return held.secret(key)
        version, secret = self._opened.get(job.name, (0, None))
        if secret is not None and version == key.version:
            return secret
        if job.brought is None:
            return None
        try:
            opened = await self._keys.opened(key, job.brought, request_id=job.request_id)
        except (ProofRefusedError, SealedKeyRefusedError) as refusal:
            log.warning("job_key_refused", job=job.name, error=type(refusal).__name__)
            return None
        if not job.state.ended:
            self._opened[job.name] = (key.version, opened.secret)
            if len(self._opened) > OPENED_MAX:
                self._opened.popitem(last=False)
        return opened.secret


def _begun_with(job: Job, key: OwnKey) -> OwnKey:
    """
    Give the version that a job was begun with while its overlap lasts, else the current one.
    """
    earlier = key.previous
    if earlier is not None and earlier.version == job.key_version and not key.client_held:
        return earlier
    return key
