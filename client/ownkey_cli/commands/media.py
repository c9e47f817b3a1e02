# SPDX-License-Identifier: Apache-2.0
"""`ownkey image` and `ownkey speech`: made by the router, saved as files, shown by their paths."""

from __future__ import annotations

from collections.abc import Iterator
from enum import auto
from pathlib import Path
from typing import Annotated

import typer
from ownkey.router.v1 import attempt_pb2, media_pb2, text_pb2

from client.ownkey_cli.choices import Choice
from client.ownkey_cli.commands.router import Source
from client.ownkey_cli.output import as_dict
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import GENERATE_SECONDS_MAX, Session, new_request_id
from client.ownkey_cli.views.receipts import attempts_table, media_cost_line, payer_line

IMAGE_BYTES_MAX = 20 * 1024 * 1024
"""The most that the router takes as one image."""
TEXT_BYTES_MAX = 64 * 1024
HEAD_BYTES = 12

_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/aac": ".aac",
    "audio/flac": ".flac",
    "audio/wav": ".wav",
    "audio/pcm": ".pcm",
}
_SIGNATURES = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


class ImageFormat(Choice):
    """A file format of images."""

    PNG = auto()
    JPEG = auto()
    WEBP = auto()


class SoundFormat(Choice):
    """A file format of sound."""

    MPEG = auto()
    OGG = auto()
    AAC = auto()
    FLAC = auto()
    WAV = auto()
    PCM = auto()


_Model = Annotated[
    str, typer.Option(metavar="MODEL", help="As vendor/model; the service's default if left out.")
]
_SourceOption = Annotated[Source, typer.Option(help="Which side pays.")]
_Provider = Annotated[
    list[str] | None,
    typer.Option(metavar="PROVIDER", help="Use only this provider; repeat it for more."),
]
_Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Where to save it; the format's ending is added if it has none, and -2, -3 … to more.",
    ),
]
_Force = Annotated[bool, typer.Option("--force", help="Write over files that are there.")]
_RequestId = Annotated[
    str, typer.Option(metavar="UUID", help="Repeat this request, not paying twice.")
]


def image(
    session: Session,
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    out: _Out = Path("image"),
    model: _Model = "",
    source: _SourceOption = Source.AUTO,
    count: Annotated[int, typer.Option(min=1, max=10, help="How many.")] = 1,
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="As the model takes it: 1024x1024, or 16:9.")
    ] = "",
    quality: Annotated[str, typer.Option(metavar="QUALITY", help="As the model takes it.")] = "",
    file_format: Annotated[
        ImageFormat | None, typer.Option("--format", help="The file's format.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Asks for the same image again.")] = None,
    draw_from: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="PATH", help="An image to draw from; repeat it for more."),
    ] = None,
    provider: _Provider = None,
    force: _Force = False,
    request_id: _RequestId = "",
) -> None:
    """Make images and save them: who pays first, then the paths, then what it cost."""
    request = media_pb2.GenerateImageRequest(
        account=session.account,
        request_id=request_id or new_request_id(),
        model=model,
        source=source.of(attempt_pb2.Source),
        route=_route(provider),
        prompt=prompt,
        images=[_image(path) for path in draw_from or ()],
        count=count,
        size=size,
        quality=quality,
        media_type=f"image/{file_format.value}" if file_format else "",
        seed=seed,
    )
    saving = _Saving(session, out, force=force, count=count)
    saving.refuse_early(request.media_type)
    messages = session.stream(
        session.router.GenerateImage, request, timeout_seconds=GENERATE_SECONDS_MAX
    )
    saving.run(messages)


