# SPDX-License-Identifier: Apache-2.0
"""`ownkey generate`, `explain`, `estimate`, `models`, `providers`: what the router answers."""

from __future__ import annotations

import sys
from enum import auto
from typing import Annotated

import typer
from ownkey.router.v1 import attempt_pb2, catalogue_pb2, explain_pb2, text_pb2

from client.ownkey_cli.choices import Choice, number_of
from client.ownkey_cli.secret_input import InputError
from client.ownkey_cli.session import GENERATE_SECONDS_MAX, Session, new_request_id
from client.ownkey_cli.views.catalogue import (
    estimate_table,
    explain_view,
    models_table,
    providers_table,
)
from client.ownkey_cli.views.receipts import attempts_table, cost_line, payer_line

PROMPT_BYTES_MAX = 4 * 1024 * 1024
"""What the router takes as text."""
EXAMPLE_PROMPT = "Hello"


class Source(Choice):
    """Which side pays."""

    AUTO = auto()
    OWN_KEY = auto()
    CREDITS = auto()


class Tier(Choice):
    """Which model credits choose when none is named."""

    QUALITY = auto()
    SPEED = auto()


_Model = Annotated[
    str, typer.Option(metavar="MODEL", help="As vendor/model; the account's default if left out.")
]
_Source = Annotated[Source, typer.Option(help="Which side pays.")]
_Tier = Annotated[Tier | None, typer.Option(help="On credits, which model if none is named.")]
_System = Annotated[str, typer.Option(metavar="TEXT", help="The system prompt.")]
_MaxTokens = Annotated[int | None, typer.Option(min=1, help="Output tokens at most.")]
_Provider = Annotated[
    list[str] | None,
    typer.Option(metavar="PROVIDER", help="Use only this provider; repeat it for more."),
]


def generate(
    session: Session,
    *,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to ask; - for standard input.")
    ] = "-",
    model: _Model = "",
    source: _Source = Source.AUTO,
    tier: _Tier = None,
    system: _System = "",
    max_tokens: _MaxTokens = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 to 2.")] = None,
    provider: _Provider = None,
    stream: Annotated[bool, typer.Option(help="Show the text as it comes.")] = True,
    request_id: Annotated[
        str, typer.Option(metavar="UUID", help="Repeat this request, not paying twice.")
    ] = "",
) -> None:
    """Generate text: who pays first, then the text, then what it cost."""
    text = text_pb2.TextInput(
        messages=[_message(_read_prompt(prompt))],
        system=system,
        max_output_tokens=max_tokens,
        temperature=temperature,
    )
    request = text_pb2.GenerateTextRequest(
        account=session.account,
        request_id=request_id or new_request_id(),
        model=model,
        source=source.of(attempt_pb2.Source),
        tier=number_of(tier, text_pb2.Tier),
        route=_route(provider),
        input=text,
    )
    if stream:
        _stream(session, request)
    else:
        _whole(session, request)


def _whole(session: Session, request: text_pb2.GenerateTextRequest) -> None:
    answer = session.generate(session.router.GenerateText, request)
    if session.out.as_json:
        session.out.answer(answer, lambda: "")
        return
    session.out.note(payer_line(answer.receipt))
    session.out.text(_ended(answer.text))
    _tell_end(session, answer)


def _stream(session: Session, request: text_pb2.GenerateTextRequest) -> None:
    # Both requests have the same fields under the same numbers.
    streamed = text_pb2.StreamTextRequest.FromString(request.SerializeToString())
    last = "\n"
    messages = session.stream(
        session.router.StreamText, streamed, timeout_seconds=GENERATE_SECONDS_MAX
    )
    try:
        for message in messages:
            if session.out.as_json:
                session.out.line(message)
            elif message.HasField("start"):
                session.out.note(payer_line(message.start))
            elif message.text_delta:
                session.out.text(message.text_delta)
                last = message.text_delta[-1]
            elif message.HasField("finish"):
                session.out.text("" if last == "\n" else "\n")
                last = "\n"
                _tell_end(session, message.finish)
    finally:
        if last != "\n":
            # What broke off ends its line, so that the reason stands on one of its own.
            session.out.text("\n")


def _tell_end(session: Session, end: text_pb2.TextFinish | text_pb2.GenerateTextResponse) -> None:
    if len(end.receipt.attempts) > 1:
        session.out.notes.print(attempts_table(end.receipt.attempts))
    session.out.note(cost_line(end))
    for note in end.receipt.notes:
        session.out.note((f"note: {note}", "yellow"))


