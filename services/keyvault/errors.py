# SPDX-License-Identifier: Apache-2.0
"""
Keyvault's failures. What each means to a gRPC caller stands in `rpc/status.py`.

No message ever holds a secret or another system's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from services.keyvault.domain.names import ACCOUNT, KEY
from services.shared.errors import (
    FieldViolation,
    InvalidArgumentError,
    QuotaViolation,
    ServiceError,
)

UNREACHABLE_RETRY_SECONDS = 5.0
KEK_RETRY_SECONDS = 2.0


class KeyNotFoundError(ServiceError):
    """The account stores no such key."""

    def __init__(self, account: str, key_id: str) -> None:
        name = KEY.format(account=account, key=key_id)
        super().__init__(
            f"there is no key {name}; ListKeys shows the keys of the account",
            metadata={"key": name},
        )


class KeyAlreadyExistsError(ServiceError):
    """The chosen id is in use, or was used by a deleted key."""

    def __init__(self, account: str, key_id: str, *, deleted: bool) -> None:
        name = KEY.format(account=account, key=key_id)
        why = "was used by a key that is deleted" if deleted else "is in use"
        super().__init__(
            f"the name {name} {why}, and names are never given twice; choose another key_id or "
            "leave it empty",
            metadata={"key": name, "deleted": str(deleted).lower()},
        )


class RequestIdReusedError(ServiceError):
    """A request id was sent again with another body."""

    def __init__(self, request_id: str, field: str) -> None:
        super().__init__(
            f"the request_id {request_id} was used before with another {field}; repeat the first "
            "request unchanged, or make a new id for a new request",
            metadata={"request_id": request_id, "field": field},
        )


class SecretFault(StrEnum):
    """Why a secret cannot be a key."""

    EMPTY = "EMPTY"
    INNER_SPACES = "INNER_SPACES"
    TRUNCATED = "TRUNCATED"
    OTHER_PROVIDER = "OTHER_PROVIDER"
    MASKED = "MASKED"
    ADMIN_KEY = "ADMIN_KEY"
    FIELDS = "FIELDS"


class SecretMalformedError(ServiceError):
    """The secret cannot be a key, by positive evidence."""

    def __init__(
        self,
        fault: SecretFault,
        advice: str,
        *,
        provider: str,
        looks_like: str = "",
        fields: Sequence[FieldViolation] = (),
    ) -> None:
        metadata = {"fault": fault.value, "provider": provider}
        if looks_like:
            metadata["looks_like"] = looks_like
        super().__init__(
            f"this is not a key that {provider} issues: {advice}",
            metadata=metadata,
            fields=fields or [FieldViolation("secret", advice)],
        )
        self.fault = fault


class KeyInvalidError(ServiceError):
    """The provider does not know the secret."""

    def __init__(self, provider: str, detail: str) -> None:
        advice = detail or "create a new key on the provider's page and paste it whole"
        super().__init__(
            f"{provider} does not accept this key, so it was not stored: {advice}",
            metadata={"provider": provider},
            fields=[FieldViolation("secret", advice)],
        )


class KeyForbiddenError(ServiceError):
    """The key lacks a permission that generating needs."""

    def __init__(self, provider: str, missing_permission: str, detail: str) -> None:
        needed = missing_permission or "to generate"
        advice = f" {detail}" if detail else ""
        super().__init__(
            f"{provider} knows this key but it lacks the permission {needed}, so it was not "
            f"stored; grant it at the provider and try again.{advice}",
            metadata={"provider": provider, "missing_permission": missing_permission},
        )


class ProviderUnreachableError(ServiceError):
    """The provider could not be asked."""

    def __init__(self, provider: str, detail: str) -> None:
        advice = f" ({detail})" if detail else ""
        super().__init__(
            f"{provider} could not be asked whether the key works{advice}, so it was not stored; "
            "try again shortly, or set store_unverified to store it untested",
            metadata={"provider": provider},
            retry_after_seconds=UNREACHABLE_RETRY_SECONDS,
        )


class KeyLimitReachedError(ServiceError):
    """The account stores as many keys as it may."""

    def __init__(self, account: str, limit: int) -> None:
        name = ACCOUNT.format(account=account)
        super().__init__(
            f"{name} stores {limit} keys already, which is the limit; delete one first",
            metadata={"account": name, "limit": str(limit)},
            quotas=[QuotaViolation(name, f"at most {limit} keys")],
        )


class EtagMismatchError(ServiceError):
    """The resource changed since its etag was read."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            f"{resource} was changed by someone else since it was read; read it again, then decide",
            metadata={"resource": resource},
        )


