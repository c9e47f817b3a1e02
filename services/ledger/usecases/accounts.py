# SPDX-License-Identifier: Apache-2.0
"""Make and change accounts: plan, billing mode, consent, cap; pause and resume."""

from __future__ import annotations

from dataclasses import dataclass

from services.ledger.domain.accounts import Account
from services.ledger.domain.entries import Entry
from services.ledger.domain.files import AccountFile, ModeChange
from services.ledger.domain.modes import BillingMode, FallbackConsent
from services.ledger.domain.plans import Plan, PlanBook
from services.ledger.domain.receipts import (
    OPEN_HOLDS_SHOWN_MAX,
    PROOF_ENTRIES_SHOWN_MAX,
    GrantState,
    OpenHold,
    PauseReceipt,
    PauseSums,
    ResumeProof,
    Resumption,
    add,
    prove,
)
from services.ledger.errors import (
    AccountExistsError,
    AccountNotFoundError,
    EtagMismatchError,
    ModeChangeRequiredError,
)
from services.ledger.usecases.ports import LedgerReader
from services.shared.errors import InternalError
from services.shared.logging import get_logger
from services.shared.secret import Secret

PAGE_ENTRIES = 1000

log = get_logger()


@dataclass(frozen=True, slots=True)
class NewAccount:
    """
    An account to make.

    Args:
        plan: Its plan.
        billing_mode: Its first mode.
        fallback_consent: Its consent.
        fallback_daily_cap: Its cap; None for none.
    """

    plan: Plan
    billing_mode: BillingMode
    fallback_consent: FallbackConsent
    fallback_daily_cap: int | None


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """
    What to change of an account.

    Args:
        etag: Must be current; empty for any.
        plan_id: The new plan; None to keep it.
        billing_mode: The mode that a plan forbidding the current one changes to; None for none.
        fallback_consent: The new consent; None to keep it.
        fallback_daily_cap: The new cap where `set_cap`; None for none.
        set_cap: True to change the cap.
    """

    etag: str
    plan_id: str | None
    billing_mode: BillingMode | None
    fallback_consent: FallbackConsent | None
    fallback_daily_cap: int | None
    set_cap: bool


@dataclass(frozen=True, slots=True)
class ModeSwitched:
    """
    What a change of mode came to.

    Args:
        receipt: If it paused credits.
        resumed: True if it ended a pause.
    """

    receipt: PauseReceipt | None = None
    resumed: bool = False


