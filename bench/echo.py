# SPDX-License-Identifier: Apache-2.0
"""A gRPC server that answers every unary call with nothing: the most that any server could do."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import grpc.aio
import uvloop


class Empty(grpc.GenericRpcHandler):
    """Answers every method."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return a handler that answers with no bytes; no health, which passes for good health."""
        if details.method.startswith("/grpc.health."):
            return None
        return grpc.unary_unary_rpc_method_handler(_answer)


async def _answer(_request: bytes, _context: Any) -> bytes:
    return b""


async def serve(port: int) -> None:
    """Serve until ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Empty(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
