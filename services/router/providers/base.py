# SPDX-License-Identifier: Apache-2.0
"""
The sans-I/O port every provider dialect stands behind.

A dialect never opens a connection, reads a clock or sleeps. It builds requests as data,
turns a status, headers and bytes into answers, and turns failures into one `ProviderError`.
1. A request's `repr` shows neither header values nor the body.
2. No text of a provider ever enters an error: it may echo keys or prompts.
3. A stream is over only when the provider's own end marker was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from services.router.domain.media import ImageCall, MediaAnswer, Medium, SpeechCall
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import Completion, StreamEvent, Usage
from services.router.domain.work import Call
from services.shared.errors import FieldViolation
from services.shared.secret import Secret

if TYPE_CHECKING:
    from services.router.providers.media_format import MediaDecoder

__all__ = [
    "APIKeyCredential",
    "AccessToken",
    "Billed",
    "Credential",
    "CredentialMalformedError",
    "Dialect",
    "HTTPRequest",
    "Outcome",
    "Probe",
    "ProbeResult",
    "ProviderBrokenError",
    "ProviderError",
    "StreamDecoder",
    "TokenExchange",
    "UnsupportedParameterError",
]


@dataclass(frozen=True, slots=True, repr=False)
class HTTPRequest:
    """
    One HTTP request as data. Header names are lower case.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        """
        Show where the request goes and its size; header values and body may be secret.
        """
        names = ", ".join(self.headers)
        return f"HTTPRequest({self.method} {self.url}, headers=[{names}], {len(self.body)} bytes)"

    def __reduce__(self) -> str:
        """
        Refuse pickling: the headers carry the key.
        """
        raise TypeError("an HTTPRequest carries a secret and is not pickled")


@dataclass(frozen=True, slots=True, eq=False)
class APIKeyCredential:
    """
    A credential as it is stored: one opaque key, or JSON text that its dialect reads.
    """

    secret: Secret


Credential = APIKeyCredential
"""Every credential shape a dialect can be given."""


@dataclass(frozen=True, slots=True, eq=False)
class AccessToken:
    """
    What a provider gave for a credential, for a while.
    """

    secret: Secret
    expire_time: datetime
    """Aware."""


class CredentialMalformedError(Exception):
    """
    A structured credential cannot be used; nothing was sent.

    Attributes:
        faults: What is wrong, each with its field path; never holds a value.
    """

    def __init__(self, provider: str, faults: Sequence[FieldViolation]) -> None:
        told = "; ".join(f"{fault.field} {fault.description}" for fault in faults)
        super().__init__(f"the {provider} credential cannot be used: {told}")
        self.faults = tuple(faults)


class ProviderError(Exception):
    """
    A provider call failed.

    Attributes:
        outcome: What went wrong, in the suite's words.
        http_status: The status the provider answered with; 200 where the failure came inside
            the body or the stream, None where there was no answer.
        retry_after_seconds: The provider's own hint, None where it gave none.
        retryable: False where waiting cannot help: a RATE_LIMITED request larger than the
            whole limit, a spent daily quota, or a quota of zero.
        safe_message: Our own sentence for a person; holds no text of the provider.
        billed: Whether the provider may charge for the attempt.
        missing_permission: The permission the key lacks, by its name in the provider's
            documentation, where the provider said so; empty otherwise.
        usage: Tokens reported before the failure, where there were any.
    """

    def __init__(
        self,
        *,
        outcome: Outcome,
        safe_message: str,
        billed: Billed,
        http_status: int | None = None,
        retry_after_seconds: float | None = None,
        retryable: bool = True,
        missing_permission: str = "",
        usage: Usage | None = None,
    ) -> None:
        super().__init__(safe_message)
        self.outcome = outcome
        self.safe_message = safe_message
        self.billed = billed
        self.http_status = http_status
        self.retry_after_seconds = retry_after_seconds
        self.retryable = retryable
        self.missing_permission = missing_permission
        self.usage = usage


class ProviderBrokenError(ProviderError):
    """
    The provider's answer cannot be read, or its stream ended without its own end marker.
    """


class UnsupportedParameterError(Exception):
    """
    The provider (or the model) does not take a parameter that the call sets.
    """

    def __init__(self, *, field: str, provider: str) -> None:
        super().__init__(
            f"{provider} does not support {field} on this model; "
            f"leave it out, or let parameters be dropped"
        )
        self.field = field
        self.provider = provider


