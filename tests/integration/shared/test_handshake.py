# SPDX-License-Identifier: Apache-2.0
"""A service that cannot connect to another has the reason and the remedy in its log."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest
from cryptography import x509
from google.protobuf.wrappers_pb2 import StringValue

from deploy.local.certificates import files_in
from services.shared.certificates import Certificates, TlsFiles
from services.shared.channel import open_channel
from services.shared.clock import SystemClock
from services.shared.handshake import handshake_advice
from tests.support.tls import DAY, ECHO, Issuer, sample_service

CALL_SECONDS_MAX = 20

pytestmark = pytest.mark.requirement("O5", "O6")


def server_files(case: str, issuer: Issuer, folder: Path) -> TlsFiles:
    """What the service that is called shows: good but for the case."""
    if case == "of another authority":
        return foreign("keyvault", issuer, folder)
    if case == "for other names":
        names = [x509.DNSName("elsewhere.example.com")]
        issuer.authority.issue(
            folder, names, common_name="keyvault", now=issuer.now, lifetime=10 * DAY
        )
        return files_in(folder)
    return issuer.issue(folder, "keyvault")


def caller_files(case: str, issuer: Issuer, folder: Path) -> TlsFiles:
    """What the caller shows: good but for the case."""
    if case == "the caller is of another authority":
        return foreign("router", issuer, folder)
    return issuer.issue(folder, "router")


def foreign(identity: str, issuer: Issuer, folder: Path) -> TlsFiles:
    """One of an authority that only its owner trusts, beside the authority of all others."""
    other = Issuer("two")
    trusted = other.authority.pem + issuer.authority.pem
    return other.issue(folder, identity, trusted=trusted)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("of another authority", "of no authority in TLS_CA_FILE"),
        ("for other names", "is for other names"),
        ("the caller is of another authority", "of no authority that the other trusts"),
    ],
)
async def test_a_handshake_that_fails_is_told_with_the_remedy(
    tmp_path: Path, case: str, told: str
) -> None:
    issuer = Issuer()
    shown = read(server_files(case, issuer, tmp_path / "server"))
    own = caller_files(case, issuer, tmp_path / "caller")
    async with (
        sample_service(shown) as running,
        open_channel(f"127.0.0.1:{running.port}", read(own)) as channel,
    ):
        call = channel.unary_unary(ECHO, StringValue.SerializeToString, StringValue.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as fault:
            await call(StringValue(), timeout=CALL_SECONDS_MAX)
    assert told in handshake_advice(fault.value.details())["advice"], fault.value.details()


async def test_a_service_that_speaks_plain_text_is_told(tmp_path: Path) -> None:
    own = read(Issuer().issue(tmp_path, "router"))
    async with (
        sample_service(None) as running,
        open_channel(f"127.0.0.1:{running.port}", own) as channel,
    ):
        call = channel.unary_unary(ECHO, StringValue.SerializeToString, StringValue.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as fault:
            await call(StringValue(), timeout=CALL_SECONDS_MAX)
    assert "plain text" in handshake_advice(fault.value.details())["advice"]


@pytest.mark.parametrize("details", [None, "", "failed to connect to all addresses; refused"])
def test_of_other_failures_nothing_is_said(details: str | None) -> None:
    assert handshake_advice(details) == {}


def read(files: TlsFiles) -> Certificates:
    return Certificates(files, clock=SystemClock())
