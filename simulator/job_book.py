# SPDX-License-Identifier: Apache-2.0
"""
Long jobs of the simulated providers: what was started, by whom, and how far it is by the clock.

A job is queued for a fifth of its time and runs for the rest. Faults that are left to the work:
`stall` never ends, `midstream` fails, `filtered` is held back, `empty` ends without output, `gone`
ends with an output that is not there, `cut` starts and loses the answer.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum, auto

from simulator.faults import Fault, FaultKind

__all__ = ["MP4", "PNG", "JobBook", "SimulatedJob", "Stage"]

JOBS_MAX = 10_000
"""The newest jobs that are kept."""
QUEUED_PART = 0.2
MEDIUM_BYTES = 600_000
"""More than two pieces of a relayed output."""

PNG = b"\x89PNG\r\n\x1a\n"
MP4 = b"\x00\x00\x00\x18ftypmp42"


class Stage(StrEnum):
    """
    How far a job is.
    """

    QUEUED = auto()
    RUNNING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    FILTERED = auto()
    CANCELLED = auto()


@dataclass(slots=True, kw_only=True)
class SimulatedJob:
    """
    One job.
    """

    job_id: str
    owner: str
    """SHA-256 of the key that started it."""
    model: str
    outputs: int
    begun: float
    seconds: float
    fault: FaultKind | None
    cancelled_after: float | None = None

    def stage(self) -> Stage:
        """
        Tell how far it is.
        """
        passed = time.monotonic() - self.begun
        if self.cancelled_after is not None:
            return Stage.CANCELLED
        if passed < self.seconds * QUEUED_PART:
            return Stage.QUEUED
        if passed < self.seconds or self.fault is FaultKind.STALL:
            return Stage.RUNNING
        if self.fault is FaultKind.MIDSTREAM:
            return Stage.FAILED
        return Stage.FILTERED if self.fault is FaultKind.FILTERED else Stage.SUCCEEDED

    def cancel(self) -> None:
        """
        Stop it, if it has not ended.
        """
        if self.stage() in (Stage.QUEUED, Stage.RUNNING):
            self.cancelled_after = time.monotonic() - self.begun

    @property
    def busy_seconds(self) -> float:
        """
        Give how long its machine worked: the same for every whole run.
        """
        return self.seconds if self.cancelled_after is None else self.cancelled_after

    @property
    def output_count(self) -> int:
        """
        Give how many media it made.
        """
        return 0 if self.fault is FaultKind.EMPTY else self.outputs

    def medium(self, index: int, magic: bytes) -> bytes | None:
        """
        Give the bytes of one medium; None where there is none.
        """
        there = self.stage() is Stage.SUCCEEDED and index < self.output_count
        if not there or self.fault is FaultKind.GONE:
            return None
        seed = hashlib.sha256(f"{self.job_id}/{index}".encode()).digest()
        return (magic + seed * (MEDIUM_BYTES // len(seed)))[:MEDIUM_BYTES]


class JobBook:
    """
    All jobs of one provider.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, SimulatedJob] = OrderedDict()
        self._number = 0

    def start(
        self, *, owner: str, model: str, outputs: int, seconds: float, fault: Fault | None
    ) -> SimulatedJob:
        """
        Start a job.
        """
        self._number += 1
        job_id = hashlib.sha256(f"{owner}/{self._number}".encode()).hexdigest()[:26]
        job = SimulatedJob(
            job_id=job_id,
            owner=owner,
            model=model,
            outputs=outputs,
            begun=time.monotonic(),
            seconds=seconds,
            fault=None if fault is None else fault.kind,
        )
        self._jobs[job_id] = job
        if len(self._jobs) > JOBS_MAX:
            self._jobs.popitem(last=False)
        return job

    def find(self, job_id: str, *, owner: str | None) -> SimulatedJob | None:
        """
        Give a job of an owner, or of anyone where an address needs no key.
        """
        job = self._jobs.get(job_id)
        return job if job is not None and owner in (None, job.owner) else None
