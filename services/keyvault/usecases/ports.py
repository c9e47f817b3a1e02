# SPDX-License-Identifier: Apache-2.0
"""What the use cases need of the world, by role."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from services.keyvault.domain.audit import AuditEntry, AuditEvent
from services.keyvault.domain.audit_chain import ChainedEvent, ChainEnd, Head, Link, WrittenEvent
from services.keyvault.domain.envelope import Binding, DataKey, Record, WrappedKey
from services.keyvault.domain.health import LiveTest
from services.keyvault.domain.keys import Key, Settings
from services.keyvault.domain.sealing import Age
from services.keyvault.errors import RecordRefusedError
from services.shared.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """
    A request that was carried out.

    Args:
        fingerprints: Keyed hash of each field of its body.
        outcome: What it gave, encoded; without any secret.
    """

    fingerprints: Mapping[str, str]
    outcome: bytes


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """
    A version's record and whose it must be.

    Args:
        binding: From what is known of the key, never from the record.
        record: As stored.
    """

    binding: Binding
    record: Record


@dataclass(frozen=True, slots=True)
class RecordName:
    """
    Which record; records are walked through in the order of these.

    Args:
        account: Account id.
        key_id: Key id.
        version: Number of the key's version.
    """

    account: str
    key_id: str
    version: int


@dataclass(frozen=True, slots=True)
class WrappedRecord:
    """
    What rewrapping needs of a record.

    Args:
        name: Which it is.
        generation: Number of the version's encryption, from what is known of the key.
        provider: Provider id.
        format_version: Layout of the record.
        data_key: As stored.
    """

    name: RecordName
    generation: int
    provider: str
    format_version: int
    data_key: WrappedKey

    def context(self) -> bytes:
        """Return the canonical bytes that bind it."""
        name = self.name
        binding = Binding(name.account, name.key_id, name.version, self.generation, self.provider)
        return binding.context(self.format_version)


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """
    A place in the change feed.

    Args:
        lineage: Identifies the database and its timeline.
        sequence: Number of the last change included.
    """

    lineage: str
    sequence: int


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """
    All that is stored of an account's keys at one moment.

    Args:
        settings: Its settings.
        keys: Its keys in order.
        secrets: The current version's record, by key id; empty where not asked for.
        previous: The record of the version before it, by key id, while their overlap lasts.
    """

    settings: Settings
    keys: Sequence[Key]
    secrets: Mapping[str, StoredSecret]
    previous: Mapping[str, StoredSecret]

    def secret_of(self, key: Key) -> StoredSecret:
        """Return a key's record; raises RecordRefusedError if it is gone."""
        stored = self.secrets.get(key.key_id)
        if stored is None:
            raise RecordRefusedError(key.account, key.key_id, key.version)
        return stored


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Several accounts at one moment.

    Args:
        accounts: In the order asked for.
        position: The change feed's position at that moment.
    """

    accounts: Sequence[AccountSnapshot]
    position: FeedPosition


@dataclass(frozen=True, slots=True)
class FeedPage:
    """
    One read of the change feed.

    Args:
        position: Where it ends.
        floor: Every change after this number is in `changes`.
        changes: Number and account, ascending.
    """

    position: FeedPosition
    floor: int
    changes: Sequence[tuple[int, str]]


class AccountChange(Protocol):
    """
    One transaction on one account, whose row it holds locked.

    `time` is the database's clock and `settings` the account's, both read under the lock.
    """

    time: datetime
    settings: Settings

    async def find_request(self, request_id: str) -> RecordedRequest | None:
        """Return what was recorded under the id."""
        ...

    async def record_request(self, request_id: str, request: RecordedRequest) -> None:
        """Record a request as carried out."""
        ...

    async def keys(self) -> list[Key]:
        """Return the account's keys in order, at most 100."""
        ...

    async def key(self, key_id: str) -> Key:
        """Return a key; raises KeyNotFoundError."""
        ...

    async def was_deleted(self, key_id: str) -> bool:
        """Tell whether the id belonged to a key that is deleted."""
        ...

    async def insert_key(self, key: Key, record: Record | None) -> None:
        """Store a new key with its first version; None for a client-held secret."""
        ...

    async def update_key(self, key: Key) -> None:
        """Store a key's fields, state and revision."""
        ...

    async def replace_secret(self, key: Key, record: Record | None) -> list[int]:
        """
        Store the key's new current version and destroy the secrets of all earlier ones.

        Without a record the secret is client-held.

        The one before stays until the key's `overlap_until`, if that is set.

        Returns:
            Numbers of the versions that were destroyed, ascending.
        """
        ...

    async def destroy_expired(self) -> list[tuple[str, int]]:
        """Destroy the secrets of versions whose overlap is over; return their keys and numbers."""
        ...

    async def delete_key(self, key: Key) -> None:
        """Destroy a key with all its secrets; its name stays taken."""
        ...

    async def put_health(self, key: Key) -> None:
        """Store the entries of the key's current version."""
        ...

    async def claim_probe(self, key: Key, lease: timedelta) -> bool:
        """Take the one probe of the key's current version, unless another holds it."""
        ...

    async def put_settings(self, settings: Settings) -> None:
        """Store the account's settings."""
        ...

    async def add_audit(self, entry: AuditEntry) -> None:
        """Add to the audit trail."""
        ...

    def announce(self) -> None:
        """Append the account to the change feed as the transaction's last statement."""
        ...


