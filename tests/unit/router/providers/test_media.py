# SPDX-License-Identifier: Apache-2.0
"""Images and speech in every dialect: what is sent, and what comes of what arrives."""

from __future__ import annotations

import base64
import random
from email import message_from_bytes, policy
from typing import Any

import msgspec
import pytest

from services.router.domain.media import (
    CHUNK_BYTES_MAX,
    AnswerEvent,
    ImageCall,
    MediaChunk,
    Medium,
    SpeechCall,
    chunks_of,
)
from services.router.domain.media_types import audio_type, image_type
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Finished, ImagePart, Usage
from services.router.providers.azure import AZURE
from services.router.providers.base import ProviderError, UnsupportedParameterError
from services.router.providers.gemini import GEMINI
from services.router.providers.openai import OPENAI
from services.router.providers.openai_speech import AudioDecoder, SpeechEventDecoder
from services.router.providers.stability import STABILITY
from services.router.providers.vertex import VERTEX
from simulator.media import image, sound
from tests.support.provider_streams import NOW, credential, credential_of, cut_at, sse

PNG = image("image/png", size=900)
JPEG = image("image/jpeg", size=900)
SOUND = sound("audio/mpeg", "Good evening")


def an_image(**fields: Any) -> ImageCall:
    return ImageCall(**{"model": "gpt-image-1-mini", "prompt": "A boat", "count": 1, **fields})


def a_speech(**fields: Any) -> SpeechCall:
    return SpeechCall(**{"model": "tts-1", "text": "Good evening", **fields})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def images(dialect: Any, body: Any, call: ImageCall | None = None, **headers: str) -> Any:
    """Decode an answer of status 200."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return dialect.parse_images(call or an_image(), named, data, now=NOW)


def refused(dialect: Any, body: Any, call: ImageCall | None = None, **headers: str) -> Any:
    with pytest.raises(ProviderError) as caught:
        images(dialect, body, call, **headers)
    return caught.value


def form_of(request: Any) -> dict[str, list[tuple[str, bytes]]]:
    """Read a form back with the standard library's parser."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    fields: dict[str, list[tuple[str, bytes]]] = {}
    for part in message_from_bytes(head + request.body, policy=policy.HTTP).iter_parts():
        name = part.get_param("name", header="content-disposition")
        fields.setdefault(str(name), []).append(
            (part.get_content_type(), part.get_payload(decode=True))
        )
    return fields


