# SPDX-License-Identifier: Apache-2.0
"""
The simulator refuses what the real APIs refuse: a field that is not known, at whatever depth, and a
header that is missing or not known; each in its provider's own shape of an error.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from services.router.domain.media import ImageCall
from services.router.domain.outcomes import Outcome
from services.router.domain.text import (
    ImagePart,
    Message,
    ResponseSchema,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from services.router.domain.work import Call
from services.router.providers.base import HTTPRequest
from services.router.providers.registry import DIALECTS
from tests.support.provider_streams import credential
from tests.support.simulated_providers import KEYS, azure_key, serve_simulator
from tests.support.simulator_client import MODELS, Client, a_call

pytestmark = pytest.mark.requirement("R4")

SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
SCHEMAS = frozenset(
    {"parameters", "parametersJsonSchema", "responseJsonSchema", "schema", "input_schema", "json"}
)
"""Fields that hold a JSON Schema, which knows any name."""
ARGUMENTS = frozenset({"args", "response"})
"""Fields that hold a tool's own arguments and results."""
RESPONSES_KEY = azure_key("openai/gpt-5-mini").replace(
    "openai/deployments/gpt-5-mini/chat/completions?api-version=2024-10-21", "openai/v1/responses"
)
JSON_SPEAKERS = [
    *((provider, MODELS[provider], "") for provider in sorted(MODELS)),
    ("openai", "gpt-5-codex", ""),
    ("azure", "openai/gpt-5-mini", RESPONSES_KEY),
    ("google-vertex", "claude-haiku-4-5@20251001", ""),
    ("replicate", "black-forest-labs/flux-schnell", ""),
]
"""Provider, model and, where it is not the usual one, key: every format that is JSON."""
SHAPES: dict[str, tuple[int, str, set[str]]] = {
    "openai": (400, "error", {"message", "type", "param", "code"}),
    "openrouter": (400, "error", {"message", "code"}),
    "anthropic": (400, "error", {"type", "message"}),
    "gemini": (400, "error", {"code", "message", "status"}),
    "azure": (400, "error", {"code", "message"}),
    "amazon-bedrock": (400, "", {"message"}),
    "google-vertex": (400, "error", {"code", "message", "status"}),
    "deepseek": (422, "error", {"message", "type", "param", "code"}),
    "replicate": (422, "", {"title", "detail", "status"}),
    "stability": (400, "", {"id", "name", "errors"}),
}
"""What a refused request is answered with: the status, the field that holds the error ("" where it
is the whole body), and the error's own fields."""


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serve_simulator() as simulator, aiohttp.ClientSession() as session:
        yield Client(session, simulator)


def a_rich_call(provider: str, model: str) -> Call:
    """Give a call with everything in it that its provider takes."""
    if provider in ("replicate", "stability"):
        return ImageCall(model=model, prompt="A quiet harbour", count=1, seed=7)
    messages = (
        Message(Role.USER, (TextPart("Look"), ImagePart("image/png", b"\x89PNG"))),
        Message(Role.ASSISTANT, (ToolCall("call_1", "weather", '{"city":"Oslo"}'),)),
        Message(Role.TOOL, (ToolResult("call_1", "sunny"),)),
    )
    call = a_call(
        provider,
        model=model,
        messages=messages,
        tools=(Tool("weather", "Tells the weather", SCHEMA),),
        tool_choice=ToolChoice(ToolMode.REQUIRED, "weather"),
        response_schema=ResponseSchema("trip", SCHEMA, strict=False),
        stream=provider != "amazon-bedrock",
    )
    lacking = DIALECTS[provider].unsupported(call)
    if "messages.image" in lacking:
        plain = Message(Role.USER, (TextPart("Look"),))
        call = dataclasses.replace(call, messages=(plain, *messages[1:]))
    if "response_schema" in lacking or "response_schema.strict" in lacking:
        call = dataclasses.replace(call, response_schema=None)
    return call


