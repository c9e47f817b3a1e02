# SPDX-License-Identifier: Apache-2.0
"""
The simulated Amazon Bedrock, under `/amazon-bedrock/{host}`.

Formats follow https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html ,
errors https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html and
recorded answers. Every credential has exactly the permissions bedrock:InvokeModel and
bedrock:InvokeModelWithResponseStream; `lists` in it adds bedrock:ListFoundationModels, `noinvoke`
and `nostream` take one of the two away.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from simulator.api import (
    KEY_LENGTH_MIN,
    Generation,
    InvalidRequestError,
    ProviderAPI,
    Refusal,
    RefusalKind,
    json_response,
)
from simulator.aws_signature import access_key_id, signature_fault
from simulator.bearer_api import bearer_key, require_json
from simulator.converse_format import (
    ConverseBody,
    event,
    exception,
    prompt_of,
    stream_events,
    whole_answer,
)
from simulator.faults import HintForm
from simulator.tokens import Answer

__all__ = ["BedrockAPI"]

MODELS = (
    "amazon.nova-micro-v1:0",
    "amazon.nova-lite-v1:0",
    "amazon.nova-pro-v1:0",
    "amazon.nova-2-lite-v1:0",
    "anthropic.claude-3-haiku-20240307-v1:0",
    "anthropic.claude-haiku-4-5-20251001-v1:0",
    "anthropic.claude-sonnet-4-6",
    "anthropic.claude-opus-4-6-v1",
)
_PROFILE = re.compile(r"^(?:us|eu|apac|global)\.")
_PREFIX = "/amazon-bedrock/"
_REGION = r"[a-z]{2}-[a-z]+-\d"
_SHORT_TERM = "bedrock-api-key-"
_SCOPE_REGION = re.compile(r"X-Amz-Credential=[^/]+/\d{8}/([^/]+)/")
LIST, INVOKE, STREAM = (
    "bedrock:ListFoundationModels",
    "bedrock:InvokeModel",
    "bedrock:InvokeModelWithResponseStream",
)
"""https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonbedrock.html"""
PERMISSIONS = frozenset({INVOKE, STREAM})
"""What a credential may do; Converse needs the one, ConverseStream the other."""
_GRANTED = {"lists": LIST}
_TAKEN = {"noinvoke": INVOKE, "nostream": STREAM}


class BedrockAPI(ProviderAPI):
    """
    GET /foundation-models, POST /model/{model}/converse and /converse-stream.
    """

    name = "amazon-bedrock"
    key_prefixes = ("ABSK", _SHORT_TERM)
    stream_type = "application/vnd.amazon.eventstream"

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        runtime = f"{_PREFIX}bedrock-runtime.{{region:{_REGION}}}.amazonaws.com"
        control = f"{_PREFIX}bedrock.{{region:{_REGION}}}.amazonaws.com"
        return [
            web.get(f"{control}/foundation-models", self._models),
            web.post(
                f"{runtime}/model/{{model}}/{{operation:converse|converse-stream}}", self.generate
            ),
        ]

    def key_of(self, request: web.Request) -> str:
        """
        Take the bearer key, or the id of the access key that signed, dashes for underscores.
        """
        signed_by = access_key_id(request.headers.get("Authorization", ""))
        return signed_by.replace("_", "-") or bearer_key(request)

    async def doubt(self, request: web.Request, key: str) -> str:
        """
        Recompute a signature; hold a short-term key against its Region.
        """
        authorization = request.headers.get("Authorization", "")
        region = request.match_info["region"]
        if not authorization.startswith("AWS4-"):
            return _bearer_doubt(key, region, self.key_prefixes)
        url = "https://" + request.raw_path.removeprefix(_PREFIX)
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers["host"] = url.split("/")[2]
        return signature_fault(
            method=request.method,
            url=url,
            region=region,
            headers=headers,
            body=await request.read(),
            now=self.now,
        )

    def missing_permission(self, request: web.Request, key: str, *, generation: bool) -> str:
        """
        Name the action that the key's policy does not allow.
        """
        needed = LIST
        if generation:
            needed = STREAM if request.match_info["operation"] == "converse-stream" else INVOKE
        granted = PERMISSIONS.union(*({one} for word, one in _GRANTED.items() if word in key))
        taken = {action for word, action in _TAKEN.items() if word in key}
        return "" if needed in granted - taken else needed

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give model and stream flag, which stand in the address.
        """
        streams = request.match_info["operation"] == "converse-stream"
        return request.match_info["model"], streams

    def knows(self, model: str) -> bool:
        """
        Tell whether a model or its inference profile is served.
        """
        return _PROFILE.sub("", model) in MODELS

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly.
        """
        require_json(request)
        model, stream = self.peek(request, body)
        try:
            read = msgspec.json.decode(body, type=ConverseBody)
            prompt = None if not read.messages else prompt_of(model, read)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(f"The format of the request is not valid: {error}") from error
        if prompt is None:
            raise InvalidRequestError("A conversation must start with a user message.")
        roles = [message.role for message in read.messages]
        if roles[0] != "user" or any(a == b for a, b in itertools.pairwise(roles)):
            raise InvalidRequestError("A conversation must alternate between user and assistant.")
        return Generation(prompt=prompt, stream=stream)

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Amazon's words: its type in a header, its message in the body.
        """
        status, name, message = _REFUSALS[refusal.kind]
        field = "message"
        if refusal.kind is RefusalKind.INVALID_KEY and refusal.detail in _DOUBTS:
            name, message = _DOUBTS[refusal.detail]
            field = "Message" if refusal.detail == "bearer" else field
        headers = {"x-amzn-requestid": "simulated"}
        if name:
            headers["x-amzn-errortype"] = f"{name}:http://internal.amazon.com/coral/"
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            headers |= refusal.fault.headers(HintForm.NONE, now=self.now)
            message += refusal.fault.sentence(HintForm.NONE)
        action = refusal.detail or (INVOKE if refusal.generation else LIST)
        message = message.format(detail=refusal.detail, action=action)
        return json_response({field: message}, status=status, headers=headers)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body.
        """
        return whole_answer(answer)

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:  # noqa: ARG002 - always
        """
        Give the messages of the binary stream.
        """
        return [event(name, body) for name, body in stream_events(answer)]

    def error_frame(self) -> bytes:
        """
        Give a failure as it comes inside a stream.
        """
        return exception("serviceUnavailableException", "The service is unavailable.")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        summaries = [{"modelId": model, "modelName": model} for model in MODELS]
        return await self.free(request, {"modelSummaries": summaries})


def _bearer_doubt(key: str, region: str, prefixes: tuple[str, ...]) -> str:
    if not key.startswith(prefixes):
        return "prefix"
    if key.startswith(_SHORT_TERM):
        try:
            request = unquote(base64.b64decode(key.removeprefix(_SHORT_TERM)).decode())
        except (binascii.Error, UnicodeDecodeError):
            return "bearer"
        found = _SCOPE_REGION.search(request)
        return "" if found is not None and found[1] == region else "bearer"
    return "" if len(key) >= KEY_LENGTH_MIN else "bearer"


_DOUBTS = {
    "prefix": ("", "Invalid API Key format: Must start with pre-defined prefix"),
    "bearer": ("", "Authentication failed: Please make sure your API Key is valid."),
    "incomplete": ("IncompleteSignatureException", "Authorization header is not complete."),
    "expired": ("InvalidSignatureException", "Signature expired."),
    "signature": (
        "InvalidSignatureException",
        (
            "The request signature we calculated does not match the signature you provided. Check "
            "your AWS Secret Access Key and signing method."
        ),
    ),
}

_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (
        403,
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
    ),
    RefusalKind.INVALID_KEY: (
        403,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
    RefusalKind.NO_CREDIT: (
        403,
        "AccessDeniedException",
        (
            "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: a valid payment instrument "
            "must be provided."
        ),
    ),
    RefusalKind.RATE_LIMITED: (
        429,
        "ThrottlingException",
        "Too many tokens, please wait before trying again.",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "AccessDeniedException",
        (
            "User: arn:aws:iam::123456789012:user/simulated is not authorized to perform: "
            "{action} because no identity-based policy allows the {action} action"
        ),
    ),
    RefusalKind.ERROR: (
        500,
        "InternalServerException",
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    RefusalKind.OVERLOADED: (
        503,
        "ServiceUnavailableException",
        "The service isn't currently available. Try your request again.",
    ),
    RefusalKind.MODEL_NOT_FOUND: (
        400,
        "ValidationException",
        "The provided model identifier is invalid.",
    ),
    RefusalKind.INVALID_REQUEST: (400, "ValidationException", "{detail}"),
}
