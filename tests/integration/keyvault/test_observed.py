# SPDX-License-Identifier: Apache-2.0
"""What people on call see of a real Vault behind the cache of data keys."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from prometheus_client import REGISTRY

from deploy.local.vault import LocalVault
from services.keyvault.adapters.metrics import PrometheusCacheMeter
from services.keyvault.usecases.data_keys import DataKeys
from services.shared import tracing
from services.shared.clock import SystemClock
from services.shared.otlp import OtlpTracer
from tests.support.collector import collecting
from tests.support.vault_transit import vault_transit

pytestmark = pytest.mark.requirement("O6")


def figure(name: str, **labels: str) -> float:
    """A figure of this process; zero before it was first counted."""
    return REGISTRY.get_sample_value(f"ownkey_keyvault_{name}", labels) or 0.0


async def test_a_burst_on_one_cold_key_is_one_call_of_vault_in_its_first_trace(
    vault: LocalVault,
) -> None:
    transit = vault_transit(vault)
    data_keys = DataKeys(
        transit,
        clock=SystemClock(),
        age_seconds_max=60,
        grace_seconds=5,
        count_max=10,
        meter=PrometheusCacheMeter(),
    )
    made = await transit.generate_data_key(b"context")
    names = (
        ("vault_calls_total", {"operation": "decrypt", "outcome": "ok"}),
        ("vault_call_duration_seconds_count", {"operation": "decrypt"}),
        ("cache_lookups_total", {"outcome": "miss"}),
        ("cache_lookups_total", {"outcome": "hit"}),
    )
    before = [figure(name, **labels) for name, labels in names]
    with collecting() as collector:
        tracer = OtlpTracer(collector.endpoint, service="keyvault", ratio=1.0)
        with tracing.use(tracer), closing(tracer):

            async def call(number: int) -> None:
                with tracing.serving(f"call {number}", ""):
                    await data_keys.unwrap_each([(made.wrapped, b"context")])

            await asyncio.gather(*(call(number) for number in range(3)))
            await call(3)
        spans = {one.name: one for one in collector.spans()}
    after = [figure(name, **labels) for name, labels in names]
    await data_keys.close()
    await transit.close()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 3, 1]
    assert figure("cache_age_max_seconds") == 60
    assert figure("kek_used_timestamp_seconds") > 0
    assert spans.keys() == {"call 0", "call 1", "call 2", "call 3", "unwrap", "vault decrypt"}
    assert spans["unwrap"].parent_id == spans["call 0"].span_id
    assert spans["unwrap"].attributes == {"keys": 1}
    assert spans["vault decrypt"].parent_id == spans["unwrap"].span_id
