# SPDX-License-Identifier: Apache-2.0
"""
Measure the dialects, in one process and without a network.

`make bench-providers`: how long each dialect builds a request and parses a whole answer, how fast
it decodes a stream, and how the provider's official Python SDK compares on the same bytes. A stream
is handed over in reads of 16 KiB, and with every event in a read of its own. Ours and the SDK's
turns alternate, and of each the fastest counts, in time of the processor. The figures are kept in
`bench/results/providers.json`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import results
from bench.figures import Figure
from bench.provider_exchanges import EXCHANGES, MEDIA, Exchange, MediaExchange
from bench.provider_sdks import parse_stream, parse_whole
from services.router.domain.media import ImageCall
from services.router.domain.text import Message, Role, TextCall, TextPart
from services.router.providers.base import APIKeyCredential, Dialect
from services.router.providers.registry import DIALECTS
from services.shared.secret import Secret
from tests.support.simulated_providers import KEYS

NOW = datetime(2026, 9, 1, tzinfo=UTC)
SDKS = ("openai", "anthropic", "google-genai", "botocore")
BAR_EVENT = 10.0
BAR_UNARY = 3.0
READ_BYTES = 16 * 1024
MICROSECONDS = 1e6
BYTES_PER_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Options:
    """
    How long to measure, and where the figures go.

    Args:
        seconds: Of each turn.
        turns: Of each part.
        results: Takes the figures.
    """

    seconds: float
    turns: int
    results: Path


def read_options(arguments: list[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.providers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    return Options(**vars(parser.parse_args(arguments)))


def fastest(parts: list[Callable[[], object]], options: Options) -> list[float]:
    """Return how many seconds of the processor each part takes at its best."""
    counts = []
    for part in parts:
        part()
        start = time.process_time()
        part()
        once = max(time.process_time() - start, 1e-7)
        counts.append(max(1, int(options.seconds / once)))
    best = [float("inf")] * len(parts)
    for _ in range(options.turns):
        for place, part in enumerate(parts):
            count = counts[place]
            gc.collect()
            start = time.process_time()
            for _ in range(count):
                part()
            best[place] = min(best[place], (time.process_time() - start) / count)
    return best


def decode(dialect: Dialect, pieces: list[bytes]) -> int:
    """Decode a stream as the router does, and return how many events came out."""
    decoder = dialect.stream_decoder(now=NOW)
    count = 0
    for piece in pieces:
        count += len(decoder.feed(piece))
    return count + len(decoder.finish())


def measure(name: str, exchange: Exchange, options: Options) -> list[Figure]:
    """Return one format's figures."""
    dialect = DIALECTS[exchange.provider]
    message = Message(Role.USER, (TextPart("Say lorem ipsum."),))
    call = TextCall(model=exchange.model, messages=(message,), max_output_tokens=1000)
    credential = APIKeyCredential(Secret(KEYS[exchange.provider]))
    base_url = dialect.default_base_url
    sdk_whole, sdk_stream = parse_whole(name), parse_stream(name)
    body, pieces = exchange.body, exchange.stream
    data, event_count = b"".join(pieces), len(pieces)
    reads = [data[start : start + READ_BYTES] for start in range(0, len(data), READ_BYTES)]
    build, parse, sdk_parse, stream, sdk, single, sdk_single = fastest(
        [
            lambda: dialect.build_request(call, credential, base_url=base_url),
            lambda: dialect.parse_response(200, {}, body, now=NOW),
            lambda: sdk_whole(body),
            lambda: decode(dialect, reads),
            lambda: sdk_stream(reads),
            lambda: decode(dialect, pieces),
            lambda: sdk_stream(pieces),
        ],
        options,
    )
    return [
        Figure(f"{name}_build", build * MICROSECONDS, "us"),
        Figure(f"{name}_parse", parse * MICROSECONDS, "us"),
        Figure(f"{name}_parse_sdk", sdk_parse * MICROSECONDS, "us"),
        Figure(f"{name}_parse_to_sdk", sdk_parse / parse, "ratio", BAR_UNARY),
        Figure(f"{name}_stream", len(data) / stream / BYTES_PER_MEGABYTE, "MB/s"),
        Figure(f"{name}_stream_events", event_count / stream, "events/s"),
        Figure(f"{name}_stream_event", stream / event_count * MICROSECONDS, "us"),
        Figure(f"{name}_stream_event_sdk", sdk / event_count * MICROSECONDS, "us"),
        Figure(f"{name}_stream_to_sdk", sdk / stream, "ratio", BAR_EVENT),
        Figure(f"{name}_single_event", single / event_count * MICROSECONDS, "us"),
        Figure(f"{name}_single_event_to_sdk", sdk_single / single, "ratio", BAR_EVENT),
    ]


def measure_media(provider: str, exchange: MediaExchange, options: Options) -> list[Figure]:
    """Return the figures of a provider that makes images alone."""
    dialect = DIALECTS[provider]
    call = ImageCall(model=exchange.model, prompt="A quiet harbour at dawn", count=1)
    credential = APIKeyCredential(Secret(KEYS[provider]))
    base_url, headers, body = dialect.default_base_url, exchange.headers, exchange.body
    build, parse = fastest(
        [
            lambda: dialect.build_request(call, credential, base_url=base_url),
            lambda: dialect.parse_images(call, headers, body, now=NOW),
        ],
        options,
    )
    return [
        Figure(f"{provider}_build", build * MICROSECONDS, "us"),
        Figure(f"{provider}_parse", parse * MICROSECONDS, "us"),
    ]


def main() -> None:
    """Measure, print, and fail if a bar is missed."""
    options = read_options(sys.argv[1:])
    figures = [
        figure
        for name, exchange in EXCHANGES.items()
        for figure in measure(name, exchange, options)
    ]
    for provider, answer in MEDIA.items():
        figures += measure_media(provider, answer, options)
    versions = {name: version(name) for name in SDKS}
    results.write("providers", figures, folder=options.results, versions=versions)
    for figure in figures:
        print(figure.line())
    sys.exit(0 if all(figure.met for figure in figures) else 1)


if __name__ == "__main__":
    main()
