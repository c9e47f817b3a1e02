# SPDX-License-Identifier: Apache-2.0
"""
Azure OpenAI and AI Foundry: https://learn.microsoft.com/en-us/azure/foundry/openai/reference .

1. The address is the customer's own and used as given; the key goes to its host alone.
2. A request names a model slug; the deployment of that slug serves it under its own name.
3. The address tells the format: chat completions, Responses, images or speech. Images are made
   from images at `images/edits`, beside a deployment's `images/generations`
   (https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/dall-e ).
4. A stream's first chunk may hold no choice, and an error's code is always text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.router.domain.media import ImageCall, SpeechCall
from services.router.domain.outcomes import Billed, Outcome
from services.router.domain.text import ReasoningEffort, TextCall, Usage
from services.router.domain.work import Call
from services.router.providers import openai
from services.router.providers.azure_credential import Deployment, read_deployments
from services.router.providers.base import (
    Credential,
    CredentialMalformedError,
    HTTPRequest,
    Probe,
    ProbeResult,
    ProviderError,
)
from services.router.providers.classify import ErrorRule, ErrorTable
from services.router.providers.dialect import JSONDialect
from services.router.providers.hosts import ANY_HOST, address
from services.router.providers.media_format import MediaBody, MediaFormats
from services.router.providers.openai_answer import OpenAIDecoder, parse_openai
from services.router.providers.openai_chat import parse_chat_error
from services.router.providers.openai_chat_request import ChatShape, build_chat_body
from services.router.providers.openai_images import OPENAI_IMAGES, build_images
from services.router.providers.openai_responses_request import build_responses_body
from services.router.providers.openai_speech import OPENAI_SPEECH, build_speech
from services.router.providers.probe import FreeCallFinding, KeyProbe, ProbePlan
from services.shared.errors import FieldViolation

__all__ = ["AZURE", "AzureDialect"]

_REFERENCE = "https://learn.microsoft.com/en-us/azure/foundry/openai/reference"
_QUOTA = "https://learn.microsoft.com/en-us/azure/foundry/openai/how-to/quota"
_FREE_PATH = "/openai/models?api-version=2024-10-21"
"""https://learn.microsoft.com/en-us/rest/api/azureopenai/models/list : proves key and resource."""

_RULES = (
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source="https://learn.microsoft.com/en-us/azure/foundry/openai/concepts/content-filter",
        code=("content_filter", "responsibleaipolicyviolation"),
    ),
    ErrorRule(
        outcome=Outcome.MODEL_NOT_FOUND,
        source="https://github.com/openai/openai-python/issues/937",
        code=(
            "deploymentnotfound",
            "unknown_model",
            "unavailable_model",
            "operationnotsupported",
        ),
    ),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source="https://learn.microsoft.com/en-us/azure/ai-services/cognitive-services-virtual-networks",
        status=(401, 403),
        text=r"virtual network|firewall rules|public access is disabled|does not have access"
        r"|lacks the required data action",
    ),
    ErrorRule(
        outcome=Outcome.INVALID_KEY,
        source="https://github.com/SciSharp/BotSharp/issues/386",
        status=(401,),
    ),
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source=_QUOTA,
        code=("ratelimitreached", "toomanyrequests", "429"),
    ),
    *openai.OPENAI_RULES,
)


def _bare(call: TextCall) -> TextCall:
    """
    Give the call under the model's own name, by which OpenAI's rules know it.
    """
    vendor, _, name = call.model.partition("/")
    return replace(call, model=name) if vendor == "openai" else call


def _unsupported(call: TextCall) -> list[str]:
    return openai.unsupported_fields(_bare(call))


def _own_fields(call: TextCall) -> dict[str, Any]:
    return openai.effort_fields(_bare(call))


def _lowest_effort(model: str) -> ReasoningEffort | None:
    vendor, _, name = model.partition("/")
    return openai.lowest_effort(name) if vendor == "openai" else None


def _read_models(body: bytes) -> FreeCallFinding:
    """
    Read nothing: the list is of what the resource could deploy.
    """
    del body
    return FreeCallFinding()


