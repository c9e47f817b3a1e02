# SPDX-License-Identifier: Apache-2.0
"""
One dialect, assembled from the pure functions of a provider's modules.

Providers differ in their formats, not in what a dialect does with them; so a provider brings
data and functions, and this is the only class behind the `Dialect` port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.router.domain.media import ImageCall, MediaAnswer, Medium, SpeechCall
from services.router.domain.text import Completion, TextCall
from services.router.domain.work import Call
from services.router.providers.base import (
    AccessToken,
    Credential,
    HTTPRequest,
    Probe,
    ProviderError,
    StreamDecoder,
    TokenExchange,
    UnsupportedParameterError,
)
from services.router.providers.classify import ErrorTable, broken
from services.router.providers.media_format import (
    NO_MEDIA,
    ImageFormat,
    MediaBody,
    MediaDecoder,
    MediaFormats,
    SpeechFormat,
)
from services.router.providers.probe import KeyProbe, ProbePlan

__all__ = ["HTTPDialect", "JSONDialect"]

HTTP_OK = 200


class _ParseAnswer(Protocol):
    def __call__(
        self,
        table: ErrorTable,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        /,
        *,
        now: datetime,
    ) -> Completion: ...


class _ParseError(Protocol):
    def __call__(
        self,
        table: ErrorTable,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        /,
        *,
        now: datetime,
    ) -> ProviderError: ...


class _MakeDecoder(Protocol):
    def __call__(self, table: ErrorTable, /, *, now: datetime) -> StreamDecoder: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JSONDialect:
    """
    What the answers of a provider that takes JSON over HTTPS mean.
    """

    provider: str
    default_base_url: str
    table: ErrorTable
    unsupported_fields: Callable[[TextCall], list[str]]
    parse_answer: _ParseAnswer
    parse_refusal: _ParseError
    make_decoder: _MakeDecoder
    media: MediaFormats = NO_MEDIA

    def unsupported(self, call: Call) -> list[str]:
        """
        Name the fields of the call that this provider or model does not take; its very kind where
        the provider does not do such work.
        """
        match call:
            case TextCall():
                return self.unsupported_fields(call)
            case ImageCall():
                image = self.media.image
                return ["requests for images"] if image is None else image.unsupported(call)
            case SpeechCall():
                speech = self.media.speech
                return ["requests for speech"] if speech is None else speech.unsupported(call)
            case _:
                return ["requests of this kind"]

    def refuse_unsupported(self, call: Call) -> None:
        """
        Refuse a call that sets what the provider does not take.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        for field in self.unsupported(call):
            raise UnsupportedParameterError(field=field, provider=self.provider)

    def text_call(self, call: Call) -> TextCall:
        """
        Give a call for text, which nothing of is left out.

        Raises:
            UnsupportedParameterError: It is of another kind, or sets what `unsupported` names.
        """
        self.refuse_unsupported(call)
        assert isinstance(call, TextCall), "other kinds are unsupported or built before"
        return call

    def media_body(self, call: ImageCall | SpeechCall) -> MediaBody:
        """
        Build the body of a call for media.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        self.refuse_unsupported(call)
        if isinstance(call, ImageCall):
            return self._image_format().build(call)
        return self._speech_format().build(call)

    def parse_images(
        self, call: ImageCall, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> MediaAnswer:
        """
        Read a whole answer of status 200 to a call for images.

        Raises:
            ProviderError: The provider refused or failed all the same.
        """
        return self._image_format().parse(self.table, call, headers, body, now=now)

    def build_fetch(self, medium: Medium, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request for an image that its provider keeps at an address.

        Raises:
            OutputAddressError: The address is not the provider's own.
            ProviderBrokenError: This provider keeps none.
        """
        fetch = self._image_format().fetch
        if fetch is None:
            raise broken(self.table, http_status=HTTP_OK, cut=False)
        return fetch(medium.url, credential, base_url)

    def speech_decoder(
        self, call: SpeechCall, headers: Mapping[str, str], *, now: datetime
    ) -> MediaDecoder:
        """
        Give a decoder for one 200 answer to a call for speech.
        """
        return self._speech_format().decoder(self.table, call, headers, now=now)

    def _image_format(self) -> ImageFormat:
        assert self.media.image is not None, "`unsupported` was asked before"
        return self.media.image

    def _speech_format(self) -> SpeechFormat:
        assert self.media.speech is not None, "`unsupported` was asked before"
        return self.media.speech

    def exchange(
        self, credential: Credential, *, base_url: str, now: datetime
    ) -> TokenExchange | None:
        """
        Give None: the key is all that a request needs.
        """
        del credential, base_url, now
        return None

    def authorize(
        self,
        request: HTTPRequest,
        credential: Credential,
        *,
        base_url: str,
        now: datetime,
        token: AccessToken | None = None,
    ) -> HTTPRequest:
        """
        Give the request as it is: the key stands in it already.
        """
        del credential, base_url, now, token
        return request

    def parse_response(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> Completion:
        """
        Read a whole answer.

        Raises:
            ProviderError: The provider refused or failed, also under status 200.
        """
        return self.parse_answer(self.table, status, headers, body, now=now)

    def parse_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> ProviderError:
        """
        Classify an answer whose status is not 200.
        """
        return self.parse_refusal(self.table, status, headers, body, now=now)

    def stream_decoder(self, *, now: datetime) -> StreamDecoder:
        """
        Give a decoder for one stream.
        """
        return self.make_decoder(self.table, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPDialect(JSONDialect):
    """
    A provider with one host, whose key stands in a header.
    """

    path: Callable[[TextCall], str]
    headers: Callable[[Credential], dict[str, str]]
    """The headers that every request to the provider carries."""
    build_body: Callable[[TextCall], bytes]
    probe_plan: ProbePlan

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        address = base_url.rstrip("/")
        headers = self.headers(credential)
        if isinstance(call, ImageCall | SpeechCall):
            body = self.media_body(call)
            headers |= {"content-type": body.content_type, **body.headers}
            return HTTPRequest("POST", address + body.path, headers, body.data)
        text = self.text_call(call)
        headers["content-type"] = "application/json"
        return HTTPRequest("POST", address + self.path(text), headers, self.build_body(text))

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of a key.
        """
        url = base_url.rstrip("/") + self.probe_plan.free_path
        return KeyProbe(
            self,
            self.probe_plan,
            credential,
            base_url=base_url,
            free_call=HTTPRequest("GET", url, self.headers(credential)),
            models=models,
        )
