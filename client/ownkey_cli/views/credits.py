# SPDX-License-Identifier: Apache-2.0
"""Credits, who pays, receipts and proofs of a pause, entries and plans, for people."""

from __future__ import annotations

from collections.abc import Iterable

from ownkey.ledger.v1 import account_pb2, authorization_pb2, entry_pb2, grant_pb2, plan_pb2
from rich.console import Group, RenderableType
from rich.text import Text

from client.ownkey_cli.texts import (
    NONE,
    brief,
    credits_number,
    in_credits,
    in_percent,
    in_usd,
    short,
    time_text,
    word,
)
from client.ownkey_cli.views.tables import grid, table, titled


def balance_view(balance: grant_pb2.Balance) -> RenderableType:
    """What an account owns, and from which grants."""
    rows: list[tuple[str, str | Text]] = [
        ("account", balance.account),
        ("available", Text(in_credits(balance.available_nano_credits), style="bold")),
        ("held", in_credits(balance.reserved_nano_credits)),
        ("owned", in_credits(balance.posted_nano_credits)),
    ]
    if balance.paused:
        rows.append(
            ("state", Text("paused: only requests that ask for credits take any", "yellow"))
        )
    rows += [
        (name, in_credits(amount))
        for name, amount in (
            ("issued", balance.issued_nano_credits),
            ("spent", balance.spent_nano_credits),
            ("fees", balance.fees_nano_credits),
            ("on the invoice", balance.invoiced_nano_credits),
            ("carried by us", balance.absorbed_nano_credits),
            ("expired", balance.expired_nano_credits),
        )
        if amount
    ]
    return Group(grid(rows), Text(), grants_table(balance.grants))


def grants_table(grants: Iterable[grant_pb2.Grant]) -> RenderableType:
    """Grants with something left, in the order they are spent."""
    return table(
        ("!grant", "!kind", ">credits left", ">of", "?>held", "!expires", "note"),
        (
            (
                brief(one.name),
                word(grant_pb2.GrantKind, one.kind),
                credits_number(one.remaining_nano_credits),
                credits_number(one.amount_nano_credits),
                credits_number(one.reserved_nano_credits),
                time_text(one, "expire_time").replace(NONE, "never"),
                one.note or NONE,
            )
            for one in grants
        ),
        empty="No grant has anything left.",
    )


def account_view(account: account_pb2.Account) -> RenderableType:
    """Who pays for an account's requests."""
    cap = account.fallback_daily_cap_nano_credits
    rows: list[tuple[str, str | Text]] = [
        ("account", account.name),
        ("plan", account.plan),
        ("mode", Text(word(account_pb2.BillingMode, account.billing_mode), style="bold")),
        ("mode epoch", str(account.mode_epoch)),
        ("falls back", word(account_pb2.FallbackConsent, account.fallback_consent)),
        (
            "fallback cap",
            f"{in_credits(cap)} a day"
            if account.HasField("fallback_daily_cap_nano_credits")
            else "none",
        ),
    ]
    if account.HasField("pause_time"):
        rows.append(("paused since", Text(time_text(account, "pause_time"), style="yellow")))
    return grid(rows)


def mode_view(
    answer: account_pb2.SetBillingModeResponse | account_pb2.UpdateAccountResponse,
) -> RenderableType:
    """The account after a change of mode, with the receipt or proof that came of it."""
    parts = [account_view(answer.account)]
    if answer.HasField("receipt"):
        parts.append(titled("Credits are paused. The receipt:", receipt_view(answer.receipt)))
    if answer.HasField("proof"):
        parts.append(titled("Credits resumed. The proof:", proof_view(answer.proof)))
    return Group(*parts)


def receipt_view(receipt: account_pb2.PauseReceipt) -> RenderableType:
    """What an account held when its credits were paused."""
    rows = grid(
        [
            ("paused", time_text(receipt, "pause_time")),
            ("epoch", str(receipt.mode_epoch)),
            ("owned", in_credits(receipt.posted_nano_credits)),
            ("held", in_credits(receipt.reserved_nano_credits)),
            ("last entry", str(receipt.entry_sequence)),
            ("open holds", str(receipt.open_hold_count)),
            ("digest", receipt.digest.hex()),
            ("mac", receipt.mac.hex()),
        ]
    )
    if not receipt.open_holds:
        return rows
    holds = table(
        ("open hold", ">held"),
        (
            (short(one.authorization), in_credits(one.held_nano_credits))
            for one in receipt.open_holds
        ),
        empty="",
    )
    return Group(rows, Text(), holds)