class TestOpenAIImages:
    pytestmark = pytest.mark.requirement("R3", "R4")

    def test_a_prompt_goes_as_json(self) -> None:
        call = an_image(count=2, size="1024x1024", quality="low", media_type="image/webp")
        request = OPENAI.build_request(call, credential(), base_url="https://api.openai.com")
        assert request.url == "https://api.openai.com/v1/images/generations"
        assert msgspec.json.decode(request.body) == {
            "model": "gpt-image-1-mini",
            "prompt": "A boat",
            "n": 2,
            "size": "1024x1024",
            "quality": "low",
            "output_format": "webp",
        }

    def test_images_go_as_a_form(self) -> None:
        call = an_image(images=(ImagePart("image/png", PNG), ImagePart("image/jpeg", JPEG)))
        request = OPENAI.build_request(call, credential(), base_url="https://api.openai.com")
        form = form_of(request)
        assert request.url.endswith("/v1/images/edits")
        assert form["image[]"] == [("image/png", PNG), ("image/jpeg", JPEG)]
        assert form["prompt"][0][1] == b"A boat"

    def test_the_retired_family_is_asked_for_bytes(self) -> None:
        request = OPENAI.build_request(an_image(model="dall-e-3"), credential(), base_url="x")
        body = msgspec.json.decode(request.body)
        assert body["response_format"] == "b64_json"
        assert "output_format" not in body

    @pytest.mark.parametrize(
        ("fields", "lacking"),
        [
            ({"seed": 1}, ["seed"]),
            ({"media_type": "image/gif"}, ["media_type"]),
            ({"model": "dall-e-3", "media_type": "image/webp"}, ["media_type"]),
            ({"model": "dall-e-3", "images": (ImagePart("image/png", PNG),)}, ["images"]),
        ],
    )
    def test_what_it_lacks_is_named(self, fields: dict[str, Any], lacking: list[str]) -> None:
        call = an_image(**fields)
        assert OPENAI.unsupported(call) == lacking
        with pytest.raises(UnsupportedParameterError):
            OPENAI.build_request(call, credential(), base_url="x")

    def test_images_and_tokens_are_read(self) -> None:
        usage = {
            "input_tokens": 50,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            "output_tokens": 544,
            "total_tokens": 594,
        }
        data = [{"b64_json": b64(PNG)}, {"b64_json": b64(PNG)}]
        answer = images(OPENAI, {"data": data, "usage": usage, "output_format": "png"})
        assert [medium.data for medium in answer.media] == [PNG, PNG]
        assert answer.usage == Usage(
            input_tokens=50,
            output_tokens=544,
            image_input_tokens=40,
            image_output_tokens=544,
            images=2,
        )

    def test_text_in_the_output_is_told_apart(self) -> None:
        details = {"image_tokens": 500, "text_tokens": 44}
        usage = {"input_tokens": 5, "output_tokens": 544, "output_tokens_details": details}
        answer = images(OPENAI, {"data": [{"b64_json": b64(PNG)}], "usage": usage})
        assert answer.usage.image_output_tokens == 500

    def test_the_retired_family_is_counted_by_the_image(self) -> None:
        url = "https://oaidalleapiprodscus.blob.core.windows.net/a.png"
        answer = images(OPENAI, {"data": [{"url": url}]}, an_image(model="dall-e-2"))
        assert answer.media == (Medium("", url=url),)
        assert answer.usage == Usage(input_tokens=0, output_tokens=0, images=1)

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>",
            {"data": []},
            {},
            {"data": [{"b64_json": "%%%"}]},
            {"data": [{"b64_json": b64(b"no image")}]},
            {"data": [{"b64_json": b64(JPEG)}], "output_format": "png"},
        ],
    )
    def test_what_is_no_image_of_the_kind_declared_is_broken(self, body: Any) -> None:
        error = refused(OPENAI, body)
        assert (error.outcome, error.billed) == (Outcome.SERVER_ERROR, Billed.MAYBE_BILLED)

    def test_another_format_than_asked_for_is_broken(self) -> None:
        call = an_image(media_type="image/webp")
        error = refused(OPENAI, {"data": [{"b64_json": b64(PNG)}]}, call)
        assert error.outcome is Outcome.SERVER_ERROR

    def test_an_error_inside_an_answer_is_classified(self) -> None:
        error = refused(OPENAI, {"error": {"code": "moderation_blocked", "message": "no"}})
        assert (error.outcome, error.billed) == (Outcome.CONTENT_FILTERED, Billed.MAYBE_BILLED)

    def test_azure_sends_the_deployments_own_name(self) -> None:
        key = credential_of("azure").secret.reveal()
        key = key.replace("chat/completions", "images/generations")
        key = key.replace('"openai/gpt-4o-mini"', '"openai/gpt-image-1-mini"')
        call = an_image(model="openai/gpt-image-1-mini")
        request = AZURE.build_request(call, credential(key), base_url="https://{host}")
        assert "/deployments/gpt-4o-mini/images/generations?api-version=" in request.url
        assert msgspec.json.decode(request.body)["model"] == "gpt-4o-mini"
        given = an_image(model="openai/gpt-image-1-mini", images=(ImagePart("image/png", PNG),))
        edit = AZURE.build_request(given, credential(key), base_url="https://{host}")
        assert edit.url == request.url.replace("/generations?", "/edits?")
        assert edit.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="model"\r\n\r\ngpt-4o-mini\r\n' in edit.body


