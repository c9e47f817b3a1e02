# SPDX-License-Identifier: Apache-2.0
"""What the documentation has operators do to their Vault, done to a new one of the real kind."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.processes import Command, Process, free_port, port_is_free
from deploy.programs import VAULT
from tests.support.doc_commands import Runner, lines_for
from tests.support.source import ROOT
from tests.support.tls import Issuer
from tests.support.token_review import API_AUDIENCE, Cluster

SCRIPT_SECONDS_MAX = 50
REVIEWER_IS_SET = "vault read -field=token_reviewer_jwt_set auth/kubernetes/config"


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Leads the program `vault` to a new server, which is unsealed and holds nothing."""
    binary = VAULT.find()
    assert binary is not None, "run `make vault`"
    port, token = free_port(), f"root-{secrets.token_hex(8)}"
    arguments = [str(binary), "server", "-dev", "-dev-no-store-token"]
    arguments += [f"-dev-listen-address=127.0.0.1:{port}"]
    command = Command(name="vault", arguments=arguments, environ={"VAULT_DEV_ROOT_TOKEN_ID": token})
    process = Process(command, log_folder=tmp_path)
    process.start()
    try:
        process.wait_ready(lambda: not port_is_free(port))
        yield {
            "PATH": f"{binary.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "VAULT_ADDR": f"http://127.0.0.1:{port}",
            "VAULT_TOKEN": token,
        }
    finally:
        process.stop()


@pytest.mark.requirement("K9", "K12", "O7")
def test_what_is_shown_sets_up_a_vault(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "cluster-ca.crt").write_bytes(Issuer("cluster").authority.pem)
    (tmp_path / "reviewer.jwt").write_text(Cluster().issue("vault-reviewer", API_AUDIENCE))
    lines = lines_for(Runner.VAULT)
    assert len(lines) > 1
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", "\n".join([*lines, REVIEWER_IS_SET])],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("true")
