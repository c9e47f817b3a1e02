# SPDX-License-Identifier: Apache-2.0
"""
The simulated DeepSeek, under `/deepseek`.

Formats follow https://api-docs.deepseek.com/api/create-chat-completion , errors
https://api-docs.deepseek.com/quick_start/error_codes and recorded answers.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    Refusal,
    RefusalKind,
    json_response,
    sse,
)
from simulator.bearer_api import BearerAPI, require_json
from simulator.chat_format import DeepSeekBody, chunks, completion, prompt_of, usage_of
from simulator.faults import Fault, FaultKind, HintForm
from simulator.tokens import Answer, pieces

__all__ = ["DeepSeekAPI"]

MODELS = ("deepseek-v4-flash", "deepseek-v4-pro", "deepseek-chat", "deepseek-reasoner")
_PLAIN: Literal["deepseek-chat"] = "deepseek-chat"
_CREATED = 1_767_225_600


class DeepSeekAPI(BearerAPI):
    """
    GET /user/balance and POST /chat/completions.
    """

    name = "deepseek"
    models = MODELS
    key_prefixes = ("sk-",)
    foreign_prefixes = ("sk-or-", "sk-ant-", "sk-proj-")

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        return [
            web.get("/deepseek/user/balance", self._balance),
            web.post("/deepseek/chat/completions", self.generate),
        ]

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        try:
            read = msgspec.json.decode(body, type=DeepSeekBody)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"Failed to deserialize the JSON body: {error}") from error
        if not read.messages:
            raise InvalidRequestError("Empty input messages")
        if read.stream_options is not None and not read.stream:
            raise InvalidRequestError("stream_options should be set along with stream = true")
        thinks = read.model != _PLAIN
        if read.thinking is not None:
            thinks = read.thinking.type == "enabled"
        return Generation(
            prompt=prompt_of(read, thinks=thinks),
            stream=read.stream,
            include_usage=read.stream_options is not None and read.stream_options.include_usage,
        )

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in DeepSeek's words; its code is the same whatever the cause.
        """
        status, kind, message = _REFUSALS[refusal.kind]
        headers: dict[str, str] = {}
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers = refusal.fault.headers(HintForm.NONE, now=self.now)
            message += refusal.fault.sentence(HintForm.NONE)
        message = message.format(model=refusal.model, detail=refusal.detail)
        error = {
            "message": message,
            "type": kind,
            "param": None,
            "code": "invalid_request_error",
        }
        return json_response({"error": error}, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        body = completion(answer, _head(answer), _usage(answer))
        if answer.reasoning_tokens:
            body["choices"][0]["message"]["reasoning_content"] = "Simulated thinking."
        return body

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - always
        """
        Give a keep-alive comment, thoughts, text, usage beside the finish reason, and `[DONE]`.
        """
        bodies = chunks(answer, _head(answer), pieces(answer.text))
        if answer.reasoning_tokens:
            delta = {"content": None, "reasoning_content": "Simulated thinking."}
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            bodies.insert(1, {**bodies[0], "choices": [choice]})
        bodies[-1]["usage"] = _usage(answer)
        return [b": keep-alive\n\n", *(sse(body) for body in bodies), b"data: [DONE]\n\n"]

    def error_frame(self) -> bytes:
        """
        Give a server error as it comes inside a stream.
        """
        error = {"message": "Internal error", "type": "server_error", "param": None, "code": None}
        return sse({"error": error})

    def free_body(self, body: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        """
        Tell the balance: a key without credit has none.
        """
        empty = fault is not None and fault.kind is FaultKind.NO_CREDIT
        balance = {**body["balance_infos"][0], "total_balance": "0.00" if empty else "10.00"}
        return {"is_available": not empty, "balance_infos": [balance]}

    async def _balance(self, request: web.Request) -> web.StreamResponse:
        info = {"currency": "USD", "granted_balance": "0.00", "topped_up_balance": "10.00"}
        return await self.free(request, {"balance_infos": [info]})


_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (
        401,
        "authentication_error",
        "Authentication Fails (auth header format should be Bearer sk-...)",
    ),
    RefusalKind.INVALID_KEY: (
        401,
        "authentication_error",
        "Authentication Fails, Your api key: ****-key is invalid",
    ),
    RefusalKind.NO_CREDIT: (402, "unknown_error", "Insufficient Balance"),
    RefusalKind.RATE_LIMITED: (429, "rate_limit_error", "Rate limit reached."),
    RefusalKind.FORBIDDEN: (403, "permission_error", "Access denied."),
    RefusalKind.ERROR: (500, "server_error", "Internal error"),
    RefusalKind.OVERLOADED: (503, "server_error", "Server overloaded, please try again later."),
    RefusalKind.MODEL_NOT_FOUND: (400, "invalid_request_error", "Model Not Exist"),
    RefusalKind.INVALID_REQUEST: (422, "invalid_request_error", "{detail}"),
}


def _head(answer: Answer) -> dict[str, Any]:
    return {"id": "simulated", "created": _CREATED, "model": answer.model}


def _usage(answer: Answer) -> dict[str, Any]:
    """
    Give the usage: what was found in the cache and what was not make up the prompt.
    """
    return {
        **usage_of(answer),
        "prompt_cache_hit_tokens": 0,
        "prompt_cache_miss_tokens": answer.input_tokens,
    }
