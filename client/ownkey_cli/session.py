# SPDX-License-Identifier: Apache-2.0
"""What a command works with: the output, stubs, calls, and the account it is about."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from client.ownkey_cli.output import Output
from client.ownkey_cli.secret_input import InputError, read_secret
from client.ownkey_cli.texts import seconds_text
from client.ownkey_client.calls import Calls
from client.ownkey_client.connection import Connection
from client.ownkey_client.failure import Failure
from client.ownkey_client.paging import read_pages

RUN_SECONDS_MAX = 24 * 3600.0
"""For runs over everything that is stored."""
GENERATE_SECONDS_MAX = 900.0

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Session:
    """
    One command's run.

    Args:
        out: Prints.
        connection: Stubs.
        token_file: Holds the token that shows who calls.
        account: As it was named; empty if it was not.

    Raises:
        InputError: The token cannot be read.
    """

    def __init__(
        self, *, out: Output, connection: Connection, token_file: Path | None, account: str
    ) -> None:
        self.out = out
        self.keyvault = connection.keyvault
        self.router = connection.router
        self.ledger = connection.ledger
        self._account = account
        token = read_secret(token_file, option="--token-file").strip() if token_file else ""
        # gRPC's own refusal of such metadata would repeat the token.
        if not (token.isascii() and token.isprintable()):
            raise InputError("What --token-file names is no token; it is one line of text.")
        self._calls = Calls(token=token, on_wait=self._tell_wait)

    @property
    def account(self) -> str:
        """
        The account the command is about, `accounts/{account}`.

        Raises:
            InputError: None was named.
        """
        if not self._account:
            raise InputError("Name the account by --account or OWNKEY_ACCOUNT, for example demo.")
        return full_name("accounts", self._account)

    @property
    def account_if_named(self) -> str:
        """The account, empty where none was named."""
        return self.account if self._account else ""

    def key(self, name: str) -> str:
        """A key by its id in the account, or by its whole name."""
        return name if "/" in name else full_name(f"{self.account}/keys", name)

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        """
        Make a call.

        Raises:
            CallError: It failed.
        """
        return self._calls.unary(method, request)

    def generate(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        """
        Make a call that may take as long as a generation.

        Raises:
            CallError: It failed.
        """
        return self._calls.unary(method, request, timeout_seconds=GENERATE_SECONDS_MAX)

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_seconds: float = RUN_SECONDS_MAX,
    ) -> Iterator[Response]:
        """
        Make a call with a stream of answers.

        Raises:
            CallError: It failed.
        """
        return self._calls.stream(method, request, timeout_seconds=timeout_seconds)

    def pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        items: str,
    ) -> Response:
        """
        Read a list to its end, as one answer.

        Raises:
            CallError: It failed.
        """
        read: Callable[[Request], Response] = lambda page: self.call(method, page)  # noqa: E731
        return read_pages(read, request, items)

    def _tell_wait(self, failure: Failure, seconds: float) -> None:
        self.out.note(
            (f"{failure.service}: {failure.reason}; trying again in {seconds_text(seconds)}", "dim")
        )


def full_name(collection: str, name: str) -> str:
    """A resource's whole name from its id, or from the name itself."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def new_request_id() -> str:
    """A UUID that identifies a request over all its repeats."""
    return str(uuid.uuid4())
