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

from services.router.domain.text import Completion, TextCall
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
from services.router.providers.classify import ErrorTable
from services.router.providers.probe import KeyProbe, ProbePlan

__all__ = ["HTTPDialect", "JSONDialect"]


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

    def unsupported(self, call: TextCall) -> list[str]:
        """
        Name the fields of the call that this provider or model does not take.
        """
        return self.unsupported_fields(call)

    def refuse_unsupported(self, call: TextCall) -> None:
        """
        Refuse a call that sets what the provider does not take.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        for field in self.unsupported(call):
            raise UnsupportedParameterError(field=field, provider=self.provider)

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

    def build_request(
        self, call: TextCall, credential: Credential, *, base_url: str
    ) -> HTTPRequest:
        """
        Build the request of a call.

        Raises:
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        self.refuse_unsupported(call)
        headers = {**self.headers(credential), "content-type": "application/json"}
        url = base_url.rstrip("/") + self.path(call)
        return HTTPRequest("POST", url, headers, self.build_body(call))

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
