# SPDX-License-Identifier: Apache-2.0
"""What both sides are told of their connections fits together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from client.ownkey_client import connection
from services.shared import channel
from services.shared.access import Access
from services.shared.boundary import STREAM_SECONDS_MAX, Boundary
from services.shared.policy import Policy
from services.shared.server import ServerSpec, server_options
from services.shared.status import StatusTable
from tests.support.clock import ManualClock

CALLERS = {"between services": channel.OPTIONS, "of the command": connection.OPTIONS}


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The options of a channel."""
    return dict(CALLERS[request.param])


@pytest.fixture
def server() -> Mapping[str, int]:
    """The options of a server."""
    clock = ManualClock()
    boundary = Boundary(
        table=StatusTable("sample.ownkey", {}),
        access=Access(Policy(grants={}), tokens_dir=None, clock=clock),
        clock=clock,
    )
    spec = ServerSpec("127.0.0.1:0", [], lambda _: None, boundary, connection_seconds=120.0)
    return dict(server_options(spec))


@pytest.mark.requirement("O7")
class TestConnections:
    def test_a_connection_is_sought_again_after_100_ms_to_2_s(
        self, caller: Mapping[str, Any]
    ) -> None:
        assert caller["grpc.initial_reconnect_backoff_ms"] == 100
        assert caller["grpc.max_reconnect_backoff_ms"] == 2_000

    def test_a_connection_gets_the_time_that_a_busy_machine_needs(
        self, caller: Mapping[str, Any]
    ) -> None:
        """Its option bounds the attempt, not the pause before it (grpc/grpc#33423)."""
        assert caller["grpc.min_reconnect_backoff_ms"] >= 5_000

    def test_a_silent_peer_is_noticed_by_both_sides(
        self, caller: Mapping[str, Any], server: Mapping[str, int]
    ) -> None:
        for side in (caller, server):
            assert 0 < side["grpc.keepalive_timeout_ms"] < side["grpc.keepalive_time_ms"] <= 30_000

    def test_no_caller_pings_more_often_than_the_server_bears(
        self, caller: Mapping[str, Any], server: Mapping[str, int]
    ) -> None:
        """A caller that does is cut off by gRPC: `too_many_pings`."""
        bearable = server["grpc.http2.min_recv_ping_interval_without_data_ms"]
        assert caller["grpc.keepalive_time_ms"] > bearable
        assert server["grpc.keepalive_permit_without_calls"] == 1

    def test_an_ageing_connection_ends_after_the_longest_stream(
        self, server: Mapping[str, int]
    ) -> None:
        assert server["grpc.max_connection_age_ms"] == 120_000
        assert server["grpc.max_connection_age_grace_ms"] > 1000 * STREAM_SECONDS_MAX

    def test_calls_are_spread_over_all_replicas(self) -> None:
        told = json.loads(dict(channel.OPTIONS)["grpc.service_config"])
        assert told["loadBalancingConfig"] == [{"round_robin": {}}]
        assert dict(connection.OPTIONS)["grpc.lb_policy_name"] == "round_robin"
