# SPDX-License-Identifier: Apache-2.0
"""
Holds the keys of one request, and lays out by them who may serve it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.router.domain.keys import AccountKeys
from services.router.domain.limits import input_excess, output_excess
from services.router.domain.plan import Candidate, Funding, Plan
from services.router.domain.planning import plan
from services.router.domain.preferences import check_preferences
from services.router.domain.request import Source
from services.router.errors import ContextTooLongError
from services.router.usecases.ports import PLATFORM
from services.shared.errors import InvalidArgumentError, PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from services.router.domain.catalogue import Catalogue
    from services.router.domain.keys import OwnKey, ResealedKey
    from services.router.domain.request import Request
    from services.router.usecases.engine import Engine
    from services.router.usecases.ports import HeldKeys, OpenedKey
    from services.shared.secret import Secret

SPREAD = 1_000_000
"""Chance as a whole number: which shared key of a provider comes first."""


class Planner:
    """
    One request's keys and plans.

    Args:
        engine: What every run works with.
        request: The checked request.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        self._request = request
        self._held: dict[str, HeldKeys] = {}
        self._opened: dict[tuple[str, int], OpenedKey] = {}
        self._trials = object()
        """Holds what this request is the trial of."""

    async def plan(self, *, anew: bool = False) -> Plan:
        """
        Hold the keys, lay out who may serve the request, and claim the trials it would make.

        Args:
            anew: Whether keyvault itself is asked, whatever is held.

        Raises:
            InvalidArgumentError: The preferences make no sense, or more output is asked for than
                the model gives.
            ContextTooLongError: The model does not take so much.
            PeerUnavailableError: Keyvault is away.
        """
        await self._hold(anew=anew)
        self.release()
        laid_out = self._lay_out(chance=self._engine.chance())
        # Nothing else runs between reading the conditions and this, so no other has claimed them.
        for candidate in (*laid_out.own, *laid_out.shared):
            self._engine.experience.claim(candidate.trials, self._trials)
        return laid_out

    async def preview(self) -> Plan:
        """
        Lay out who would serve the request; claims nothing. Raises as `plan`.
        """
        await self._hold(anew=False)
        return self._lay_out(chance=0.0)

    def release(self) -> None:
        """
        End the request's trials.
        """
        self._engine.experience.release(self._trials)

    @property
    def resealed(self) -> tuple[ResealedKey, ...]:
        """
        Give the client-held keys that were sealed anew.
        """
        found = (opened.resealed for opened in self._opened.values())
        return tuple(resealed for resealed in found if resealed is not None)

    async def secret(self, candidate: Candidate) -> Secret:
        """
        Give the secret of a candidate's key; a client-held one is opened once, for this request.

        Raises:
            SealedKeyRefusedError: Keyvault does not take the key as it was brought.
            ProofRefusedError: Keyvault does not take its proof.
            StaleKeyError: The key was changed meanwhile.
            PeerUnavailableError: Keyvault is away.
        """
        key = candidate.key
        brought = self._request.brings(key) if key.client_held else None
        if brought is None:
            return self.held(candidate).secret(key)
        opened = self._opened.get((key.name, key.version))
        if opened is None:
            opened = await self._engine.keys.opened(
                key, brought, request_id=self._request.request_id
            )
            self._opened[key.name, key.version] = opened
        return opened.secret

    def held(self, candidate: Candidate) -> HeldKeys:
        """
        Give what holds a candidate's key.
        """
        return self._held[self._owner(candidate)]

    async def held_anew(self, candidate: Candidate) -> bool:
        """
        Ask keyvault itself for a candidate's key; tells whether it is still the same.

        Raises:
            PeerUnavailableError: Keyvault is away.
        """
        held = await self._ask(candidate)
        key = candidate.key
        return any(
            k.name == key.name
            and k.enabled
            and k.etag == key.etag
            and key.version in (k.version, k.previous.version if k.previous else None)
            for k in held.keys.keys
        )

    async def another_version(self, candidate: Candidate) -> OwnKey | None:
        """
        Give another version of a key that its provider refused: a newer one that keyvault knows,
        else the one before while their overlap lasts; None where there is neither.

        Raises:
            PeerUnavailableError: Keyvault is away.
        """
        held = await self._ask(candidate)
        for key in held.keys.keys:
            if key.name == candidate.key.name and key.enabled:
                return key if key.version > candidate.key.version else key.previous
        return None

    async def _hold(self, *, anew: bool) -> None:
        keys, account = self._engine.keys, self._request.account
        check_preferences(self._request.preferences, self._engine.catalogue)
        _check_size(self._request, self._engine.catalogue)
        take = keys.asked_anew if anew else keys.held
        # Whoever asks for credits does not need the own keys.
        spared = self._request.source is Source.CREDITS
        # One after the other: mostly both are in memory, and tasks of their own would cost more.
        own = await (_held_or_none(take, account) if spared else take(account))
        shared = await _held_or_none(take, PLATFORM)
        self._held = {account: own, PLATFORM: shared}

    async def _ask(self, candidate: Candidate) -> HeldKeys:
        owner = self._owner(candidate)
        held = self._held[owner] = await self._engine.keys.asked_anew(owner)
        return held

    def _lay_out(self, *, chance: float) -> Plan:
        engine, request = self._engine, self._request
        now = engine.clock.monotonic()
        return plan(
            request,
            keys=self._held[request.account].keys,
            shared=engine.allotments.over(self._held[PLATFORM].keys, request.account),
            catalogue=engine.catalogue,
            unsupported=engine.caller.unsupported,
            conditions=engine.experience.at(now, chance=chance),
            now=now,
            spread=int(chance * SPREAD),
        )

    def _owner(self, candidate: Candidate) -> str:
        return self._request.account if candidate.funding is Funding.OWN_KEY else PLATFORM


def _check_size(request: Request, catalogue: Catalogue) -> None:
    """
    Refuse what the model asked for cannot take, whoever serves it.

    Raises:
        ContextTooLongError: The prompt is too long.
        InvalidArgumentError: Too much output is asked for.
    """
    model = catalogue.models.get(request.model)
    if model is None:
        return
    if excess := input_excess(request.input, model):
        raise ContextTooLongError(
            f"the input {excess}; shorten it, or name a model that takes more. Nothing was sent",
            metadata={"model": model.id},
        )
    if excess := output_excess(request.input, model):
        raise InvalidArgumentError.of("input.max_output_tokens", excess)


async def _held_or_none(take: Callable[[str], Awaitable[HeldKeys]], account: str) -> HeldKeys:
    """
    Hold keys that a request may do without although keyvault cannot open them.
    """
    try:
        return await take(account)
    except PeerUnavailableError:
        return _NotHeld(account)


class _NotHeld:
    """
    Keys that keyvault could not be asked for: none takes part.
    """

    def __init__(self, account: str) -> None:
        self.keys = AccountKeys(account=account, unavailable=True)

    def secret(self, key: OwnKey) -> Secret:
        raise AssertionError(f"{key.name} is not held")

    def usable(self) -> bool:
        return False

    def may_use(self, key: OwnKey) -> bool:
        raise AssertionError(f"{key.name} is not held")

    def usable_until(self) -> float:
        return float("-inf")