class TestGeminiImages:
    pytestmark = pytest.mark.requirement("R3", "R4")
    CALL = an_image(model="gemini-2.5-flash-image", size="16:9", output_tokens_max=4096)

    def body(self, **fields: Any) -> dict[str, Any]:
        part = {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}}
        candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
        usage = {
            "promptTokenCount": 7,
            "candidatesTokenCount": 1300,
            "thoughtsTokenCount": 20,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        }
        return {"candidates": [candidate], "usageMetadata": usage, **fields}

    def test_an_image_is_asked_for(self) -> None:
        call = an_image(
            model="gemini-3.1-flash-image",
            size="16:9",
            quality="2K",
            seed=5,
            images=(ImagePart("image/png", PNG),),
            output_tokens_max=8192,
        )
        request = GEMINI.build_request(call, credential(), base_url="https://g")
        body = msgspec.json.decode(request.body)
        assert request.url == "https://g/v1beta/models/gemini-3.1-flash-image:generateContent"
        assert body["generationConfig"] == {
            "responseModalities": ["IMAGE"],
            "maxOutputTokens": 8192,
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
            "seed": 5,
        }
        assert [list(part) for part in body["contents"][0]["parts"]] == [["inlineData"], ["text"]]

    def test_vertex_says_the_same_at_its_own_address(self) -> None:
        request = VERTEX.build_request(
            self.CALL, credential_of("google-vertex"), base_url="https://{host}"
        )
        assert request.url.endswith(
            "/publishers/google/models/gemini-2.5-flash-image:generateContent"
        )
        assert images(VERTEX, self.body()).media[0].data == PNG

    def test_image_tokens_are_told_apart_from_words_and_thoughts(self) -> None:
        answer = images(GEMINI, self.body(), self.CALL)
        assert answer.media == (Medium("image/png", PNG),)
        assert answer.usage == Usage(
            input_tokens=7,
            output_tokens=1320,
            reasoning_tokens=20,
            image_output_tokens=1290,
            images=1,
        )

    def test_drafts_among_the_thoughts_are_left_out(self) -> None:
        draft = {"inlineData": {"mimeType": "image/png", "data": b64(PNG)}, "thought": True}
        body = self.body()
        body["candidates"][0]["content"]["parts"].insert(0, draft)
        assert len(images(GEMINI, body).media) == 1

    @pytest.mark.parametrize(
        ("fields", "outcome"),
        [
            ({"candidates": None, "promptFeedback": {"blockReason": "SAFETY"}}, "content_filtered"),
            ({"candidates": [{"finishReason": "IMAGE_SAFETY"}]}, "content_filtered"),
            (
                {"candidates": [{"content": {"parts": [{"text": "no"}]}, "finishReason": "STOP"}]},
                "invalid_request",
            ),
            ({"candidates": []}, "server_error"),
        ],
    )
    def test_an_answer_without_an_image_says_why(
        self, fields: dict[str, Any], outcome: str
    ) -> None:
        error = refused(GEMINI, self.body(**fields))
        assert error.outcome == outcome
        assert error.billed is Billed.MAYBE_BILLED
        assert error.usage.input_tokens == 7

    @pytest.mark.parametrize("data", ["%%%", b64(JPEG)])
    def test_bytes_that_are_not_what_they_are_called_are_broken(self, data: str) -> None:
        part = {"inlineData": {"mimeType": "image/png", "data": data}}
        candidate = {"content": {"parts": [part]}, "finishReason": "STOP"}
        assert refused(GEMINI, self.body(candidates=[candidate])).outcome is Outcome.SERVER_ERROR

    def test_what_it_lacks_is_named(self) -> None:
        call = an_image(count=2, media_type="image/png")
        assert GEMINI.unsupported(call) == ["count", "media_type"]

    def test_nonsense_is_broken(self) -> None:
        assert refused(GEMINI, b"[").outcome is Outcome.SERVER_ERROR


