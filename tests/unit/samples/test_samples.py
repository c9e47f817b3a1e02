# SPDX-License-Identifier: Apache-2.0
"""The program that decodes recordings: its loading, its verdicts and its exit codes."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.samples.__main__ import main
from tests.samples.recordings import load_exchange

pytestmark = pytest.mark.requirement("R4")

BODY = {
    "model": "gpt-4o-mini",
    "choices": [{"message": {"content": "Olá!"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 1},
}
TEXT = json.dumps(BODY, ensure_ascii=False)
ZIPPED = base64.b64encode(gzip.compress(TEXT.encode())).decode()
HEADERS = {"Content-Type": ["application/json"]}

CASSETTES = {
    "go_vcr.yaml": {"interactions": [{"response": {"code": 200, "body": TEXT}}]},
    "vcrpy.yaml": {
        "interactions": [
            {"response": {"status": {"code": 200}, "body": {"string": TEXT}, "headers": HEADERS}}
        ]
    },
    "vcrpy_old.yaml": {"interactions": [{"response": {"status_code": 200, "content": TEXT}}]},
    "pydantic_ai.yaml": {
        "interactions": [{"response": {"status": {"code": 200}, "parsed_body": BODY}}]
    },
    "ruby.yml": {
        "http_interactions": [
            {"response": {"status": {"code": 200}, "body": {"encoding": "UTF-8", "string": TEXT}}}
        ]
    },
    "base64.yml": {
        "http_interactions": [
            {"response": {"status": {"code": 200}, "body": {"base64_string": ZIPPED}}}
        ]
    },
    "reported.json": {"response": {"status": 200, "headers": {}, "body": TEXT}},
    "object.json": {"response": {"status": 200, "body": BODY}},
}
TAGGED = """
http_interactions:
- recorded_at: 2026-09-01
  response:
    status: {{code: 200}}
    body: {{string: {tag} {data}}}