class StreamDecoder(Protocol):
    """
    Turns the bytes of one 200 streaming answer into events. Used once, then thrown away.

    A failure inside the stream is raised only after the events before it were given: `feed`
    gives those, and the next `feed` or `finish` raises.
    """

    @property
    def done(self) -> bool:
        """
        Whether no further byte matters: call `finish` now instead of waiting for the close.
        """
        ...

    def feed(self, data: bytes) -> list[StreamEvent]:
        """
        Take the next bytes, cut anywhere, and give the events they complete.

        Raises:
            ProviderError: The provider reported a failure inside the stream.
            ProviderBrokenError: The bytes are not the provider's format.
        """
        ...

    def finish(self) -> list[StreamEvent]:
        """
        Take the end of the connection and give the events that were still held back.

        Raises:
            ProviderBrokenError: The provider's own end marker was never seen.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """
    What a live test of a key found out.
    """

    outcome: Outcome | None
    """None: the key works. Otherwise why not."""
    credit_checked: bool
    """Whether the test could tell that there is money behind the key."""
    usage: Usage | None
    """Tokens the test itself spent; None where it generated nothing."""
    model: str
    """The model the generation was made on; empty where there was none."""
    http_status: int | None
    detail: str
    """Our own sentence for a person."""
    retry_after_seconds: float | None = None
    missing_permission: str = ""
    cost_nano_usd: int = 0
    """What the test cost beside tokens."""
    spent_elsewhere: tuple[tuple[str, Usage], ...] = ()
    """Tokens of further generations, by model, where a test makes more than one."""


class Probe(Protocol):
    """
    A live test of one key as a state machine: at most the free call, then one generation.

    Ask `next_request`, send it, `feed` its answer, until `next_request` gives None.
    """

    def next_request(self) -> HTTPRequest | None:
        """
        Give the request to send now, or None when the result stands.
        """
        ...

    def feed(self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
        """
        Take the answer to the last request.
        """
        ...

    def fail(self, error: ProviderError) -> None:
        """
        Take the transport's failure (NETWORK, TIMEOUT) in place of an answer.
        """
        ...

    def result(self) -> ProbeResult:
        """
        Give the result; only after `next_request` gave None.
        """
        ...


class TokenExchange(Protocol):
    """
    Trades a credential for an access token: send `request`, hand its answer to `read`.
    """

    @property
    def request(self) -> HTTPRequest:
        """
        Give the request to send.
        """
        ...

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> AccessToken:
        """
        Take the answer.

        Raises:
            ProviderError: The credential was refused, or the exchange failed.
        """
        ...


class Dialect(Protocol):
    """
    One provider's way to speak, without any I/O. Stateless and shared.
    """

    def exchange(
        self, credential: Credential, *, base_url: str, now: datetime
    ) -> TokenExchange | None:
        """
        Begin the exchange of a credential for a token; None where requests need none.

        Raises:
            CredentialMalformedError: The credential cannot be read.
        """
        ...

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
        Give a built request with what only the moment of sending knows: a token, a signature.
        """
        ...

    @property
    def provider(self) -> str:
        """
        The provider's id, e.g. `openai`.
        """
        ...

    @property
    def default_base_url(self) -> str:
        """
        Scheme and host of the provider's API; paths belong to the dialect.

        Where hosts depend on the credential it holds `{host}`, and so must what replaces it.
        """
        ...

    def unsupported(self, call: Call) -> list[str]:
        """
        Name the fields of the call that this provider or model does not take.
        """
        ...

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call; `call.stream` decides which endpoint or flag. It is sent as
        `authorize` gives it.

        Raises:
            CredentialMalformedError: The credential cannot be read.
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        ...

    def parse_response(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> Completion:
        """
        Read a whole answer. Header names are lower case; `now` is aware, for date hints.

        Raises:
            ProviderError: The provider refused or failed, also under status 200.
        """
        ...

    def parse_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> ProviderError:
        """
        Classify an answer whose status is not 200; also the answer to a streaming request.
        """
        ...

    def parse_images(
        self, call: ImageCall, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> MediaAnswer:
        """
        Read a whole answer of status 200 to a call for images.

        Raises:
            ProviderError: The provider refused or failed all the same.
        """
        ...

    def build_fetch(self, medium: Medium, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request for an image that its provider keeps at an address.

        Raises:
            OutputAddressError: The address is not the provider's own.
            ProviderBrokenError: This provider keeps none.
        """
        ...

    def speech_decoder(
        self, call: SpeechCall, headers: Mapping[str, str], *, now: datetime
    ) -> MediaDecoder:
        """
        Give a decoder for one 200 answer to a call for speech.
        """
        ...

    def stream_decoder(self, *, now: datetime) -> StreamDecoder:
        """
        Give a decoder for one 200 streaming answer; `now` is when its head arrived.
        """
        ...

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of a key; `models` are the models the key may serve, if limited.
        """
        ...
