# SPDX-License-Identifier: Apache-2.0
"""
The simulated Vertex AI and Google's token address, under `/google-vertex/{host}`.

Formats follow https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference and
https://developers.google.com/identity/protocols/oauth2/service-account . Every service account has
exactly the role roles/aiplatform.user, but one with `viewer` in its name, which has
roles/aiplatform.viewer. Tokens are sealed by a key of this process.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from google.auth import exceptions, jwt

from simulator.anthropic_api import AnthropicAPI
from simulator.api import (
    Generation,
    InvalidRequestError,
    Production,
    ProviderAPI,
    Refusal,
    RefusalKind,
    Settings,
    json_response,
    reset,
)
from simulator.bearer_api import bearer_key, require_json
from simulator.control import Control
from simulator.credentials import TOKEN_URI, account_digest, public_pem
from simulator.faults import FaultKind
from simulator.gemini_api import IMAGE_MODELS, GeminiAPI, draws, read_drawing
from simulator.gemini_api import MODELS as GEMINI_MODELS
from simulator.tokens import Answer
from simulator.veo import vertex_video_routes

__all__ = ["VertexAPI"]

CLAUDE_MODELS = (
    "claude-sonnet-4-6",
    "claude-opus-4-6",
    "claude-haiku-4-5@20251001",
    "claude-3-haiku@20240307",
)
ANTHROPIC_VERSION = "vertex-2023-10-16"
TOKEN_SECONDS = 3599
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ASSERTION_SECONDS_MAX = 3600
_METHODS = {
    "google": ("generateContent", "streamGenerateContent"),
    "anthropic": ("rawPredict", "streamRawPredict"),
}
_NOBODY = "nobody"
ROLE = "roles/aiplatform.user"
PERMISSION = "aiplatform.endpoints.predict"
"""What counting, generating and making videos need, and the role holds:
https://cloud.google.com/vertex-ai/docs/general/access-control"""
_VIEWER = "viewer"
_PERMISSIONS = {ROLE: frozenset({PERMISSION}), "roles/aiplatform.viewer": frozenset[str]()}
"""What each role holds of it."""


