# SPDX-License-Identifier: Apache-2.0
"""The router's RPCs: read the request, run the use case, write the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio
from ownkey.router.v1 import (
    catalogue_pb2,
    explain_pb2,
    job_pb2,
    media_pb2,
    probe_pb2,
    router_service_pb2_grpc,
    text_pb2,
)

from services.router.domain.catalogue import Catalogue
from services.router.errors import ModelNotFoundError, NotServedError
from services.router.rpc import (
    mapping_catalogue,
    mapping_estimate,
    mapping_explain,
    mapping_jobs,
    mapping_media,
    mapping_text,
)
from services.router.usecases.byte_budget import ByteBudget
from services.router.usecases.engine import Ended, Started
from services.router.usecases.estimate_cost import EstimateCost
from services.router.usecases.explain import Explain
from services.router.usecases.generate import GenerateText
from services.router.usecases.job_output import ReadJobOutput
from services.router.usecases.price_book import PriceBook
from services.router.usecases.probe_key import ProbeKey
from services.router.usecases.read_jobs import ReadJobs
from services.router.usecases.start_job import StartJob
from services.shared.boundary import current_call
from services.shared.errors import InternalError, InvalidArgumentError
from services.shared.ids import new_id
from services.shared.names import ACCOUNT
from services.shared.paging import PageTokens, page_size
from services.shared.secret import Secret

ANSWER_SECONDS = 0.25
"""Kept back from the caller's deadline, so that a typed answer still arrives."""

Context = grpc.aio.ServicerContext[Any, Any]
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUseCases:
    """
    What the router does with long jobs.
    """

    start: StartJob
    read: ReadJobs
    output: ReadJobOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """
    What the router does.
    """

    generate: GenerateText
    explain: Explain
    estimate: EstimateCost
    probe: ProbeKey
    jobs: JobUseCases | None
    """None where no database is set up to keep them."""
    media_bytes: ByteBudget
    prices: PriceBook
    tokens: PageTokens

    @property
    def catalogue(self) -> Catalogue:
        """
        Give the catalogue at the prices in force now.
        """
        return self.prices.catalogue


