# SPDX-License-Identifier: Apache-2.0
"""
The sans-I/O port of providers that run long jobs: start, ask, cancel, fetch the output.

1. A job is started once; whoever starts it keeps the id that the provider gave.
2. An answer to start, poll or cancel comes out as one `JobReport`. Nothing of a prompt is in it,
   although providers repeat prompts in their answers.
3. Output is a reference: an address at the provider's own delivery hosts, or bytes inside the
   report, which are never kept, only asked for again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from services.router.domain.job_work import JobCall
from services.router.providers.base import Credential, HTTPRequest, ProviderError
from services.router.providers.hosts import https_host

__all__ = [
    "JobDialect",
    "JobHandle",
    "JobPhase",
    "JobReport",
    "OutputAddress",
    "OutputAddressError",
    "OutputData",
    "delivery_host",
]


class JobPhase(StrEnum):
    """
    Where a job stands at its provider.
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """
        Tell whether it changes no more.
        """
        return self not in (JobPhase.QUEUED, JobPhase.RUNNING)


@dataclass(frozen=True, slots=True)
class OutputAddress:
    """
    One medium that the provider keeps at an address, for a while.
    """

    url: str


@dataclass(frozen=True, slots=True)
class OutputData:
    """
    One medium that stands in the report itself.
    """

    data: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """
    What a provider says of a job.
    """

    provider_job: str
    """The provider's id of the job."""
    phase: JobPhase
    outputs: tuple[OutputAddress | OutputData, ...] = ()
    busy_milliseconds: int | None = None
    """How long the provider's machine worked, where that is what it bills."""
    progress_percent: int | None = None
    failure: ProviderError | None = None
    """Why it failed; set where the phase is FAILED."""


@dataclass(frozen=True, slots=True)
class JobHandle:
    """
    Names a job to its provider.
    """

    provider_job: str
    model: str
    """The model as the provider calls it."""


class OutputAddressError(Exception):
    """
    An output address is not at the provider's own delivery hosts; nothing was sent.
    """

    def __init__(self, provider: str) -> None:
        super().__init__(f"the output that {provider} named is not at its own delivery hosts")


class JobDialect(Protocol):
    """
    One provider's way to run jobs, without any I/O. Requests are sent as `authorize` of the
    provider's `Dialect` gives them.
    """

    @property
    def provider(self) -> str:
        """
        The provider's id.
        """
        ...

    @property
    def answer_bytes_max(self) -> int:
        """
        The most that an answer about a job holds: all of its output, where it stands there.
        """
        ...

    def unsupported(self, call: JobCall) -> list[str]:
        """
        Name the fields of a call that the provider does not take.
        """
        ...

    def build_start(
        self, call: JobCall, credential: Credential, *, base_url: str, webhook_url: str = ""
    ) -> HTTPRequest:
        """
        Build the request that starts a job.

        Args:
            call: What to make.
            credential: Who asks.
            base_url: The provider's address.
            webhook_url: Where the provider may say that the job has ended; "" for nowhere.
        """
        ...

    def build_poll(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest:
        """
        Build the request that asks how a job stands.
        """
        ...

    def build_cancel(
        self, handle: JobHandle, credential: Credential, *, base_url: str
    ) -> HTTPRequest | None:
        """
        Build the request that cancels a job; None where the provider cannot.
        """
        ...

    def read(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: datetime
    ) -> JobReport:
        """
        Read the answer to any of these requests.

        Raises:
            ProviderError: The provider refused, failed, or is not to be understood.
        """
        ...

    def build_fetch(self, url: str, credential: Credential, *, base_url: str) -> HTTPRequest:
        """
        Build the request that fetches an output; holds the key only where that is documented.

        Raises:
            OutputAddressError: The address is not the provider's own.
        """
        ...


def delivery_host(url: str, hosts: Collection[str], *, provider: str) -> str:
    """
    Give the host of an output's address.

    Args:
        url: The address.
        hosts: Hosts that may serve it; one that begins with a dot stands for all below it.
        provider: For the failure.

    Raises:
        OutputAddressError: It is no plain HTTPS address on one of the hosts.
    """
    host = https_host(url.partition("?")[0])
    query = url.partition("?")[2]
    plain = query.isascii() and query.isprintable() and not any(mark in query for mark in " \\#")
    known = any(host == name or (name[0] == "." and host.endswith(name)) for name in hosts)
    if not host or not plain or not known:
        raise OutputAddressError(provider)
    return host