class TestStability:
    pytestmark = pytest.mark.requirement("R3", "R4")

    @pytest.mark.parametrize(
        ("model", "endpoint", "fields"),
        [
            ("core", "core", {}),
            ("ultra", "ultra", {}),
            ("sd3.5-large", "sd3", {"model": b"sd3.5-large"}),
        ],
    )
    def test_a_form_goes_to_the_endpoint_of_the_model(
        self, model: str, endpoint: str, fields: dict[str, bytes]
    ) -> None:
        call = an_image(model=model, size="16:9", seed=7, media_type="image/png")
        request = STABILITY.build_request(call, credential(), base_url="https://s")
        sent = {name: value for name, [(_, value)] in form_of(request).items()}
        assert request.url == f"https://s/v2beta/stable-image/generate/{endpoint}"
        assert request.headers["accept"] == "image/*"
        assert sent == {
            "prompt": b"A boat",
            "aspect_ratio": b"16:9",
            "seed": b"7",
            "output_format": b"png",
            **fields,
        }

    def test_both_forms_of_an_answer_are_the_same_image(self) -> None:
        raw = images(STABILITY, PNG, content_type="image/png", finish_reason="SUCCESS", seed="7")
        body = {"image": b64(PNG), "finish_reason": "SUCCESS", "seed": 7}
        coded = images(STABILITY, body, content_type="application/json; type=image/png")
        assert raw == coded
        assert raw.media == (Medium("image/png", PNG),)
        assert raw.usage == Usage(input_tokens=0, output_tokens=0, images=1)

    @pytest.mark.parametrize("form", ["raw", "json"])
    def test_a_blurred_image_is_a_refusal_that_was_worked_on(self, form: str) -> None:
        if form == "raw":
            headers = {"content_type": "image/png", "finish_reason": "CONTENT_FILTERED"}
            error = refused(STABILITY, PNG, **headers)
        else:
            error = refused(STABILITY, {"image": b64(PNG), "finish_reason": "CONTENT_FILTERED"})
        assert (error.outcome, error.billed) == (Outcome.CONTENT_FILTERED, Billed.MAYBE_BILLED)
        assert error.usage.images == 1

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [(JPEG, "image/png"), (b"", "image/png"), (b"<html>", "text/html"), (b"{}", "")],
    )
    def test_anything_else_is_broken(self, body: bytes, content_type: str) -> None:
        error = refused(STABILITY, body, content_type=content_type)
        assert error.outcome is Outcome.SERVER_ERROR

    @pytest.mark.requirement("K3", "R11")
    @pytest.mark.parametrize(
        ("status", "body", "outcome", "wait"),
        [
            (401, {"id": "1", "name": "unauthorized", "errors": ["x"]}, "invalid_key", None),
            (402, {"name": "payment_required", "errors": ["x"]}, "insufficient_credit", None),
            (403, {"name": "content_moderation", "errors": ["x"]}, "content_filtered", None),
            (403, {"name": "permission_denied", "message": "x"}, "permission_denied", None),
            (429, {"name": "rate_limit_exceeded", "errors": ["x"]}, "rate_limited", 60.0),
            (413, {"name": "payload_too_large", "errors": ["x"]}, "invalid_request", None),
            (422, {"name": "invalid_language", "errors": ["x"]}, "invalid_request", None),
            (500, {"name": "internal_error", "errors": ["x"]}, "server_error", None),
            (404, {"name": "not_found", "message": "no such engine"}, "model_not_found", None),
            (400, b"not json", "invalid_request", None),
        ],
    )
    def test_refusals_are_told_apart(
        self, status: int, body: Any, outcome: str, wait: float | None
    ) -> None:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        error = STABILITY.parse_error(status, {}, data, now=NOW)
        assert (error.outcome, error.retry_after_seconds) == (outcome, wait)

    @pytest.mark.parametrize(
        ("fields", "lacking"),
        [
            ({"count": 2}, ["count"]),
            ({"quality": "high"}, ["quality"]),
            ({"seed": 2**32}, ["seed"]),
            ({"images": (ImagePart("image/png", PNG),)}, ["images"]),
            ({"model": "sd3.5-medium", "media_type": "image/webp"}, ["media_type"]),
        ],
    )
    def test_what_it_lacks_is_named(self, fields: dict[str, Any], lacking: list[str]) -> None:
        assert STABILITY.unsupported(an_image(**{"model": "core", **fields})) == lacking

    @pytest.mark.requirement("K3")
    @pytest.mark.parametrize(
        ("status", "body", "outcome", "checked"),
        [
            (200, {"credits": 0.63}, None, True),
            (200, {"credits": 0}, Outcome.INSUFFICIENT_CREDIT, True),
            (200, {}, None, False),
            (401, {"name": "unauthorized"}, Outcome.INVALID_KEY, False),
            (403, {"name": "permission_denied"}, Outcome.PERMISSION_DENIED, False),
            (429, {"name": "rate_limit_exceeded"}, Outcome.RATE_LIMITED, False),
        ],
    )
    def test_the_balance_is_all_that_a_live_test_asks(
        self, status: int, body: Any, outcome: Outcome | None, *, checked: bool
    ) -> None:
        probe = STABILITY.probe(credential(), base_url="https://s", models=("core",))
        request = probe.next_request()
        assert request is not None
        assert (request.method, request.url) == ("GET", "https://s/v1/user/balance")
        probe.feed(status, {}, msgspec.json.encode(body), now=NOW)
        assert probe.next_request() is None
        assert (probe.result().outcome, probe.result().credit_checked) == (outcome, checked)

    def test_it_writes_no_text(self) -> None:
        with pytest.raises(ProviderError):
            STABILITY.parse_response(200, {}, b"{}", now=NOW)
        with pytest.raises(ProviderError):
            STABILITY.stream_decoder(now=NOW).feed(b"x")


