# SPDX-License-Identifier: Apache-2.0
"""The command's exit codes, by family; the README lists them."""

from __future__ import annotations

from enum import IntEnum

from grpc import StatusCode


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    """It was done."""
    NOT_GOOD = 1
    """It was done and what it found is not good, or it was declined at its question."""
    USAGE = 2
    """The input is wrong: an option, a file, or a value that the service refuses."""
    NOT_FOUND = 3
    """There is no such thing."""
    REFUSED = 4
    """It is against a rule as things stand."""
    NOT_ALLOWED = 5
    """The caller may not do this."""
    UNAVAILABLE = 6
    """Something is away, busy or too slow: try again later."""
    FAULT = 70
    """A fault of a service or of this command."""
    INTERRUPTED = 130
    """Ctrl-C."""
    PIPE_CLOSED = 141
    """What read the output is gone."""


_BY_CODE = {
    StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    StatusCode.OUT_OF_RANGE: Exit.USAGE,
    StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    StatusCode.ALREADY_EXISTS: Exit.REFUSED,
    StatusCode.FAILED_PRECONDITION: Exit.REFUSED,
    StatusCode.UNIMPLEMENTED: Exit.REFUSED,
    StatusCode.UNAUTHENTICATED: Exit.NOT_ALLOWED,
    StatusCode.PERMISSION_DENIED: Exit.NOT_ALLOWED,
    StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    StatusCode.RESOURCE_EXHAUSTED: Exit.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
}


def exit_of(code: StatusCode) -> Exit:
    """The exit code for a failed call; codes that no service sends are faults."""
    return _BY_CODE.get(code, Exit.FAULT)
