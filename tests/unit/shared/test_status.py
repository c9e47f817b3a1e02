# SPDX-License-Identifier: Apache-2.0
"""Failures become rich statuses, and are read back as they were."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from services.shared.errors import (
    FieldViolation,
    InvalidArgumentError,
    QuotaViolation,
    ServiceError,
)
from services.shared.status import SHARED_ROWS, StatusTable, read_status


class SampleError(ServiceError):
    """A failure with a row of its own."""


class NarrowerError(SampleError):
    """A failure without one."""


TABLE = StatusTable("sample.ownkey", {SampleError: (grpc.StatusCode.NOT_FOUND, "SAMPLE_GONE")})


@pytest.mark.requirement("O3")
class TestStatusTable:
    def test_a_status_is_read_back_as_it_was(self) -> None:
        error = SampleError(
            "sample 7 is gone; make another",
            metadata={"sample": "7"},
            retry_after_seconds=1.25,
            fields=[FieldViolation("sample", "is gone")],
            quotas=[QuotaViolation("accounts/a", "0 left")],
        )
        status = TABLE.to_status(error)
        rich = read_status(status)
        assert (rich.code, rich.reason) == (grpc.StatusCode.NOT_FOUND, "SAMPLE_GONE")
        assert rich.message == "sample 7 is gone; make another"
        assert rich.metadata == {"sample": "7"}
        assert rich.retry_after_seconds == 1.25
        kinds = [detail.TypeName() for detail in status.details]
        assert kinds == [
            "google.rpc.ErrorInfo",
            "google.rpc.RetryInfo",
            "google.rpc.BadRequest",
            "google.rpc.QuotaFailure",
        ]

    def test_every_shared_failure_has_exactly_one_error_info(self) -> None:
        for cls, (_code, reason) in SHARED_ROWS.items():
            status = TABLE.to_status(cls("a sentence"))
            infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
            assert len(infos) == 1
            assert read_status(status).reason == reason

    def test_a_class_without_a_row_takes_that_of_its_base(self) -> None:
        assert TABLE.row(NarrowerError("x"))[1] == "SAMPLE_GONE"

    def test_a_class_that_nobody_listed_is_internal(self) -> None:
        class UnlistedError(ServiceError):
            """Not in any table."""

        assert TABLE.row(UnlistedError("x"))[0] is grpc.StatusCode.INTERNAL

    def test_a_field_fault_names_its_field(self) -> None:
        error = InvalidArgumentError.of("amount", "must be more than zero")
        assert error.metadata == {"field": "amount"}
        assert "amount" in error.message
