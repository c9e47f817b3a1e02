# SPDX-License-Identifier: Apache-2.0
"""Holds every call, through whichever door, against the policy; denials are logged and counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Counter

from services.shared.errors import (
    AccessDeniedError,
    CertificateEndedError,
    UnauthenticatedError,
)
from services.shared.identity import Caller, Identities
from services.shared.logging import get_logger
from services.shared.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

    from services.shared.clock import Clock

UNKNOWN_CALLER = "unknown_caller"
CERTIFICATE_ENDED = "certificate_ended"

DENIALS = Counter(
    "ownkey_access_denials",
    "Calls denied, by RPC and reason: unknown_caller, certificate_ended, rpc_not_allowed, "
    "account_not_allowed.",
    ["rpc", "reason"],
)

log = get_logger()


class Access:
    """
    Lets callers in.

    Args:
        policy: Who may call what.
        tokens_dir: Holds the token files; None where tokens are not taken.
        clock: Time.

    Raises:
        ConfigError: If a token file cannot be used.
    """

    def __init__(self, policy: Policy, *, tokens_dir: Path | None, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._identities = Identities(policy, tokens_dir=tokens_dir)

    def identify(self, caller: Caller, rpc: str) -> str:
        """
        Return who calls.

        Raises:
            UnauthenticatedError: If what was shown is nobody's, or has ended.
        """
        try:
            return self._identities.identify(caller, now=self._clock.now())
        except UnauthenticatedError as fault:
            ended = isinstance(fault, CertificateEndedError)
            reason = CERTIFICATE_ENDED if ended else UNKNOWN_CALLER
            self._deny(rpc, reason, advice=fault.message)
            raise

    def check(self, identity: str, rpc: str, accounts: Iterable[str]) -> None:
        """
        Let a call pass; what it names need not exist.

        Args:
            identity: Who calls.
            rpc: Full method name, one of those served.
            accounts: Every account that the request names.

        Raises:
            AccessDeniedError: If the identity may not make it.
        """
        denial = self._policy.denial(identity, rpc, accounts)
        if denial is not None:
            self._deny(rpc, denial.reason, advice=denial.advice, identity=identity)
            raise AccessDeniedError(denial.advice, metadata={"identity": identity, "rpc": rpc})

    def accounts_in(self, rpc: str, request: Message) -> Iterable[str]:
        """Give every account that a request names."""
        return self._policy.accounts_in(rpc, request)

    def _deny(self, rpc: str, reason: str, **told: str) -> None:
        DENIALS.labels(rpc=rpc, reason=reason).inc()
        log.warning("access_denied", rpc=rpc, reason=reason, **told)
