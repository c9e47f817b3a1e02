# SPDX-License-Identifier: Apache-2.0
"""A request goes out only if its key may be used in the very step that writes it."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.router.adapters.transport import AiohttpTransport
from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import HTTPRequest, ProviderError
from services.router.usecases.ports import StaleKeyError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECONDS = 20.0


class Provider:
    """A socket that keeps what arrives and answers all of it alike."""

    def __init__(self, answer: bytes, *, leaves: bool) -> None:
        self.arrived = b""
        self.address = ""
        self.connections = 0
        self._answer = answer
        self._leaves = leaves

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(65_536):
            self.arrived += data
            writer.write(self._answer)
            if self._leaves:
                break
        writer.close()


@asynccontextmanager
async def a_provider(answer: bytes = ANSWER, *, leaves: bool = False) -> AsyncIterator[Provider]:
    """Yield a provider; one that leaves closes the connection after its answer."""
    provider = Provider(answer, leaves=leaves)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider.address = f"http://127.0.0.1:{port}/v1"
    async with server:
        yield provider


class Asked:
    """Whether the key may be used: yes for the first so many questions."""

    def __init__(self, yes: int) -> None:
        self.count = 0
        self._yes = yes

    def __call__(self) -> bool:
        self.count += 1
        return self.count <= self._yes


async def status(transport: AiohttpTransport, provider: Provider, body: bytes, asked: Asked) -> int:
    request = HTTPRequest(
        method="POST" if body else "GET",
        url=provider.address,
        headers={"authorization": "Bearer secret", "content-type": "application/json"},
        body=body,
    )
    async with transport.send(
        request, may_send=asked, head_seconds=SECONDS, idle_seconds=SECONDS
    ) as answer:
        await answer.read()
        return answer.status


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    opened = AiohttpTransport()
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.requirement("K15")
@pytest.mark.parametrize("body", [b"{}", b""], ids=["with a body", "without one"])
class TestLease:
    async def test_a_request_is_sent_after_one_question(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        asked = Asked(yes=1)
        async with a_provider() as provider:
            assert await status(transport, provider, body, asked) == 200
            assert b"Bearer secret" in provider.arrived
        assert asked.count == 1

    async def test_nothing_is_sent_once_the_key_may_not_be_used(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        async with a_provider() as provider:
            with pytest.raises(StaleKeyError):
                await status(transport, provider, body, Asked(yes=0))
            assert provider.arrived == b""

    async def test_a_pooled_connection_serves_whoever_comes_next(
        self, transport: AiohttpTransport, body: bytes
    ) -> None:
        async with a_provider() as provider:
            assert await status(transport, provider, body, Asked(yes=1)) == 200
            with pytest.raises(StaleKeyError):
                await status(transport, provider, body, Asked(yes=0))
            assert await status(transport, provider, body, Asked(yes=1)) == 200
            assert provider.arrived.count(b"Bearer secret") == 2


async def read(
    transport: AiohttpTransport,
    provider: Provider,
    *,
    bearer: str = "secret",
    idle_seconds: float = SECONDS,
) -> tuple[int, bytes]:
    """Post a body, and give the status and body of the answer."""
    request = HTTPRequest("POST", provider.address, {"authorization": f"Bearer {bearer}"}, b"{}")
    async with transport.send(
        request, may_send=lambda: True, head_seconds=SECONDS, idle_seconds=idle_seconds
    ) as answer:
        return answer.status, await answer.read()


def chunked(*pieces: bytes) -> bytes:
    """Give an answer in chunks, without its end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    return head + b"\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.requirement("R11")
