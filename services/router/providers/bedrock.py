# SPDX-License-Identifier: Apache-2.0
"""
Amazon Bedrock by Converse, with a Bedrock API key or signed requests.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html ; errors are in
https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html . A bad
key is a 403, and so is a missing permission: the error's type and words tell them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import quote

from services.router.domain.outcomes import Outcome
from services.router.domain.text import ReasoningEffort
from services.router.domain.work import Call
from services.router.providers.base import (
    AccessToken,
    Credential,
    HTTPRequest,
    Probe,
    ProbeResult,
)
from services.router.providers.bedrock_credential import (
    AccessKey,
    BedrockAccess,
    read_access,
    sign,
)
from services.router.providers.bedrock_request import build_converse_body, unsupported_fields
from services.router.providers.bedrock_stream import BedrockDecoder, parse_answer, parse_refusal
from services.router.providers.classify import ErrorRule, ErrorTable
from services.router.providers.dialect import JSONDialect
from services.router.providers.hosts import ANY_HOST, address, real_address
from services.router.providers.probe import FreeCallFinding, KeyProbe, ProbePlan
from services.shared.secret import Secret

__all__ = ["BEDROCK", "DEFAULT_REGION", "BedrockDialect"]

DEFAULT_REGION = "us-east-1"
"""Where long-term API keys are tried, which name no Region, unless configured."""

_CODES = "https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html"
_COMMON = "https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html"
_KEYS = "https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-reference.html"
_FREE_PATH = "/foundation-models"
"""https://docs.aws.amazon.com/bedrock/latest/APIReference/API_ListFoundationModels.html"""


def _missing_action(action: str) -> ErrorRule:
    return ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source="https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonbedrock.html",
        status=(403,),
        text=rf"not authorized to perform: {re.escape(action)}\b",
        missing_permission=action,
    )


_RULES = (
    *map(
        _missing_action,
        (
            "bedrock:InvokeModelWithResponseStream",
            "bedrock:InvokeModel",
            "bedrock:ListFoundationModels",
            "bedrock:CallWithBearerToken",
        ),
    ),
    ErrorRule(
        outcome=Outcome.EXPIRED_CREDENTIALS,
        source=_COMMON,
        code=("expiredtokenexception", "expiredtoken", "requestexpired"),
    ),
    ErrorRule(
        outcome=Outcome.EXPIRED_CREDENTIALS,
        source=_KEYS,
        status=(401, 403),
        text=r"(?:bearer token|api key|security token)[^.]* (?:has |is )?expired",
    ),
    ErrorRule(
        outcome=Outcome.INVALID_KEY,
        source=_COMMON,
        code=(
            "unrecognizedclientexception",
            "invalidsignatureexception",
            "invalidclienttokenid",
            "incompletesignature",
            "incompletesignatureexception",
            "missingauthenticationtoken",
            "missingauthenticationtokenexception",
            "signaturedoesnotmatch",
        ),
    ),
    ErrorRule(
        outcome=Outcome.INVALID_KEY,
        source="https://github.com/aws-samples/amazon-bedrock-client-for-mac/issues/99",
        status=(401, 403),
        text=r"authentication failed|invalid api key format|security token included in the request"
        r" is invalid|signature we calculated|bearer token.* invalid",
    ),
    ErrorRule(
        outcome=Outcome.INSUFFICIENT_CREDIT,
        source=_CODES,
        status=(403,),
        text=r"INVALID_PAYMENT_INSTRUMENT|payment (?:instrument|method)",
    ),
    ErrorRule(
        outcome=Outcome.PERMISSION_DENIED,
        source=_CODES,
        code=("accessdeniedexception", "accessdenied", "notauthorized", "optinrequired"),
    ),
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source=_CODES,
        code=("throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception"),
        text=r"per day",
        retryable=False,
    ),
    ErrorRule(
        outcome=Outcome.RATE_LIMITED,
        source=_CODES,
        code=("throttlingexception", "toomanyrequestsexception", "servicequotaexceededexception"),
    ),
    ErrorRule(outcome=Outcome.OVERLOADED, source=_CODES, code=("modelnotreadyexception",)),
    ErrorRule(outcome=Outcome.OVERLOADED, source=_CODES, code=("serviceunavailableexception",)),
    ErrorRule(outcome=Outcome.TIMEOUT, source=_CODES, code=("modeltimeoutexception",)),
    ErrorRule(
        outcome=Outcome.SERVER_ERROR,
        source=_CODES,
        code=("modelerrorexception", "modelstreamerrorexception", "internalserverexception"),
    ),
    ErrorRule(outcome=Outcome.SERVER_ERROR, source=_CODES, status=(424,)),
    ErrorRule(
        outcome=Outcome.MODEL_NOT_FOUND,
        source=_CODES,
        status=(200, 400, 404),
        text=r"model identifier is invalid|on-demand throughput isn.t supported"
        r"|could not resolve the foundation model|model.* (?:end of its life|not supported in)",
    ),
    ErrorRule(outcome=Outcome.MODEL_NOT_FOUND, source=_CODES, code=("resourcenotfoundexception",)),
    ErrorRule(
        outcome=Outcome.CONTEXT_LENGTH,
        source=_CODES,
        status=(200, 400),
        text=r"too many (?:input )?tokens|input is too long|prompt is too long"
        r"|maximum context length|exceeds? (?:the )?(?:maximum )?(?:context|tokens)",
    ),
    ErrorRule(
        outcome=Outcome.CONTENT_FILTERED,
        source=_CODES,
        status=(200, 400),
        text=r"content filter|blocked by",
    ),
    ErrorRule(outcome=Outcome.INVALID_REQUEST, source=_CODES, code=("validationexception",)),
)