class RouterServicer(router_service_pb2_grpc.RouterServiceServicer):
    """
    The service.

    Args:
        use_cases: What it does.
    """

    def __init__(self, use_cases: UseCases) -> None:
        self._do = use_cases

    async def GenerateText(
        self, request: text_pb2.GenerateTextRequest, context: Context
    ) -> text_pb2.GenerateTextResponse:
        """Generates text and returns the whole answer."""
        del context
        answer = mapping_text.AnswerBuilder()
        call = mapping_text.text_request(request)
        async with aclosing(self._do.generate(call, deadline=_deadline())) as events:
            async for event in events:
                if isinstance(event, Ended):
                    return answer.response(event)
                if not isinstance(event, Started):
                    answer.add(event)
        raise InternalError("a generation ended without an end")

    async def StreamText(
        self, request: text_pb2.StreamTextRequest, context: Context
    ) -> AsyncIterator[text_pb2.StreamTextResponse]:
        """Generates text and streams it."""
        del context
        call = mapping_text.text_request(request)
        async with aclosing(self._do.generate(call, deadline=_deadline())) as events:
            async for event in events:
                yield mapping_text.stream_response(event)

    async def GenerateImage(
        self, request: media_pb2.GenerateImageRequest, context: Context
    ) -> AsyncIterator[media_pb2.GenerateImageResponse]:
        """Generates images and streams their bytes."""
        del context
        async with self._do.media_bytes.hold_now(mapping_media.image_bytes(request)):
            call = mapping_media.image_request(request, self._do.catalogue)
            async with aclosing(self._do.generate(call, deadline=_deadline())) as events:
                async for event in events:
                    yield mapping_media.image_response(event)

    async def SynthesizeSpeech(
        self, request: media_pb2.SynthesizeSpeechRequest, context: Context
    ) -> AsyncIterator[media_pb2.SynthesizeSpeechResponse]:
        """Speaks a text and streams the sound."""
        del context
        call = mapping_media.speech_request(request, self._do.catalogue)
        async with aclosing(self._do.generate(call, deadline=_deadline())) as events:
            async for event in events:
                yield mapping_media.speech_response(event)

    async def Explain(
        self, request: explain_pb2.ExplainRequest, context: Context
    ) -> explain_pb2.ExplainResponse:
        """Tells what a request would do, without spending."""
        del context
        call = mapping_explain.explained(request, self._do.catalogue, new_id())
        return mapping_catalogue.explanation(await self._do.explain(call, deadline=_deadline()))

    async def EstimateCost(
        self, request: explain_pb2.EstimateCostRequest, context: Context
    ) -> explain_pb2.EstimateCostResponse:
        """Tells what a workload would cost, side by side."""
        del context
        workload = mapping_estimate.workload(request)
        rows = await self._do.estimate(workload, models=request.models, account=request.account)
        return mapping_estimate.response(rows, workload)

    async def ProbeKey(
        self, request: probe_pb2.ProbeKeyRequest, context: Context
    ) -> probe_pb2.ProbeKeyResponse:
        """Tests a key live at its provider."""
        del context
        allowed = tuple(request.allowed_models)
        if request.check_only:
            self._do.probe.check(
                request.provider, default_model=request.default_model, allowed_models=allowed
            )
            return probe_pb2.ProbeKeyResponse()
        if not request.secret:
            raise InvalidArgumentError.of("secret", "is required")
        report = await self._do.probe(
            request.provider,
            Secret(request.secret),
            default_model=request.default_model,
            allowed_models=allowed,
            deadline=_deadline(),
        )
        return mapping_catalogue.probe_response(report)

    async def ListProviders(
        self, request: catalogue_pb2.ListProvidersRequest, context: Context
    ) -> catalogue_pb2.ListProvidersResponse:
        """Lists the providers, by id."""
        del context
        rows, token = self._page(
            sorted(self._do.catalogue.providers.items()),
            query="providers",
            size=request.page_size,
            token=request.page_token,
        )
        return catalogue_pb2.ListProvidersResponse(
            providers=[mapping_catalogue.provider(row, self._do.catalogue) for row in rows],
            next_page_token=token,
        )

    async def ListModels(
        self, request: catalogue_pb2.ListModelsRequest, context: Context
    ) -> catalogue_pb2.ListModelsResponse:
        """Lists the models of the catalogue, by id."""
        del context
        catalogue, provider = self._do.catalogue, request.provider
        if provider and provider not in catalogue.providers:
            known = ", ".join(sorted(catalogue.providers))
            raise InvalidArgumentError.of(
                "provider", f"'{provider}' is not a provider here; the providers are {known}"
            )
        served = sorted(
            (name, model)
            for name, model in catalogue.models.items()
            if not provider or any(offer.provider == provider for offer in model.offers)
        )
        rows, token = self._page(
            served,
            query=f"models {provider}",
            size=request.page_size,
            token=request.page_token,
        )
        return catalogue_pb2.ListModelsResponse(
            models=[mapping_catalogue.model(row) for row in rows], next_page_token=token
        )

    async def GetModel(
        self, request: catalogue_pb2.GetModelRequest, context: Context
    ) -> catalogue_pb2.GetModelResponse:
        """Gets a model of the catalogue."""
        del context
        name = request.name.removeprefix("models/")
        if name == request.name or "/" not in name:
            raise InvalidArgumentError.of("name", "must look like models/{vendor}/{model}")
        found = self._do.catalogue.models.get(name)
        if found is None:
            raise ModelNotFoundError(
                f"the catalogue has no model '{name}'; ListModels lists them",
                metadata={"model": name},
            )
        return catalogue_pb2.GetModelResponse(model=mapping_catalogue.model(found))

    async def StartJob(
        self, request: job_pb2.StartJobRequest, context: Context
    ) -> job_pb2.StartJobResponse:
        """Starts a long job."""
        del context
        call = mapping_jobs.job_request(request)
        started = await self._jobs().start(call, deadline=_deadline())
        return mapping_jobs.started(started)

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        """Gets a job."""
        del context
        found = await self._jobs().read.get(*mapping_jobs.job_name(request.name))
        return job_pb2.GetJobResponse(job=mapping_jobs.job(found))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        """Lists an account's jobs, newest first."""
        del context
        ACCOUNT.parse(request.parent, "parent")
        limit, query = page_size(request.page_size), f"jobs {request.parent}"
        before = mapping_jobs.read_cursor(self._do.tokens.decode(query, request.page_token))
        jobs = await self._jobs().read.page(request.parent, before=before, limit=limit + 1)
        page, more = jobs[:limit], len(jobs) > limit
        token = self._do.tokens.encode(query, mapping_jobs.cursor(page[-1])) if more else ""
        return job_pb2.ListJobsResponse(
            jobs=[mapping_jobs.job(item) for item in page], next_page_token=token
        )

    async def WaitJob(
        self, request: job_pb2.WaitJobRequest, context: Context
    ) -> AsyncIterator[job_pb2.WaitJobResponse]:
        """Streams a job's changes until its end."""
        del context
        account, job_id = mapping_jobs.job_name(request.name)
        changes = self._jobs().read.wait(account, job_id, deadline=_deadline())
        async with aclosing(changes) as jobs:
            async for item in jobs:
                yield job_pb2.WaitJobResponse(job=mapping_jobs.job(item))

    async def GetJobOutput(
        self, request: job_pb2.GetJobOutputRequest, context: Context
    ) -> AsyncIterator[job_pb2.GetJobOutputResponse]:
        """Streams the output of a job that has succeeded."""
        del context
        brought = mapping_jobs.output_key(request)
        pieces = self._jobs().output(*mapping_jobs.job_name(request.name), brought=brought)
        async with aclosing(pieces) as chunks:
            async for chunk in chunks:
                yield mapping_jobs.output(chunk)

    async def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: Context
    ) -> job_pb2.CancelJobResponse:
        """Cancels a job at its provider."""
        del context
        cancelled = await self._jobs().read.cancel(*mapping_jobs.job_name(request.name))
        return job_pb2.CancelJobResponse(job=mapping_jobs.job(cancelled))

    def _jobs(self) -> JobUseCases:
        if self._do.jobs is None:
            raise NotServedError("A long job")
        return self._do.jobs

    def _page(
        self, rows: Sequence[tuple[str, Row]], *, query: str, size: int, token: str
    ) -> tuple[list[Row], str]:
        """Cut one page out of rows that are sorted by id."""
        limit = page_size(size)
        cursor = self._do.tokens.decode(query, token)
        rest = [(name, row) for name, row in rows if name > cursor]
        page = rest[:limit]
        more = len(rest) > limit
        return [row for _, row in page], self._do.tokens.encode(query, page[-1][0]) if more else ""


def _deadline() -> float:
    call = current_call()
    assert call is not None, "a servicer runs behind the boundary"
    return call.deadline - ANSWER_SECONDS
