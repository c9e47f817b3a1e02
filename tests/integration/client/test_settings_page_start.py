# SPDX-License-Identifier: Apache-2.0
"""The settings page's process, where it cannot begin."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.shared.server import EXIT_CONFIG


@pytest.mark.requirement("O3")
async def test_a_taken_port_is_said_in_one_sentence_with_what_to_do(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a token for tests")
    token.chmod(0o600)
    other = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with other:
        address = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        settings = {
            "OWNKEY_WEB_ACCOUNT": "accounts/demo",
            "OWNKEY_WEB_LISTEN": address,
            "OWNKEY_WEB_TOKEN_FILE": str(token),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "client.web", "serve",
            env={**os.environ, **settings},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, error = await process.communicate()

    assert process.returncode == EXIT_CONFIG
    [sentence] = error.decode().splitlines()
    assert sentence.startswith(f"error: cannot listen on {address} (")
    assert sentence.endswith(
        "stop the process that has the port, or choose another by OWNKEY_WEB_LISTEN"
    )
