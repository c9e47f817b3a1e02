# SPDX-License-Identifier: Apache-2.0
"""
Which request an HTTP call repeats, so that what an SDK sends again by itself is billed once.

1. A request id names the request, an `Idempotency-Key` does so too, at every replica alike.
2. The SDKs try again after a timeout or a broken connection, and name the call by neither: only a
   header counts the tries. So this process remembers the ids of answers that were not heard to
   their end, by a keyed hash of the call, and the next try of the same call repeats that request:
   the ledger then says what became of it.
3. Two equal calls that both succeed stay two: only a try that is counted as one looks here.

https://github.com/openai/openai-python#retries , https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from aiohttp import web

from services.router.http.telling import ACCOUNT, REQUEST_ID, SOURCE
from services.shared.errors import InvalidArgumentError
from services.shared.ids import new_id

if TYPE_CHECKING:
    from services.shared.clock import Clock

IDEMPOTENCY_KEY = "Idempotency-Key"
KEY_CHARACTERS_MAX = 255
TRY_COUNT = "x-stainless-retry-count"
UNHEARD_SECONDS_MAX = 120.0
"""Longer than the SDKs pause before a try."""
CALLS_MAX = 10_000
UNHEARD_OF_CALL_MAX = 16

_NAMESPACE = uuid.UUID("6f1a5a0c-6f57-4c0e-9d5b-5f7f6a0f7f0e")
_CALL: web.RequestKey[bytes] = web.RequestKey("call", bytes)
_UNHEARD: web.RequestKey[bool] = web.RequestKey("unheard", bool)


def not_heard(request: web.Request) -> None:
    """
    Note that the caller did not get the whole of an answer, nor its failure.
    """
    request[_UNHEARD] = True


class Repeats:
    """
    Names calls, and remembers those whose answer was not heard.

    Args:
        clock: Time.
        calls_max: How many calls it remembers; the oldest is forgotten.
    """

    def __init__(self, clock: Clock, *, calls_max: int = CALLS_MAX) -> None:
        self._clock = clock
        self._calls_max = calls_max
        self._key = secrets.token_bytes(32)
        self._unheard: OrderedDict[bytes, deque[tuple[str, float]]] = OrderedDict()

    def name(self, request: web.Request, body: bytes) -> str:
        """
        Give the id of the request that a call makes or repeats.

        Raises:
            InvalidArgumentError: The idempotency key is too long.
        """
        if given := request.headers.get(REQUEST_ID, ""):
            return given
        account = request.headers.get(ACCOUNT, "")
        if chosen := request.headers.get(IDEMPOTENCY_KEY, ""):
            if len(chosen) > KEY_CHARACTERS_MAX:
                advice = f"must be at most {KEY_CHARACTERS_MAX} characters"
                raise InvalidArgumentError.of(IDEMPOTENCY_KEY, advice)
            return str(uuid.uuid5(_NAMESPACE, f"{account} {chosen}"))
        head = (request.path, account, request.headers.get(SOURCE, ""))
        call = hashlib.blake2b("\n".join(head).encode() + b"\n" + body, key=self._key).digest()
        request[_CALL] = call
        again = request.headers.get(TRY_COUNT, "0") != "0"
        return (self._take(call) if again else "") or new_id()

    def ended(self, request: web.Request, request_id: str, *, cancelled: bool) -> None:
        """
        Take the end of a call in.

        Args:
            request: The call.
            request_id: Its id; empty where it got none.
            cancelled: Whether its caller left before an answer began.
        """
        call = request.get(_CALL)
        if call is None or not request_id or not (cancelled or request.get(_UNHEARD, False)):
            return
        ids = self._unheard.setdefault(call, deque(maxlen=UNHEARD_OF_CALL_MAX))
        ids.append((request_id, self._clock.monotonic() + UNHEARD_SECONDS_MAX))
        self._unheard.move_to_end(call)
        while len(self._unheard) > self._calls_max:
            self._unheard.popitem(last=False)

    def _take(self, call: bytes) -> str:
        ids = self._unheard.pop(call, None) or deque()
        now = self._clock.monotonic()
        live = deque((i for i in ids if now < i[1]), maxlen=UNHEARD_OF_CALL_MAX)
        request_id = live.popleft()[0] if live else ""
        if live:
            self._unheard[call] = live
        return request_id
