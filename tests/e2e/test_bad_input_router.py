# SPDX-License-Identifier: Apache-2.0
"""What the router says to bad input, and that nothing changes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
from ownkey.router.v1 import catalogue_pb2, media_pb2, router_service_pb2_grpc, text_pb2

from services.shared.ids import new_id
from tests.e2e.bad_input import (
    INVALID,
    MEBIBYTE,
    MODEL,
    NO_ACCOUNT,
    REUSED,
    Call,
    Expected,
    Scene,
    case,
    hold_to,
    read_one,
)

NO_MODEL = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def text_input(text: str = "Hello", **fields: Any) -> text_pb2.TextInput:
    part = text_pb2.Part(text=text)
    message = text_pb2.Message(role=text_pb2.ROLE_USER, parts=[part])
    return text_pb2.TextInput(messages=[message], **{"max_output_tokens": 16, **fields})


def ask(scene: Scene, *, timeout: float | None = None, **fields: Any) -> Awaitable[object]:
    known: dict[str, Any] = {
        "account": scene.account,
        "request_id": new_id(),
        "model": MODEL,
        "input": text_input(),
    }
    request = text_pb2.GenerateTextRequest(**{**known, **fields})
    answer: Awaitable[object] = scene.clients.router.GenerateText(request, timeout=timeout)
    return answer


def asking(**fields: Any) -> Call:
    return lambda scene: ask(scene, **fields)


def saying(**fields: Any) -> Call:
    """A request whose input has these fields."""
    return lambda scene: ask(scene, input=text_input(**fields))


def messages(*sent: text_pb2.Message) -> Call:
    return lambda scene: ask(scene, input=text_pb2.TextInput(messages=sent, max_output_tokens=16))


def route(**fields: Any) -> Call:
    return lambda scene: ask(scene, route=text_pb2.RoutePreferences(**fields))


def user(*parts: text_pb2.Part) -> text_pb2.Message:
    return text_pb2.Message(role=text_pb2.ROLE_USER, parts=parts)


def image(**fields: Any) -> text_pb2.Message:
    return user(text_pb2.Part(image=text_pb2.Image(**fields)))


ROUTER_CASES = [
    case("unknown_account", NO_ACCOUNT, asking(account="accounts/nobody-here")),
    case("malformed_account", INVALID, asking(account="nobody")),
    case("no_account", INVALID, asking(account="")),
    case("no_request_id", INVALID, asking(request_id="")),
    case("request_id_is_no_uuid", INVALID, asking(request_id="7")),
    case("unknown_model", NO_MODEL, asking(model="nobody/nothing-1")),
    case("malformed_model", INVALID, asking(model="gpt-4o-mini")),
    case("model_too_long", INVALID, asking(model="openai/" + "m" * 300)),
    case("unknown_source", INVALID, asking(source=99)),
    case("unknown_tier", INVALID, asking(tier=99)),
    case("empty", INVALID, lambda s: s.clients.router.GenerateText(text_pb2.GenerateTextRequest())),
    case("no_input", INVALID, lambda s: ask(s, input=text_pb2.TextInput())),
    case("message_without_parts", INVALID, messages(user())),
    case("part_without_content", INVALID, messages(user(text_pb2.Part()))),
    case("no_role", INVALID, messages(text_pb2.Message(parts=[text_pb2.Part(text="Hello")]))),
    case("parts_too_many", INVALID, messages(user(*[text_pb2.Part(text="x") for _ in range(257)]))),
    case(
        "messages_too_many",
        INVALID,
        messages(*[user(text_pb2.Part(text="x")) for _ in range(1_001)]),
    ),
    case("text_too_large", INVALID, saying(text="x" * (4 * MEBIBYTE + 1))),
    case("message_too_large", INVALID, lambda s: ask_unbounded(s, text="x" * 33 * MEBIBYTE)),
    case("image_without_type", INVALID, messages(image(data=b"\x89PNG"))),
    case("image_of_wrong_type", INVALID, messages(image(data=b"BM", media_type="image/bmp"))),
    case(
        "image_of_another_type_than_said",
        INVALID,
        messages(image(data=b"\xff\xd8\xff\xe0JFIF", media_type="image/png")),
    ),
    case("image_of_no_known_bytes", INVALID, messages(image(data=b"x", media_type="image/png"))),
    case("image_over_http", INVALID, messages(image(url="http://example.org/i.png"))),
    case(
        "image_too_large",
        INVALID,
        messages(image(data=b"x" * (20 * MEBIBYTE + 1), media_type="image/png")),
    ),
    case("temperature_too_high", INVALID, saying(temperature=2.1)),
    case("temperature_negative", INVALID, saying(temperature=-0.1)),
    case("temperature_is_no_number", INVALID, saying(temperature=float("nan"))),
    case("top_p_zero", INVALID, saying(top_p=0.0)),
    case("top_p_too_high", INVALID, saying(top_p=1.1)),
    case("stops_too_many", INVALID, saying(stop=["a", "b", "c", "d", "e"])),
    case("stop_empty", INVALID, saying(stop=[""])),
    case("stop_too_long", INVALID, saying(stop=["x" * 257])),
    case("no_output_tokens", INVALID, saying(max_output_tokens=0)),
    case("output_tokens_negative", INVALID, saying(max_output_tokens=-1)),
    case("output_tokens_too_many", INVALID, saying(max_output_tokens=1_000_001)),
    case("unknown_effort", INVALID, saying(reasoning_effort=99)),
    case(
        "tools_too_many", INVALID, saying(tools=[text_pb2.Tool(name=f"t{n}") for n in range(129)])
    ),
    case("tool_without_name", INVALID, saying(tools=[text_pb2.Tool()])),
    case("tool_name_malformed", INVALID, saying(tools=[text_pb2.Tool(name="a b")])),
    case(
        "tool_schema_is_no_object",
        INVALID,
        saying(tools=[text_pb2.Tool(name="t", parameters_json="[]")]),
    ),
    case(
        "tool_schema_is_no_json",
        INVALID,
        saying(tools=[text_pb2.Tool(name="t", parameters_json="{")]),
    ),
    case(
        "answer_schema_is_no_json",
        INVALID,
        saying(response_schema=text_pb2.ResponseSchema(name="s", schema_json="{")),
    ),
    case("unknown_provider_only", INVALID, route(only=["nobody"])),
    case("unknown_provider_first", INVALID, route(order=["nobody"])),
    case("unknown_provider_ignored", INVALID, route(ignore=["nobody"])),
    case("order_too_long", INVALID, route(order=["openai"] * 33)),
    case(
        "price_limit_negative",
        INVALID,
        route(max_price=text_pb2.MaxPrice(input_nano_usd_per_million_tokens=-1)),
    ),
    case(
        "nobody_left",
        (grpc.StatusCode.FAILED_PRECONDITION, "NO_CANDIDATE"),
        route(only=["anthropic"]),
    ),
    case(
        "unknown_model_read",
        NO_MODEL,
        lambda s: s.clients.router.GetModel(
            catalogue_pb2.GetModelRequest(name="models/nobody/nothing-1")
        ),
    ),
    case(
        "image_without_a_prompt",
        INVALID,
        lambda s: read_one(s.clients.router.GenerateImage(media_pb2.GenerateImageRequest())),
    ),
    case(
        "speech_by_a_text_model",
        INVALID,
        lambda s: read_one(
            s.clients.router.SynthesizeSpeech(
                media_pb2.SynthesizeSpeechRequest(model="openai/gpt-4o-mini", text="Hello")
            )
        ),
    ),
    case(
        "deadline_too_short",
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_TOO_SHORT"),
        asking(timeout=0.4),
    ),
]


async def ask_unbounded(scene: Scene, *, text: str) -> object:
    """Asks by a client that sends whatever it is given."""
    request = text_pb2.GenerateTextRequest(
        account=scene.account, request_id=new_id(), model=MODEL, input=text_input(text)
    )
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(scene.clients.addresses.router, options) as channel:
        stub = router_service_pb2_grpc.RouterServiceStub(channel)
        answer: object = await stub.GenerateText(request)
        return answer


@pytest.mark.requirement("R5", "R7", "R8", "R11")
class TestRouter:
    @pytest.mark.parametrize(("call", "expected"), ROUTER_CASES)
    async def test_bad_input_is_refused_and_changes_nothing(
        self, scene: Scene, call: Call, expected: Expected
    ) -> None:
        await hold_to(scene, call, expected, service="router")

    async def test_a_stream_refuses_as_a_single_answer_does(self, scene: Scene) -> None:
        def call(s: Scene) -> Awaitable[object]:
            return read_one(
                s.clients.router.StreamText(
                    text_pb2.StreamTextRequest(
                        account=s.account,
                        request_id=new_id(),
                        model="nobody/nothing-1",
                        input=text_input(),
                    )
                )
            )

        await hold_to(scene, call, NO_MODEL, service="router")

    @pytest.mark.requirement("R14", "L11")
    @pytest.mark.parametrize(
        "changed",
        [
            {"model": "openai/gpt-4o"},
            {"input": text_input("Something else")},
            {"input": text_input(max_output_tokens=17)},
            {"source": 3},
        ],
        ids=["model", "text", "tokens", "source"],
    )
    async def test_a_request_id_with_another_body_is_refused(
        self, scene: Scene, changed: dict[str, Any]
    ) -> None:
        request_id = new_id()
        await ask(scene, request_id=request_id)
        await hold_to(scene, asking(request_id=request_id, **changed), REUSED, service="router")
