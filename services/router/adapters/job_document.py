# SPDX-License-Identifier: Apache-2.0
"""
Between a job and the versioned document that is kept of it.
"""

from __future__ import annotations

import msgspec

from services.router.domain.jobs import Job
from services.shared.errors import InternalError

DOCUMENT_VERSION = 1


class _Document(msgspec.Struct, frozen=True):
    version: int
    job: Job


_decode = msgspec.json.Decoder(_Document).decode


def encode_job(job: Job) -> str:
    """
    Write a job as JSON text.
    """
    return msgspec.json.encode(_Document(DOCUMENT_VERSION, job)).decode()


def decode_job(document: str) -> Job:
    """
    Read a job.

    Raises:
        InternalError: The document is of a version that this code does not know.
    """
    try:
        read = _decode(document)
    except msgspec.ValidationError:
        raise InternalError("a job is kept in a form that this version does not know") from None
    if read.version != DOCUMENT_VERSION:
        raise InternalError("a job is kept in a form that this version does not know")
    return read.job
