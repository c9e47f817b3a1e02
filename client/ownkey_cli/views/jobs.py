# SPDX-License-Identifier: Apache-2.0
"""Long jobs, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.router.v1 import job_pb2
from rich.console import RenderableType
from rich.text import Text

from client.ownkey_cli.texts import clean, time_text, word
from client.ownkey_cli.views.receipts import funding_text, media_cost_line
from client.ownkey_cli.views.tables import grid, table

_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


def job_id(job: job_pb2.Job) -> str:
    """A job's id within its account."""
    return job.name.rpartition("/")[2]


def state_text(job: job_pb2.Job) -> Text:
    """Where a job stands, in its colour."""
    state = word(job_pb2.JobState, job.state)
    text = Text(state, style=_STYLES.get(state, ""))
    if job.HasField("progress_percent") and not job.HasField("end_time"):
        text.append(f" {job.progress_percent} %", style="dim")
    return text


def jobs_table(jobs: Iterable[job_pb2.Job]) -> RenderableType:
    """Many jobs."""
    return table(
        ("!job", "!state", "!model", "?!at", "!paid by", "?started"),
        (
            (
                job_id(job),
                state_text(job),
                job.model,
                job.provider,
                funding_text(job.payer),
                time_text(job, "create_time"),
            )
            for job in jobs
        ),
        empty="No jobs. Start one with `ownkey jobs start`.",
    )


def job_view(job: job_pb2.Job) -> RenderableType:
    """One job."""
    rows: list[tuple[str, str | Text]] = [
        ("job", job_id(job)),
        ("state", state_text(job)),
        ("model", f"{job.model} at {job.provider}"),
        ("paid by", funding_text(job.payer, job.receipt.key_hint)),
        ("started", time_text(job, "create_time")),
    ]
    if job.HasField("error"):
        rows.append(("why", Text(clean(job.error.message), style="red")))
    if job.HasField("end_time"):
        rows.append(("ended", time_text(job, "end_time")))
    if job.output_count:
        rows.append(
            ("output", f"{job.output_count}, to be read until {time_text(job, 'expire_time')}")
        )
    if job.HasField("receipt"):
        rows.append(("cost", media_cost_line(job.receipt)))
    return grid(rows)