class KeyDisabledError(ServiceError):
    """The key is disabled."""

    def __init__(self, account: str, key_id: str) -> None:
        name = KEY.format(account=account, key=key_id)
        super().__init__(
            f"{name} is disabled; enable it first",
            metadata={"key": name},
        )


class ProviderWithoutKeyError(ServiceError):
    """The account stores no key at that provider."""

    def __init__(self, account: str, provider: str) -> None:
        name = ACCOUNT.format(account=account)
        super().__init__(
            f"{name} stores no key at {provider}, so it cannot be the active provider; store one "
            "first",
            metadata={"account": name, "provider": provider},
        )


class ModelNotCuratedError(InvalidArgumentError):
    """A stored default model is not on its provider's curated list."""


class KekCause(StrEnum):
    """Why the key-encryption key cannot be used."""

    SEALED = "SEALED"
    UNREACHABLE = "UNREACHABLE"
    DENIED = "DENIED"
    BUSY = "BUSY"
    BROKEN = "BROKEN"
    RETIRED = "RETIRED"


_KEK_SENTENCES = {
    KekCause.SEALED: "Vault is sealed; an operator must unseal it",
    KekCause.UNREACHABLE: "the key-encryption service does not answer; try again shortly",
    KekCause.DENIED: "Vault refuses keyvault's login or policy; an operator must renew or mend it",
    KekCause.BUSY: "the key-encryption service is overloaded; try again shortly",
    KekCause.BROKEN: (
        "the key-encryption service gave an answer that cannot be used; an operator must look into "
        "keyvault's log"
    ),
    KekCause.RETIRED: (
        "the version that was to wrap it was retired meanwhile; send the same request again"
    ),
}


class KekUnavailableError(ServiceError):
    """The key-encryption key cannot be used now."""

    def __init__(self, cause: KekCause) -> None:
        super().__init__(
            f"secrets can neither be stored nor opened now: {_KEK_SENTENCES[cause]}",
            metadata={"cause": cause.value},
            retry_after_seconds=KEK_RETRY_SECONDS,
        )
        self.cause = cause

    @property
    def sentence(self) -> str:
        """What is wrong and who must do what."""
        return _KEK_SENTENCES[self.cause]


class KekVersionInUseError(ServiceError):
    """A version of the key-encryption key cannot be retired: something is wrapped by it."""

    def __init__(self, kek: str, lowest_version: int, records: int) -> None:
        super().__init__(
            f"{records} stored keys are wrapped by versions of {kek} below {lowest_version}, and "
            "would never open again; run RewrapKeys first",
            metadata={
                "kek": kek,
                "lowest_version": str(lowest_version),
                "record_count": str(records),
            },
        )


class RecordRefusedError(ServiceError):
    """A stored secret does not open: damaged, moved, put back or wrapped by another key."""

    def __init__(self, account: str, key_id: str, version: int) -> None:
        name = KEY.format(account=account, key=key_id)
        super().__init__(
            f"the stored secret of {name}, version {version}, is damaged or not its own and was "
            "not opened; replace the key, and tell an operator",
            metadata={"key": name, "version": str(version)},
        )


class SealedKeyFault(StrEnum):
    """Why a sealed key is not taken."""

    MISSING = "MISSING"
    MALFORMED = "MALFORMED"
    NOT_AUTHENTIC = "NOT_AUTHENTIC"
    SEALING_KEY_GONE = "SEALING_KEY_GONE"
    OTHER_ACCOUNT = "OTHER_ACCOUNT"
    OTHER_PROVIDER = "OTHER_PROVIDER"
    OTHER_SECRET = "OTHER_SECRET"  # noqa: S105 - a word, no secret


_SEALED_KEY_SENTENCES = {
    SealedKeyFault.MISSING: (
        "the secret of this key is held by the customer's browser; send its sealed_key with a proof"
    ),
    SealedKeyFault.MALFORMED: (
        "it is not in the form that the browser module makes; seal the key again"
    ),
    SealedKeyFault.NOT_AUTHENTIC: (
        "it was not sealed with the sealing key that it names, or was changed since; seal the key "
        "again"
    ),
    SealedKeyFault.SEALING_KEY_GONE: (
        "the sealing key that it names is past its time or was never made here; the customer must "
        "enter the key again"
    ),
    SealedKeyFault.OTHER_ACCOUNT: "it was sealed for another account",
    SealedKeyFault.OTHER_PROVIDER: "it was sealed for another provider",
    SealedKeyFault.OTHER_SECRET: (
        "it holds another secret than the key's current version; the key was replaced since, so "
        "seal the new one"
    ),
}


