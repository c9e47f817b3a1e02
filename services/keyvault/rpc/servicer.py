# SPDX-License-Identifier: Apache-2.0
"""
The gRPC surface: takes requests apart, calls one use case, puts the answer together.

Whose keys a caller may touch is checked first of all, so that nothing is learned from an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc.aio
from ownkey.keyvault.v1 import (
    keyvault_service_pb2,
    keyvault_service_pb2_grpc,
    resolution_pb2,
    restoring_pb2,
    sharing_pb2,
)

from services.keyvault.domain.names import ACCOUNT, KEY, PLATFORM, SETTINGS
from services.keyvault.rpc import mapping, restoring, sealed_mapping, sharing
from services.keyvault.usecases.audit_chain import VerifyAudit
from services.keyvault.usecases.change_feed import ChangeFeed
from services.keyvault.usecases.change_keys import ChangeKeys
from services.keyvault.usecases.change_settings import ChangeSettings
from services.keyvault.usecases.create_key import CreateKey, NewKey
from services.keyvault.usecases.idempotency import Caller
from services.keyvault.usecases.kek import KekOperations
from services.keyvault.usecases.move_key import MoveKey
from services.keyvault.usecases.open_sealed_key import OpenSealedKey
from services.keyvault.usecases.ports import FeedPosition
from services.keyvault.usecases.read_keys import ReadKeys
from services.keyvault.usecases.reencrypt_keys import ReencryptKeys
from services.keyvault.usecases.replace_key import NewSecret, ReplaceKey
from services.keyvault.usecases.report_health import Report, ReportHealth
from services.keyvault.usecases.resolve_keys import ResolveKeys
from services.keyvault.usecases.restoring import Restoring
from services.keyvault.usecases.rewrap_keys import RewrapKeys
from services.keyvault.usecases.sealing_keys import SealingKeys
from services.keyvault.usecases.sharing import Sharing
from services.keyvault.usecases.test_key import TestKey
from services.shared.boundary import current_call
from services.shared.errors import AccessDeniedError, InvalidArgumentError
from services.shared.identity import OPERATOR, ROUTER
from services.shared.ids import parse_uuid
from services.shared.names import ResourceName
from services.shared.paging import page_size

ACCOUNTS_MAX = 64
RUN_RATE_DEFAULT = 1_000
RUN_RATE_MAX = 100_000
MODEL_CHARACTERS_MAX = 200

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class UseCases:
    """
    What the surface offers.

    Args:
        read: Reads keys, settings and the audit trail.
        create: Stores keys.
        replace: Replaces secrets.
        move: Moves secrets between the server and browsers.
        change: Changes, switches, chooses and deletes keys.
        settings: Changes settings.
        test: Tests keys.
        sealing_keys: What browsers seal with.
        resolve: Hands secrets to the router.
        open_sealed: Opens client-held keys for the router.
        feed: Tells the router what changed.
        report: Takes health reports.
        kek: Looks after the key-encryption key.
        rewrap: Wraps stored data keys anew.
        reencrypt: Encrypts stored secrets anew.
        verify_audit: Verifies the audit trail.
        sharing: Shares limits and outages among routers.
        restoring: Keeps a restored database from reviving revoked keys.
    """

    read: ReadKeys
    create: CreateKey
    replace: ReplaceKey
    move: MoveKey
    change: ChangeKeys
    settings: ChangeSettings
    test: TestKey
    sealing_keys: SealingKeys
    resolve: ResolveKeys
    open_sealed: OpenSealedKey
    feed: ChangeFeed
    report: ReportHealth
    kek: KekOperations
    rewrap: RewrapKeys
    reencrypt: ReencryptKeys
    verify_audit: VerifyAudit
    sharing: Sharing
    restoring: Restoring


class KeyvaultServicer(keyvault_service_pb2_grpc.KeyvaultServiceServicer):
    """
    Serves the contract.

    Args:
        use_cases: What it offers.
    """

    def __init__(self, use_cases: UseCases) -> None:
        self._use = use_cases

    async def CreateKey(self, request: Any, context: Context) -> Any:
        """Stores a key after a live test."""
        account = _account(ACCOUNT, request.parent, "parent")
        caller = _caller(request.request_id, required=True)
        if request.key_id:
            KEY.parse(KEY.format(account=account, key=request.key_id), "key_id")
        done = await self._use.create(
            caller,
            NewKey(
                account=account,
                key_id=request.key_id,
                provider=request.key.provider,
                fields=mapping.key_fields(request.key),
                submitted=sealed_mapping.submitted(request, account, secret=request.secret),
                store_unverified=request.store_unverified,
                client_held=sealed_mapping.is_client_held(
                    request.key.residence, "key.residence", default=False
                ),
            ),
        )
        return keyvault_service_pb2.CreateKeyResponse(
            key=mapping.key_message(done.key), test=mapping.live_test_message(done.test)
        )

    async def GetKey(self, request: Any, context: Context) -> Any:
        """Reads a key."""
        account, key_id = _key(request.name, "name")
        key = await self._use.read.key(account, key_id)
        return keyvault_service_pb2.GetKeyResponse(key=mapping.key_message(key))

    async def ListKeys(self, request: Any, context: Context) -> Any:
        """Lists an account's keys in its order."""
        account = _account(ACCOUNT, request.parent, "parent")
        keys, following = await self._use.read.page_of_keys(
            account,
            provider=request.provider,
            size=page_size(request.page_size),
            token=request.page_token,
        )
        return keyvault_service_pb2.ListKeysResponse(
            keys=[mapping.key_message(key) for key in keys], next_page_token=following
        )

    async def UpdateKey(self, request: Any, context: Context) -> Any:
        """Changes a key's fields."""
        account, key_id = _key(request.key.name, "key.name")
        key = await self._use.change.update(
            _caller(request.request_id),
            account,
            key_id,
            etag=request.key.etag,
            values=mapping.masked(request.key, request.update_mask, allowed=mapping.KEY_MASK),
        )
        return keyvault_service_pb2.UpdateKeyResponse(key=mapping.key_message(key))

    async def ReplaceKey(self, request: Any, context: Context) -> Any:
        """Gives a key a new secret."""
        account, key_id = _key(request.name, "name")
        caller = _caller(request.request_id, required=True)
        overlap = None
        if request.HasField("overlap_seconds"):
            overlap = timedelta(seconds=request.overlap_seconds)
        submitted = sealed_mapping.submitted(request, account, secret=request.secret)
        new = NewSecret(account, key_id, submitted, request.store_unverified, overlap)
        done = await self._use.replace(caller, new)
        return keyvault_service_pb2.ReplaceKeyResponse(
            key=mapping.key_message(done.key), test=mapping.live_test_message(done.test)
        )

    async def MoveKey(self, request: Any, context: Context) -> Any:
        """Moves a key's secret between the server and the customer's browser."""
        account, key_id = _key(request.name, "name")
        caller = _caller(request.request_id, required=True)
        if sealed_mapping.is_client_held(request.residence, "residence"):
            to = sealed_mapping.to_client(request, account)
            key, sealed = await self._use.move.to_client(caller, account, key_id, to)
        else:
            submitted = sealed_mapping.submitted(request, account)
            key = await self._use.move.to_server(caller, account, key_id, submitted)
            sealed = None
        return keyvault_service_pb2.MoveKeyResponse(
            key=mapping.key_message(key), sealed_key=sealed_mapping.sealed_message(sealed)
        )

    async def DeleteKey(self, request: Any, context: Context) -> Any:
        """Destroys a key and its secrets."""
        account, key_id = _key(request.name, "name")
        caller = _caller(request.request_id, required=True)
        await self._use.change.delete(caller, account, key_id, etag=request.etag)
        return keyvault_service_pb2.DeleteKeyResponse()

    async def TestKey(self, request: Any, context: Context) -> Any:
        """Tests a key, stored or sealed."""
        account, key_id = _key(request.name, "name")
        if request.HasField("sealed_key"):
            caller = _caller(request.request_id, required=True)
            submitted = sealed_mapping.submitted(request, account)
            done = await self._use.test.sealed(caller, account, key_id, submitted)
        else:
            done = await self._use.test(_caller(), account, key_id)
        return keyvault_service_pb2.TestKeyResponse(
            key=mapping.key_message(done.key), test=mapping.live_test_message(done.test)
        )

    async def ActivateKey(self, request: Any, context: Context) -> Any:
        """Makes a key its provider's active key."""
        account, key_id = _key(request.name, "name")
        key = await self._use.change.activate(_caller(request.request_id), account, key_id)
        return keyvault_service_pb2.ActivateKeyResponse(key=mapping.key_message(key))

    async def EnableKey(self, request: Any, context: Context) -> Any:
        """Switches a key on."""
        account, key_id = _key(request.name, "name")
        key = await self._use.change.enable(_caller(request.request_id), account, key_id)
        return keyvault_service_pb2.EnableKeyResponse(key=mapping.key_message(key))

    async def DisableKey(self, request: Any, context: Context) -> Any:
        """Switches a key off."""
        account, key_id = _key(request.name, "name")
        key = await self._use.change.disable(_caller(request.request_id), account, key_id)
        return keyvault_service_pb2.DisableKeyResponse(key=mapping.key_message(key))

    async def GetSettings(self, request: Any, context: Context) -> Any:
        """Reads an account's settings."""
        account = _account(SETTINGS, request.name, "name")
        settings = await self._use.read.settings(account)
        return keyvault_service_pb2.GetSettingsResponse(settings=mapping.settings_message(settings))

    async def UpdateSettings(self, request: Any, context: Context) -> Any:
        """Changes an account's settings."""
        account = _account(SETTINGS, request.settings.name, "settings.name")
        settings = await self._use.settings(
            _caller(request.request_id),
            account,
            etag=request.settings.etag,
            values=mapping.masked(
                request.settings, request.update_mask, allowed=mapping.SETTINGS_MASK
            ),
        )
        return keyvault_service_pb2.UpdateSettingsResponse(
            settings=mapping.settings_message(settings)
        )

    async def ListAuditEvents(self, request: Any, context: Context) -> Any:
        """Lists an account's audit trail, newest first."""
        account = _account(ACCOUNT, request.parent, "parent")
        events, following = await self._use.read.page_of_audit(
            account, size=page_size(request.page_size), token=request.page_token
        )
        return keyvault_service_pb2.ListAuditEventsResponse(
            audit_events=[mapping.audit_message(event) for event in events],
            next_page_token=following,
        )

    async def GetKekStatus(self, request: Any, context: Context) -> Any:
        """Reads where the key-encryption key stands."""
        report = await self._use.kek.status()
        return keyvault_service_pb2.GetKekStatusResponse(status=mapping.kek_message(report))

    async def RotateKek(self, request: Any, context: Context) -> Any:
        """Makes a new version of the key-encryption key."""
        report = await self._use.kek.rotate(_caller(request.request_id, required=True))
        return keyvault_service_pb2.RotateKekResponse(status=mapping.kek_message(report))

    async def RewrapKeys(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Wraps every stored data key by the current version, telling how far it came."""
        after = mapping.record_name(request.resume_token)
        progress = self._use.rewrap(_caller(), after=after, records_per_second_max=_rate(request))
        async for step in progress:
            yield keyvault_service_pb2.RewrapKeysResponse(progress=mapping.progress_message(step))

    async def ReencryptKeys(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Encrypts stored secrets anew, telling how far it came."""
        account = _account(ACCOUNT, request.account, "account") if request.account else ""
        progress = self._use.reencrypt(
            _caller(),
            after=mapping.record_name(request.resume_token),
            account=account,
            records_per_second_max=_rate(request),
        )
        async for step in progress:
            progress_message = mapping.progress_message(step)
            yield keyvault_service_pb2.ReencryptKeysResponse(progress=progress_message)

    async def RetireKekVersions(self, request: Any, context: Context) -> Any:
        """Retires versions of the key-encryption key by which nothing is wrapped."""
        caller = _caller(request.request_id, required=True)
        report = await self._use.kek.retire(caller, lowest=request.lowest_version)
        return keyvault_service_pb2.RetireKekVersionsResponse(status=mapping.kek_message(report))

    async def ResolveKeys(self, request: Any, context: Context) -> Any:
        """Returns accounts' keys with their plaintext secrets, to the router."""
        if not 1 <= len(request.accounts) <= ACCOUNTS_MAX:
            advice = f"must hold 1 to {ACCOUNTS_MAX} accounts"
            raise InvalidArgumentError.of("accounts", advice)
        accounts = [
            _account(ACCOUNT, name, f"accounts[{number}]")
            for number, name in enumerate(request.accounts)
        ]
        if len(set(accounts)) != len(accounts):
            raise InvalidArgumentError.of("accounts", "must name each account once")
        resolved, position = await self._use.resolve(_caller(), accounts)
        return resolution_pb2.ResolveKeysResponse(
            accounts=[mapping.account_keys_message(found) for found in resolved],
            position=mapping.position_message(position),
        )

    async def WatchChanges(
        self, request_iterator: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """Answers each question with the accounts changed since the last, until a stop."""
        cursor: FeedPosition | None = None
        first = True
        while (request := await self._use.feed.question(request_iterator)) is not None:
            if first and request.HasField("start"):
                cursor = FeedPosition(request.start.lineage, request.start.sequence)
            first = False
            changes = await self._use.feed.changes_since(cursor)
            cursor = changes.position
            yield resolution_pb2.WatchChangesResponse(
                nonce=request.nonce,
                changed_accounts=[ACCOUNT.format(account=name) for name in changes.accounts],
                resync=changes.resync,
                position=mapping.position_message(changes.position),
            )

    async def ReportKeyHealth(self, request: Any, context: Context) -> Any:
        """Takes what a call found out about a key's version."""
        account, key_id = _key(request.key, "key")
        if request.version < 1:
            raise InvalidArgumentError.of("version", "must be the version that was called with")
        if len(request.model) > MODEL_CHARACTERS_MAX:
            advice = f"must be at most {MODEL_CHARACTERS_MAX} characters"
            raise InvalidArgumentError.of("model", advice)
        applied, key = await self._use.report(
            _caller(),
            Report(
                account=account,
                key_id=key_id,
                version=request.version,
                outcome=mapping.outcome(request.outcome),
                model=request.model,
                retry_after=_span(request),
            ),
        )
        return resolution_pb2.ReportKeyHealthResponse(
            applied=applied, key=mapping.key_message(key) if key is not None else None
        )

    async def GetSealingKey(self, request: Any, context: Context) -> Any:
        """Reads the public key that browsers seal with."""
        key = await self._use.sealing_keys.current(sealed_mapping.suite(request.suite))
        return keyvault_service_pb2.GetSealingKeyResponse(
            sealing_key=sealed_mapping.sealing_key_message(key)
        )

    async def OpenSealedKey(self, request: Any, context: Context) -> Any:
        """Opens a client-held key and returns its plaintext secret, to the router."""
        account, key_id = _key(request.name, "name")
        opened = await self._use.open_sealed(
            _caller(request.request_id, required=True),
            account,
            key_id,
            provider=request.provider,
            submitted=sealed_mapping.submitted(request, account, for_jobs=True),
        )
        return sealed_mapping.opened_message(opened)

    async def SetSharedLimit(self, request: Any, context: Context) -> Any:
        """Sets how many requests may begin on a shared key in a minute."""
        key_id, limit = sharing.shared_key(request.key, "key"), sharing.limit(request)
        await self._use.sharing.set_limit(_caller(), key_id, limit)
        return sharing_pb2.SetSharedLimitResponse()

    async def GetSharedLimit(self, request: Any, context: Context) -> Any:
        """Returns a shared key's limit."""
        found = await self._use.sharing.limit(sharing.shared_key(request.key, "key"))
        return sharing_pb2.GetSharedLimitResponse(
            requests_per_minute=found.requests_per_minute, leased_request_count=found.leased
        )

    async def LeaseAllotments(self, request: Any, context: Context) -> Any:
        """Leases slices of shared keys' limits, to the router."""
        leased = await self._use.sharing.lease(sharing.wishes(request))
        return sharing.allotments_message(leased)

    async def ExchangeOutages(self, request: Any, context: Context) -> Any:
        """Takes outages in and returns what every router found."""
        return sharing.outages_message(await self._use.sharing.exchange(sharing.outages(request)))

    async def ExportRevocations(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Streams what was revoked, in signed pages."""
        after, database = restoring.exported_so_far(request)
        async for page, mac in self._use.restoring.export(after=after, database=database):
            yield restoring_pb2.ExportRevocationsResponse(page=restoring.page_message(page, mac))

    async def ReplayRevocations(self, request: Any, context: Context) -> Any:
        """Revokes again, in a restored database, what a page says."""
        page, mac = restoring.page(request)
        revoked, state = await self._use.restoring.replay(_caller(), page, mac)
        return restoring_pb2.ReplayRevocationsResponse(
            revoked_count=revoked, status=restoring.status_message(state)
        )

    async def AcceptRestore(self, request: Any, context: Context) -> Any:
        """Lets a restored database serve."""
        through, name = restoring.accepted(request)
        state = await self._use.restoring.accept(_caller(), replayed_through=through, name=name)
        return restoring_pb2.AcceptRestoreResponse(status=restoring.status_message(state))

    async def GetRestoreStatus(self, request: Any, context: Context) -> Any:
        """Reads whether the database serves."""
        state = await self._use.restoring.state()
        return restoring_pb2.GetRestoreStatusResponse(status=restoring.status_message(state))

    async def VerifyAudit(self, request: Any, context: Context) -> Any:
        """Checks an account's audit trail against its chain and signed head."""
        account = _account(ACCOUNT, request.parent, "parent")
        verdict = await self._use.verify_audit(account, known_head=request.known_head)
        return mapping.verdict_message(account, verdict)


def _caller(request_id: str = "", *, required: bool = False) -> Caller:
    if request_id or required:
        request_id = parse_uuid(request_id, "request_id")
    return Caller(_identity(), request_id)


def _identity() -> str:
    call = current_call()
    return call.identity if call is not None else ""


def _account(pattern: ResourceName, name: str, field: str) -> str:
    """Return the account a name is about, if the caller may touch it."""
    account = pattern.parse(name, field)["account"]
    _check_access(account)
    return account


def _key(name: str, field: str) -> tuple[str, str]:
    """Return account and key of a name, if the caller may touch it."""
    ids = KEY.parse(name, field)
    _check_access(ids["account"])
    return ids["account"], ids["key"]


def _check_access(account: str) -> None:
    """Keep the product's shared keys to operators, and to the router that calls with them."""
    identity = _identity()
    if account == PLATFORM and identity not in {OPERATOR, ROUTER}:
        message = f"the identity '{identity}' may not touch the keys of this account"
        raise AccessDeniedError(message, metadata={"identity": identity})


def _rate(request: Any) -> int:
    """Return how many records a second a run may do."""
    rate: int = request.records_per_second_max or RUN_RATE_DEFAULT
    if not 1 <= rate <= RUN_RATE_MAX:
        advice = f"must be from 1 to {RUN_RATE_MAX}; 0 means {RUN_RATE_DEFAULT}"
        raise InvalidArgumentError.of("records_per_second_max", advice)
    return rate


def _span(request: Any) -> timedelta | None:
    if not request.HasField("retry_after"):
        return None
    span: timedelta = request.retry_after.ToTimedelta()
    if span < timedelta(0):
        raise InvalidArgumentError.of("retry_after", "must not be negative")
    return span
