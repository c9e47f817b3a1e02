# SPDX-License-Identifier: Apache-2.0
"""
Stability AI, the stable-image endpoints: https://platform.stability.ai/docs/api-reference .

1. A request is a form, even without a file; the endpoint is the model's family.
2. `Accept: image/*` gives the image's own bytes, with `finish-reason` and `seed` as headers;
   `application/json` the same as fields, the image in base64. Both are read.
3. CONTENT_FILTERED comes with status 200 and a blurred image: that is a refusal, and the work
   was done. A prompt refused beforehand is 403 `content_moderation`, and not charged.
4. An image has a price in credits, one of which is $0.01; no answer tells it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime

import msgspec

from services.router.domain.media import ImageCall, MediaAnswer
from services.router.domain.outcomes import Outcome
from services.router.domain.text import Completion, Usage
from services.router.providers.base import ProviderError
from services.router.providers.classify import (
    ErrorFacts,
    ErrorRule,
    ErrorTable,
    broken,
    classify,
    decode_object,
)
from services.router.providers.dialect import HTTPDialect
from services.router.providers.media_format import (
    HTTP_OK,
    ImageFormat,
    MediaBody,
    MediaFormats,
    checked_image,
)
from services.router.providers.multipart import form_data
from services.router.providers.no_text import (
    refuse_text,
    refuse_text_answer,
    refuse_text_call,
    refuse_text_stream,
)
from services.router.providers.openai_chat_request import bearer
from services.router.providers.probe import FreeCallFinding, ProbePlan

__all__ = ["STABILITY", "TABLE", "parse_stability_image"]

_REFERENCE = "https://platform.stability.ai/docs/api-reference"
_GENERATE = "/v2beta/stable-image/generate"
_OWN_ENDPOINT = ("core", "ultra")
"""The models that are endpoints; every other one is a `model` of `sd3`."""
_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_SD3_FORMATS = ("image/png", "image/jpeg")
_SEED_MAX = 4_294_967_294
_RATE_LIMITED_STATUS = 429
_BLOCK_SECONDS = "60s"
"""Past 150 requests in 10 seconds a key is blocked for a minute; no header says so."""
_FILTERED = "content_filtered"

TABLE = ErrorTable(
    title="Stability AI",
    rules=(
        ErrorRule(
            outcome=Outcome.CONTENT_FILTERED,
            source=_REFERENCE,
            code=("content_moderation", _FILTERED),
        ),
        ErrorRule(
            outcome=Outcome.INSUFFICIENT_CREDIT,
            source="https://platform.stability.ai/docs/getting-started/credits-and-billing",
            code=("payment_required", "insufficient_balance"),
        ),
        ErrorRule(outcome=Outcome.RATE_LIMITED, source=_REFERENCE, code=("rate_limit_exceeded",)),
        ErrorRule(
            outcome=Outcome.INVALID_KEY, source=_REFERENCE, code=("unauthorized", "invalid_api_key")
        ),
        ErrorRule(
            outcome=Outcome.MODEL_NOT_FOUND, source=_REFERENCE, status=(404,), text=r"engine|model"
        ),
    ),
)


class _Answer(msgspec.Struct):
    image: str = ""
    finish_reason: str = "SUCCESS"


_decode = msgspec.json.Decoder(_Answer).decode


def _unsupported(call: ImageCall) -> list[str]:
    """
    Name what the endpoints lack: several images at once, images in, a quality, seeds out of range.
    """
    formats = _FORMATS if call.model in _OWN_ENDPOINT else _SD3_FORMATS
    asked = (
        ("count", call.count > 1),
        ("images", bool(call.images)),
        ("quality", bool(call.quality)),
        ("media_type", bool(call.media_type) and call.media_type not in formats),
        ("seed", call.seed is not None and not 0 <= call.seed <= _SEED_MAX),
    )
    return [field for field, lacking in asked if lacking]


def _build(call: ImageCall) -> MediaBody:
    fields = [("prompt", call.prompt)]
    if call.size:
        fields.append(("aspect_ratio", call.size))
    if call.seed is not None:
        fields.append(("seed", str(call.seed)))
    if call.media_type:
        fields.append(("output_format", _FORMATS[call.media_type]))
    family = call.model
    if family not in _OWN_ENDPOINT:
        family = "sd3"
        fields.append(("model", call.model))
    content_type, data = form_data(fields)
    return MediaBody(f"{_GENERATE}/{family}", content_type, data, {"accept": "image/*"})


def parse_stability_image(
    table: ErrorTable,
    call: ImageCall,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
) -> MediaAnswer:
    """
    Read a whole answer of status 200.

    Raises:
        ProviderError: The image was filtered.
        ProviderBrokenError: The bytes are no image of the kind that is declared.
    """
    usage = Usage(input_tokens=0, output_tokens=0, images=1)
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type.startswith("image/"):
            reason, data = headers.get("finish-reason", "SUCCESS"), body
        else:
            answer = _decode(body)
            reason, data = answer.finish_reason, base64.b64decode(answer.image, validate=True)
            content_type = ""
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
        raise broken(table, http_status=HTTP_OK, cut=False) from None
    if reason.lower() == _FILTERED:
        facts = ErrorFacts(
            status=HTTP_OK, codes=frozenset({_FILTERED}), inside_answer=True, usage=usage
        )
        raise classify(table, facts, http_status=HTTP_OK, now=now)
    declared = content_type or call.media_type
    return MediaAnswer(
        media=(checked_image(table, data, declared=declared, usage=usage),), usage=usage
    )


def _parse_refusal(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> ProviderError:
    """
    Classify `{id, name, errors}`; the older endpoints write `message` in place of `errors`.
    """
    fields = decode_object(body)
    listed = fields.get("errors")
    texts = listed if isinstance(listed, list) else [fields.get("message")]
    facts = ErrorFacts(
        status=status,
        codes=frozenset({str(fields.get("name")).lower()}),
        text=" ".join(text for text in texts if isinstance(text, str)),
        delay=_BLOCK_SECONDS if status == _RATE_LIMITED_STATUS else "",
        headers=headers,
    )
    return classify(table, facts, http_status=status, now=now)


def _parse_answer(
    table: ErrorTable, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
) -> Completion:
    if status == HTTP_OK:
        return refuse_text_answer(table, status, headers, body, now=now)
    raise _parse_refusal(table, status, headers, body, now=now)


def _read_balance(body: bytes) -> FreeCallFinding:
    """
    Read GET /v1/user/balance, which shows the credits left.
    """
    credits_left = decode_object(body).get("credits")
    if not isinstance(credits_left, int | float):
        return FreeCallFinding()
    return FreeCallFinding(out_of_credit=credits_left <= 0, has_credit=credits_left > 0)


STABILITY = HTTPDialect(
    provider="stability",
    default_base_url="https://api.stability.ai",
    path=refuse_text_call,
    headers=bearer,
    parse_answer=_parse_answer,
    parse_refusal=_parse_refusal,
    make_decoder=refuse_text_stream,
    table=TABLE,
    build_body=refuse_text_call,
    probe_plan=ProbePlan(
        free_path="/v1/user/balance",
        read_free_call=_read_balance,
        cheap_models=(),
        lowest_effort=lambda _: None,
        generates=False,
    ),
    unsupported_fields=refuse_text,
    media=MediaFormats(
        image=ImageFormat(unsupported=_unsupported, build=_build, parse=parse_stability_image)
    ),
)