class KeyStore(Protocol):
    """Keys, settings, requests and the change feed."""

    async def change(self, account: str, work: Callable[[AccountChange], Awaitable[T]]) -> T:
        """Run one transaction on an account; `work` may be called again and has no other effect."""
        ...

    async def find_request(self, account: str, request_id: str) -> RecordedRequest | None:
        """Return what was recorded under the id."""
        ...

    async def snapshot(self, accounts: Sequence[str], *, secrets: bool) -> Snapshot:
        """Read accounts and the feed's position at one moment; records only where asked for."""
        ...

    async def read_feed(self, after: int, limit: int) -> FeedPage:
        """Read the newest changes after a number, at most `limit`, from the primary."""
        ...

    async def accounts_with_expired(self, limit: int) -> list[str]:
        """Return accounts with versions whose overlap is over, for at most that many versions."""
        ...

    async def forget(self, *, changes_kept: int, requests_kept: timedelta) -> None:
        """Remove changes and recorded requests that are past their use, a bounded number."""
        ...


class AuditLog(Protocol):
    """The audit trail."""

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries; they are durable when this returns."""
        ...

    async def page(self, account: str, *, before: int | None, limit: int) -> list[AuditEvent]:
        """Return an account's entries, newest first, older than a number."""
        ...


class RecordStore(Protocol):
    """Records of all accounts, and the floors of key-encryption keys' versions."""

    async def count(self) -> Mapping[tuple[str, int], int]:
        """Count wrapped keys, keyvault's own included, by the version that wraps them."""
        ...

    async def count_after(self, after: RecordName | None, *, account: str) -> int:
        """Count records after one, of an account or, for "", of all."""
        ...

    async def outdated(
        self, kek_name: str, *, below: int, after: RecordName | None, limit: int
    ) -> list[WrappedRecord]:
        """Return records wrapped by a version below one, in the order of their names."""
        ...

    async def after(
        self, after: RecordName | None, *, account: str, limit: int
    ) -> list[StoredSecret]:
        """Return records after one, of an account or, for "", of all, in the order of names."""
        ...

    async def exchange_data_keys(self, items: Sequence[tuple[WrappedRecord, WrappedKey]]) -> int:
        """Store other wrapped keys where the old ones still stand; return how many did."""
        ...

    async def exchange_records(self, items: Sequence[tuple[StoredSecret, Record]]) -> int:
        """Store other records where the old ones still stand; return how many did."""
        ...

    async def make_floor(self, kek_name: str) -> None:
        """Make a key-encryption key known, with no version retired; no effect where it is."""
        ...

    async def raise_floor(self, kek_name: str, lowest: int) -> None:
        """
        Refuse versions below one from now on, having counted that nothing is wrapped by them.

        Raises:
            KekVersionInUseError: If something is.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainExtension:
    """
    How a chain goes on.

    Args:
        links: One for each entry, in order.
        head: The new head.
    """

    links: Sequence[Link]
    head: Head


@dataclass(frozen=True, slots=True)
class ChainRound:
    """
    What one round of chaining did.

    Args:
        seen: Entries that it looked at.
        heads: New heads.
        refused: Accounts whose chains were not continued.
    """

    seen: int
    heads: Sequence[Head]
    refused: Sequence[str]


LinkEvents = Callable[[ChainEnd, Sequence[WrittenEvent]], ChainExtension | None]


class AuditChains(Protocol):
    """The audit trail's chains, one for each account."""

    async def extend(
        self, link: LinkEvents, *, limit: int, skipping: Collection[str]
    ) -> ChainRound | None:
        """
        Chain the oldest entries that wait, as one unit; None if another replica is at it.

        Args:
            link: Continues one account's chain; None if it must not be. May be called again.
            limit: Entries at most.
            skipping: Accounts to leave as they are.
        """
        ...

    async def extend_one(self, account: str, link: LinkEvents, *, limit: int) -> ChainRound:
        """Chain an account's oldest entries that wait, after whoever is at it."""
        ...

    async def walk(
        self, account: str, visit: Callable[[Sequence[ChainedEvent]], None]
    ) -> tuple[Head | None, int]:
        """Show an account's chain as it was at one moment; return its head and what waits."""
        ...


