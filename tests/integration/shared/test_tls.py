# SPDX-License-Identifier: Apache-2.0
"""Mutual TLS between real gRPC servers and channels: who gets in, and certificates that change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.processes import free_port
from services.shared.access import DENIALS
from services.shared.certificates import LOOK_SECONDS, Certificates, TlsFiles
from services.shared.channel import open_channel
from services.shared.config import ConfigError
from services.shared.server import RunningServer
from services.shared.status import from_rpc_error
from services.shared.tls import channel_credentials
from tests.support.clock import ManualClock
from tests.support.tls import DAY, ECHO, HIDDEN, WAIT, Issuer, method, read, sample_service

CALL_SECONDS_MAX = 5.0
LOADERS = 8
CALLS_BETWEEN = 200


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def server_files(issuer: Issuer, tmp_path: Path) -> TlsFiles:
    return issuer.issue(tmp_path / "server", "keyvault")


@asynccontextmanager
async def serving(files: TlsFiles) -> AsyncIterator[RunningServer]:
    async with sample_service(read(files)) as running:
        yield running


async def failure(port: int, files: TlsFiles) -> grpc.aio.AioRpcError:
    """Call with a certificate as it stands in its files, good or not, expecting to be refused."""
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as fault:
            await method(channel)(StringValue(), timeout=CALL_SECONDS_MAX)
    return fault.value


@pytest.mark.requirement("O5")
class TestWhoGetsIn:
    async def test_a_certificate_of_the_policy_names_its_identity(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        own = read(issuer.issue(tmp_path / "router", "router"))
        async with (
            serving(server_files) as running,
            open_channel(f"127.0.0.1:{running.port}", own) as channel,
        ):
            assert (await method(channel)(StringValue())).value == "router"
            assert (await method(channel, HIDDEN)(StringValue())).value == "router"

    async def test_a_token_does_not_speak_against_a_certificate(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        """Where both are shown, the certificate decides, so a stolen token alone gives nothing."""
        own = read(issuer.issue(tmp_path / "operator", "operator"))
        metadata = (("authorization", "Bearer token-of-router"),)
        async with (
            serving(server_files) as running,
            open_channel(f"127.0.0.1:{running.port}", own) as channel,
        ):
            assert (await method(channel)(StringValue(), metadata=metadata)).value == "operator"

    async def test_another_identity_is_denied_logged_and_counted(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        own = read(issuer.issue(tmp_path / "operator", "operator"))
        counted = DENIALS.labels(rpc=HIDDEN, reason="rpc_not_allowed")
        before = counted._value.get()
        async with (
            serving(server_files) as running,
            open_channel(f"127.0.0.1:{running.port}", own) as channel,
        ):
            with (
                structlog.testing.capture_logs() as lines,
                pytest.raises(grpc.aio.AioRpcError) as fault,
            ):
                await method(channel, HIDDEN)(StringValue())
        status = from_rpc_error(fault.value)
        assert (status.code, status.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ACCESS_DENIED",
        )
        assert counted._value.get() == before + 1
        [line] = [line for line in lines if line["event"] == "access_denied"]
        assert (line["identity"], line["rpc"]) == ("operator", HIDDEN)

    async def test_a_certificate_that_ends_while_its_connection_stands_serves_no_longer(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        clock = ManualClock(issuer.now)
        own = read(issuer.issue(tmp_path / "router", "router", lifetime=DAY))
        counted = DENIALS.labels(rpc=ECHO, reason="certificate_ended")
        before = counted._value.get()
        async with (
            sample_service(read(server_files), clock=clock) as running,
            open_channel(f"127.0.0.1:{running.port}", own) as channel,
        ):
            assert (await method(channel)(StringValue())).value == "router"
            clock.advance(DAY.total_seconds())
            with (
                structlog.testing.capture_logs() as lines,
                pytest.raises(grpc.aio.AioRpcError) as fault,
            ):
                await method(channel)(StringValue())
        status = from_rpc_error(fault.value)
        assert (status.code, status.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        assert "issue a new one into the same file" in status.message
        assert counted._value.get() == before + 1
        [line] = [line for line in lines if line["event"] == "access_denied"]
        assert (line["reason"], line["rpc"]) == ("certificate_ended", ECHO)

    async def test_a_certificate_that_the_policy_does_not_know_is_told_so(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        async with serving(server_files) as running:
            files = issuer.issue(tmp_path / "stranger", "stranger")
            status = from_rpc_error(await failure(running.port, files))
        assert status.code is grpc.StatusCode.UNAUTHENTICATED
        assert "spiffe://ownkey.internal/stranger" in status.message
        assert "ask an operator to add one to the policy" in status.message

    @pytest.mark.parametrize("case", ["ended", "not yet valid", "of another authority"])
    async def test_a_bad_certificate_does_not_get_through_the_handshake(
        self,
        issuer: Issuer,
        server_files: TlsFiles,
        tmp_path: Path,
        case: str,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """TLS tells the caller nothing; why, stands on the server's standard error."""
        folder = tmp_path / "router"
        trusted = issuer.authority.pem
        issued, why = {
            "ended": (
                lambda: issuer.issue(folder, "router", begins=-3 * DAY, lifetime=DAY),
                "certificate has expired",
            ),
            "not yet valid": (
                lambda: issuer.issue(folder, "router", begins=3 * DAY),
                "certificate is not yet valid",
            ),
            "of another authority": (
                lambda: Issuer("two").issue(folder, "router", trusted=trusted),
                "unable to get local issuer certificate",
            ),
        }[case]
        async with serving(server_files) as running:
            fault = await failure(running.port, issued())
        assert fault.code() is grpc.StatusCode.UNAVAILABLE
        assert why in capfd.readouterr().err

    async def test_plain_text_gets_nowhere(self, server_files: TlsFiles) -> None:
        async with (
            serving(server_files) as running,
            open_channel(f"127.0.0.1:{running.port}") as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as fault:
                await method(channel)(StringValue(), timeout=CALL_SECONDS_MAX)
        assert fault.value.code() is grpc.StatusCode.UNAVAILABLE

    async def test_a_caller_trusts_no_server_of_another_authority(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        async with serving(server_files) as running:
            other = Issuer("two").issue(tmp_path / "router", "router")
            fault = await failure(running.port, other)
        assert "CERTIFICATE_VERIFY_FAILED" in (fault.details() or "")

    async def test_plain_text_is_refused_off_loopback_with_the_reason(self) -> None:
        with pytest.raises(ConfigError, match="plain text is served on loopback only"):
            async with sample_service(None, listen="0.0.0.0:0"):
                pass

    async def test_health_alone_may_be_asked_in_plain_text(self, server_files: TlsFiles) -> None:
        """Probes of Kubernetes have no certificate; there is nothing else behind that port."""
        health = f"127.0.0.1:{free_port()}"
        async with (
            sample_service(read(server_files), health_listen=health),
            open_channel(health) as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS_MAX)
            with pytest.raises(grpc.aio.AioRpcError) as fault:
                await method(channel)(StringValue(), timeout=CALL_SECONDS_MAX)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        assert fault.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.requirement("O5")
class TestChange:
    async def test_certificates_change_on_both_sides_without_a_failed_call(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        """First the certificates, then the authority, with both trusted in between."""
        own_files = issuer.issue(tmp_path / "router", "router")
        own, server = read(own_files), read(server_files)
        two = Issuer("two")
        both = issuer.authority.pem + two.authority.pem

        def reissue(by: Issuer, trusted: bytes) -> None:
            by.issue(server_files.ca.parent, "keyvault", trusted=trusted)
            by.issue(own_files.ca.parent, "router", trusted=trusted)

        steps: list[Callable[[], None]] = [
            lambda: reissue(issuer, issuer.authority.pem),
            lambda: reissue(issuer, both),
            lambda: reissue(two, both),
            lambda: reissue(two, two.authority.pem),
        ]
        async with (
            sample_service(server, connection_seconds=1) as running,
            open_channel(f"127.0.0.1:{running.port}", own) as channel,
        ):
            codes: Counter[str] = Counter()
            call = method(channel)
            stream = channel.unary_stream(
                WAIT, StringValue.SerializeToString, StringValue.FromString
            )(StringValue(value="3"))
            assert (await stream.read()).value == "begun"
            stopped = asyncio.Event()

            async def load() -> None:
                while not stopped.is_set():
                    codes[await outcome(call)] += 1

            loaders = [asyncio.create_task(load()) for _ in range(LOADERS)]
            serials = set()
            for step in steps:
                step()
                await taken(server, own)
                serials.add(own.current().certificate)
                done = codes.total()
                async with asyncio.timeout(20):
                    while codes.total() < done + CALLS_BETWEEN:
                        await asyncio.sleep(0.01)
            # The new authority alone is trusted now: a new handshake is one of its own.
            async with open_channel(f"127.0.0.1:{running.port}", read(own_files)) as fresh:
                assert (await method(fresh)(StringValue())).value == "router"
            stopped.set()
            await asyncio.gather(*loaders)
            assert (await stream.read()).value == "ended"
        assert set(codes) == {"OK"}
        assert len(serials) == len(steps)

    async def test_files_that_do_not_fit_together_leave_the_old_ones_in_use(
        self, issuer: Issuer, server_files: TlsFiles, tmp_path: Path
    ) -> None:
        """As they are half-way through a change."""
        clock = ManualClock(issuer.now)
        held = Certificates(server_files, clock=clock)
        before = held.current()
        server_files.key.write_bytes(issuer.issue(tmp_path / "x", "keyvault").key.read_bytes())
        clock.advance(LOOK_SECONDS)
        with structlog.testing.capture_logs() as lines:
            assert held.current() is before
        [line] = [line for line in lines if line["event"] == "certificate_not_taken"]
        assert "does not belong to the certificate" in line["problems"][0]
        issuer.issue(server_files.ca.parent, "keyvault")
        clock.advance(LOOK_SECONDS)
        assert held.current() != before
        channel_credentials(held.current())


async def outcome(call: object) -> str:
    """Make a call; OK, or how it failed."""
    try:
        await call(StringValue(), timeout=CALL_SECONDS_MAX)  # type: ignore[operator]
    except grpc.aio.AioRpcError as fault:
        return f"{fault.code().name}: {fault.details()}"
    return "OK"


async def taken(*held: Certificates) -> None:
    """Wait until changed files are in use."""
    async with asyncio.timeout(10):
        for one in held:
            while one.current().certificate != one.files.certificate.read_bytes():
                await asyncio.sleep(0.05)
