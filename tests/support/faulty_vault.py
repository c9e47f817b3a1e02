# SPDX-License-Identifier: Apache-2.0
"""A server that speaks as much of Vault's HTTP API as keyvault uses, and fails as it is told to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

PLAINTEXT = bytes(range(32))

Items = list[dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """
    One answer that goes wrong.

    Args:
        status: HTTP status.
        body: What is sent.
        cut: Announce more than is sent, then break the connection.
        silent: Break the connection without an answer.
        hangs: Never answer.
        location: Where it redirects to.
    """

    status: int = HTTPStatus.OK
    body: bytes = b""
    cut: bool = False
    silent: bool = False
    hangs: bool = False
    location: str = ""


def answer(status: int, **body: Any) -> Fault:
    """Make an answer with a JSON body."""
    return Fault(status, json.dumps(body).encode())


def results(change: Callable[[Items], Items]) -> Callable[[Items], Fault]:
    """Make an answer of the right results, changed."""
    return lambda items: answer(HTTPStatus.OK, data={"batch_results": change(items)})


@dataclass
class FaultyVault:
    """
    The server.

    Args:
        address: Where it listens.
        faults: Answers to the next uses of the key; when they are over all is well.
        lasting: Answers every use once `faults` are over; None for all being well.
        uses: Paths of uses so far, with the token of each.
        logins: Logins so far.
        namespaces: Every namespace that was named so far; "" where none was.
        login_fault: Answers every login; None for all being well.
    """

    address: str = ""
    faults: deque[Fault | Callable[[Items], Fault]] = field(default_factory=deque)
    lasting: Fault | Callable[[Items], Fault] | None = None
    uses: list[tuple[str, str]] = field(default_factory=list)
    logins: int = 0
    namespaces: set[str] = field(default_factory=set)
    login_fault: Fault | None = None

    def answer_to(self, path: str, token: str, body: dict[str, Any]) -> Fault:
        """Decide on an answer."""
        if path.startswith("/v1/auth/"):
            self.logins += 1
            if self.login_fault is not None:
                return self.login_fault
            auth = {"client_token": f"token-{self.logins}", "lease_duration": 3600}
            return answer(HTTPStatus.OK, auth=auth)
        self.uses.append((path, token))
        items = [
            {
                "reference": item["reference"],
                "plaintext": base64.b64encode(PLAINTEXT).decode(),
                "ciphertext": item["ciphertext"],
            }
            for item in body.get("batch_input", [])
        ]
        fault = self.faults.popleft() if self.faults else self.lasting
        if fault is None:
            return answer(HTTPStatus.OK, data={"batch_results": items})
        return fault if isinstance(fault, Fault) else fault(items)


@asynccontextmanager
async def faulty_vault() -> AsyncIterator[FaultyVault]:
    """A server on a free port of loopback, without TLS."""
    vault = FaultyVault()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _exchange(vault, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client went away.
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    vault.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield vault
    finally:
        server.close()


async def _exchange(
    vault: FaultyVault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Answer one request; tell whether the connection goes on."""
    request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    path = request_line.split(" ")[1]
    vault.namespaces.add(headers.get("x-vault-namespace", ""))
    fault = vault.answer_to(path, headers.get("x-vault-token", ""), json.loads(body or b"{}"))
    if fault.hangs:
        await reader.read()
        return False
    if fault.silent:
        return False
    length = len(fault.body) + 100 * fault.cut
    location = f"Location: {fault.location}\r\n" if fault.location else ""
    head = f"HTTP/1.1 {int(fault.status)} -\r\nContent-Length: {length}\r\n{location}\r\n"
    writer.write(head.encode() + fault.body)
    await writer.drain()
    return not fault.cut
