# SPDX-License-Identifier: Apache-2.0
"""
Reads requests about long jobs, and writes jobs and their output.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf import timestamp_pb2
from ownkey.router.v1 import job_pb2 as pb
from ownkey.router.v1 import media_pb2

from services.router.domain.job_work import NativeInput, VideoInput
from services.router.domain.jobs import Job, JobState
from services.router.domain.keys import BroughtKey
from services.router.domain.media import MediaChunk
from services.router.domain.request import Request
from services.router.domain.text import ImagePart
from services.router.rpc.mapping_client_held import brought_key, brought_keys, resealed_keys
from services.router.rpc.mapping_receipt import FUNDINGS, receipt
from services.router.rpc.mapping_request import account, image, model, preferences, source
from services.router.rpc.status import STATUS_TABLE
from services.router.usecases.job_receipt import job_error, job_receipt
from services.router.usecases.start_job import ForgottenJob, StartedJob, job_id
from services.shared.errors import InvalidArgumentError
from services.shared.ids import parse_uuid
from services.shared.names import ResourceName

PROMPT_CHARACTERS_MAX = 32_000
LENGTH_SECONDS_MAX = 600
NATIVE_BYTES_MAX = 1024 * 1024
JOB = ResourceName("accounts/{account}/jobs/{job}")

_ASPECT_RATIO = re.compile(r"[1-9]\d{0,3}:[1-9]\d{0,3}")
_STATES = {
    # Who asks while the start is under way sees a job that has not begun.
    JobState.STARTING: pb.JOB_STATE_QUEUED,
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_CURSOR = re.compile(r"(\d{1,20})/(.+)")
_MICROSECONDS = 1_000_000


def job_request(message: pb.StartJobRequest) -> Request:
    """
    Read a request to start a job.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if not message.model:
        raise InvalidArgumentError.of("model", "is required: vendor/model, as ListModels lists it")
    request_id = parse_uuid(message.request_id, "request_id")
    return Request(
        account=account(message.account),
        request_id=request_id,
        model=model(message.model),
        source=source(message.source),
        preferences=preferences(message.route),
        input=_input(message),
        brought=brought_keys(
            message.client_held_keys,
            account=message.account,
            job=f"{message.account}/jobs/{job_id(request_id)}",
        ),
    )


def job_name(name: str) -> tuple[str, str]:
    """
    Take a job's name apart: `accounts/{account}`, and the job's id.

    Raises:
        InvalidArgumentError: It is no job's name.
    """
    ids = JOB.parse(name, "name")
    return f"accounts/{ids['account']}", ids["job"]


def output_key(message: pb.GetJobOutputRequest) -> BroughtKey | None:
    """
    Read the client-held key that is brought for a job's output; None where none is.

    Raises:
        InvalidArgumentError: Naming the field.
    """
    if not message.HasField("client_held_key"):
        return None
    account_name, _ = job_name(message.name)
    return brought_key(message.client_held_key, account=account_name, job=message.name)


def started(value: StartedJob) -> pb.StartJobResponse:
    """
    Write what a start came to.
    """
    return pb.StartJobResponse(job=job(value.job), resealed_keys=resealed_keys(value.resealed))


def job(value: Job | ForgottenJob) -> pb.Job:
    """
    Write a job.
    """
    if isinstance(value, ForgottenJob):
        served = value.receipt.served
        return pb.Job(
            name=value.name,
            request_id=value.request_id,
            state=pb.JOB_STATE_SUCCEEDED,
            provider=served.provider,
            model=served.model,
            payer=FUNDINGS[served.funding],
            receipt=receipt(value.receipt),
        )
    error, told = job_error(value), job_receipt(value)
    return pb.Job(
        name=value.name,
        request_id=value.request_id,
        state=_STATES[value.state],
        provider=value.provider,
        model=value.model,
        payer=FUNDINGS[value.funding],
        progress_percent=value.progress_percent,
        output_count=len(value.outputs),
        error=None if error is None else STATUS_TABLE.to_status(error),
        receipt=None if told is None else receipt(told),
        create_time=_time(value.create_time),
        end_time=_time(value.end_time),
        expire_time=_time(value.expire_time),
    )


def output(chunk: MediaChunk) -> pb.GetJobOutputResponse:
    """
    Write a piece of output; its type stands in a medium's first piece.
    """
    return pb.GetJobOutputResponse(
        chunk=media_pb2.MediaChunk(
            index=chunk.index, media_type=chunk.media_type, data=chunk.data, last=chunk.last
        )
    )


def cursor(value: Job) -> str:
    """
    Write where a page ends.
    """
    return f"{round(value.create_time.timestamp() * _MICROSECONDS)}/{value.job_id}"


def read_cursor(text: str) -> tuple[datetime, str] | None:
    """
    Read where the previous page ended; None for the first page.
    """
    found = _CURSOR.fullmatch(text)
    if found is None:
        return None
    microseconds = int(found[1])
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest), found[2]


def _input(message: pb.StartJobRequest) -> VideoInput | NativeInput:
    match message.WhichOneof("input"):
        case "video":
            return _video(message.video)
        case "native":
            return _native(message.native)
        case _:
            raise InvalidArgumentError.of("input", "is required: set video or native")


def _video(message: pb.VideoInput) -> VideoInput:
    if not 1 <= len(message.prompt) <= PROMPT_CHARACTERS_MAX:
        raise InvalidArgumentError.of(
            "video.prompt", f"must be 1 to {PROMPT_CHARACTERS_MAX} characters"
        )
    if message.aspect_ratio and not _ASPECT_RATIO.fullmatch(message.aspect_ratio):
        raise InvalidArgumentError.of("video.aspect_ratio", "must look like 16:9, or be empty")
    return VideoInput(
        prompt=message.prompt,
        image=_first_frame(message) if message.HasField("image") else None,
        length_seconds=_length(message) if message.HasField("length") else None,
        aspect_ratio=message.aspect_ratio,
    )


def _first_frame(message: pb.VideoInput) -> ImagePart:
    part = image(message.image, "video.image")
    if not isinstance(part, ImagePart):
        raise InvalidArgumentError.of(
            "video.image.url", "is not fetched for videos: send the image's bytes in data"
        )
    return part


def _length(message: pb.VideoInput) -> int:
    length = message.length
    if length.nanos or not 1 <= length.seconds <= LENGTH_SECONDS_MAX:
        raise InvalidArgumentError.of(
            "video.length", f"must be whole seconds from 1 to {LENGTH_SECONDS_MAX}"
        )
    return length.seconds


def _native(message: pb.NativeInput) -> NativeInput:
    data = message.input_json.encode()
    if not 1 <= len(data) <= NATIVE_BYTES_MAX:
        raise InvalidArgumentError.of("native.input_json", f"must be 1 to {NATIVE_BYTES_MAX} bytes")
    try:
        fields: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidArgumentError.of("native.input_json", "must be JSON text of an object")
    return NativeInput(input_json=data)


def _time(value: datetime | None) -> timestamp_pb2.Timestamp | None:
    if value is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(value)
    return message
