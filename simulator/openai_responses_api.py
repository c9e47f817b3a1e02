# SPDX-License-Identifier: Apache-2.0
"""
The simulated OpenAI's Responses, under `/openai/v1/responses`: strict types and the framing.

https://developers.openai.com/api/reference/resources/responses . Served is every text model, here
as there; some models are served nowhere else.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from simulator.api import Generation, InvalidRequestError
from simulator.bearer_api import require_json
from simulator.openai_api import MODELS, RESPONSES_MODELS, OpenAIAPI
from simulator.tokens import Answer, Finish, Prompt, pieces

__all__ = ["OpenAIResponsesAPI"]

_OUTPUT_TOKENS_MIN = 16
_HEAD = {"id": "resp_simulated", "object": "response", "created_at": 1_767_225_600}
_CALL_ID = "call_simulated00000000000001"


class _Text(msgspec.Struct, tag_field="type", tag="input_text", forbid_unknown_fields=True):
    text: str


class _Image(msgspec.Struct, tag_field="type", tag="input_image", forbid_unknown_fields=True):
    image_url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """
    A message, a function call or its output: told apart by `role` and `type`.
    """

    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[_Text | _Image] | None = None
    type: Literal["message", "function_call", "function_call_output"] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None


class _Tool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str
    description: str = ""
    parameters: dict[str, Any]
    strict: bool


class _Schema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    name: str
    schema: dict[str, Any]
    strict: bool = False


class _TextForm(msgspec.Struct, forbid_unknown_fields=True):
    format: _Schema


class _Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class _FunctionChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    input: list[_Item]
    instructions: str = ""
    max_output_tokens: int | None = None
    store: bool = True
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _FunctionChoice | None = None
    text: _TextForm | None = None
    reasoning: _Reasoning | None = None


class OpenAIResponsesAPI(OpenAIAPI):
    """
    POST /v1/responses.
    """

    models = (*MODELS, *RESPONSES_MODELS)

    def routes(self) -> list[web.RouteDef]:
        """
        Give the API's address.
        """
        return [web.post("/openai/v1/responses", self.generate)]

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        try:
            read = msgspec.json.decode(body, type=_Body)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        if (read.max_output_tokens or _OUTPUT_TOKENS_MIN) < _OUTPUT_TOKENS_MIN:
            raise InvalidRequestError(
                "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16."
            )
        return Generation(prompt=_prompt(read), stream=read.stream)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        return _response(answer, "incomplete" if _is_cut(answer) else "completed")

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - told always
        """
        Give the events; usage stands in the last, and no marker follows it.
        """
        running = {**_HEAD, "model": answer.model, "status": "in_progress", "output": []}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": running},
            {"type": "response.in_progress", "response": running},
        ]
        if answer.tool_name:
            item = _output(answer)[-1]
            arguments = item["arguments"]
            half = len(arguments) // 2
            place = {"output_index": 1, "item_id": item["id"]}
            added = {**item, "arguments": ""}
            events.append({"type": "response.output_item.added", "output_index": 1, "item": added})
            events += [
                {"type": "response.function_call_arguments.delta", **place, "delta": piece}
                for piece in (arguments[:half], arguments[half:])
            ]
            events.append({"type": "response.output_item.done", "output_index": 1, "item": item})
        place = {"output_index": 0, "item_id": "msg_simulated", "content_index": 0}
        events += [
            {"type": "response.output_text.delta", **place, "delta": text}
            for text in pieces(answer.text)
        ]
        whole = self.answer(answer)
        events.append({"type": f"response.{whole['status']}", "response": whole})
        return [_frame(number, event) for number, event in enumerate(events)]

    def error_frame(self) -> bytes:
        """
        Give a server error as it comes inside a stream.
        """
        message = "The server had an error while processing your request. Sorry about that!"
        event = {"type": "error", "code": "server_error", "message": message, "param": None}
        return _frame(99, event)


def _prompt(body: _Body) -> Prompt:
    texts = [body.instructions]
    images = 0
    for item in body.input:
        texts.append(item.output or "")
        for part in [_Text(item.content)] if isinstance(item.content, str) else item.content or ():
            if isinstance(part, _Text):
                texts.append(part.text)
            else:
                images += 1
    answered = body.input and body.input[-1].type == "function_call_output"
    offer = body.tools[0] if body.tools and not answered else None
    return Prompt(
        model=body.model,
        texts=tuple(texts),
        image_count=images,
        output_tokens_max=body.max_output_tokens,
        tool=None if offer is None else (offer.name, offer.parameters),
        schema=None if body.text is None else body.text.format.schema,
        thinks=body.reasoning is None or body.reasoning.effort != "none",
    )


def _is_cut(answer: Answer) -> bool:
    return answer.finish in (Finish.LENGTH, Finish.FILTERED)


def _output(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = [{"id": "rs_simulated", "type": "reasoning", "summary": []}]
    if answer.tool_name:
        call = {
            "id": "fc_simulated",
            "type": "function_call",
            "status": "completed",
            "call_id": _CALL_ID,
            "name": answer.tool_name,
            "arguments": msgspec.json.encode(answer.tool_arguments).decode(),
        }
        return [*items, call]
    content = [{"type": "output_text", "text": answer.text, "annotations": []}]
    message = {"id": "msg_simulated", "type": "message", "role": "assistant", "content": content}
    return [*items, message]


def _response(answer: Answer, status: str) -> dict[str, Any]:
    reasons = {Finish.LENGTH: "max_output_tokens", Finish.FILTERED: "content_filter"}
    return {
        **_HEAD,
        "model": answer.model,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reasons[answer.finish]} if _is_cut(answer) else None,
        "output": _output(answer),
        "usage": {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }


def _frame(number: int, event: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({**event, "sequence_number": number}).decode()
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
