# SPDX-License-Identifier: Apache-2.0
"""A canary secret goes through every path and must be found in none of its traces."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
import structlog
from ownkey.keyvault.v1 import keyvault_service_pb2 as service_pb2

from services.shared.status import from_rpc_error
from tests.support.keyvault import RunningKeyvault, database, new_request_id

CANARY = "canary0123456789"
SECRET = f"sk-proj-{CANARY}-abcdefghijklmnopWXYZ"
OTHER = f"sk-proj-{CANARY}-secondsecondsecondABCD"
MAIN = "accounts/demo/keys/main"


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """Everything that is logged, before any redaction."""
    before = structlog.get_config()
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.processors.format_exc_info, captured])
    yield captured.entries
    structlog.configure(**before)


async def attempt(call: Any) -> str:
    """Await a call and return all that its caller can see of it."""
    try:
        return str(await call)
    except grpc.aio.AioRpcError as fault:
        shown = "".join(traceback.format_exception(fault))
        return f"{shown} {from_rpc_error(fault)} {fault.trailing_metadata()}"


@pytest.mark.requirement("K8")
async def test_the_secret_is_in_no_answer_error_log_or_row(
    vaulted: RunningKeyvault, log: list[Any]
) -> None:
    stub, seen = vaulted.stub, []
    for result in ("INVALID", "FORBIDDEN", "UNREACHABLE", "VALID"):
        vaulted.router.finds(result)
        seen += [await attempt(vaulted.create(SECRET, key_id="main"))]
    for secret in (f"{SECRET} x", f"{SECRET}…", f"x{SECRET}"):
        seen += [await attempt(vaulted.create(secret, provider="gemini"))]
    seen += [await attempt(vaulted.create(SECRET, key_id="main"))]
    seen += [await attempt(vaulted.create(SECRET, default_model="openai/unknown"))]
    for request in (
        stub.GetKey(service_pb2.GetKeyRequest(name=MAIN)),
        stub.ListKeys(service_pb2.ListKeysRequest(parent="accounts/demo")),
        stub.TestKey(service_pb2.TestKeyRequest(name=MAIN)),
        stub.ReplaceKey(
            service_pb2.ReplaceKeyRequest(name=MAIN, secret=OTHER, request_id=new_request_id())
        ),
        stub.ListAuditEvents(service_pb2.ListAuditEventsRequest(parent="accounts/demo")),
        stub.GetSettings(service_pb2.GetSettingsRequest(name="accounts/demo/settings")),
    ):
        seen += [await attempt(request)]
    [account] = (await vaulted.resolve()).accounts
    assert account.keys[0].secret == OTHER
    async with database(vaulted.dsn) as connection:
        rows = [
            str(row)
            for table in await connection.fetch(
                "SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
            )
            for row in await connection.fetch(f"SELECT t::text FROM {table['name']} t")  # noqa: S608
        ]
        await connection.execute("UPDATE key_secrets SET generation = 2")
        seen += [await attempt(vaulted.resolve())]
        # A fault that nobody foresaw, in mid-call.
        await connection.execute("ALTER TABLE requests RENAME TO elsewhere")
        seen += [await attempt(vaulted.create(SECRET, key_id="late"))]

    assert any("UndefinedTableError" in str(entry) for entry in log)
    assert any("INTERNAL" in text for text in seen)
    assert len(rows) > 10
    needles = (CANARY, CANARY.encode().hex())
    for place, texts in {"answers": seen, "log": log, "rows": rows}.items():
        for needle in needles:
            assert not [text for text in texts if needle in str(text)], place
    shown = [
        repr(item)
        for item in gc.get_objects()
        if str(type(item).__module__).startswith("services.keyvault")
    ]
    assert shown
    assert not [text for text in shown if CANARY in text]
