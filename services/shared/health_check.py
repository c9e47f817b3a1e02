# SPDX-License-Identifier: Apache-2.0
"""
`python -m services.shared.health_check 127.0.0.1:7110`: an image's health command.

Asks a health listener, which speaks plain text and holds nothing else, whether its process serves.
See https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0
SERVING = 0
NOT_SERVING = 1
WRONG_USE = 2


def check(address: str) -> int:
    """Return the exit code: 0 where the process serves, else 1 and a sentence to standard error."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # Its type names no methods.
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as fault:
            sys.stderr.write(f"{address} did not tell its health: {fault.code().name}\n")
            return NOT_SERVING
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        sys.stderr.write(f"{address} says {status}\n")
        return NOT_SERVING
    return SERVING


def main(arguments: list[str]) -> int:
    """Run the command that was given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m services.shared.health_check <host:port>\n")
        return WRONG_USE
    return check(arguments[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