def proof_view(proof: account_pb2.ResumeProof) -> RenderableType:
    """That a pause took nothing but what was asked for: the sums, signed."""
    proven = Text("yes", style="bold green") if proof.proven else Text("NO", style="bold red")
    sums = (
        ("when paused", "", proof.receipt.posted_nano_credits),
        ("asked for by requests", "–", proof.explicit_charged_nano_credits),
        ("held before the pause", "–", proof.earlier_holds_charged_nano_credits),
        ("granted", "+", proof.granted_nano_credits),
        ("adjusted", "+", proof.adjusted_nano_credits),
        ("corrected", "+", proof.corrected_nano_credits),
        ("expired", "–", proof.expired_nano_credits),
        ("when resumed", "=", proof.posted_nano_credits),
    )
    return Group(
        grid(
            [
                ("proven", proven),
                ("paused", time_text(proof.receipt, "pause_time")),
                ("resumed", time_text(proof, "resume_time")),
                ("entries", f"{proof.receipt.entry_sequence + 1} to {proof.entry_sequence}"),
                ("receipt", proof.receipt.digest.hex()),
            ]
        ),
        Text(),
        table(
            ("", "", ">amount"), ((sign, name, in_credits(n)) for name, sign, n in sums), empty=""
        ),
    )


def entries_table(entries: Iterable[entry_pb2.Entry]) -> RenderableType:
    """Movements of credits, newest first."""
    return table(
        (">#", "!time", "!kind", "!moved", ">credits", "?>owned after", "why", "?!by"),
        (
            (
                str(one.sequence),
                time_text(one, "create_time"),
                word(entry_pb2.EntryKind, one.kind),
                f"{word(entry_pb2.SubLedger, one.debit)} → {word(entry_pb2.SubLedger, one.credit)}",
                credits_number(one.amount_nano_credits),
                credits_number(one.posted_after_nano_credits),
                one.reason or brief(one.authorization),
                one.actor or "ledger",
            )
            for one in entries
        ),
        empty="No credits moved.",
    )


def plans_table(plans: Iterable[plan_pb2.Plan]) -> RenderableType:
    """Plans: what an account may do and what it pays."""
    return table(
        (
            "plan",
            "modes, the default first",
            "!a credit is",
            "!markup",
            "fixed prices",
            "own-key fee",
        ),
        (
            (
                Text.assemble((short(plan.name), "bold"), f"\n{plan.title}"),
                "\n".join(_modes(plan)),
                in_usd(plan.credit_value_nano_usd),
                f"× {in_percent(plan.markup_parts_per_million)}",
                "\n".join(
                    f"{word(authorization_pb2.Operation, one.operation)} "
                    f"{in_credits(one.price_nano_credits)}"
                    for one in plan.operation_prices
                )
                or NONE,
                _fee(plan),
            )
            for plan in plans
        ),
        empty="The plans file has no plan.",
    )


def _modes(plan: plan_pb2.Plan) -> list[str]:
    default = word(account_pb2.BillingMode, plan.default_mode)
    modes = [word(account_pb2.BillingMode, mode) for mode in plan.allowed_modes]
    return sorted(modes, key=lambda mode: mode != default)


def _fee(plan: plan_pb2.Plan) -> str:
    if not plan.HasField("fee"):
        return "none"
    fee = plan.fee
    basis = word(plan_pb2.FeeBasis, fee.basis).replace("-", " ")
    lines = [
        f"{in_percent(fee.rate_parts_per_million)} of the {basis}",
        f"from {word(plan_pb2.FeeSource, fee.source)}",
    ]
    if fee.free_request_count:
        lines.append(f"{fee.free_request_count:,} requests a month free")
    lines += [
        f"{model}: at most {in_credits(cap)}" for model, cap in sorted(fee.cap_nano_credits.items())
    ]
    return "\n".join(lines)
