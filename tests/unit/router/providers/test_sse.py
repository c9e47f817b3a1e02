# SPDX-License-Identifier: Apache-2.0
"""The server-sent-events parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.providers.sse import (
    EVENT_BYTES_MAX,
    STRAY_BYTES_MAX,
    SSEEvent,
    SSEEventTooLargeError,
    SSEParser,
)
from tests.support.provider_streams import cut_at

pytestmark = pytest.mark.requirement("R2")


def parse(*pieces: bytes) -> list[SSEEvent]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


class TestFormat:
    @pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
    def test_every_line_end_ends_a_line(self, end: bytes) -> None:
        stream = end.join([b"event: add", b"data: 1", b"", b"data: 2", b"", b""])
        assert parse(stream) == [SSEEvent(b"add", b"1"), SSEEvent(b"", b"2")]

    def test_a_cr_and_its_lf_in_two_pieces_are_one_line_end(self) -> None:
        assert parse(b"data: 1\r", b"\n\r", b"\ndata: 2\r\n\r\n") == [
            SSEEvent(b"", b"1"),
            SSEEvent(b"", b"2"),
        ]

    def test_several_data_lines_are_joined_by_line_feeds(self) -> None:
        assert parse(b"data: one\ndata:two\ndata\n\n") == [SSEEvent(b"", b"one\ntwo\n")]

    def test_only_one_blank_after_the_colon_is_dropped(self) -> None:
        assert parse(b"data:  x\n\n") == [SSEEvent(b"", b" x")]

    def test_comments_ids_and_retries_carry_nothing(self) -> None:
        assert parse(b": OPENROUTER PROCESSING\n\nid: 1\nretry: 5\ndata: x\n\n") == [
            SSEEvent(b"", b"x")
        ]

    def test_a_byte_order_mark_is_dropped_also_when_cut(self) -> None:
        assert parse(b"\xef", b"\xbb\xbfdata: x\n\n") == [SSEEvent(b"", b"x")]

    def test_an_event_without_data_is_none_and_leaves_no_type_behind(self) -> None:
        assert parse(b"event: ping\n\ndata: x\n\n") == [SSEEvent(b"", b"x")]

    def test_an_unfinished_event_is_held_back_until_the_end(self) -> None:
        parser = SSEParser()
        assert parser.feed(b"data: 1\n\ndata: 2") == [SSEEvent(b"", b"1")]
        assert parser.finish() == [SSEEvent(b"", b"2")]

    def test_nothing_fed_gives_nothing(self) -> None:
        assert parse(b"", b"") == []


class TestBounds:
    def test_an_event_of_the_largest_size_passes(self) -> None:
        line = b"data:" + b"x" * (EVENT_BYTES_MAX - 5)
        assert len(parse(line + b"\n\n")) == 1

    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_a_larger_event_is_refused_whether_its_line_ends_or_not(self, end: bytes) -> None:
        line = b"data:" + b"x" * (EVENT_BYTES_MAX - 4)
        with pytest.raises(SSEEventTooLargeError):
            parse(line + end)

    def test_many_small_lines_of_one_event_are_bounded_too(self) -> None:
        parser = SSEParser()
        lines = b"data: 012345678\n" * 4096
        for _ in range(EVENT_BYTES_MAX // (len(lines) - 4096)):  # Line ends do not count.
            parser.feed(lines)
        with pytest.raises(SSEEventTooLargeError):
            parser.feed(lines)

    def test_small_pieces_are_not_counted_twice(self) -> None:
        parser = SSEParser()
        for _ in range(100):
            for piece in cut_at(b"data: " + b"x" * 20_000 + b"\n\n", range(0, 20_000, 1000)):
                parser.feed(piece)

    def test_text_outside_the_format_is_kept_up_to_its_bound(self) -> None:
        parser = SSEParser()
        parser.feed(b'{"error":\n {"code": 1}}\n')
        assert parser.stray == b'{"error":\n {"code": 1}}\n'
        for _ in range(100):
            parser.feed(b"x" * 1000 + b"\n\n")
        assert len(parser.stray) == STRAY_BYTES_MAX


@given(
    st.binary(max_size=200).map(lambda data: data.replace(b"\x00", b"\ndata: ")),
    st.lists(st.integers(0, 200), max_size=10),
)
def test_cuts_never_change_what_is_parsed(data: bytes, cuts: list[int]) -> None:
    def run(pieces: list[bytes]) -> tuple[list[SSEEvent], bytes]:
        parser = SSEParser()
        events = [event for piece in pieces for event in parser.feed(piece)]
        return events + parser.finish(), parser.stray

    assert run(cut_at(data, cuts)) == run([data]) == run(cut_at(data, range(len(data))))