class VertexAPI(ProviderAPI):
    """
    POST the token address, countTokens, and both publishers' generations.
    """

    name = "google-vertex"
    key_prefixes = ("sim-",)

    def __init__(self, control: Control, settings: Settings) -> None:
        super().__init__(control, settings)
        self._gemini = GeminiAPI(control, settings)
        self._anthropic = AnthropicAPI(control, settings)
        self._seal = secrets.token_bytes(32)

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        base = "/google-vertex/{host}/v1/projects/{project}/locations/{location}/publishers"
        model = f"{base}/{{publisher:google|anthropic}}/models/{{model}}"
        return [
            web.post("/google-vertex/oauth2.googleapis.com/token", self._token),
            web.post(f"{model}:countTokens", self._count),
            *vertex_video_routes(self, model_path=model, seconds=self._settings.job_seconds),
            web.post(f"{model}:{{method}}", self._serve),
        ]

    def key_of(self, request: web.Request) -> str:
        """
        Give the account that a token was made for.
        """
        token = bearer_key(request)
        return self._account_of(token) if token else ""

    def missing_permission(
        self,
        request: web.Request,  # noqa: ARG002 - the same for every method
        key: str,
        *,
        generation: bool,  # noqa: ARG002 - the same for every method
    ) -> str:
        """
        Name the permission that the account's role does not hold.
        """
        role = "roles/aiplatform.viewer" if _VIEWER in key else ROLE
        return "" if PERMISSION in _PERMISSIONS[role] else PERMISSION

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:  # noqa: ARG002 - shared
        """
        Give model and stream flag, which stand in the address.
        """
        streams = request.match_info["method"].startswith("stream")
        return request.match_info["model"], streams

    def knows(self, model: str) -> bool:
        """
        Tell whether a model is served.
        """
        return model in (*GEMINI_MODELS, *IMAGE_MODELS, *CLAUDE_MODELS)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not draws(request):
            return await self.generate(request)
        body = await request.read()

        def read(data: Mapping[str, Any]) -> Production:
            del data
            _require_address(request)
            require_json(request)
            return read_drawing(request, body)

        return await self.produce(request, request.match_info["model"], {}, read)

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Read a request strictly, in its publisher's format.
        """
        _require_address(request)
        require_json(request)
        publisher = request.match_info["publisher"]
        if request.match_info["method"] not in _METHODS[publisher]:
            raise InvalidRequestError("The method does not fit the publisher.")
        if publisher == "google":
            return self._gemini.read(request, body)
        return self._read_messages(request, body)

    def _read_messages(self, request: web.Request, body: bytes) -> Generation:
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InvalidRequestError(str(error)) from error
        if fields.pop("anthropic_version", None) != ANTHROPIC_VERSION:
            raise InvalidRequestError("anthropic_version: Input should be 'vertex-2023-10-16'")
        if "model" in fields:
            raise InvalidRequestError("model: Extra inputs are not permitted")
        model, stream = self.peek(request, body)
        read = self._anthropic.read_body(msgspec.json.encode({**fields, "model": model}))
        if read.stream is not stream:
            raise InvalidRequestError("stream: does not fit the method")
        return read

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal in Google's words.
        """
        if refusal.kind not in _REFUSALS:
            return self._gemini.refuse(refusal)
        status, state, message, reason = _REFUSALS[refusal.kind]
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
        }
        error = {"code": status, "message": message, "status": state, "details": [info]}
        return json_response({"error": error}, status=status)

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give a whole answer's body, in its publisher's format.
        """
        if answer.model.startswith("claude-"):
            return self._anthropic.answer(answer)
        return self._gemini.answer(answer)

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give a stream's frames, in its publisher's format.
        """
        if answer.model.startswith("claude-"):
            return self._anthropic.frames(answer, include_usage=include_usage)
        return self._gemini.frames(answer, include_usage=include_usage)

    def error_frame(self) -> bytes:
        """
        Give an overload as it comes inside a stream of either publisher.
        """
        return self._gemini.error_frame()

    async def _count(self, request: web.Request) -> web.StreamResponse:
        try:
            _require_address(request)
        except InvalidRequestError as error:
            return self.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        return await self.free(request, {"totalTokens": 1, "totalBillableCharacters": 2})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        """
        Trade an assertion for a token.
        """
        form = await request.post()
        email = ""
        if form.get("grant_type") == _GRANT:
            email = _verified_account(str(form.get("assertion")))
        self._record_account(request, email)
        if not email:
            return _refused_grant("Invalid JWT Signature.")
        fault = self._fault(email, "", generation=False)
        if fault is not None and fault.kind is FaultKind.DOWN:
            return reset(request)
        if fault is not None and fault.kind is FaultKind.REVOKED:
            return _refused_grant("Invalid grant: account not found")
        if fault is not None and fault.kind is FaultKind.ERROR:
            return json_response({"error": "internal_failure"}, status=500)
        return json_response(
            {
                "access_token": self._sealed(email),
                "expires_in": TOKEN_SECONDS,
                "token_type": "Bearer",
            }
        )

    def _record_account(self, request: web.Request, email: str) -> None:
        self._control.record(
            {
                "provider": self.name,
                "method": request.method,
                "path": request.path,
                "key_sha256": hashlib.sha256(email.encode()).hexdigest() if email else "",
                "model": "",
                "stream": False,
                "time": self.now.isoformat(),
            }
        )

    def _sealed(self, email: str) -> str:
        text = f"{int(self.now.timestamp()) + TOKEN_SECONDS} {email}"
        seal = hmac.digest(self._seal, text.encode(), "sha256").hex()
        return "ya29." + base64.urlsafe_b64encode(f"{seal} {text}".encode()).decode()

    def _account_of(self, token: str) -> str:
        try:
            seal, text = (
                base64.urlsafe_b64decode(token.removeprefix("ya29.")).decode().split(" ", 1)
            )
            end, email = text.split(" ")
        except ValueError:
            return _NOBODY
        expected = hmac.digest(self._seal, text.encode(), "sha256").hex()
        genuine = hmac.compare_digest(seal, expected)
        return email if genuine and int(end) > self.now.timestamp() else _NOBODY


def _verified_account(assertion: str) -> str:
    """
    Give the account that signed an assertion, "" where it is not genuine.
    """
    try:
        header = jwt.decode_header(assertion)  # type: ignore[no-untyped-call]
        key_id = str(header.get("kid"))
        claims = jwt.decode(  # type: ignore[no-untyped-call]
            assertion, certs=public_pem(key_id), audience=TOKEN_URI
        )
    except (ValueError, exceptions.GoogleAuthError):
        return ""
    email = str(claims.get("iss"))
    bound = email.partition("@")[0].endswith(f"-{account_digest(key_id)}")
    short = 0 < claims["exp"] - claims["iat"] <= _ASSERTION_SECONDS_MAX
    return email if bound and short and claims.get("scope") == _SCOPE else ""


def _require_address(request: web.Request) -> None:
    """
    Hold the host against the location; `global` has a host without a prefix.
    """
    location = request.match_info["location"]
    prefix = "" if location == "global" else f"{location}-"
    if request.match_info["host"] != f"{prefix}aiplatform.googleapis.com":
        raise InvalidRequestError("The host does not serve this location.")


def _refused_grant(description: str) -> web.Response:
    body = {"error": "invalid_grant", "error_description": description}
    return json_response(body, status=400)


_REFUSALS: dict[RefusalKind, tuple[int, str, str, str]] = {
    RefusalKind.MISSING_KEY: (
        401,
        "UNAUTHENTICATED",
        "Request is missing required authentication credential.",
        "CREDENTIALS_MISSING",
    ),
    RefusalKind.INVALID_KEY: (
        401,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials.",
        "ACCESS_TOKEN_EXPIRED",
    ),
    RefusalKind.NO_CREDIT: (
        403,
        "PERMISSION_DENIED",
        "This API method requires billing to be enabled.",
        "BILLING_DISABLED",
    ),
    RefusalKind.FORBIDDEN: (
        403,
        "PERMISSION_DENIED",
        f"Permission '{PERMISSION}' denied on resource (or it may not exist).",
        "IAM_PERMISSION_DENIED",
    ),
}