"""


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")  # JSON is YAML.
    return path


class TestLoading:
    @pytest.mark.parametrize("name", CASSETTES)
    def test_every_form_of_recording_is_loaded(self, tmp_path: Path, name: str) -> None:
        exchange = load_exchange(write(tmp_path, name, CASSETTES[name]), 0)
        assert (exchange.status, json.loads(exchange.body)) == (200, BODY)

    @pytest.mark.parametrize("tag", ["!binary", "!!binary"])
    def test_binary_tags_and_compressed_bodies_are_undone(self, tmp_path: Path, tag: str) -> None:
        path = write(tmp_path, "tagged.yml", TAGGED.format(tag=tag, data=ZIPPED))
        assert load_exchange(path, 0).body.decode() == TEXT

    def test_header_names_are_lower_case(self, tmp_path: Path) -> None:
        path = write(tmp_path, "vcrpy.yaml", CASSETTES["vcrpy.yaml"])
        assert load_exchange(path, 0).headers == {"content-type": "application/json"}

    def test_bare_bodies_have_no_status(self, tmp_path: Path) -> None:
        exchange = load_exchange(write(tmp_path, "x.body.json", TEXT), 0)
        assert (exchange.status, exchange.body.decode()) == (None, TEXT)
        assert load_exchange(write(tmp_path, "y.json", TEXT), 0).body.decode() == TEXT

    def test_bare_payloads_are_framed_again(self, tmp_path: Path) -> None:
        chunk = '{"object":"chat.completion.chunk"}'
        path = write(tmp_path, "x.chunks.txt", f"{chunk}\n\n")
        assert load_exchange(path, 0).body.decode() == f"data: {chunk}\n\ndata: [DONE]\n\n"

    def test_pieces_kept_as_base64_are_joined(self, tmp_path: Path) -> None:
        pieces = [base64.b64encode(piece).decode() for piece in (b"da", b"ta")]
        path = write(tmp_path, "x.json", {"chunks": [pieces[0], {"b64": pieces[1]}]})
        assert load_exchange(path, 0).body == b"data"


def run(folder: Path, capsys: pytest.CaptureFixture[str], *changes: Any) -> tuple[int, str]:
    write(folder, "openai/chat.yaml", CASSETTES["go_vcr.yaml"])
    plain = {
        "file": "openai/chat.yaml",
        "uri": "https://api.openai.com/v1/chat/completions",
        "status": 200,
        "error_class": None,
        "text": "Olá!",
        "finish": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
    }
    write(folder, "expected.json", [{**plain, **change} for change in changes])
    return main([str(folder)]), capsys.readouterr().out


class TestVerdicts:
    def test_what_is_as_expected_passes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out = run(tmp_path, capsys, {})
        assert (code, out) == (0, "samples: 1 passed, 0 failed\n")

    @pytest.mark.parametrize(
        "change",
        [
            {"text": "other"},
            {"finish": "length"},
            {"model": "other"},
            {"usage": {"prompt_tokens": 9}},
            {"usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 4}},
            {"tool_calls": [{"function": {"name": "f"}}]},
            {"error_class": "rate_limited"},
            {"file": "openai/missing.yaml"},
            {"stream": "sse"},
        ],
    )
    def test_what_differs_fails_and_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
    ) -> None:
        code, out = run(tmp_path, capsys, change, {})
        assert code == 1
        assert out.startswith("failed: openai/")
        assert out.endswith("samples: 1 passed, 1 failed\n")

    def test_what_is_not_spoken_is_a_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        elsewhere = {"file": "elsewhere/x.yaml"}
        unknown = {"uri": "https://api.openai.com/v1/evals"}
        code, out = run(tmp_path, capsys, {}, elsewhere, elsewhere, unknown)
        assert code == 1
        assert out.splitlines() == [
            "failed: not spoken: elsewhere (2 recordings)",
            "failed: not spoken: openai v1/evals (1 recordings)",
            "samples: 1 passed, 3 failed",
        ]

    def test_work_that_ownkey_does_not_do_is_told_and_is_no_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        embeddings = {"uri": "https://api.openai.com/v1/embeddings"}
        code, out = run(tmp_path, capsys, {}, embeddings)
        assert code == 0
        assert out.splitlines() == [
            "out of scope: openai v1/embeddings: Ownkey makes no embeddings (1 recordings)",
            "samples: 1 passed, 0 failed",
        ]

    def test_nothing_passed_is_a_failure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        embeddings = {"uri": "https://api.openai.com/v1/embeddings"}
        for changes in ([], [embeddings]):
            code, out = run(tmp_path, capsys, *changes)
            assert (code, out.splitlines()[-1]) == (1, "samples: 0 passed, 0 failed")

    def test_a_refusal_is_read_alike_whatever_was_asked_for(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
        write(tmp_path, "openai/limited.body.json", error)
        limited = {
            "file": "openai/limited.body.json",
            "uri": "https://api.openai.com/v1/embeddings",
            "status": 429,
            "error_class": "rate_limited",
        }
        assert run(tmp_path, capsys, limited)[0] == 0
        assert run(tmp_path, capsys, {**limited, "error_class": "invalid_key"})[0] == 1

    def test_bare_events_are_read_in_either_format(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        done = {"status": "completed", "usage": {"input_tokens": 2, "output_tokens": 1}}
        events = [
            {"type": "response.output_text.delta", "delta": "Olá!"},
            {"type": "response.completed", "response": done},
        ]
        lines = "\n".join(json.dumps(event) for event in events)
        chunks = {
            "file": "openai/events.chunks.txt",
            "uri": "https://api.openai.com/v1/responses",
            "stream": "sse",
            "events": 2,
            "finish": "response.completed",
            "usage": done["usage"],
        }
        write(tmp_path, "openai/events.chunks.txt", lines)
        assert run(tmp_path, capsys, chunks)[0] == 0
        delta = {"choices": [{"delta": {"content": "Olá!"}, "finish_reason": "stop"}]}
        write(
            tmp_path,
            "openai/events.chunks.txt",
            json.dumps({"object": "chat.completion.chunk", **delta}, separators=(",", ":")),
        )
        chat = {"uri": "https://api.openai.com/v1/chat/completions", "events": 1, "finish": "stop"}
        assert run(tmp_path, capsys, {**chunks, **chat, "usage": None})[0] == 0
        assert run(tmp_path, capsys, {**chunks, **chat, "usage": None, "events": 3})[0] == 1

    @pytest.mark.parametrize(
        ("wanted", "code"),
        [
            ([{"name": "f", "arguments": '{"a": 1}'}], 0),
            ([{"function": {"name": "f", "arguments": {"a": 1}}}], 0),
            (["f"], 0),
            (1, 0),
            (2, 1),
            ([{"name": "f", "arguments": {"a": 2}}], 1),
            ([{"name": "g"}], 1),
        ],
    )
    def test_tool_calls_are_held_in_each_form_they_are_written_in(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: Any, code: int
    ) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        choice = {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
        write(tmp_path, "openai/call.body.json", {"choices": [choice]})
        called = {
            "file": "openai/call.body.json",
            "text": "",
            "usage": None,
            "finish": "tool_calls",
            "tool_calls": wanted,
        }
        assert run(tmp_path, capsys, called)[0] == code

    @pytest.mark.parametrize(
        ("body", "expected", "code"),
        [
            ({"name": "models/veo/operations/1"}, {"done": False}, 0),
            ({"name": "models/veo/operations/1"}, {"done": True}, 1),
            (
                {"name": "o", "done": True, "error": {"code": 8, "message": "x"}},
                {"error_class": "rate_limited"},
                0,
            ),
            ({"name": "o", "done": True, "error": {"code": 8, "message": "x"}}, {}, 1),
            ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, {"status": 429}, 1),
        ],
    )
    def test_long_jobs_are_read(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        body: dict[str, Any],
        expected: dict[str, Any],
        code: int,
    ) -> None:
        write(tmp_path, "gemini/job.body.json", body)
        job = {
            "file": "gemini/job.body.json",
            "uri": "https://generativelanguage.googleapis.com/v1beta/models/veo/operations/1",
        }
        assert run(tmp_path, capsys, {**job, **expected})[0] == code

    @pytest.mark.parametrize(
        ("file", "uri"),
        [
            ("azure", "https://x.openai.azure.com/openai/models?api-version=2024-10-21"),
            ("bedrock", "https://bedrock.us-east-1.amazonaws.com/foundation-models"),
            ("vertex", "https://aiplatform.googleapis.com/v1/x/models/gemini:countTokens"),
            ("openrouter", "https://openrouter.ai/api/v1/models"),
        ],
    )
    def test_a_free_call_that_proves_by_its_answer_alone_is_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, uri: str
    ) -> None:
        write(tmp_path, f"{file}/free.body.json", {"data": []})
        assert run(tmp_path, capsys, {"file": f"{file}/free.body.json", "uri": uri})[0] == 0
        write(tmp_path, f"{file}/free.body.json", "<html>")
        assert run(tmp_path, capsys, {"file": f"{file}/free.body.json", "uri": uri})[0] == 1

    def test_images_are_counted_and_their_addresses_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = "https://images.example.com/a.png"
        write(tmp_path, "openai/image.body.json", {"data": [{"url": url}]})
        images = {
            "file": "openai/image.body.json",
            "uri": "https://api.openai.com/v1/images/generations",
            "images": 1,
            "usage": None,
            "url_host": "images.example.com",
        }
        assert run(tmp_path, capsys, images)[0] == 0
        code, out = run(tmp_path, capsys, {**images, "images": 2, "url_host": "other.example.com"})
        assert code == 1
        assert "images: expected 2, got 1" in out
        assert "url host: expected other.example.com" in out

    def test_a_media_refusal_is_classified(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path, "stability/x.body.json", {"name": "payment_required", "errors": ["x"]})
        refused = {
            "file": "stability/x.body.json",
            "uri": "https://api.stability.ai/v2beta/stable-image/generate/core",
            "status": 402,
            "error_class": "insufficient_credit",
        }
        assert run(tmp_path, capsys, refused)[0] == 0
        assert run(tmp_path, capsys, {**refused, "error_class": "rate_limited"})[0] == 1

    def test_a_free_call_s_list_is_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path, "openai/models.body.json", {"data": [{"id": "gpt-4o"}]})
        free = {"file": "openai/models.body.json", "uri": "https://api.openai.com/v1/models"}
        assert run(tmp_path, capsys, free)[0] == 0

    def test_a_folder_without_a_list_is_told(self, tmp_path: Path) -> None:
        assert main([str(tmp_path)]) == 2
        assert main([]) == 2


class TestSignatures:
    SIGNATURE = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    REQUEST = "GET / HTTP/1.1\nHost:example.amazonaws.com\nX-Amz-Date:20150830T123600Z\n\n"

    def test_both_published_layouts_are_signed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        context = {
            "credentials": {
                "access_key_id": "AKIDEXAMPLE",
                "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            },
            "region": "us-east-1",
            "service": "service",
            "timestamp": "2015-08-30T12:36:00Z",
        }
        one, two = tmp_path / "sigv4" / "one", tmp_path / "sigv4"
        one.mkdir(parents=True)
        (one / "request.txt").write_text(self.REQUEST)
        (one / "context.json").write_text(json.dumps(context))
        (one / "header-signature.txt").write_text(self.SIGNATURE)
        (two / "two.req").write_text(self.REQUEST)
        (two / "two.authz").write_text(f"AWS4-HMAC-SHA256 x, Signature={self.SIGNATURE}")
        files = [{"file": f"sigv4/{name}"} for name in ("one", "two.req")]
        write(tmp_path, "expected.json", files)
        assert main([str(tmp_path)]) == 0
        assert "samples: 2 passed, 0 failed" in capsys.readouterr().out
        (one / "context.json").write_text(json.dumps({**context, "normalize": False}))
        write(tmp_path, "expected.json", [*files, {"file": "sigv4/three.req"}])
        assert main([str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert "three.req[0]: no case stands there" in out
        assert "out of scope: sigv4: a path as only S3 signs it (1 recordings)" in out
        (one / "context.json").write_text(json.dumps(context))
        (one / "header-signature.txt").write_text("0" * 64)
        assert main([str(tmp_path)]) == 1
