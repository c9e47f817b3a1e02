# SPDX-License-Identifier: Apache-2.0
"""
The simulated Replicate, under `/replicate/{host}`: the API, and the host that delivers output.

Formats follow https://replicate.com/docs/reference/http and recorded answers; webhooks
https://replicate.com/docs/topics/webhooks . Predictions belong to the token that made them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import web

from simulator.api import (
    Generation,
    InvalidRequestError,
    Refusal,
    RefusalKind,
    Settings,
    json_response,
)
from simulator.bearer_api import BearerAPI, require_json
from simulator.control import Control, key_digest
from simulator.faults import FaultKind, HintForm, fault_in_model
from simulator.job_book import MP4, PNG, JobBook, SimulatedJob, Stage
from simulator.tokens import Answer

__all__ = ["WEBHOOK_SECRET", "ReplicateAPI"]

API_HOST = "api.replicate.com"
DELIVERY_HOST = "replicate.delivery"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"simulated webhook secret").decode()
WAIT_SECONDS_MAX = 60
_VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
_SDXL = "7762fd07cf82c948538e41f63f77d685e02b063e37e496e96eefd46c929f9bdc"
_VERSIONS = {_VERSION: "replicate/hello-world", _SDXL: "stability-ai/sdxl"}
_IMAGES_MAX = 4
_HELLO_SECONDS = 0.05


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Flux(_Strict):
    prompt: str
    aspect_ratio: str = "1:1"
    num_outputs: int = 1
    output_format: Literal["webp", "jpg", "png"] = "png"
    seed: int | None = None
    go_fast: bool = True


class _Video(_Strict):
    prompt: str
    aspect_ratio: Literal["16:9", "9:16"] = "16:9"
    duration: Literal[4, 6, 8] = 8
    image: str | None = None
    resolution: Literal["720p", "1080p"] = "1080p"
    generate_audio: bool = True


class _Hello(_Strict):
    text: str


class _Diffusion(_Strict):
    prompt: str
    num_outputs: int = 1


_INPUTS: dict[str, type[_Strict]] = {
    "black-forest-labs/flux-schnell": _Flux,
    "black-forest-labs/flux-dev": _Flux,
    "black-forest-labs/flux-1.1-pro": _Flux,
    "google/veo-3.1": _Video,
    "google/veo-3.1-fast": _Video,
    "replicate/hello-world": _Hello,
    "stability-ai/sdxl": _Diffusion,
}


class _Body(_Strict):
    input: msgspec.Raw
    version: str = ""
    webhook: str = ""
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] = []
    stream: bool = False


class ReplicateAPI(BearerAPI):
    """
    GET account, POST and GET predictions, POST cancel; GET output files without a key.
    """

    name = "replicate"
    models = tuple(_INPUTS)
    key_prefixes = ("r8_",)

    def __init__(self, control: Control, settings: Settings) -> None:
        super().__init__(control, settings)
        self._seconds = settings.job_seconds
        self._webhook_address = settings.webhook_address
        self._book = JobBook()
        self._webhooks: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        """
        Give the provider's addresses.
        """
        api = f"/replicate/{API_HOST}/v1"
        return [
            web.get(f"{api}/account", self._account),
            web.get(f"{api}/webhooks/default/secret", self._secret),
            web.post(f"{api}/predictions", self._create),
            web.post(f"{api}/models/{{owner}}/{{name}}/predictions", self._create),
            web.get(f"{api}/predictions/{{id}}", self._get),
            web.post(f"{api}/predictions/{{id}}/cancel", self._cancel),
            web.get(f"/replicate/{DELIVERY_HOST}/{{id}}/{{file}}", self._deliver),
        ]

    def peek(self, request: web.Request, body: bytes) -> tuple[str, bool]:
        """
        Give the model, which stands in the address or in the version.
        """
        if "owner" in request.match_info:
            return f"{request.match_info['owner']}/{request.match_info['name']}", False
        try:
            version = msgspec.json.decode(body, type=_Body).version
        except msgspec.DecodeError:
            version = ""
        return _VERSIONS.get(version, ""), False

    def read(self, request: web.Request, body: bytes) -> Generation:
        """
        Refuse: predictions are no requests for text.
        """
        del request, body
        raise InvalidRequestError("not a prediction")

    def answer(self, answer: Answer) -> dict[str, Any]:
        """
        Give nothing: predictions are no requests for text.
        """
        del answer
        return {}

    def frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """
        Give nothing: predictions are no requests for text.
        """
        del answer, include_usage
        return []

    def error_frame(self) -> bytes:
        """
        Give nothing: predictions are no requests for text.
        """
        return b""

    def refuse(self, refusal: Refusal) -> web.Response:
        """
        Say a refusal as a problem.
        """
        status, title, detail = _REFUSALS[refusal.kind]
        body: dict[str, Any] = {"title": title, "detail": detail, "status": status}
        headers: dict[str, str] = {}
        if refusal.detail and refusal.kind is RefusalKind.INVALID_REQUEST:
            body["detail"] = refusal.detail
        if refusal.kind is RefusalKind.RATE_LIMITED and refusal.fault is not None:
            fault = refusal.fault
            headers = fault.headers(HintForm.BODY, now=self.now)
            body = {"detail": detail + fault.sentence(HintForm.BODY), "status": status}
            if fault.form(HintForm.BODY) is HintForm.BODY:
                body["detail"] = f"{detail} Your rate limit resets in ~{fault.wait}s."
                body["retry_after"] = fault.wait
        return web.Response(
            body=msgspec.json.encode(body),
            status=status,
            headers=headers,
            content_type="application/problem+json",
        )

    async def _account(self, request: web.Request) -> web.StreamResponse:
        account = {"type": "organization", "username": "simulated", "name": "Simulated"}
        return await self.free(request, account)

    async def _secret(self, request: web.Request) -> web.StreamResponse:
        return await self.free(request, {"key": WEBHOOK_SECRET})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        model, _ = self.peek(request, data)
        fault = await self.admit(request, model, generation=True)
        if isinstance(fault, web.Response):
            return fault
        plain, _ = fault_in_model(model)
        try:
            require_json(request)
            body = _read_body(data, versioned="owner" not in request.match_info)
            if not self.knows(plain):
                return self.refuse(Refusal(kind=RefusalKind.MODEL_NOT_FOUND, model=plain))
            made = msgspec.json.decode(body.input, type=_INPUTS[plain])
            wait = _wait_seconds(request)
        except (msgspec.DecodeError, InvalidRequestError) as error:
            return self.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        outputs = getattr(made, "num_outputs", 1)
        if not 1 <= outputs <= _IMAGES_MAX:
            return self.refuse(
                Refusal(kind=RefusalKind.INVALID_REQUEST, detail="- input.num_outputs: 1 to 4")
            )
        job = self._book.start(
            owner=key_digest(self.key_of(request)),
            model=plain,
            outputs=outputs,
            seconds=_HELLO_SECONDS if isinstance(made, _Hello) else self._seconds,
            fault=fault,
        )
        if body.webhook:
            task = asyncio.create_task(self._send_webhook(job, body.webhook))
            self._webhooks.add(task)
            task.add_done_callback(self._webhooks.discard)
        if fault is not None and fault.kind is FaultKind.CUT:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if wait and job.fault is not FaultKind.STALL:
            await asyncio.sleep(min(wait, job.seconds))
        return json_response(self._prediction(job), status=201)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        job = await self._owned(request)
        return job if isinstance(job, web.Response) else json_response(self._prediction(job))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = await self._owned(request)
        if isinstance(job, web.Response):
            return job
        job.cancel()
        return json_response(self._prediction(job))

    async def _owned(self, request: web.Request) -> SimulatedJob | web.Response:
        refusal = await self.admit(request, "", generation=False)
        if isinstance(refusal, web.Response):
            return refusal
        owner = key_digest(self.key_of(request))
        job = self._book.find(request.match_info["id"], owner=owner)
        return job or self.refuse(Refusal(kind=RefusalKind.MODEL_NOT_FOUND))

    async def _deliver(self, request: web.Request) -> web.StreamResponse:
        """
        Deliver a file; a request with a key is refused, as no key belongs here.
        """
        if "authorization" in request.headers:
            return web.Response(status=400, text="no key belongs here\n")
        job = self._book.find(request.match_info["id"], owner=None)
        number, _, kind = request.match_info["file"].removeprefix("out-").partition(".")
        magic, media_type = (MP4, "video/mp4") if kind == "mp4" else (PNG, "image/png")
        data = job.medium(int(number), magic) if job and number.isdecimal() else None
        if data is None:
            return web.Response(status=404, text="not found\n")
        return web.Response(body=data, content_type=media_type)

    def _prediction(self, job: SimulatedJob) -> dict[str, Any]:
        stage = job.stage()
        address = f"https://{API_HOST}/v1/predictions/{job.job_id}"
        body: dict[str, Any] = {
            "id": job.job_id,
            "model": job.model,
            "version": "hidden",
            # The real one repeats the caller's input here; what matters is that nobody keeps it.
            "input": {"prompt": "simulated"},
            "logs": "",
            "output": None,
            "data_removed": False,
            "error": None,
            "status": _STATUSES[stage],
            "created_at": self.now.isoformat(),
            "urls": {"get": address, "cancel": f"{address}/cancel"},
        }
        if stage is Stage.SUCCEEDED:
            body["output"] = _output(job)
        if stage is Stage.FAILED:
            body["error"] = "The simulated model failed."
        if stage is Stage.FILTERED:
            body["error"] = "The input or output was flagged as sensitive. (E005)"
        if stage not in (Stage.QUEUED, Stage.RUNNING):
            body["metrics"] = {"predict_time": job.busy_seconds, "total_time": job.busy_seconds}
        return body

    async def _send_webhook(self, job: SimulatedJob, url: str) -> None:
        """
        Say that a job has ended, signed, to the address that stands in for the named host.
        """
        if not self._webhook_address:
            return
        await asyncio.sleep(job.seconds)
        body = msgspec.json.encode(self._prediction(job))
        name, time = f"msg_{job.job_id}", str(int(self.now.timestamp()))
        key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
        digest = hmac.new(key, f"{name}.{time}.".encode() + body, hashlib.sha256).digest()
        headers = {
            "webhook-id": name,
            "webhook-timestamp": time,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
            "content-type": "application/json",
        }
        path = url.partition("://")[2].partition("/")[2]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self._webhook_address}/{path}", data=body, headers=headers),
        ):
            pass


def _output(job: SimulatedJob) -> Any:
    """
    Give output in the shape of its model: one address, or a list.
    """
    if job.model == "replicate/hello-world":
        return "hello Hi"
    kind = "mp4" if _INPUTS[job.model] is _Video else "png"
    urls = [
        f"https://{DELIVERY_HOST}/{job.job_id}/out-{index}.{kind}"
        for index in range(job.output_count)
    ]
    if kind == "mp4" or job.model.endswith("pro"):
        return urls[0] if urls else None
    return urls


def _read_body(data: bytes, *, versioned: bool) -> _Body:
    body = msgspec.json.decode(data, type=_Body)
    if versioned and body.version not in _VERSIONS:
        raise InvalidRequestError("Invalid version or not permitted")
    return body


def _wait_seconds(request: web.Request) -> int:
    """
    Read `Prefer: wait` or `wait=N`.
    """
    prefer = request.headers.get("prefer", "")
    if not prefer or prefer == "respond-async":
        return 0
    name, _, number = prefer.partition("=")
    seconds = int(number) if number.isdecimal() else WAIT_SECONDS_MAX
    if name != "wait" or not 1 <= seconds <= WAIT_SECONDS_MAX:
        raise InvalidRequestError("Prefer: wait=N takes 1 to 60 seconds")
    return seconds


_STATUSES = {
    Stage.QUEUED: "starting",
    Stage.RUNNING: "processing",
    Stage.SUCCEEDED: "succeeded",
    Stage.FAILED: "failed",
    Stage.FILTERED: "failed",
    Stage.CANCELLED: "canceled",
}
_REFUSALS: dict[RefusalKind, tuple[int, str, str]] = {
    RefusalKind.MISSING_KEY: (
        401,
        "Unauthenticated",
        "You did not pass an authentication token",
    ),
    RefusalKind.INVALID_KEY: (
        401,
        "Unauthenticated",
        "You did not pass a valid authentication token",
    ),
    RefusalKind.NO_CREDIT: (
        402,
        "Insufficient credit",
        "You have insufficient credit to run this model.",
    ),
    RefusalKind.RATE_LIMITED: (429, "Too many requests", "Request was throttled."),
    RefusalKind.FORBIDDEN: (403, "Forbidden", "You do not have permission to perform this action."),
    RefusalKind.ERROR: (500, "Internal server error", "An internal error has occurred."),
    RefusalKind.OVERLOADED: (503, "Service unavailable", "Try again later."),
    RefusalKind.MODEL_NOT_FOUND: (
        404,
        "Not found",
        "The requested resource could not be found.",
    ),
    RefusalKind.INVALID_REQUEST: (422, "Input validation failed", "The input is not valid."),
}