class TestAnswers:
    async def test_what_comes_before_the_answer_is_passed_over(
        self, transport: AiohttpTransport
    ) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        async with a_provider(early + ANSWER) as provider:
            assert await read(transport, provider) == (200, b"ok")

    async def test_a_compressed_body_is_unpacked(self, transport: AiohttpTransport) -> None:
        packed = gzip.compress(b"an answer")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n"
        async with a_provider(head.encode() + b"\r\n" + packed) as provider:
            assert await read(transport, provider) == (200, b"an answer")

    async def test_a_body_without_a_length_ends_with_its_connection(
        self, transport: AiohttpTransport
    ) -> None:
        async with a_provider(b"HTTP/1.1 200 OK\r\n\r\nall of it", leaves=True) as provider:
            assert await read(transport, provider) == (200, b"all of it")

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
            chunked(b"part"),
            b"no HTTP\r\n\r\n",
        ],
        ids=["no answer", "half a body", "half the chunks", "another protocol"],
    )
    async def test_an_answer_that_breaks_off_may_have_been_billed(
        self, transport: AiohttpTransport, answer: bytes
    ) -> None:
        async with a_provider(answer, leaves=True) as provider:
            with pytest.raises(ProviderError) as broken:
                await read(transport, provider)
        assert (broken.value.outcome, broken.value.billed) == (
            Outcome.NETWORK,
            Billed.MAYBE_BILLED,
        )

    async def test_a_body_that_stops_coming_is_a_timeout(self, transport: AiohttpTransport) -> None:
        async with a_provider(chunked(b"part")) as provider:
            with pytest.raises(ProviderError) as late:
                await read(transport, provider, idle_seconds=0.05)
        assert (late.value.outcome, late.value.billed) == (Outcome.TIMEOUT, Billed.MAYBE_BILLED)

    async def test_only_a_connection_whose_answer_was_read_serves_again(
        self, transport: AiohttpTransport
    ) -> None:
        async with a_provider() as provider:
            for _ in range(3):
                await read(transport, provider)
            assert provider.connections == 1
        request = HTTPRequest("POST", "", {}, b"{}")
        async with a_provider(chunked(b"part")) as provider:
            request = dataclasses.replace(request, url=provider.address)
            for _ in range(2):
                async with transport.send(
                    request, may_send=lambda: True, head_seconds=SECONDS, idle_seconds=SECONDS
                ) as answer:
                    assert await anext(aiter(answer.chunks())) == b"part"
            assert provider.connections == 2


@pytest.mark.requirement("R16", "K8")
class TestRequests:
    @pytest.mark.parametrize("value", ["a\r\nx-more: b", "a\nb", "a\rb", "a\0b"])
    async def test_a_header_cannot_become_two(
        self, transport: AiohttpTransport, value: str
    ) -> None:
        async with a_provider() as provider:
            request = HTTPRequest("POST", provider.address, {"authorization": value}, b"{}")
            with pytest.raises(ValueError, match="line break") as refused:
                async with transport.send(
                    request, may_send=lambda: True, head_seconds=SECONDS, idle_seconds=SECONDS
                ):
                    pass
            assert value not in str(refused.value)
            assert provider.arrived == b""

    async def test_a_request_says_where_it_goes_and_how_long_it_is(
        self, transport: AiohttpTransport
    ) -> None:
        async with a_provider() as provider:
            await read(transport, provider)
            head, _, body = provider.arrived.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /v1 HTTP/1.1"
        assert f"host: {provider.address.split('/')[2]}" in lines
        assert "content-length: 2" in lines
        assert body == b"{}"

    async def test_a_pooled_connection_carries_nothing_of_the_key_before(
        self, transport: AiohttpTransport
    ) -> None:
        """What an answer to one key wants kept is not sent with another."""
        cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=first; Path=/\r\n"
        async with a_provider(cookie + b"Content-Length: 2\r\n\r\nok") as provider:
            heads = []
            for bearer in ("first", "second"):
                provider.arrived = b""
                await read(transport, provider, bearer=bearer)
                heads.append(provider.arrived.decode().lower())
            assert provider.connections == 1
        assert not any("cookie" in head for head in heads)
        assert [head.count("authorization:") for head in heads] == [1, 1]
        assert "authorization: bearer second\r\n" in heads[1]
        assert "first" not in heads[1]
