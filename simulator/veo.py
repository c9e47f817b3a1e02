# SPDX-License-Identifier: Apache-2.0
"""
The simulated Veo, at Gemini's and at Vertex AI's door.

Formats follow https://ai.google.dev/gemini-api/docs/video and
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/veo-video-generation .
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from aiohttp import web

from simulator.api import InvalidRequestError, ProviderAPI, Refusal, RefusalKind, json_response
from simulator.bearer_api import require_json
from simulator.control import key_digest
from simulator.faults import FaultKind, fault_in_model
from simulator.job_book import MP4, JobBook, SimulatedJob, Stage

__all__ = ["gemini_video_routes", "vertex_video_routes"]

MODELS = (
    "veo-3.1-generate-preview",
    "veo-3.1-fast-generate-preview",
    "veo-3.1-generate-001",
    "veo-3.1-fast-generate-001",
)
_FILES_HOST = "generativelanguage.googleapis.com"
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"


class _Strict(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    pass


class _Image(_Strict):
    bytes_base64_encoded: str
    mime_type: Literal["image/png", "image/jpeg", "image/webp"]


class _Instance(_Strict):
    prompt: str
    image: _Image | None = None


class _Parameters(_Strict):
    aspect_ratio: Literal["16:9", "9:16"] = "16:9"
    duration_seconds: Literal[4, 6, 8] = 8
    sample_count: int = 1
    resolution: Literal["720p", "1080p", "4k"] = "720p"
    negative_prompt: str = ""
    person_generation: str = ""


class _Body(_Strict):
    instances: list[_Instance]
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _Fetch(_Strict):
    operation_name: str


class _Videos:
    """
    One door's videos.
    """

    def __init__(
        self,
        api: ProviderAPI,
        *,
        seconds: float,
        name: Callable[[web.Request, SimulatedJob], str],
        response: Callable[[SimulatedJob], dict[str, Any]],
    ) -> None:
        self._api = api
        self._seconds = seconds
        self._name = name
        self._response = response
        self._book = JobBook()

    async def start(self, request: web.Request) -> web.StreamResponse:
        """
        Answer predictLongRunning.
        """
        model, _ = fault_in_model(request.match_info["model"])
        fault = await self._api.admit(request, request.match_info["model"], generation=True)
        if isinstance(fault, web.Response):
            return fault
        try:
            require_json(request)
            body = msgspec.json.decode(await request.read(), type=_Body)
            _check(body)
        except (msgspec.DecodeError, InvalidRequestError) as error:
            return self._api.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        if model not in MODELS:
            return self._api.refuse(Refusal(kind=RefusalKind.MODEL_NOT_FOUND, model=model))
        job = self._book.start(
            owner=self._owner(request),
            model=model,
            outputs=body.parameters.sample_count,
            seconds=self._seconds,
            fault=fault,
        )
        if fault is not None and fault.kind is FaultKind.CUT:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        return json_response({"name": self._name(request, job)})

    async def ask(self, request: web.Request, job_id: str) -> web.StreamResponse:
        """
        Say how an operation stands.
        """
        refusal = await self._api.admit(request, "", generation=False)
        if isinstance(refusal, web.Response):
            return refusal
        job = self._book.find(job_id, owner=self._owner(request))
        if job is None:
            return self._api.refuse(Refusal(kind=RefusalKind.MODEL_NOT_FOUND, model=job_id))
        return json_response({"name": self._name(request, job), **self._body(job)})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """
        Give a video's bytes; only with the key that made it.
        """
        refusal = await self._api.admit(request, "", generation=False)
        if isinstance(refusal, web.Response):
            return refusal
        job_id, _, index = request.match_info["id"].partition("-")
        job = self._book.find(job_id, owner=self._owner(request))
        data = job.medium(int(index), MP4) if job and index.isdecimal() else None
        if data is None or request.query.get("alt") != "media":
            return self._api.refuse(Refusal(kind=RefusalKind.MODEL_NOT_FOUND, model=job_id))
        return web.Response(body=data, content_type="video/mp4")

    def _owner(self, request: web.Request) -> str:
        return key_digest(self._api.key_of(request))

    def _body(self, job: SimulatedJob) -> dict[str, Any]:
        stage = job.stage()
        if stage in (Stage.QUEUED, Stage.RUNNING):
            return {}
        if stage is Stage.FAILED:
            return {"done": True, "error": {"code": 13, "message": "Internal error."}}
        if stage is Stage.FILTERED:
            told = {
                "raiMediaFilteredCount": 1,
                "raiMediaFilteredReasons": ["The prompt could not be submitted."],
            }
            return {"done": True, "response": {"@type": _TYPE, "generateVideoResponse": told}}
        return {"done": True, "response": {"@type": _TYPE, **self._response(job)}}


def gemini_video_routes(api: ProviderAPI, *, seconds: float) -> list[web.RouteDef]:
    """
    Give the addresses of Gemini's door.
    """

    def name(request: web.Request, job: SimulatedJob) -> str:
        model = request.match_info.get("model", job.model)
        return f"models/{model}/operations/{job.job_id}"

    def response(job: SimulatedJob) -> dict[str, Any]:
        samples = [
            {
                "video": {
                    "uri": f"https://{_FILES_HOST}/v1beta/files/{job.job_id}-{i}:download?alt=media"
                }
            }
            for i in range(job.output_count)
        ]
        return {"generateVideoResponse": {"generatedSamples": samples}}

    videos = _Videos(api, seconds=seconds, name=name, response=response)

    async def ask(request: web.Request) -> web.StreamResponse:
        return await videos.ask(request, request.match_info["id"])

    return [
        web.post("/gemini/v1beta/models/{model}:predictLongRunning", videos.start),
        web.get("/gemini/v1beta/models/{model}/operations/{id}", ask),
        web.get("/gemini/v1beta/files/{id}:download", videos.file),
    ]


def vertex_video_routes(api: ProviderAPI, *, model_path: str, seconds: float) -> list[web.RouteDef]:
    """
    Give the addresses of Vertex AI's door.

    Args:
        api: Checks keys and says refusals.
        model_path: Address of a model.
        seconds: How long a job runs.
    """

    def name(request: web.Request, job: SimulatedJob) -> str:
        place = request.match_info
        return (
            f"projects/{place['project']}/locations/{place['location']}/publishers/google/models/"
            f"{place['model']}/operations/{job.job_id}"
        )

    def response(job: SimulatedJob) -> dict[str, Any]:
        media = [job.medium(index, MP4) or b"" for index in range(job.output_count)]
        videos = [
            {"bytesBase64Encoded": base64.b64encode(data).decode(), "mimeType": "video/mp4"}
            for data in media
        ]
        return {"raiMediaFilteredCount": 0, "videos": videos}

    videos = _Videos(api, seconds=seconds, name=name, response=response)

    async def ask(request: web.Request) -> web.StreamResponse:
        try:
            fetch = msgspec.json.decode(await request.read(), type=_Fetch)
        except msgspec.DecodeError as error:
            return api.refuse(Refusal(kind=RefusalKind.INVALID_REQUEST, detail=str(error)))
        return await videos.ask(request, fetch.operation_name.rpartition("/")[2])

    return [
        web.post(f"{model_path}:predictLongRunning", videos.start),
        web.post(f"{model_path}:fetchPredictOperation", ask),
    ]


def _check(body: _Body) -> None:
    if len(body.instances) != 1:
        raise InvalidRequestError("Exactly one instance is taken.")
    if not 1 <= body.parameters.sample_count <= 4:  # noqa: PLR2004 - as documented
        raise InvalidRequestError("sampleCount must be 1 to 4.")