def explain(
    session: Session,
    *,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What would be asked; - for standard input.")
    ] = EXAMPLE_PROMPT,
    model: _Model = "",
    source: _Source = Source.AUTO,
    tier: _Tier = None,
    system: _System = "",
    max_tokens: _MaxTokens = None,
    provider: _Provider = None,
) -> None:
    """Tell what a request would do, without spending: who pays, what is tried, what not and why."""
    request = text_pb2.GenerateTextRequest(
        account=session.account,
        model=model,
        source=source.of(attempt_pb2.Source),
        tier=number_of(tier, text_pb2.Tier),
        route=_route(provider),
        input=text_pb2.TextInput(
            messages=[_message(_read_prompt(prompt))], system=system, max_output_tokens=max_tokens
        ),
    )
    answer = session.call(session.router.Explain, explain_pb2.ExplainRequest(text=request))
    session.out.answer(answer, lambda: explain_view(answer))


def estimate(
    session: Session,
    *,
    generations: Annotated[int, typer.Option(min=1, help="How many generations.")] = 100,
    input_tokens: Annotated[int, typer.Option(min=0, help="Input tokens of each.")] = 1000,
    output_tokens: Annotated[int, typer.Option(min=0, help="Output tokens of each.")] = 200,
    images: Annotated[int, typer.Option(min=0, help="Images of each.")] = 0,
    image_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Of an image; each model's own if left out.")
    ] = "",
    image_quality: Annotated[
        str, typer.Option(metavar="QUALITY", help="Of an image; each model's own if left out.")
    ] = "",
    characters: Annotated[int, typer.Option(min=0, help="Characters spoken in each.")] = 0,
    video_seconds: Annotated[int, typer.Option(min=0, help="Seconds of video of each.")] = 0,
    video_resolution: Annotated[
        str, typer.Option(metavar="RESOLUTION", help="Of a video; each model's own if left out.")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Compare only this model; repeat it for more."),
    ] = None,
) -> None:
    """Compare what a workload would cost: on each model's own key and, for an account, credits."""
    workload = explain_pb2.Workload(
        generation_count=generations,
        input_token_count=input_tokens,
        output_token_count=output_tokens,
        image_count=images,
        image_size=image_size,
        image_quality=image_quality,
        character_count=characters,
        video_seconds=video_seconds,
        video_resolution=video_resolution,
    )
    request = explain_pb2.EstimateCostRequest(
        workload=workload, models=model, account=session.account_if_named
    )
    answer = session.call(session.router.EstimateCost, request)
    session.out.answer(answer, lambda: estimate_table(answer.estimates))


def models(
    session: Session,
    *,
    provider: Annotated[
        str, typer.Option(metavar="PROVIDER", help="Only those that it serves.")
    ] = "",
) -> None:
    """List models, who serves them, and their prices."""
    answer = session.pages(
        session.router.ListModels, catalogue_pb2.ListModelsRequest(provider=provider), "models"
    )
    session.out.answer(answer, lambda: models_table(answer.models))


def providers(
    session: Session,
    *,
    curated: Annotated[
        bool, typer.Option("--curated", help="Show the models a key's default may name.")
    ] = False,
) -> None:
    """List providers, where their keys are made and how they look."""
    answer = session.pages(
        session.router.ListProviders, catalogue_pb2.ListProvidersRequest(), "providers"
    )
    session.out.answer(answer, lambda: providers_table(answer.providers, curated=curated))


def _message(text: str) -> text_pb2.Message:
    return text_pb2.Message(role=text_pb2.ROLE_USER, parts=[text_pb2.Part(text=text)])


def _route(providers: list[str] | None) -> text_pb2.RoutePreferences | None:
    return text_pb2.RoutePreferences(only=providers) if providers else None


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _read_prompt(prompt: str) -> str:
    """
    The prompt, from standard input for `-`.

    Raises:
        InputError: There is none, or it is no text.
    """
    if prompt != "-":
        return prompt
    if sys.stdin.isatty():
        raise InputError('Give a prompt, for example: ownkey generate "What is a data key?"')
    content = sys.stdin.buffer.read(PROMPT_BYTES_MAX + 1)
    if len(content) > PROMPT_BYTES_MAX:
        raise InputError(f"The prompt has more than {PROMPT_BYTES_MAX:,} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("The prompt on standard input is no text (UTF-8).") from None