class Accounts:
    """
    Makes and changes accounts.

    Args:
        plans: The plans.
        receipt_key: Seals receipts.
        reader: Reads what proofs are made of.
    """

    def __init__(self, *, plans: PlanBook, receipt_key: Secret, reader: LedgerReader) -> None:
        self._plans = plans
        self._key = receipt_key
        self._reader = reader

    def create(self, file: AccountFile, new: NewAccount, *, actor: str) -> Account:
        """
        Make an account.

        Raises:
            AccountExistsError: If its id is taken.
            ModeNotAllowedError: If its plan does not allow its mode.
        """
        account = file.account
        if not file.created:
            name = f"accounts/{account.account_id}"
            message = f"{name} exists; read it with GetAccount, or choose another account_id"
            raise AccountExistsError(message, metadata={"account": name})
        account.plan_id = new.plan.plan_id
        account.fallback_consent = new.fallback_consent
        account.fallback_daily_cap = new.fallback_daily_cap
        account.overdraft_limit = new.plan.overdraft_nano_credits
        account.mode_epoch = 0
        self._switch(file, new.billing_mode, actor=actor)
        return account

    def update(self, file: AccountFile, update: AccountUpdate, *, actor: str) -> ModeSwitched:
        """
        Change plan, consent or cap.

        Raises:
            Refusal: One of those listed at UpdateAccount.
        """
        account = file.account
        self._check_etag(account, update.etag)
        mode = account.billing_mode
        if update.plan_id is not None:
            plan = self._plans.get(update.plan_id)
            mode = self._mode_under(plan, account, update.billing_mode)
            account.plan_id = plan.plan_id
            account.overdraft_limit = max(plan.overdraft_nano_credits, account.totals.overdrawn)
        if update.fallback_consent is not None:
            account.fallback_consent = update.fallback_consent
        if update.set_cap:
            account.fallback_daily_cap = update.fallback_daily_cap
        _touch(file)
        if mode is account.billing_mode:
            return ModeSwitched()
        return self._switch(file, mode, actor=actor)

    def set_billing_mode(self, file: AccountFile, mode: BillingMode, *, actor: str) -> ModeSwitched:
        """
        Change who pays; the current mode changes nothing.

        Raises:
            ModeNotAllowedError: If the plan does not allow it.
        """
        account = file.account
        if mode is account.billing_mode:
            return ModeSwitched()
        self._plans.require_mode(self._plans.get(account.plan_id), mode)
        _touch(file)
        return self._switch(file, mode, actor=actor)

    async def prove(self, account_id: str, resume_epoch: int) -> ResumeProof:
        """
        Prove the pause that ended when an epoch began, from the immutable record.

        Raises:
            InternalError: If the record lacks the pause or its end.
        """
        end = await self._reader.mode_change(account_id, resume_epoch)
        begin = await self._reader.mode_change(account_id, resume_epoch - 1)
        if end is None or begin is None or begin.receipt is None:
            message = f"the record of the pause before epoch {resume_epoch} is not complete"
            raise InternalError(message)
        receipt = begin.receipt
        sums, after = PauseSums(), receipt.entry_sequence
        shown: list[Entry] = []
        while after < end.entry_sequence:
            page = await self._reader.entries(
                account_id, after=after, up_to=end.entry_sequence, limit=PAGE_ENTRIES
            )
            if not page:
                break
            sums = add(sums, page, pause_epoch=receipt.mode_epoch)
            shown += page[: PROOF_ENTRIES_SHOWN_MAX - len(shown)]
            after = page[-1].sequence
        resumption = Resumption(end.create_time, end.entry_sequence, end.posted, end.reserved)
        proof = prove(receipt, resumption, sums, entries=tuple(shown), key=self._key)
        if not proof.proven:
            log.error("pause_not_proven", account=account_id, mode_epoch=resume_epoch)
        return proof

    async def get(self, account_id: str) -> Account:
        """
        Return an account.

        Raises:
            AccountNotFoundError: If there is none.
        """
        account = await self._reader.account(account_id)
        if account is None:
            raise AccountNotFoundError(account_id)
        return account

    def _check_etag(self, account: Account, etag: str) -> None:
        current = etag_of(account)
        if etag and etag != current:
            name = f"accounts/{account.account_id}"
            message = (
                f"{name} has changed since it was read (its etag is {current}); read it again and "
                "apply the change to what it says now"
            )
            raise EtagMismatchError(message, metadata={"account": name, "etag": current})

    def _mode_under(self, plan: Plan, account: Account, chosen: BillingMode | None) -> BillingMode:
        """Return the mode on a new plan: the current one, if that is allowed there."""
        if chosen is not None:
            self._plans.require_mode(plan, chosen)
            return chosen
        if account.billing_mode in plan.allowed_modes:
            return account.billing_mode
        allowed = ", ".join(plan.allowed_modes)
        message = (
            f"{plan.name} does not allow the account's billing mode {account.billing_mode}; name "
            f"the mode to change to in billing_mode: {allowed}"
        )
        raise ModeChangeRequiredError(
            message,
            metadata={
                "billing_mode": account.billing_mode.value,
                "plan": plan.name,
                "allowed_modes": allowed.replace(" ", ""),
            },
        )

    def _switch(self, file: AccountFile, mode: BillingMode, *, actor: str) -> ModeSwitched:
        """Begin a new epoch; entering OWN_KEY_ONLY pauses credits, leaving it ends the pause."""
        account, totals = file.account, file.account.totals
        resumed = account.pause_time is not None
        account.paused_for = account.paused_until(file.now)
        account.pause_time = file.now if mode is BillingMode.OWN_KEY_ONLY else None
        account.billing_mode = mode
        account.mode_epoch += 1
        file.changes.account = True
        receipt = self._receipt(file) if account.pause_time is not None else None
        file.changes.mode_changes.append(
            ModeChange(
                mode_epoch=account.mode_epoch,
                billing_mode=mode,
                plan_id=account.plan_id,
                entry_sequence=account.entry_count,
                posted=totals.posted,
                reserved=totals.reserved,
                receipt=receipt,
                actor=actor,
                create_time=file.now,
            )
        )
        return ModeSwitched(receipt, resumed)

    def _receipt(self, file: AccountFile) -> PauseReceipt:
        account, totals = file.account, file.account.totals
        holds = sorted(file.open_holds)
        receipt = PauseReceipt(
            account_id=account.account_id,
            mode_epoch=account.mode_epoch,
            pause_time=file.now,
            posted=totals.posted,
            reserved=totals.reserved,
            entry_sequence=account.entry_count,
            open_hold_count=len(holds),
            open_holds=tuple(OpenHold(*hold) for hold in holds[:OPEN_HOLDS_SHOWN_MAX]),
            grants=tuple(
                GrantState(grant.grant_id, grant.remaining, grant.reserved)
                for grant in file.book.in_order()
            ),
        )
        return receipt.sealed(self._key)


def etag_of(account: Account) -> str:
    """Return the account's etag."""
    return str(account.revision)


def _touch(file: AccountFile) -> None:
    file.account.revision += 1
    file.account.update_time = file.now
    file.changes.account = True
