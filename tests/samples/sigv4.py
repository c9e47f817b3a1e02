# SPDX-License-Identifier: Apache-2.0
"""
Signs the cases of the published suites of Signature Version 4 and compares the signatures.

Two layouts are read: `request.txt` beside `context.json` and `header-signature.txt`
(https://github.com/awslabs/aws-c-auth), and `{case}.req` beside `{case}.authz` (botocore's).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.router.providers.base import HTTPRequest
from services.router.providers.bedrock_credential import AccessKey, sign
from services.shared.secret import Secret

__all__ = ["FOLDER", "check_signature"]

FOLDER = "sigv4"
_SUITE: dict[str, Any] = {
    "credentials": {
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    },
    "region": "us-east-1",
    "service": "service",
    "timestamp": "2015-08-30T12:36:00Z",
}
"""What botocore's cases are signed with; those of the other layout say it themselves."""
_DATE_HEADER = "x-amz-date"


def check_signature(path: Path) -> list[str] | None:
    """
    Sign one case; give what differs, or None where its path is to be signed as S3 alone signs.
    """
    folder = path if path.is_dir() else path.parent
    request, context = folder / "request.txt", folder / "context.json"
    if request.is_file() and context.is_file():
        fields = json.loads(context.read_text())
        if fields.get("normalize") is False:
            return None
        wanted = (folder / "header-signature.txt").read_text().strip()
        return _compare(request.read_bytes(), fields, wanted)
    authorization = path.with_suffix(".authz")
    if path.suffix == ".req" and authorization.is_file():
        wanted = authorization.read_text().strip().rpartition("Signature=")[2]
        return _compare(path.read_bytes(), _SUITE, wanted)
    return ["no case stands there"]


def _compare(raw: bytes, context: dict[str, Any], wanted: str) -> list[str]:
    head, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    line, *rest = head.decode().split("\n")
    method, _, target = line.rpartition(" ")[0].partition(" ")
    headers = _headers(rest)
    host = headers.pop("host")
    headers.pop(_DATE_HEADER, None)
    if context.get("sign_body"):
        headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    given = context["credentials"]
    token = None if context.get("omit_session_token") else given.get("token")
    path, mark, query = target.partition("?")
    signed = sign(
        HTTPRequest(method, target, headers, body),
        AccessKey(
            given["access_key_id"],
            Secret(given["secret_access_key"]),
            None if token is None else Secret(token),
        ),
        region=context["region"],
        url=f"https://{host}{path}{mark}{quote(query, safe='=&-._~%')}",
        now=datetime.fromisoformat(context["timestamp"]).astimezone(UTC),
        service=context["service"],
    )
    found = signed.headers["authorization"].rpartition("Signature=")[2]
    return [] if found == wanted else [f"signature: expected {wanted}, got {found}"]


def _headers(lines: list[str]) -> dict[str, str]:
    """
    Give headers by name; what is repeated or folded is joined, as signing joins it.
    """
    headers: dict[str, str] = {}
    last = ""
    for line in lines:
        if line[:1] in (" ", "\t"):
            headers[last] += line
            continue
        name, colon, value = line.partition(":")
        if colon:
            last = name.lower()
            headers[last] = f"{headers[last]},{value}" if last in headers else value
    return headers
