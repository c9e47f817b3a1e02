# SPDX-License-Identifier: Apache-2.0
"""`ownkey jobs`: start, list, show, wait, cancel, and save the output."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from ownkey.router.v1 import attempt_pb2, job_pb2, media_pb2, text_pb2

from client.ownkey_cli.command import NotGoodError, command
from client.ownkey_cli.commands.router import Source
from client.ownkey_cli.progress import progress
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import GENERATE_SECONDS_MAX, Session, full_name, new_request_id
from client.ownkey_cli.views.jobs import job_id, job_view, jobs_table, state_text

IMAGE_BYTES_MAX = 20 * 1024 * 1024
INPUT_BYTES_MAX = 1024 * 1024
PERCENT = 100

app = typer.Typer(name="jobs", no_args_is_help=True, help="Long jobs, such as video.")

_Job = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or its whole name.")]


@command(app, "start")
def start(
    session: Session,
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As vendor/model.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What a video shows.")] = "",
    length: Annotated[int | None, typer.Option(min=1, max=600, help="Seconds of video.")] = None,
    aspect_ratio: Annotated[str, typer.Option(metavar="W:H", help="For example 16:9.")] = "",
    image: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The first frame, PNG, JPEG or WebP.")
    ] = None,
    native: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="PATH", help="The provider's own input, JSON, in place of a prompt."
        ),
    ] = None,
    source: Annotated[Source, typer.Option(help="Which side pays.")] = Source.AUTO,
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="PROVIDER", help="Use only this provider; repeat it for more."),
    ] = None,
    request_id: Annotated[
        str, typer.Option(metavar="UUID", help="Repeat this request, not paying twice.")
    ] = "",
) -> None:
    """Start a job; `ownkey jobs wait` follows it."""
    if bool(prompt) is (native is not None):
        raise InputError("Give either a prompt for a video, or --input with the provider's own.")
    request = job_pb2.StartJobRequest(
        account=session.account,
        request_id=request_id or new_request_id(),
        model=model,
        source=source.of(attempt_pb2.Source),
        route=text_pb2.RoutePreferences(only=provider) if provider else None,
    )
    if native is not None:
        text = _read(native, INPUT_BYTES_MAX).decode(errors="replace")
        request.native.input_json = text
    else:
        request.video.CopyFrom(
            job_pb2.VideoInput(
                prompt=prompt,
                length=None if length is None else Duration(seconds=length),
                aspect_ratio=aspect_ratio,
                image=None if image is None else _image(image),
            )
        )
    answer = session.generate(session.router.StartJob, request)
    session.out.answer(answer, lambda: job_view(answer.job))


@command(app, "list")
def list_jobs(session: Session) -> None:
    """List an account's jobs, newest first; an hour after its end a job is forgotten."""
    request = job_pb2.ListJobsRequest(parent=session.account)
    answer = session.pages(session.router.ListJobs, request, "jobs")
    session.out.answer(answer, lambda: jobs_table(answer.jobs))


@command(app, "show")
def show(session: Session, *, job: _Job) -> None:
    """Show a job."""
    answer = session.call(session.router.GetJob, job_pb2.GetJobRequest(name=_name(session, job)))
    session.out.answer(answer, lambda: job_view(answer.job))


@command(app, "wait")
def wait(session: Session, *, job: _Job) -> None:
    """Follow a job to its end, telling each change; ends with 1 if it did not succeed."""
    request = job_pb2.WaitJobRequest(name=_name(session, job))
    last = job_pb2.Job()
    messages = session.stream(session.router.WaitJob, request, timeout_seconds=GENERATE_SECONDS_MAX)
    with progress(session.out, "Working") as shown:
        for message in messages:
            last = message.job
            if session.out.as_json:
                session.out.line(message)
            elif not last.HasField("end_time"):
                session.out.note(f"{job_id(last)}  ", state_text(last))
            if last.HasField("progress_percent"):
                shown(last.progress_percent, PERCENT)
    if not session.out.as_json:
        session.out.results.print(job_view(last))
    if last.state != job_pb2.JOB_STATE_SUCCEEDED:
        raise NotGoodError


@command(app, "cancel")
def cancel(session: Session, *, job: _Job) -> None:
    """Cancel a job at its provider; one that has ended stays as it is."""
    request = job_pb2.CancelJobRequest(name=_name(session, job))
    answer = session.generate(session.router.CancelJob, request)
    session.out.answer(answer, lambda: job_view(answer.job))


@command(app, "output")
def output(
    session: Session,
    *,
    job: _Job,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where to save it; made if needed."),
    ] = Path(),
    force: Annotated[
        bool, typer.Option("--force", help="Write over files that are there.")
    ] = False,
) -> None:
    """Save what a job has made, each medium as a file named after the job."""
    name = _name(session, job)
    saving = _Saving(out, name.rpartition("/")[2], force=force)
    try:
        for message in session.stream(
            session.router.GetJobOutput,
            job_pb2.GetJobOutputRequest(name=name),
            timeout_seconds=GENERATE_SECONDS_MAX,
        ):
            path = saving.take(message.chunk)
            if path is not None and not session.out.as_json:
                session.out.text(f"{path}\n")
    finally:
        saving.drop_part()
    if session.out.as_json:
        session.out.document({"paths": [str(path) for path in saving.paths]})


class _Saving:
    """
    Writes media as they come. A file appears under its name once it is whole, never before.
    """

    def __init__(self, folder: Path, stem: str, *, force: bool) -> None:
        self._folder = folder
        self._stem = stem
        self._force = force
        self._ending = ""
        self.paths: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def _part(self) -> Path:
        return self._folder / f".{self._stem}.part"

    def take(self, chunk: media_pb2.MediaChunk) -> Path | None:
        """Take one piece; gives the path of a file that is whole with it."""
        if chunk.media_type:
            self._ending = mimetypes.guess_extension(chunk.media_type) or ".bin"
        with self._part.open("ab") as file:
            file.write(chunk.data)
        if not chunk.last:
            return None
        number = f"-{chunk.index + 1}" if chunk.index else ""
        path = self._folder / f"{self._stem}{number}{self._ending}"
        if path.exists() and not self._force:
            raise InputError(f"{path} is there already; choose another --out, or add --force.")
        self._part.replace(path)
        self.paths.append(path)
        return path

    def drop_part(self) -> None:
        """Remove what is not whole."""
        self._part.unlink(missing_ok=True)


def _name(session: Session, job: str) -> str:
    return job if "/" in job else full_name(f"{session.account}/jobs", job)


def _image(path: Path) -> text_pb2.Image:
    media_type = mimetypes.guess_type(path.name)[0] or ""
    return text_pb2.Image(data=_read(path, IMAGE_BYTES_MAX), media_type=media_type)


def _read(path: Path, bytes_max: int) -> bytes:
    """
    Read a file.

    Raises:
        InputError: It cannot be read or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror}.") from None
    if len(data) > bytes_max:
        raise InputError(f"{path} has more than {bytes_max:,} bytes.")
    return data
