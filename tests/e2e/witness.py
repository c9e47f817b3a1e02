# SPDX-License-Identifier: Apache-2.0
"""What tests look at: whole errors, and all that is on record of an account."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from ownkey.keyvault.v1 import keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2, entry_pb2, grant_pb2

from deploy.local.clients import Clients
from services.shared.status import RichStatus, from_rpc_error

WORDS_MIN = 3
"""Shorter is no sentence."""
PAGE = 1_000

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Whole:
    """
    All that is on record of an account, each resource as it was answered.

    Args:
        keys: Keyvault's keys, health included.
        settings: Keyvault's settings.
        account: The ledger's account; empty for one it does not know.
        balance: What it owns, without the time of reading.
        entries: Every movement.
        authorizations: Every attempt.
    """

    keys: tuple[str, ...]
    settings: str
    account: str
    balance: str
    entries: tuple[str, ...]
    authorizations: tuple[str, ...]

    def differences(self, other: Whole) -> list[str]:
        """What is not the same in another one, by name."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]


async def whole(clients: Clients, account: str) -> Whole:
    """Reads all that is on record of an account."""
    operator = clients.operator
    keys = await clients.keyvault.ListKeys(
        keyvault_service_pb2.ListKeysRequest(parent=account, page_size=PAGE), metadata=operator
    )
    settings = await clients.keyvault.GetSettings(
        keyvault_service_pb2.GetSettingsRequest(name=f"{account}/settings"), metadata=operator
    )
    for key in keys.keys:
        for health in key.health:
            health.ClearField("remaining_millis")
    try:
        found = await clients.ledger.GetAccount(account_pb2.GetAccountRequest(name=account))
    except grpc.aio.AioRpcError as fault:
        if from_rpc_error(fault).reason != "ACCOUNT_NOT_FOUND":
            raise
        return Whole(_texts(keys.keys), str(settings), "", "", (), ())
    balance = (
        await clients.ledger.GetBalance(grant_pb2.GetBalanceRequest(account=account))
    ).balance
    balance.ClearField("read_time")
    return Whole(
        keys=_texts(keys.keys),
        settings=str(settings),
        account=str(found),
        balance=str(balance),
        entries=_texts(await entries_of(clients, account)),
        authorizations=_texts(await authorizations_of(clients, account)),
    )


async def entries_of(clients: Clients, account: str) -> list[entry_pb2.Entry]:
    """Every movement of an account, newest first."""
    found: list[entry_pb2.Entry] = []
    token = ""
    while True:
        page = await clients.ledger.ListEntries(
            entry_pb2.ListEntriesRequest(parent=account, page_size=PAGE, page_token=token)
        )
        found.extend(page.entries)
        token = page.next_page_token
        if not token:
            return found


async def authorizations_of(
    clients: Clients, account: str
) -> list[authorization_pb2.Authorization]:
    """Every attempt of an account, newest first."""
    found: list[authorization_pb2.Authorization] = []
    token = ""
    while True:
        page = await clients.ledger.ListAuthorizations(
            authorization_pb2.ListAuthorizationsRequest(
                parent=account, page_size=PAGE, page_token=token
            )
        )
        found.extend(page.authorizations)
        token = page.next_page_token
        if not token:
            return found


async def posted(clients: Clients, account: str) -> int:
    """What an account owns, nano-credits."""
    answer = await clients.ledger.GetBalance(grant_pb2.GetBalanceRequest(account=account))
    return answer.balance.posted_nano_credits


async def refused(call: Awaitable[object]) -> RichStatus:
    """The whole status of a call that must be refused, held to the rules of every error."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as fault:
        status = from_rpc_error(fault)
    else:
        pytest.fail(f"a refusal was promised, got {type(answer).__name__}")
    hold_to_the_rules(status)
    return status


def hold_to_the_rules(status: RichStatus) -> None:
    """Exactly one ErrorInfo with reason and domain, and a sentence for a person."""
    told = f"{status.code.name}: {status.message}"
    infos = _details(status, error_details_pb2.ErrorInfo)
    assert len(infos) == 1, told
    assert infos[0].reason, told
    assert infos[0].domain in {"keyvault.ownkey", "router.ownkey", "ledger.ownkey"}, told
    assert len(status.message.split()) >= WORDS_MIN, told
    assert "Traceback" not in status.message, told
    assert "Error(" not in status.message, told
    if status.code is grpc.StatusCode.UNAVAILABLE and status.reason in _WAITING_HELPS:
        assert status.retry_after_seconds is not None, told


def domain(status: RichStatus) -> str:
    """The domain of a status' one ErrorInfo."""
    return _details(status, error_details_pb2.ErrorInfo)[0].domain


_WAITING_HELPS = {
    "STORE_UNAVAILABLE",
    "PEER_UNAVAILABLE",
    "KEK_UNAVAILABLE",
    "PROVIDER_UNREACHABLE",
    "PROVIDER_DOWN",
    "OWN_KEYS_UNKNOWN",
    "REQUEST_IN_PROGRESS",
    "SERVICE_CAPACITY",
}


def _details(status: RichStatus, kind: type[M]) -> list[M]:
    found = []
    for packed in status.status.details:
        message = kind()
        if packed.Is(message.DESCRIPTOR):
            packed.Unpack(message)
            found.append(message)
    return found


def _texts(messages: Iterable[Message]) -> tuple[str, ...]:
    return tuple(str(message) for message in messages)