def speech(
    session: Session,
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    out: _Out = Path("speech"),
    model: _Model = "",
    source: _SourceOption = Source.AUTO,
    voice: Annotated[str, typer.Option(metavar="VOICE", help="A voice the model knows.")] = "",
    file_format: Annotated[
        SoundFormat | None, typer.Option("--format", help="The file's format.")
    ] = None,
    speed: Annotated[float | None, typer.Option(min=0.25, max=4.0, help="1 is usual.")] = None,
    provider: _Provider = None,
    force: _Force = False,
    request_id: _RequestId = "",
) -> None:
    """Speak a text and save the sound: who pays first, then the path, then what it cost."""
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise InputError(f"The text has more than {TEXT_BYTES_MAX:,} bytes.")
    request = media_pb2.SynthesizeSpeechRequest(
        account=session.account,
        request_id=request_id or new_request_id(),
        model=model,
        source=source.of(attempt_pb2.Source),
        route=_route(provider),
        text=text,
        voice=voice,
        media_type=f"audio/{file_format.value}" if file_format else "",
        speed=speed,
    )
    saving = _Saving(session, out, force=force, count=1)
    saving.refuse_early(request.media_type)
    messages = session.stream(
        session.router.SynthesizeSpeech, request, timeout_seconds=GENERATE_SECONDS_MAX
    )
    saving.run(messages)


Message = media_pb2.GenerateImageResponse | media_pb2.SynthesizeSpeechResponse


class _Saving:
    """
    Saves media as they come. A file appears under its name once it is whole, never before.
    """

    def __init__(self, session: Session, out: Path, *, force: bool, count: int) -> None:
        self._session = session
        self._out = out
        self._force = force
        self._count = count
        self._type = ""
        self._data = bytearray()
        self._paths: list[Path] = []

    def refuse_early(self, media_type: str) -> None:
        """
        Refuse names that are taken before anything is paid for.

        Raises:
            InputError: A file is there, or its folder is not.
        """
        if not self._out.parent.is_dir():
            raise InputError(f"There is no folder {self._out.parent}; make it first.")
        types = [media_type] if media_type else list(_EXTENSIONS)
        for index in range(self._count):
            for each in types:
                self._refuse_taken(self._path(index, each))

    def run(self, messages: Iterator[Message]) -> None:
        """
        Read a stream to its end, saving what comes.
        """
        out = self._session.out
        for message in messages:
            if message.HasField("start"):
                if out.as_json:
                    out.line(message)
                else:
                    out.note(payer_line(message.start))
            elif message.HasField("chunk"):
                self._take(message.chunk)
            elif message.HasField("finish"):
                self._finish(message)

    def _take(self, chunk: media_pb2.MediaChunk) -> None:
        self._type = chunk.media_type or self._type
        self._data += chunk.data
        if chunk.last:
            self._save(chunk.index)

    def _save(self, index: int) -> None:
        path = self._path(index, self._type)
        self._refuse_taken(path)
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_bytes(self._data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._data.clear()
        self._paths.append(path)
        if not self._session.out.as_json:
            self._session.out.text(f"{path}\n")

    def _finish(self, message: Message) -> None:
        out, receipt = self._session.out, message.finish.receipt
        if out.as_json:
            out.record({**as_dict(message), "paths": [str(path) for path in self._paths]})
            return
        if len(receipt.attempts) > 1:
            out.notes.print(attempts_table(receipt.attempts))
        out.note(media_cost_line(receipt))
        for note in receipt.notes:
            out.note((f"note: {note}", "yellow"))

    def _path(self, index: int, media_type: str) -> Path:
        ending = self._out.suffix or _EXTENSIONS.get(media_type, "")
        stem = self._out.with_suffix("") if self._out.suffix else self._out
        number = f"-{index + 1}" if index else ""
        return stem.with_name(f"{stem.name}{number}{ending}")

    def _refuse_taken(self, path: Path) -> None:
        if path.exists() and not self._force:
            raise InputError(f"{path} is there already; choose another --out, or add --force.")


def _route(providers: list[str] | None) -> text_pb2.RoutePreferences | None:
    return text_pb2.RoutePreferences(only=providers) if providers else None


def _image(path: Path) -> text_pb2.Image:
    """
    Read an image to draw from.

    Raises:
        InputError: It cannot be read, is too large, or is no image.
    """
    try:
        with path.open("rb") as file:
            data = file.read(IMAGE_BYTES_MAX + 1)
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror}.") from None
    if len(data) > IMAGE_BYTES_MAX:
        raise InputError(f"{path} has more than {IMAGE_BYTES_MAX:,} bytes.")
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return text_pb2.Image(data=data, media_type=media_type)
    raise InputError(f"{path} is no PNG, JPEG, WebP or GIF image.")
