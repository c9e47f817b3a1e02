# SPDX-License-Identifier: Apache-2.0
"""Where Prometheus reads: plain text, on the address that was given, and nothing else."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.shared.boundary import CallRecord
from services.shared.config import ConfigError
from services.shared.metrics import MetricsListener, observe_rpc
from tests.support.tls import Issuer, sample_service
from tests.support.tls import read as certificates_of

RPC = "/ownkey.sample.v1.SampleService/Read"

pytestmark = pytest.mark.requirement("O6")


def read(port: int, host: str = "127.0.0.1") -> dict[str, float]:
    """Read once; the samples of the RPC."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("rpc") == RPC and "le" not in sample.labels
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
async def test_calls_that_have_ended_are_read(address: str) -> None:
    listener = MetricsListener(f"{address}:0")
    try:
        before = await asyncio.to_thread(read, listener.port, address)
        observe_rpc(CallRecord(RPC, "router", "OK", "", 0.25))
        after = await asyncio.to_thread(read, listener.port, address)
    finally:
        await asyncio.to_thread(listener.close)
    for name, added in {
        "ownkey_rpc_calls_total": 1,
        "ownkey_rpc_duration_seconds_count": 1,
        "ownkey_rpc_duration_seconds_sum": 0.25,
    }.items():
        assert after[name] - before.get(name, 0) == added


async def test_a_reader_that_says_nothing_does_not_keep_it_from_ending() -> None:
    listener = MetricsListener("127.0.0.1:0")
    _, silent = await asyncio.open_connection("127.0.0.1", listener.port)
    silent.close()
    async with asyncio.timeout(20):
        await asyncio.to_thread(listener.close)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", listener.port)


async def test_a_port_in_use_is_told_with_the_remedy() -> None:
    listener = MetricsListener("127.0.0.1:0")
    try:
        with pytest.raises(ConfigError, match="stop that process or choose another address"):
            MetricsListener(f"127.0.0.1:{listener.port}")
    finally:
        await asyncio.to_thread(listener.close)


async def test_a_server_shows_when_its_certificate_ends(tmp_path: Path) -> None:
    files = Issuer().issue(tmp_path / "router", "router")
    certificates = certificates_of(files)
    async with sample_service(certificates, metrics_listen="127.0.0.1:0") as running:
        assert running.metrics is not None
        address = f"http://127.0.0.1:{running.metrics.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
    (shown,) = (
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("ownkey_certificate_end_timestamp_seconds ")
    )
    assert shown == certificates.current().not_after.timestamp()
