# SPDX-License-Identifier: Apache-2.0
"""A failed call for people: the reason, the sentence, faults, what was tried, what to do next."""

from __future__ import annotations

from typing import Any

import grpc
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.exits import Exit
from client.ownkey_cli.output import as_dict
from client.ownkey_cli.texts import clean, seconds_text
from client.ownkey_cli.views.receipts import attempts_table
from client.ownkey_cli.views.tables import grid
from client.ownkey_client.failure import Failure

NEXT_STEPS = {
    "ACCESS_DENIED": "--token-file <path> with an operator's token; `make run` keeps one in "
    ".ownkey/secrets/tokens/operator",
    "UNAUTHENTICATED": "name the token file of this suite by --token-file, or none; over TLS, a "
    "certificate that the policy names",
    "KEY_NOT_FOUND": "ownkey keys list",
    "KEY_ALREADY_EXISTS": "choose another --id, or leave it out for a random one",
    "KEY_DISABLED": "ownkey keys enable <key>",
    "KEY_INVALID": "check the key at the provider, then ownkey keys replace <key>",
    "KEY_NO_CREDIT": "add money at the provider, then ownkey keys test <key>",
    "KEY_FORBIDDEN": "give the key its permission at the provider, then ownkey keys test <key>",
    "KEY_LIMIT_REACHED": "ownkey keys delete <key> for one that is no longer needed",
    "PROVIDER_UNREACHABLE": "try again, or store it untested by --store-unverified",
    "PROVIDER_WITHOUT_KEY": "ownkey keys add --provider <provider>",
    "ETAG_MISMATCH": "look at it as it is now and try again",
    "KEK_UNAVAILABLE": "ownkey kek status",
    "RECORD_REFUSED": "ownkey keys replace <key>",
    "ACCOUNT_NOT_FOUND": "check --account and OWNKEY_ACCOUNT, or ownkey accounts create <account>",
    "ACCOUNT_EXISTS": "ownkey accounts show --account <account>",
    "PLAN_NOT_FOUND": "ownkey plans",
    "MODE_NOT_ALLOWED": "ownkey plans",
    "SOURCE_NOT_ALLOWED": "ownkey mode show; ownkey mode set own-key-first",
    "NO_USABLE_OWN_KEY": "ownkey keys list; ownkey keys test <key>",
    "FALLBACK_NOT_ALLOWED": "ownkey keys list, or --source credits for this request",
    "INSUFFICIENT_CREDITS": "ownkey credits balance; ownkey credits grant <credits>",
    "CREDITS_NOT_POSSIBLE": "ownkey explain with the same options",
    "NO_CANDIDATE": "ownkey explain with the same options",
    "MODEL_NOT_FOUND": "ownkey models",
    "MODEL_NOT_CURATED": "ownkey providers --curated",
    "RATE_LIMITED": "wait, or --source credits for this request",
    "REQUEST_ID_REUSED": "leave --request-id out to make a new request",
}
"""What to try with this command, by reason; the service's own sentence stands above it."""


HANDSHAKES = (
    (
        "certificate has expired",
        "The certificate of {where} has ended.",
        "issue it a new one; for those of ownkey certs init: ownkey certs renew <folder>",
    ),
    (
        "certificate is not yet valid",
        "The certificate of {where} is not valid yet.",
        "set this machine's clock right, or wait",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The certificate of {where} is of no authority that --tls-ca names.",
        "name the authority of that suite by --tls-ca",
    ),
    (
        "Hostname Verification Check failed",
        "The certificate of {where} is for other names: something else may be answering there.",
        "use a name that `ownkey certs show` lists for it, or issue one with this name",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "What answers for {where} speaks plain text, and you speak TLS.",
        "leave out --tls-certificate, --tls-key and --tls-ca",
    ),
    (
        "Socket closed",
        "The handshake was broken off by {where}: yours is untrusted, or only one side speaks TLS.",
        "name its certificates by --tls-certificate, --tls-key and --tls-ca; its log says why",
    ),
)
"""What gRPC says of a connection that did not come about, what that means, what to do."""


def failure_view(failure: Failure, address: str) -> RenderableType:
    """
    The failure for people.

    Args:
        failure: What the call told.
        address: Where the service was looked for.
    """
    message, step = failure.message, NEXT_STEPS.get(failure.reason, "")
    if not failure.reason:
        message, step = _no_answer(failure, address)
    rows: list[tuple[str, str]] = [
        (fault.field, fault.description)
        for fault in failure.fields
        if fault.description not in message
    ]
    if step:
        rows.append(("next", step))
    if failure.retry_after_seconds is not None:
        rows.append(("retry", f"in {seconds_text(failure.retry_after_seconds)}"))
    title = Text.assemble(
        (failure.reason or failure.code.name, "bold red"), f" ({failure.service}) ", clean(message)
    )
    parts: list[RenderableType] = [title]
    if failure.attempts:
        parts.append(attempts_table(failure.attempts))
    if rows:
        parts.append(grid(rows))
    return Group(*parts)


def failure_document(failure: Failure, exit_code: Exit) -> dict[str, Any]:
    """The failure for programs."""
    return {
        "service": failure.service,
        "code": failure.code.name,
        "reason": failure.reason,
        "message": failure.message,
        "metadata": failure.metadata,
        "fields": [
            {"field": fault.field, "description": fault.description} for fault in failure.fields
        ],
        "retry_after_seconds": failure.retry_after_seconds,
        "attempts": [as_dict(attempt) for attempt in failure.attempts],
        "exit_code": int(exit_code),
    }


def _no_answer(failure: Failure, address: str) -> tuple[str, str]:
    """The service did not answer by itself, so gRPC's own words say little to a person."""
    where = f"the {failure.service} at {address}"
    if failure.code is grpc.StatusCode.UNAVAILABLE:
        for phrase, message, step in HANDSHAKES:
            if phrase in failure.message:
                return message.format(where=where), step
        return (
            f"Nobody answers for {where}.",
            f"start it (`make run` starts all), or name another place by --{failure.service}",
        )
    if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"No answer from {where} in time.", "try again; look at its log if it stays so"
    if failure.code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"What listens for {where} does not know this call.",
            "check that the address is that service's, of this version",
        )
    return f"The call to {where} failed: {failure.message}", ""
