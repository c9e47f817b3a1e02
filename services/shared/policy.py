# SPDX-License-Identifier: Apache-2.0
"""
What an identity may call, and for which accounts; what is not listed is denied.

A policy is rules only: `policy_file` reads it, `access` holds calls against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.shared.names import ID_PATTERN

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

ACCOUNT_PATTERN = re.compile(rf"accounts/(?:\*|{ID_PATTERN}|[a-z][a-z0-9-]{{0,61}}\*)")
"""An account's name, `accounts/acme`, or those that begin alike, `accounts/acme-*`."""

_ACCOUNT = re.compile(r"accounts/[^/]*")
_FIELDS = frozenset({"account", "accounts", "parent", "name", "key", "authorization", "job"})
"""String fields of requests that may name an account or something of one."""
_ID_FIELD = "account_id"
"""The string field that names an account still to be made."""

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Denial:
    """
    Why a call is denied.

    Args:
        reason: For metrics: `rpc_not_allowed` or `account_not_allowed`.
        advice: The sentence for a person.
    """

    reason: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    Who is who, and who may call what.

    Args:
        identity_of_name: SPIFFE URI or DNS name of a certificate to the identity it shows.
        with_token: Identities that a token shows too.
        grants: Identity and RPC, `/package.Service/Method`, to the accounts it is allowed for, each
            as ACCOUNT_PATTERN has it; None for all.
        account_paths: RPC to the request fields that may name an account.
    """

    identity_of_name: Mapping[str, str] = field(default_factory=dict)
    with_token: frozenset[str] = frozenset()
    grants: Mapping[tuple[str, str], tuple[str, ...] | None]
    account_paths: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def denial(self, identity: str, rpc: str, accounts: Iterable[str]) -> Denial | None:
        """
        Tell why a call is denied; None if it is allowed.

        Args:
            identity: Who calls.
            rpc: Full method name, `/package.Service/Method`.
            accounts: Every account that the request names; read only where it matters.
        """
        if (identity, rpc) not in self.grants:
            advice = (
                f"the identity '{identity}' may not call {rpc}; ask an operator to allow it in the "
                "policy, or call with another identity"
            )
            return Denial("rpc_not_allowed", advice)
        allowed = self.grants[identity, rpc]
        if allowed is None:
            return None
        named = sorted(set(accounts))
        if named and all(any(matches(account, one) for one in allowed) for account in named):
            return None
        what = "not for this account" if named else "only for an account that the request names"
        advice = (
            f"the identity '{identity}' may call {rpc}, but {what}: the policy allows it "
            f"{', '.join(allowed)}; ask an operator to allow more"
        )
        return Denial("account_not_allowed", advice)

    def accounts_in(self, rpc: str, request: Message) -> Iterable[str]:
        """Give every account that a request names, in its own account's or another name."""
        for path in self.account_paths.get(rpc, ()):
            for value in _values(request, path):
                if path[-1] == _ID_FIELD:
                    yield f"accounts/{value}"
                elif found := _ACCOUNT.match(value):
                    yield found.group()


def account_paths(message: Descriptor) -> tuple[Path, ...]:
    """Give the paths of a request's fields that may name an account, through all its messages."""
    return tuple(_paths(message, (), ()))


def _paths(message: Descriptor, before: Path, within: tuple[str, ...]) -> Iterable[Path]:
    for one in message.fields:
        path = (*before, one.name)
        if one.message_type is not None:
            own = one.message_type.full_name
            if own.startswith("ownkey.") and own not in within:
                yield from _paths(one.message_type, path, (*within, own))
        elif one.type == one.TYPE_STRING and (one.name in _FIELDS or one.name == _ID_FIELD):
            yield path


def _values(message: Message, path: Path) -> Iterable[str]:
    found = getattr(message, path[0])
    here = [found] if isinstance(found, str) or hasattr(found, "DESCRIPTOR") else found
    for one in here:
        if len(path) == 1:
            if one:
                yield one
        else:
            yield from _values(one, path[1:])


def matches(account: str, allowed: str) -> bool:
    """Tell whether an account, or all that begin alike, lie within what a rule allows."""
    if allowed.endswith("*"):
        return account.startswith(allowed[:-1])
    return account == allowed
