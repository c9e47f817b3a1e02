# SPDX-License-Identifier: Apache-2.0
"""
Loads recorded provider exchanges from every form in which public projects keep them.

go-vcr, vcrpy (two ages), pydantic-ai's cassettes and Ruby VCR are YAML; reported bodies are
JSON in a wrapper; the rest are bare bodies and bare event payloads, one a line.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Exchange", "load_exchange"]

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    One recorded answer.
    """

    status: int | None
    """None where the recording is a bare body."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class _CassetteLoader(yaml.SafeLoader):
    """
    Safe YAML with Ruby's local `!binary`, and with dates left as the text they are.
    """


_CassetteLoader.add_constructor("!binary", lambda _, node: base64.b64decode(str(node.value)))
_CassetteLoader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def load_exchange(path: Path, index: int) -> Exchange:
    """
    Load one answer of a recording; `index` counts from 0 where a file holds several.

    Raises:
        ValueError: The file is in none of the known forms.
    """
    if path.suffix in (".yaml", ".yml"):
        cassette = yaml.load(path.read_text(encoding="utf-8"), Loader=_CassetteLoader)  # noqa: S506 - a subclass of the safe loader
        interactions = cassette.get("interactions") or cassette.get("http_interactions")
        return _response(interactions[index]["response"])
    if path.name.endswith(".chunks.txt"):
        return Exchange(None, {}, _event_stream(path.read_text(encoding="utf-8").splitlines()))
    if path.name.endswith(".body.json"):
        return Exchange(None, {}, path.read_bytes())
    if path.suffix == ".json":
        wrapper = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(wrapper, dict) and isinstance(wrapper.get("chunks"), list):
            return Exchange(None, {}, b"".join(map(_chunk, wrapper["chunks"])))
        if isinstance(wrapper, dict) and isinstance(wrapper.get("response"), dict):
            return _response(wrapper["response"])
    return Exchange(None, {}, path.read_bytes())


def _response(response: dict[str, Any]) -> Exchange:
    status = response.get("code", response.get("status_code", response.get("status")))
    if isinstance(status, dict):
        status = status.get("code")
    headers = {
        str(name).lower(): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in (response.get("headers") or {}).items()
    }
    body = _body(response)
    if body.startswith(_GZIP_MAGIC):
        body = gzip.decompress(body)
    return Exchange(None if status is None else int(status), headers, body)


def _body(response: dict[str, Any]) -> bytes:
    if response.get("parsed_body") is not None:
        return json.dumps(response["parsed_body"], ensure_ascii=False).encode()
    body = response.get("body", response.get("content", b""))
    if isinstance(body, dict):
        if "base64_string" in body:
            return base64.b64decode(body["base64_string"])
        if "string" not in body:
            return json.dumps(body, ensure_ascii=False).encode()
        body = body["string"]
    if body is None:
        return b""
    return body if isinstance(body, bytes) else str(body).encode()


def _chunk(chunk: object) -> bytes:
    """
    Read one piece of a JSON recording, kept as base64.
    """
    if isinstance(chunk, dict):
        chunk = next(chunk[name] for name in ("b64", "base64", "data", "bytes") if name in chunk)
    return base64.b64decode(str(chunk))


def _event_stream(payloads: list[str]) -> bytes:
    """
    Put bare payloads back into the framing they were taken out of.

    Recorders keep payloads that are JSON, so chat completions lost their `[DONE]`, and events the
    line that says their `type` once more.
    """
    payloads = [payload for payload in payloads if payload.strip()]
    if payloads and '"chat.completion.chunk"' in payloads[-1]:
        payloads.append("[DONE]")
    return "".join(f"{_name(payload)}data: {payload}\n\n" for payload in payloads).encode()


def _name(payload: str) -> str:
    try:
        event = json.loads(payload)
    except ValueError:
        return ""
    kind = event.get("type") if isinstance(event, dict) else None
    return f"event: {kind}\n" if isinstance(kind, str) else ""