def build(client: Client, provider: str, model: str, key: str) -> HTTPRequest:
    return DIALECTS[provider].build_request(
        a_rich_call(provider, model),
        credential(key or KEYS[provider]),
        base_url=client.base_url(provider),
    )


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every object whose fields the API knows by name."""
    if isinstance(value, dict):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in items:
        # Replicate's and Responses' input stands at the top; that of a tool's call is its own.
        free = name in SCHEMAS | ARGUMENTS or (name == "input" and path)
        if isinstance(inner, dict | list) and not free:
            yield from objects(inner, (*path, name))


async def refused(client: Client, provider: str, request: HTTPRequest, key: str) -> Outcome:
    """Hold that a request is refused in its provider's shape, and give its outcome."""
    status, headers, body = await client.send(await client.authorized(provider, request, key))
    wanted_status, holder, fields = SHAPES[provider]
    answer = json.loads(body)
    error = answer[holder] if holder else answer
    assert (status, fields - set(error)) == (wanted_status, set()), body
    if provider == "amazon-bedrock":
        assert headers["x-amzn-errortype"].startswith("ValidationException")
    now = datetime.now(UTC)
    return DIALECTS[provider].parse_error(status, headers, body, now=now).outcome


@pytest.mark.parametrize(("provider", "model", "key"), JSON_SPEAKERS)
async def test_a_field_that_is_not_known_is_refused_at_every_depth(
    client: Client, provider: str, model: str, key: str
) -> None:
    request = build(client, provider, model, key)
    status, _, answer = await client.send(await client.authorized(provider, request, key))
    assert status in (200, 201), answer
    body = msgspec.json.decode(request.body)
    places = list(objects(body))
    assert len(places) > 1
    for path in places:
        changed = copy.deepcopy(body)
        holder = changed
        for name in path:
            holder = holder[name]
        holder["bogus"] = 1
        more = dataclasses.replace(request, body=msgspec.json.encode(changed))
        assert await refused(client, provider, more, key) is Outcome.INVALID_REQUEST, path


async def test_a_field_that_is_not_known_is_refused_in_a_form(client: Client) -> None:
    request = build(client, "stability", "core", "")
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    part = b'--%b\r\nContent-Disposition: form-data; name="bogus"\r\n\r\n1\r\n' % boundary
    more = dataclasses.replace(request, body=part + request.body)
    assert await refused(client, "stability", more, "") is Outcome.INVALID_REQUEST


MISSING = [
    *((provider, model, key, "content-type") for provider, model, key in JSON_SPEAKERS),
    ("stability", "core", "", "content-type"),
    ("anthropic", MODELS["anthropic"], "", "anthropic-version"),
]


@pytest.mark.parametrize(("provider", "model", "key", "name"), MISSING)
async def test_a_header_that_is_needed_and_missing_is_refused(
    client: Client, provider: str, model: str, key: str, name: str
) -> None:
    request = build(client, provider, model, key)
    less = {header: value for header, value in request.headers.items() if header != name}
    bare = dataclasses.replace(request, headers=less)
    assert await refused(client, provider, bare, key) is Outcome.INVALID_REQUEST


UNKNOWN = [
    ("anthropic", MODELS["anthropic"], "anthropic-beta", "bogus-2026-01-01"),
    ("anthropic", MODELS["anthropic"], "anthropic-version", "1999-01-01"),
    ("stability", "core", "accept", "text/html"),
    ("replicate", "black-forest-labs/flux-schnell", "prefer", "wait=0"),
]


@pytest.mark.parametrize(("provider", "model", "name", "value"), UNKNOWN)
async def test_a_header_whose_value_is_not_known_is_refused(
    client: Client, provider: str, model: str, name: str, value: str
) -> None:
    request = build(client, provider, model, "")
    more = dataclasses.replace(request, headers={**request.headers, name: value})
    assert await refused(client, provider, more, "") is Outcome.INVALID_REQUEST


@pytest.mark.parametrize("provider", sorted(SHAPES))
async def test_a_key_that_is_missing_is_refused(client: Client, provider: str) -> None:
    models = {**MODELS, "stability": "core", "replicate": "black-forest-labs/flux-schnell"}
    request = build(client, provider, models[provider], "")
    keys = {"authorization", "x-api-key", "x-goog-api-key", "api-key"}
    less = {name: value for name, value in request.headers.items() if name not in keys}
    status, headers, body = await client.send(dataclasses.replace(request, headers=less))
    error = DIALECTS[provider].parse_error(status, headers, body, now=datetime.now(UTC))
    assert (status in (401, 403), error.outcome) == (True, Outcome.INVALID_KEY)


async def test_an_organization_that_is_not_there_is_refused(client: Client) -> None:
    request = build(client, "openai", MODELS["openai"], "")
    more = dataclasses.replace(
        request, headers={**request.headers, "openai-organization": "org-bogus"}
    )
    status, _, body = await client.send(more)
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_organization")
