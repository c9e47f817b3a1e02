# SPDX-License-Identifier: Apache-2.0
"""The protos and the code agree on failures, and secrets are marked as such."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.shared.errors import ServiceError
from services.shared.status import StatusTable
from tests.support.source import ROOT, project_files, python_files

SERVICES = ("keyvault", "ledger", "router")
SECRET_NAME = re.compile(r"(^|_)(secret|password|plaintext|token|private_key|api_key)$")
CURSORS = {"page_token", "next_page_token", "resume_token", "next_resume_token"}
"""Places in a list or a job: they grant nothing."""


def status_table(service: str) -> StatusTable:
    module = importlib.import_module(f"services.{service}.rpc.status")
    tables = [value for value in vars(module).values() if isinstance(value, StatusTable)]
    assert len(tables) == 1, f"services/{service}/rpc/status.py must hold one StatusTable"
    return tables[0]


def error_classes(service: str) -> list[type[ServiceError]]:
    """Every failure that a service defines, wherever in its code."""
    for path in python_files("services"):
        if path.parts[1] == service and "migrations" not in path.parts:
            module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            if not module.endswith("__main__"):
                importlib.import_module(module)
    return [
        cls for cls in descendants(ServiceError) if cls.__module__.startswith(f"services.{service}")
    ]


def descendants(cls: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)


def reasons(service: str) -> set[str]:
    module = importlib.import_module(f"ownkey.{service}.v1.error_reason_pb2")
    names = module.ErrorReason.keys()
    return {name.removeprefix("ERROR_REASON_") for name in names} - {"UNSPECIFIED"}


def messages(service: str) -> Iterator[Descriptor]:
    for path in project_files():
        if path.match(f"protos/ownkey/{service}/v1/*.proto"):
            module = importlib.import_module(f"ownkey.{service}.v1.{path.stem}_pb2")
            for message in module.DESCRIPTOR.message_types_by_name.values():
                yield from nested(message)


def nested(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for inner in message.nested_types:
        yield from nested(inner)


@pytest.mark.requirement("R11", "O3")
@pytest.mark.parametrize("service", SERVICES)
class TestFailures:
    def test_every_failure_has_a_row_in_the_status_table(self, service: str) -> None:
        rows = status_table(service).rows
        without = [
            cls.__qualname__
            for cls in error_classes(service)
            if cls.__subclasses__() == [] and not any(base in rows for base in cls.__mro__)
        ]
        assert not without

    def test_every_reason_is_sent_and_every_sent_reason_is_in_the_contract(
        self, service: str
    ) -> None:
        sent = {reason for _, reason in status_table(service).rows.values()}
        assert sent == reasons(service)


@pytest.mark.requirement("K8")
@pytest.mark.parametrize("service", SERVICES)
def test_a_field_that_holds_a_secret_is_marked_for_redaction(service: str) -> None:
    unmarked = [
        field.full_name
        for message in messages(service)
        for field in message.fields
        if field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}
        and SECRET_NAME.search(field.name)
        and field.name not in CURSORS
        and not field.GetOptions().debug_redact
    ]
    assert not unmarked


def test_each_service_has_its_contract() -> None:
    for service in SERVICES:
        assert (ROOT / "protos" / "ownkey" / service / "v1" / f"{service}_service.proto").exists()