_PLAN = ProbePlan(
    free_path=_FREE_PATH,
    read_free_call=_read_models,
    cheap_models=(),
    lowest_effort=_lowest_effort,
)
_MEDIA_PLAN = replace(_PLAN, generates=False)
"""An image would cost more than a test may: the resource's own answer has to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureDialect(JSONDialect):
    """
    Deployments under addresses of their own.
    """

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call; `call.model` is a slug.

        Raises:
            CredentialMalformedError: The credential cannot be read.
            ProviderError: It has no such deployment, or one whose format lacks a field.
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        self.refuse_unsupported(call)
        deployment = _find(read_deployments(credential), call.model)
        if deployment is None:
            raise ProviderError(
                outcome=Outcome.MODEL_NOT_FOUND,
                safe_message=f"no deployment of this key serves {call.model}",
                billed=Billed.NOT_SENT,
                retryable=False,
            )
        made = self._body(call, deployment)
        edits = isinstance(call, ImageCall) and call.images
        target = deployment.edits_target if edits else deployment.target
        headers = {**_headers(deployment), "content-type": made.content_type}
        return HTTPRequest("POST", address(base_url, deployment.host) + target, headers, made.data)

    def _body(self, call: Call, deployment: Deployment) -> MediaBody:
        """
        Build a body: the slug tells the model's family, the deployment's own name goes into it.
        """
        if isinstance(call, ImageCall):
            return build_images(call, name=deployment.model_id)
        if isinstance(call, SpeechCall):
            return build_speech(call, name=deployment.model_id)
        text = self.text_call(call)
        build = _responses_body if deployment.responds else _chat_body
        return MediaBody(deployment.target, "application/json", build(text, deployment))

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of every deployment, which `models` must be among.

        Raises:
            CredentialMalformedError: The credential cannot be read or lacks a model.
        """
        deployments = read_deployments(credential)
        slugs = [deployment.model_slug for deployment in deployments]
        faults = [
            FieldViolation("model_slug", f"no deployment serves {model}; there are {slugs}")
            for model in models
            if _find(deployments, model) is None
        ]
        if faults:
            raise CredentialMalformedError(self.provider, faults)
        asked: set[tuple[str, bytes]] = set()
        probes = []
        for deployment in deployments:
            resource = (deployment.host, deployment.api_key.reveal_bytes())
            url = address(base_url, deployment.host) + _FREE_PATH
            free_call = HTTPRequest("GET", url, _headers(deployment))
            probe = KeyProbe(
                self,
                _PLAN if deployment.writes else _MEDIA_PLAN,
                credential,
                base_url=base_url,
                free_call=None if resource in asked and deployment.writes else free_call,
                models=(deployment.model_slug,),
            )
            asked.add(resource)
            probes.append((deployment.model_slug, probe))
        return _AzureProbe(probes)


def _chat_body(call: TextCall, deployment: Deployment) -> bytes:
    # `max_tokens` is known to every API version, but refused by models that think.
    thinks = openai.is_reasoning(_bare(call).model)
    shape = ChatShape(
        output_limit_field="max_completion_tokens" if thinks else "max_tokens",
        own_fields=lambda _: _own_fields(call),
        returns_reasoning=False,
    )
    return build_chat_body(replace(call, model=deployment.model_id), shape=shape)


def _responses_body(call: TextCall, deployment: Deployment) -> bytes:
    """
    Build the body of a Responses call.

    Raises:
        ProviderError: The call sets a field that this format lacks.
    """
    for field, value in (("seed", call.seed), ("stop", call.stop)):
        if value not in (None, ()):
            raise ProviderError(
                outcome=Outcome.INVALID_REQUEST,
                safe_message=f"the deployment of {deployment.model_slug} is one of Responses, "
                f"which do not know {field}: leave it out, or give the deployment's address of "
                "chat completions",
                billed=Billed.NOT_SENT,
                retryable=False,
            )
    effort = call.reasoning_effort if _own_fields(call) else None
    return build_responses_body(replace(call, model=deployment.model_id, reasoning_effort=effort))


class _AzureProbe:
    """
    Tests deployment after deployment; the first that fails decides, and is named.
    """

    def __init__(self, probes: list[tuple[str, KeyProbe]]) -> None:
        self._left = probes
        self._done: list[ProbeResult] = []

    def next_request(self) -> HTTPRequest | None:
        """
        Give the request to send now, or None when the result stands.
        """
        return self._left[0][1].next_request() if self._left else None

    def feed(self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
        """
        Take the answer to the last request.
        """
        self._left[0][1].feed(status, headers, body, now=now)
        self._go_on()

    def fail(self, error: ProviderError) -> None:
        """
        Take the transport's failure in place of an answer.
        """
        self._left[0][1].fail(error)
        self._go_on()

    def result(self) -> ProbeResult:
        """
        Give the result.

        Raises:
            RuntimeError: A request is still to be sent.
        """
        if self._left:
            raise RuntimeError("the probe has not ended: send next_request() first")
        spent: list[tuple[str, Usage]] = [
            (result.model, result.usage) for result in self._done[:-1] if result.usage is not None
        ]
        return replace(
            self._done[-1],
            credit_checked=all(result.credit_checked for result in self._done),
            spent_elsewhere=tuple(spent),
        )

    def _go_on(self) -> None:
        slug, probe = self._left[0]
        if probe.next_request() is not None:
            return
        result = probe.result()
        failed = result.outcome is not None
        detail = f"deployment {slug}: {result.detail}" if failed else result.detail
        self._done.append(replace(result, detail=detail))
        self._left = [] if failed else self._left[1:]


def _find(deployments: tuple[Deployment, ...], slug: str) -> Deployment | None:
    found = (deployment for deployment in deployments if deployment.model_slug == slug)
    return next(found, None)


def _headers(deployment: Deployment) -> dict[str, str]:
    return {"api-key": deployment.api_key.reveal()}


AZURE = AzureDialect(
    provider="azure",
    default_base_url=ANY_HOST,
    table=ErrorTable(title="Azure", rules=_RULES),
    unsupported_fields=_unsupported,
    parse_answer=parse_openai,
    parse_refusal=parse_chat_error,
    make_decoder=OpenAIDecoder,
    media=MediaFormats(image=OPENAI_IMAGES, speech=OPENAI_SPEECH),
)
