# SPDX-License-Identifier: Apache-2.0
"""
Taking sealed secrets (K10): opened, checked against their proof, and the proof spent.

Rules:
1. Opening shows nothing to anybody: what a blob holds may be looked at to recognise a repeated
   request, and goes nowhere before its proof is spent.
2. A proof is spent and the release recorded by one commit, before the secret leaves.
3. A proof serves one run. A job's proof, used first in its time, serves that job for a day.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import timedelta

from services.keyvault.domain import sealed_keys
from services.keyvault.domain.audit import AuditEntry
from services.keyvault.domain.credentials import clean_secret
from services.keyvault.domain.keys import Key
from services.keyvault.domain.sealed_keys import Proof, ProvenRequest, SealedSecret
from services.keyvault.domain.sealing import SealedBlob, SealingSuite
from services.keyvault.errors import (
    ProofFault,
    ProofRefusedError,
    SealedKeyFault,
    SealedKeyRefusedError,
    WrongResidenceError,
)
from services.keyvault.usecases.ports import ProofStore
from services.keyvault.usecases.sealing_keys import SealingKeys
from services.shared.clock import Clock
from services.shared.errors import InvalidArgumentError
from services.shared.fingerprint import fingerprint
from services.shared.secret import Secret

JOB_SPAN = timedelta(hours=24)
MAC_VERSION = 1


@dataclass(frozen=True, slots=True)
class Submitted:
    """
    A secret as a caller sends it: in clear, or sealed with a proof.

    Args:
        pasted: The secret as pasted; None if it comes sealed.
        sealed: The sealed key.
        proof: The proof beside it.
    """

    pasted: Secret | None = None
    sealed: SealedBlob | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """
    A secret that was taken, and the proof that must be spent before it goes anywhere.

    Args:
        secret: The clean secret.
        content: What the blob held; None for a secret that came in clear.
        proof: The proof; None for a secret that came in clear.
        suite: The suite it was sealed with, where it is to be sealed anew; None otherwise.
    """

    secret: Secret
    content: SealedSecret | None = None
    proof: Proof | None = None
    suite: SealingSuite | None = None


class SealedSecrets:
    """
    Takes sealed secrets.

    Args:
        keys: Sealing keys.
        proofs: Proofs that were used.
        mac_key: Of the keyed hashes by which client-held secrets are known again.
        clock: Time; a proof's expiry is judged by it.
    """

    def __init__(
        self, *, keys: SealingKeys, proofs: ProofStore, mac_key: Secret, clock: Clock
    ) -> None:
        self._keys = keys
        self._proofs = proofs
        self._mac_key = mac_key
        self._clock = clock

    async def receive(self, request: ProvenRequest, submitted: Submitted) -> Received:
        """
        Take a secret, whichever way it comes; a proof that comes with it is checked, not spent.

        Raises:
            SecretMalformedError: On positive evidence that it is no key of the provider.
            SealedKeyRefusedError: If the sealed key is damaged, out of date or another's.
            ProofRefusedError: If the proof is missing, not fresh, or not for this request.
            InvalidArgumentError: If it comes both ways.
        """
        if submitted.sealed is None:
            pasted = submitted.pasted or Secret("")
            return Received(Secret(clean_secret(pasted.reveal(), request.provider)))
        if submitted.pasted:
            raise InvalidArgumentError.of("secret", "must be empty where sealed_key is set")
        if submitted.proof is None:
            raise ProofRefusedError(ProofFault.MISSING)
        opened = await self._keys.open(submitted.sealed)
        content = sealed_keys.decode(
            opened.plaintext, account=request.account, provider=request.provider
        )
        await self.check_proof(request, submitted.proof, content.signing_key)
        return Received(
            secret=Secret(clean_secret(_text(content.secret), request.provider)),
            content=content,
            proof=submitted.proof,
            suite=None if opened.newest else opened.suite,
        )

    async def receive_for(self, key: Key, request_id: str, submitted: Submitted) -> Received:
        """
        Take the sealed secret of a client-held key.

        Raises:
            WrongResidenceError: If the key's secret is stored on the server.
            SealedKeyRefusedError: As `receive`, or if it is missing or not the key's secret.
            ProofRefusedError: As `receive`.
        """
        if key.secret_mac is None:
            raise WrongResidenceError(key.account, key.key_id, client_held=False)
        if submitted.sealed is None:
            raise SealedKeyRefusedError(SealedKeyFault.MISSING)
        received = await self.receive(
            ProvenRequest(key.account, key.provider, request_id), submitted
        )
        if not hmac.compare_digest(self.mac(key.account, key.provider, received), key.secret_mac):
            raise SealedKeyRefusedError(SealedKeyFault.OTHER_SECRET)
        return received

    async def check_proof(self, request: ProvenRequest, proof: Proof, signing_key: bytes) -> None:
        """
        Refuse a proof that is not this request's or not fresh; it is not spent.

        Raises:
            ProofRefusedError: Why.
        """
        sealed_keys.check_signature(request, proof, signing_key)
        digest = request.digest(proof)
        if not proof.job or not await self._proofs.serves_a_job(request.account, digest):
            sealed_keys.check_expiry(proof, now=self._clock.now())

    async def spend(self, request: ProvenRequest, proof: Proof | None, entry: AuditEntry) -> None:
        """
        Spend a proof and record the release; without a proof there is nothing to do.

        Raises:
            ProofRefusedError: If it was used before.
            StoreUnavailableError: If that could not be recorded; nothing may be released then.
        """
        if proof is None:
            return
        fresh = await self._proofs.spend(
            request.account,
            request.digest(proof),
            expire_time=proof.expire_time,
            reuse=JOB_SPAN if proof.job else None,
            entry=entry,
        )
        if not fresh:
            raise ProofRefusedError(ProofFault.REPLAYED)

    async def resealed(self, received: Received) -> SealedBlob | None:
        """
        Seal anew what came under a sealing key that is not the newest; None where it is.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        if received.suite is None or received.content is None:
            return None
        return await self._keys.seal(received.suite, received.content.encoded())

    async def seal(self, suite: SealingSuite, content: SealedSecret) -> SealedBlob:
        """
        Seal a stored secret to be held by a browser.

        Raises:
            KekUnavailableError: If the key-encryption key cannot be used now.
        """
        return await self._keys.seal(suite, content.encoded())

    def mac(self, account: str, provider: str, received: Received) -> bytes:
        """Return the 32 bytes by which a client-held secret is known again."""
        return fingerprint(
            self._mac_key,
            version=MAC_VERSION,
            fields=[
                ("account", account.encode()),
                ("provider", provider.encode()),
                ("secret", received.secret.reveal_bytes()),
            ],
        )


def _text(secret: Secret) -> str:
    try:
        return secret.reveal()
    except UnicodeDecodeError as fault:
        raise SealedKeyRefusedError(SealedKeyFault.MALFORMED) from fault
