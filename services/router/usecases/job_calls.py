# SPDX-License-Identifier: Apache-2.0
"""
Calls at providers about long jobs: start, poll, cancel, fetch the output.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.router.domain.next_step import Failure
from services.router.domain.outcomes import Billed, Outcome
from services.router.providers.base import (
    APIKeyCredential,
    CredentialMalformedError,
    ProviderError,
)
from services.router.providers.jobs import JobHandle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from services.router.domain.job_work import JobCall
    from services.router.domain.jobs import Job
    from services.router.providers.base import AccessToken, Credential, Dialect, HTTPRequest
    from services.router.providers.jobs import JobDialect, JobReport
    from services.router.usecases.access import AccessTokens
    from services.router.usecases.byte_budget import ByteBudget
    from services.router.usecases.ports import HTTPAnswer, Transport
    from services.shared.clock import Clock
    from services.shared.secret import Secret

    Build = Callable[[Credential, str], HTTPRequest]
    """Builds a request by credential and base address."""

HTTP_UNAUTHORIZED = 401
COPIES = 2
"""An answer that holds media is held as its text and as its bytes."""
OUTPUT_BYTES_MAX = 512 * 1024 * 1024
"""All media of one job's output together."""
FETCH_HEAD_SECONDS_MAX = 30.0
FETCH_IDLE_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCalls:
    """
    The calls.
    """

    jobs: Mapping[str, JobDialect]
    """By provider id."""
    dialects: Mapping[str, Dialect]
    base_urls: Mapping[str, str]
    """Provider to address, where it is not the dialect's own."""
    transport: Transport
    tokens: AccessTokens
    budget: ByteBudget
    clock: Clock

    def unsupported(self, provider: str, call: JobCall) -> list[str]:
        """
        Name the fields of a call that a provider does not take.
        """
        dialect = self.jobs.get(provider)
        return ["long jobs"] if dialect is None else dialect.unsupported(call)

    async def start(
        self,
        provider: str,
        call: JobCall,
        *,
        key: str,
        secret: Secret,
        may_send: Callable[[], bool],
        seconds: float,
        webhook_url: str,
    ) -> JobReport:
        """
        Start a job.

        Args:
            provider: Provider id.
            call: What to make.
            key: The key's name.
            secret: Its secret.
            may_send: Whether it may still be used; asked right before bytes are sent.
            seconds: Time for the whole call.
            webhook_url: Where the provider may say that it has ended; "" for nowhere.

        Raises:
            ProviderError: It was not started, or nobody can tell: see `billed`.
            StaleKeyError: `may_send` said no.
        """
        dialect = self.jobs[provider]

        def build(credential: Credential, base_url: str) -> HTTPRequest:
            return dialect.build_start(call, credential, base_url=base_url, webhook_url=webhook_url)

        return await self._report(
            provider, build, key=key, secret=secret, may_send=may_send, seconds=seconds
        )

    async def poll(
        self, job: Job, secret: Secret, *, may_send: Callable[[], bool], seconds: float
    ) -> JobReport:
        """
        Ask how a job stands; raises as `start`.
        """
        dialect = self.jobs[job.provider]

        def build(credential: Credential, base_url: str) -> HTTPRequest:
            return dialect.build_poll(_handle(job), credential, base_url=base_url)

        return await self._report(
            job.provider, build, key=job.key, secret=secret, may_send=may_send, seconds=seconds
        )

    async def cancel(
        self, job: Job, secret: Secret, *, may_send: Callable[[], bool], seconds: float
    ) -> JobReport | None:
        """
        Ask to cancel a job; None where its provider has no way. Raises as `start`.
        """
        dialect = self.jobs[job.provider]
        known = dialect.build_cancel(
            _handle(job), APIKeyCredential(secret), base_url=self._base_url(job.provider)
        )
        if known is None:
            return None
        return await self._report(
            job.provider,
            lambda _, __: known,
            key=job.key,
            secret=secret,
            may_send=may_send,
            seconds=seconds,
        )

    @contextlib.asynccontextmanager
    async def fetch(
        self, job: Job, url: str, secret: Secret, *, may_send: Callable[[], bool]
    ) -> AsyncIterator[HTTPAnswer]:
        """
        Fetch an output.

        Raises:
            OutputAddressError: The address is not the provider's own; nothing was sent.
            ProviderError: The provider could not be reached.
            StaleKeyError: `may_send` said no.
        """
        credential = APIKeyCredential(secret)
        base_url = self._base_url(job.provider)
        built = self.jobs[job.provider].build_fetch(url, credential, base_url=base_url)
        dialect = self.dialects[job.provider]
        token = await self._token(job.key, dialect, credential, may_send, FETCH_HEAD_SECONDS_MAX)
        request = dialect.authorize(
            built, credential, base_url=base_url, now=self.clock.now(), token=token
        )
        async with self.transport.send(
            request,
            may_send=may_send,
            head_seconds=FETCH_HEAD_SECONDS_MAX,
            idle_seconds=FETCH_IDLE_SECONDS_MAX,
            body_bytes_max=OUTPUT_BYTES_MAX,
        ) as answer:
            yield answer

    def _base_url(self, provider: str) -> str:
        return self.base_urls.get(provider, self.dialects[provider].default_base_url)

    async def _token(
        self,
        key: str,
        dialect: Dialect,
        credential: Credential,
        may_send: Callable[[], bool],
        seconds: float,
    ) -> AccessToken | None:
        return await self.tokens.token(
            key,
            dialect,
            credential,
            base_url=self._base_url(dialect.provider),
            may_send=may_send,
            deadline=self.clock.monotonic() + seconds,
        )

    async def _answer(
        self,
        provider: str,
        request: HTTPRequest,
        *,
        may_send: Callable[[], bool],
        seconds: float,
    ) -> JobReport:
        """
        Send a request and read its answer, whose bytes are held under the process's budget.
        """
        jobs = self.jobs[provider]
        async with self.transport.send(
            request,
            may_send=may_send,
            head_seconds=seconds,
            idle_seconds=seconds,
            body_bytes_max=jobs.answer_bytes_max,
        ) as answer:
            try:
                async with (
                    asyncio.timeout(seconds),
                    self.budget.hold(COPIES * _length(answer, jobs.answer_bytes_max)),
                ):
                    body = await answer.read()
                    return jobs.read(answer.status, answer.headers, body, now=self.clock.now())
            except TimeoutError:
                raise _late() from None

    async def _report(
        self,
        provider: str,
        build: Build,
        *,
        key: str,
        secret: Secret,
        may_send: Callable[[], bool],
        seconds: float,
    ) -> JobReport:
        dialect, credential = self.dialects[provider], APIKeyCredential(secret)
        base_url = self._base_url(provider)
        deadline = self.clock.monotonic() + seconds
        renewed = False
        while True:
            left = max(0.0, deadline - self.clock.monotonic())
            token = None
            try:
                token = await self._token(key, dialect, credential, may_send, left)
                request = dialect.authorize(
                    build(credential, base_url),
                    credential,
                    base_url=base_url,
                    now=self.clock.now(),
                    token=token,
                )
                return await self._answer(provider, request, may_send=may_send, seconds=left)
            except CredentialMalformedError as error:
                raise ProviderError(
                    outcome=Outcome.INVALID_KEY, safe_message=str(error), billed=Billed.NOT_SENT
                ) from None
            except ProviderError as error:
                # A token may end before its time: once, and only once, another one is fetched.
                if token is None or renewed or error.http_status != HTTP_UNAUTHORIZED:
                    raise
                self.tokens.forget(key, provider, credential, token)
                renewed = True


def _late() -> ProviderError:
    return ProviderError(
        outcome=Outcome.TIMEOUT,
        safe_message="no whole answer came in time: try again shortly",
        billed=Billed.MAYBE_BILLED,
    )


def failure_of(error: ProviderError) -> Failure:
    """
    Give a provider's failure in the rules' own terms.
    """
    return Failure(
        outcome=error.outcome,
        billed=error.billed,
        message=error.safe_message,
        http_status=error.http_status,
        retry_after_seconds=error.retry_after_seconds,
        retryable=error.retryable,
    )


def _length(answer: HTTPAnswer, most: int) -> int:
    told = answer.headers.get("content-length", "")
    return min(most, int(told)) if told.isdecimal() else most


def _handle(job: Job) -> JobHandle:
    return JobHandle(job.provider_job, job.provider_model)