class ServiceKeyStore(Protocol):
    """Keyvault's own wrapped keys, by purpose."""

    async def service_key(self, purpose: str) -> WrappedKey | None:
        """Return the key of a purpose; None if there is none."""
        ...

    async def keep_service_key(self, purpose: str, wrapped: WrappedKey) -> WrappedKey:
        """Store a purpose's key unless it has one; return the one it has."""
        ...

    async def outdated_service_keys(
        self, kek_name: str, *, below: int
    ) -> list[tuple[str, WrappedKey]]:
        """Return purposes and keys wrapped by a version below one."""
        ...

    async def exchange_service_key(
        self, purpose: str, known: WrappedKey, wrapped: WrappedKey
    ) -> bool:
        """Store another wrapped key where the known one still stands; tell whether it did."""
        ...


@dataclass(frozen=True, slots=True)
class AgedKey:
    """
    One of keyvault's own keys, and how old it is.

    Args:
        purpose: What it is for.
        wrapped: As stored.
        age: When it was made and read.
    """

    purpose: str
    wrapped: WrappedKey
    age: Age


class SealingKeyStore(Protocol):
    """Where sealing keys are: among keyvault's own wrapped keys."""

    async def aged_service_keys(self, prefix: str) -> list[AgedKey]:
        """Return the keys whose purpose begins so, each with its age."""
        ...

    async def keep_service_key(self, purpose: str, wrapped: WrappedKey) -> WrappedKey:
        """Store a purpose's key unless it has one; return the one it has."""
        ...

    async def destroy_service_keys(self, purposes: Sequence[str]) -> None:
        """Destroy keys."""
        ...


class ProofStore(Protocol):
    """Proofs that were used."""

    async def serves_a_job(self, account: str, digest: bytes) -> bool:
        """Tell whether a job's proof was used in its time and still serves that job."""
        ...

    async def spend(
        self,
        account: str,
        digest: bytes,
        *,
        expire_time: datetime,
        reuse: timedelta | None,
        entry: AuditEntry,
    ) -> bool:
        """
        Spend a proof and record the release it is for, both durable when this returns.

        Args:
            account: Account id.
            digest: What the proof is known by.
            expire_time: Until when it holds.
            reuse: How long from its first use it serves on; None if it is used once.
            entry: The release.

        Returns:
            False if it was used before and serves no more; then nothing is recorded.
        """
        ...


@dataclass(frozen=True, slots=True)
class KekState:
    """
    Where a key-encryption key stands.

    Args:
        current_version: The version that wraps new data keys.
        lowest_version: The lowest version that still unwraps.
    """

    current_version: int
    lowest_version: int


class KeyEncryption(Protocol):
    """
    The key-encryption key. Every method raises KekUnavailableError.

    `name` identifies it, for example `vault:transit/ownkey`.
    """

    name: str

    async def generate_data_key(self, context: bytes) -> DataKey:
        """Make a fresh 256-bit data key, wrapped under the context."""
        ...

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> Secret | None:
        """Unwrap a data key; None if it is not authentic under the context."""
        ...

    async def unwrap_many(self, items: Sequence[tuple[WrappedKey, bytes]]) -> list[Secret | None]:
        """Unwrap data keys, at most 1,000, each with its context; answers in order."""
        ...

    async def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, bytes]]
    ) -> list[WrappedKey | None]:
        """Wrap data keys anew by the current version, without showing them; answers in order."""
        ...

    async def status(self) -> KekState:
        """Return where it stands."""
        ...

    async def rotate(self) -> KekState:
        """Make a new version; raises NotServedError where keyvault may not."""
        ...

    async def retire(self, lowest: int) -> KekState:
        """Destroy versions below one; raises NotServedError where keyvault may not."""
        ...


class Prober(Protocol):
    """Live tests, made by the router."""

    async def probe(
        self, provider: str, secret: Secret, *, default_model: str, allowed_models: Sequence[str]
    ) -> LiveTest:
        """
        Test a secret at its provider.

        Raises:
            PeerUnavailableError: If the router is away.
            InvalidArgumentError: If the router does not know the provider or a model.
        """
        ...

    async def check(
        self, provider: str, *, default_model: str, allowed_models: Sequence[str]
    ) -> None:
        """
        Check that provider and models are known, calling no provider.

        Raises:
            PeerUnavailableError: If the router is away.
            InvalidArgumentError: If the router does not know the provider or a model.
        """
        ...


def binding_of(key: Key, *, generation: int) -> Binding:
    """Return the binding of a key's current version."""
    return Binding(key.account, key.key_id, key.version, generation, key.provider)