class SealedKeyRefusedError(ServiceError):
    """A sealed key is missing, damaged, out of date or another's."""

    def __init__(self, fault: SealedKeyFault) -> None:
        sentence = _SEALED_KEY_SENTENCES[fault]
        super().__init__(
            f"the sealed key is refused: {sentence}",
            metadata={"fault": fault.value},
            fields=[FieldViolation("sealed_key", sentence)],
        )
        self.fault = fault


class ProofFault(StrEnum):
    """Why a proof is not taken."""

    MISSING = "MISSING"
    EXPIRED = "EXPIRED"
    TOO_LONG = "TOO_LONG"
    SIGNATURE = "SIGNATURE"
    REPLAYED = "REPLAYED"
    OTHER_JOB = "OTHER_JOB"


_PROOF_SENTENCES = {
    ProofFault.MISSING: "a sealed key is taken only with a proof; let the browser make one",
    ProofFault.EXPIRED: "its time is over; let the browser make a fresh one",
    ProofFault.TOO_LONG: (
        "it expires more than 120 seconds after the server's time; let the browser make one that "
        "expires sooner, and check its clock"
    ),
    ProofFault.SIGNATURE: (
        "its signature does not fit; it must be made by the browser that sealed the key, over "
        "exactly this account, provider, request_id, job and expire_time"
    ),
    ProofFault.REPLAYED: (
        "it was used before; a proof serves one run, so let the browser make a fresh one"
    ),
    ProofFault.OTHER_JOB: "it is for a job of another account; let the browser make one for this",
}


class ProofRefusedError(ServiceError):
    """The proof beside a sealed key is not fresh, not for this request, or was used before."""

    def __init__(self, fault: ProofFault) -> None:
        super().__init__(
            f"the proof for the sealed key is refused: {_PROOF_SENTENCES[fault]}",
            metadata={"fault": fault.value},
        )
        self.fault = fault


class WrongResidenceError(ServiceError):
    """The secret of a key does not live where the call needs it."""

    def __init__(self, account: str, key_id: str, *, client_held: bool) -> None:
        name = KEY.format(account=account, key=key_id)
        where = "by the customer's browser" if client_held else "on the server"
        advice = (
            "send it as sealed_key with a proof, or move the key with MoveKey"
            if client_held
            else "leave sealed_key and proof away, or move the key with MoveKey"
        )
        residence = "CLIENT_HELD" if client_held else "SERVER"
        super().__init__(
            f"the secret of {name} is held {where}; {advice}",
            metadata={"key": name, "residence": residence},
        )


class RestoreNotAcceptedError(ServiceError):
    """The database is not the one that was accepted last, so keys revoked since may be in it."""

    def __init__(self) -> None:
        super().__init__(
            "this database was restored from a backup, or a standby was promoted, so keys revoked "
            "since could serve again; nothing is served until an operator runs `ownkey revocations "
            "replay <file>`, or accepts that by `ownkey revocations accept --name <name>`"
        )


class RestoreFault(StrEnum):
    """Why a page of revocations, or an acceptance, is not taken."""

    NOT_GENUINE = "NOT_GENUINE"
    OTHER_DATABASE = "OTHER_DATABASE"
    PAGES_MISSING = "PAGES_MISSING"
    NOT_RESTORED = "NOT_RESTORED"
    NOT_REPLAYED = "NOT_REPLAYED"


_RESTORE_SENTENCES = {
    RestoreFault.NOT_GENUINE: (
        "it was changed, or signed by another keyvault; take the file as it was exported"
    ),
    RestoreFault.OTHER_DATABASE: (
        "it is of another database than this one continues; take the export of that one, or begin "
        "a new file"
    ),
    RestoreFault.PAGES_MISSING: (
        "it begins after what is known here; replay the pages before it first"
    ),
    RestoreFault.NOT_RESTORED: "the database is in service, so there is nothing to replay",
    RestoreFault.NOT_REPLAYED: (
        "the replay did not come to the number that is accepted; replay the whole file, or accept "
        "by name"
    ),
}


class RestoreRefusedError(ServiceError):
    """A page of exported revocations, or an acceptance, does not fit the database."""

    def __init__(self, fault: RestoreFault) -> None:
        super().__init__(
            f"this is refused: {_RESTORE_SENTENCES[fault]}", metadata={"fault": fault.value}
        )
        self.fault = fault


class NotServedError(ServiceError):
    """The call is part of the contract and not served yet."""

    def __init__(self, rpc: str, advice: str = "a later version will serve it") -> None:
        super().__init__(
            f"{rpc} is part of the contract but not served here; {advice}", metadata={"rpc": rpc}
        )