def drained(decoder: Any, pieces: list[bytes]) -> tuple[bytes, list[AnswerEvent], Any]:
    """Give the sound, the other events and the failure of a decoder."""
    events: list[AnswerEvent] = []
    failure = None
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.finish()
    except ProviderError as error:
        failure = (error.outcome, error.billed)
    data = b"".join(event.data for event in events if isinstance(event, MediaChunk))
    return data, [event for event in events if not isinstance(event, MediaChunk)], failure


def cuts(data: bytes) -> list[list[bytes]]:
    """Give the bytes whole, byte by byte, and at random."""
    chance = random.Random(7)  # noqa: S311 - places to cut at
    places = sorted(chance.sample(range(len(data)), min(9, len(data) - 1)))
    return [[data], cut_at(data, range(len(data))), cut_at(data, places)]


class TestSpeech:
    pytestmark = pytest.mark.requirement("R3", "R4")

    @pytest.mark.parametrize(
        ("model", "more"), [("tts-1", {}), ("gpt-4o-mini-tts", {"stream_format": "sse"})]
    )
    def test_what_is_sent(self, model: str, more: dict[str, str]) -> None:
        call = a_speech(model=model, voice="nova", media_type="audio/wav", speed=1.5)
        request = OPENAI.build_request(call, credential(), base_url="https://o")
        assert request.url == "https://o/v1/audio/speech"
        assert msgspec.json.decode(request.body) == {
            "model": model,
            "input": "Good evening",
            "voice": "nova",
            "response_format": "wav",
            "speed": 1.5,
            **more,
        }
        assert OPENAI.unsupported(a_speech(media_type="audio/midi")) == ["media_type"]

    def test_bare_sound_is_the_same_in_any_cut(self) -> None:
        call = a_speech(media_type="audio/mpeg")
        for pieces in cuts(SOUND):
            data, ends, failure = drained(AudioDecoder(OPENAI.table, call), pieces)
            usage = Usage(input_tokens=0, output_tokens=0, characters=12)
            assert (data, failure) == (SOUND, None)
            assert [event.usage for event in ends if isinstance(event, Finished)] == [usage]

    def test_events_are_the_same_in_any_cut(self) -> None:
        half = len(SOUND) // 2
        usage = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
        stream = sse(
            {"type": "speech.audio.delta", "audio": b64(SOUND[:half])},
            {"type": "speech.audio.delta", "audio": b64(SOUND[half:])},
            {"type": "speech.audio.done", "usage": usage},
        )
        for pieces in cuts(stream):
            decoder = OPENAI.speech_decoder(
                a_speech(model="gpt-4o-mini-tts"), {"content-type": "text/event-stream"}, now=NOW
            )
            data, ends, failure = drained(decoder, pieces)
            assert (data, failure) == (SOUND, None)
            assert isinstance(ends[-1], Finished)
            assert ends[-1].usage == Usage(input_tokens=3, output_tokens=9)

    @pytest.mark.parametrize(
        "stream",
        [
            sse({"type": "speech.audio.delta", "audio": b64(SOUND)}),
            sse({"type": "speech.audio.done"}),
            sse({"type": "speech.audio.delta", "audio": "%"}),
            sse("{"),
            b"data: " + b"x" * (1024 * 1024 + 1),
        ],
    )
    def test_events_without_their_end_or_their_sound_are_broken(self, stream: bytes) -> None:
        decoder = SpeechEventDecoder(OPENAI.table, a_speech(model="x"), now=NOW)
        _, ends, failure = drained(decoder, [stream])
        assert failure is not None
        assert failure[1] is Billed.MAYBE_BILLED
        assert not ends

    def test_a_failure_inside_the_events_is_classified_after_what_came(self) -> None:
        error = {"error": {"code": "rate_limit_exceeded", "message": "x"}}
        stream = sse({"type": "speech.audio.delta", "audio": b64(SOUND)}, error)
        decoder = SpeechEventDecoder(OPENAI.table, a_speech(model="x"), now=NOW)
        data, _, failure = drained(decoder, [stream])
        assert data == SOUND
        assert failure == (Outcome.RATE_LIMITED, Billed.MAYBE_BILLED)

    def test_a_bare_error_in_place_of_events_is_classified(self) -> None:
        body = msgspec.json.encode({"error": {"code": "insufficient_quota", "message": "x"}})
        decoder = SpeechEventDecoder(OPENAI.table, a_speech(model="x"), now=NOW)
        assert drained(decoder, [body])[2] == (
            Outcome.INSUFFICIENT_CREDIT,
            Billed.MAYBE_BILLED,
        )

    def test_nothing_follows_the_end(self) -> None:
        stream = sse(
            {"type": "speech.audio.delta", "audio": b64(SOUND)},
            {"type": "speech.audio.done"},
            {"type": "speech.audio.delta", "audio": b64(SOUND)},
        )
        decoder = SpeechEventDecoder(OPENAI.table, a_speech(model="x"), now=NOW)
        data, ends, _ = drained(decoder, [stream])
        assert data == SOUND
        assert decoder.done
        assert len(ends) == 1

    @pytest.mark.parametrize("body", [b"", b"short", b"<html>no sound at all</html>", PNG])
    def test_bytes_that_are_no_sound_are_broken(self, body: bytes) -> None:
        _, ends, failure = drained(AudioDecoder(OPENAI.table, a_speech()), [body])
        assert failure == (Outcome.SERVER_ERROR, Billed.MAYBE_BILLED)
        assert not ends

    def test_bare_samples_have_nothing_to_check(self) -> None:
        call = a_speech(model="later", media_type="audio/pcm")
        data, ends, failure = drained(AudioDecoder(OPENAI.table, call), [b"\x01\x02"])
        assert (data, failure) == (b"\x01\x02", None)
        assert [event.usage for event in ends if isinstance(event, Finished)] == [None]