_AREAS = {"us": "us", "eu": "eu", "ap": "apac", "ca": "us"}
"""https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html"""


def _cheap_models(region: str) -> tuple[str, ...]:
    """
    Give models for the test, cheapest first; some Regions serve one by its inference profile only.
    """
    area = _AREAS.get(region.partition("-")[0])
    profile = (f"{area}.amazon.nova-micro-v1:0",) if area else ()
    return ("amazon.nova-micro-v1:0", *profile, "anthropic.claude-3-haiku-20240307-v1:0")


def _no_effort(model: str) -> ReasoningEffort | None:
    """
    Give none: no model thinks here unless it is asked to.
    """
    del model
    return None


def _read_models(body: bytes) -> FreeCallFinding:
    """
    Read nothing: the list leaves out inference profiles, by which most models are served.
    """
    del body
    return FreeCallFinding()


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockDialect(JSONDialect):
    """
    One host per Region; bearer keys stand in a header, access keys sign at the end.
    """

    default_region: str

    def build_request(self, call: Call, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request of a call, not signed yet.

        Raises:
            CredentialMalformedError: The credential cannot be read.
            UnsupportedParameterError: The call sets a field that `unsupported` names.
        """
        text = self.text_call(call)
        access = self._access(credential)
        operation = "converse-stream" if call.stream else "converse"
        # A model id may hold `:` and, in an ARN, `/`.
        path = f"/model/{quote(call.model, safe='')}/{operation}"
        host = f"bedrock-runtime.{access.region}.amazonaws.com"
        headers = {**_headers(access), "content-type": "application/json"}
        return HTTPRequest(
            "POST", address(base_url, host) + path, headers, build_converse_body(text)
        )

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
        Sign the request, if the credential signs.
        """
        del token
        access = self._access(credential)
        if not isinstance(access.key, AccessKey):
            return request
        url = real_address(request.url, base_url)
        return sign(request, access.key, region=access.region, url=url, now=now)

    def probe(
        self, credential: Credential, *, base_url: str, models: tuple[str, ...] = ()
    ) -> Probe:
        """
        Begin a live test of a key.

        Raises:
            CredentialMalformedError: The credential cannot be read.
        """
        access = self._access(credential)
        url = address(base_url, f"bedrock.{access.region}.amazonaws.com") + _FREE_PATH
        plan = ProbePlan(
            free_path=_FREE_PATH,
            read_free_call=_read_models,
            cheap_models=_cheap_models(access.region),
            lowest_effort=_no_effort,
        )
        return _BedrockProbe(
            self,
            plan,
            credential,
            base_url=base_url,
            free_call=HTTPRequest("GET", url, _headers(access)),
            models=models,
            region=access.region,
        )

    def _access(self, credential: Credential) -> BedrockAccess:
        return read_access(credential, default_region=self.default_region)


class _BedrockProbe(KeyProbe):
    """
    The test of one key; a refusal names the Region that was tried.
    """

    def __init__(
        self,
        dialect: BedrockDialect,
        plan: ProbePlan,
        credential: Credential,
        *,
        base_url: str,
        free_call: HTTPRequest,
        models: tuple[str, ...],
        region: str,
    ) -> None:
        super().__init__(
            dialect, plan, credential, base_url=base_url, free_call=free_call, models=models
        )
        self._region = region

    def result(self) -> ProbeResult:
        """
        Give the result.
        """
        result = super().result()
        if result.outcome is None:
            return result
        detail = f"{result.detail} (tried in the Region {self._region})"
        return replace(result, detail=detail)


def _headers(access: BedrockAccess) -> dict[str, str]:
    key = access.key
    return {"authorization": f"Bearer {key.reveal()}"} if isinstance(key, Secret) else {}


BEDROCK = BedrockDialect(
    provider="amazon-bedrock",
    default_base_url=ANY_HOST,
    default_region=DEFAULT_REGION,
    table=ErrorTable(title="Amazon Bedrock", rules=_RULES),
    unsupported_fields=unsupported_fields,
    parse_answer=parse_answer,
    parse_refusal=parse_refusal,
    make_decoder=BedrockDecoder,
)
