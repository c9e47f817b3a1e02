# SPDX-License-Identifier: Apache-2.0
"""Only public addresses are connected to."""

from __future__ import annotations

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from services.router.adapters.transport import PublicResolver

pytestmark = pytest.mark.requirement("R16")


class FakeResolver(AbstractResolver):
    """Knows one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give its addresses."""
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


@pytest.mark.parametrize(
    "address",
    [
        "20.42.64.1",
        "2603:1030:7::155",
        "::ffff:20.42.64.1",
        "64:ff9b::142a:4001",
        "2002:142a:4001::",
    ],
)
async def test_a_public_address_is_connected_to(address: str) -> None:
    found = await PublicResolver(FakeResolver(address)).resolve("contoso.openai.azure.com", 443)
    assert [item["host"] for item in found] == [address]


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.1.2.3"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fd00::1", "fe80::1", "ff02::1"),
        *("::ffff:10.0.0.5", "64:ff9b::a00:5", "2002:a00:5::"),
    ],
)
async def test_a_name_that_leads_inside_is_not_followed(address: str) -> None:
    with pytest.raises(OSError, match="not public"):
        await PublicResolver(FakeResolver("20.42.64.1", address)).resolve("evil.openai.azure.com")


async def test_what_looks_up_is_closed_with_it() -> None:
    inner = FakeResolver()
    await PublicResolver(inner).close()
    assert inner.closed