class TestMediaTypes:
    pytestmark = pytest.mark.requirement("R3")

    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp", "image/gif"])
    def test_an_image_is_told_by_its_first_bytes(self, media_type: str) -> None:
        assert image_type(image(media_type, size=100)[:12]) == media_type

    @pytest.mark.parametrize(
        "media_type", ["audio/mpeg", "audio/ogg", "audio/aac", "audio/flac", "audio/wav"]
    )
    def test_sound_is_told_by_its_first_bytes(self, media_type: str) -> None:
        assert audio_type(sound(media_type, "abc")[:12]) == media_type

    def test_a_bare_frame_is_mpeg(self) -> None:
        assert audio_type(b"\xff\xfb\x90\x64" + b"\0" * 8) == "audio/mpeg"

    def test_neither_is_told_of_anything_else(self) -> None:
        assert image_type(b"RIFF0000WAVE") == ""
        assert audio_type(b"RIFF0000WEBP") == ""

    def test_pieces_are_bounded_and_the_last_one_says_so(self) -> None:
        medium = Medium("image/png", b"x" * (CHUNK_BYTES_MAX + 1))
        pieces = list(chunks_of(3, medium))
        assert [len(piece.data) for piece in pieces] == [CHUNK_BYTES_MAX, 1]
        assert [piece.last for piece in pieces] == [False, True]
        assert {piece.index for piece in pieces} == {3}
