# SPDX-License-Identifier: Apache-2.0
"""
What must hold of every account, as queries that return the first row that breaks it.

Each takes the buckets and the accounts of a page and reads one snapshot, so it can run while the
ledger serves. What a CHECK of the schema holds is asked again: a restored or edited database may
have lost it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """
    One invariant.

    Args:
        name: Its name.
        query: Returns the rows that break it: at most one an account, with `account_id`.
        sentence: What to say of such a row, with its columns in braces.
    """

    name: str
    query: str
    sentence: str


_PAGE = "a.bucket = ANY($1::smallint[]) AND a.account_id = ANY($2::text[])"
_SAME = "x.bucket = a.bucket AND x.account_id = a.account_id"

_OPEN_HOLDS = f"""
    SELECT coalesce(sum(x.held), 0)::bigint AS held FROM authorizations x
    WHERE {_SAME} AND NOT EXISTS (
        SELECT 1 FROM settlements s
        WHERE s.bucket = x.bucket AND s.account_id = x.account_id
            AND s.request_id = x.request_id AND s.claimant = x.claimant
            AND s.sequence = x.sequence)
"""  # noqa: S608 - every part is a constant


def _sub_ledger(name: str, sub_ledger: str, *, debit_raises: bool = False) -> Invariant:
    raised, lowered = ("debit", "credit") if debit_raises else ("credit", "debit")
    return Invariant(
        name=f"{name}_is_its_entries",
        query=f"""
SELECT a.account_id, a.{name} AS recorded, e.summed FROM accounts a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN x.{raised} = '{sub_ledger}' THEN x.amount ELSE 0 END
        - CASE WHEN x.{lowered} = '{sub_ledger}' THEN x.amount ELSE 0 END), 0)::bigint AS summed
    FROM entries x WHERE {_SAME}) e
WHERE {_PAGE} AND a.{name} <> e.summed
""",  # noqa: S608 - every part is a constant of this module
        sentence=f"the account's {name} is {{recorded}}, its entries sum to {{summed}}",
    )


INVARIANTS = (
    Invariant(
        name="books_sum_to_zero",
        query=f"""
SELECT a.account_id FROM accounts a WHERE {_PAGE} AND
    a.credits + a.spent + a.fees + a.expired
        <> a.overdrawn + a.issued + a.invoiced + a.absorbed
""",  # noqa: S608
        sentence="the account's sub-ledgers do not sum to zero",
    ),
    _sub_ledger("credits", "CREDITS"),
    _sub_ledger("spent", "SPENT"),
    _sub_ledger("fees", "FEES"),
    _sub_ledger("expired", "EXPIRED"),
    _sub_ledger("overdrawn", "OVERDRAFT", debit_raises=True),
    _sub_ledger("issued", "ISSUED", debit_raises=True),
    _sub_ledger("invoiced", "INVOICE", debit_raises=True),
    _sub_ledger("absorbed", "ABSORBED", debit_raises=True),
    Invariant(
        name="entries_have_no_gap",
        query=f"""
SELECT a.account_id, a.entry_count, e.count, e.last FROM accounts a
CROSS JOIN LATERAL (
    SELECT count(*) AS count, coalesce(max(x.sequence), 0) AS last
    FROM entries x WHERE {_SAME}) e
WHERE {_PAGE} AND (a.entry_count <> e.count OR a.entry_count <> e.last)
""",  # noqa: S608
        sentence="the account counts {entry_count} entries; there are {count}, the last has number "
        "{last}",
    ),
    Invariant(
        name="posted_follows_entries",
        query=f"""
SELECT a.account_id, bad.sequence, bad.posted_after, bad.expected FROM accounts a
CROSS JOIN LATERAL (
    SELECT w.sequence, w.posted_after, w.expected FROM (
        SELECT x.sequence, x.posted_after,
            sum(CASE WHEN x.credit IN ('CREDITS', 'OVERDRAFT') THEN x.amount ELSE 0 END
                - CASE WHEN x.debit IN ('CREDITS', 'OVERDRAFT') THEN x.amount ELSE 0 END)
                OVER (ORDER BY x.sequence)::bigint AS expected
        FROM entries x WHERE {_SAME}) w
    WHERE w.posted_after <> w.expected ORDER BY w.sequence LIMIT 1) bad
WHERE {_PAGE}
""",  # noqa: S608
        sentence="entry {sequence} says {posted_after} were owned after it; the entries up to it "
        "sum to {expected}",
    ),
    Invariant(
        name="credits_is_grants",
        query=f"""
SELECT a.account_id, a.credits, g.remaining, a.reserved, g.reserved AS of_grants FROM accounts a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.remaining), 0)::bigint AS remaining,
        coalesce(sum(x.reserved), 0)::bigint AS reserved
    FROM grants x WHERE {_SAME}) g
WHERE {_PAGE} AND (a.credits <> g.remaining OR a.reserved <> g.reserved)
""",  # noqa: S608
        sentence="the account holds {credits} and reserves {reserved}; its grants hold {remaining} "
        "and reserve {of_grants}",
    ),
    Invariant(
        name="grant_is_its_entries",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, x.grant_id, x.remaining, e.summed
FROM accounts a JOIN grants x ON {_SAME}
CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN y.credit = 'CREDITS' THEN y.amount ELSE -y.amount END), 0)::bigint
        AS summed
    FROM entries y
    WHERE y.bucket = x.bucket AND y.account_id = x.account_id AND y.grant_id = x.grant_id) e
WHERE {_PAGE} AND x.remaining <> e.summed ORDER BY a.account_id, x.number
""",  # noqa: S608
        sentence="grant {grant_id} has {remaining} left; its entries sum to {summed}",
    ),
    Invariant(
        name="reserved_is_open_holds",
        query=f"""
SELECT a.account_id, a.reserved, h.held FROM accounts a
CROSS JOIN LATERAL ({_OPEN_HOLDS}) h
WHERE {_PAGE} AND a.reserved <> h.held
""",  # noqa: S608
        sentence="the account reserves {reserved}; its open holds sum to {held}",
    ),
    Invariant(
        name="open_attempts_are_running",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, x.request_id, x.run, x.sequence
FROM accounts a JOIN authorizations x ON {_SAME}
JOIN requests r ON r.bucket = x.bucket AND r.account_id = x.account_id
    AND r.request_id = x.request_id
WHERE {_PAGE} AND NOT EXISTS (
        SELECT 1 FROM settlements s
        WHERE s.bucket = x.bucket AND s.account_id = x.account_id
            AND s.request_id = x.request_id AND s.claimant = x.claimant
            AND s.sequence = x.sequence)
    AND (r.state <> 'RUNNING' OR r.run <> x.run)
ORDER BY a.account_id, x.number
""",  # noqa: S608
        sentence="attempt {sequence} of run {run} of request {request_id} is open, but its request "
        "does not run",
    ),
    Invariant(
        name="charges_are_entries",
        query=f"""
SELECT a.account_id, e.summed, s.settled FROM accounts a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN x.credit = 'SPENT' THEN x.amount ELSE 0 END
        - CASE WHEN x.debit = 'SPENT' THEN x.amount ELSE 0 END), 0)::bigint AS summed
    FROM entries x WHERE {_SAME}) e
CROSS JOIN LATERAL (
    SELECT coalesce(sum(z.charged - z.fee + z.absorbed), 0)::bigint AS settled FROM (
        SELECT DISTINCT ON (x.request_id, x.claimant, x.sequence) x.charged, x.fee, x.absorbed
        FROM settlements x WHERE {_SAME}
        ORDER BY x.request_id, x.claimant, x.sequence, x.revision DESC) z) s
WHERE {_PAGE} AND e.summed <> s.settled
""",  # noqa: S608
        sentence="the entries for work sum to {summed}; the settlements sum to {settled}",
    ),
    Invariant(
        name="usage_is_settlements",
        query=f"""
SELECT a.account_id, u.cost, s.settled_cost, u.charged, s.settled_charge FROM accounts a
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.vendor_cost_nano_usd), 0)::bigint AS cost,
        coalesce(sum(x.charged_nano_credits), 0)::bigint AS charged
    FROM usage_days x WHERE {_SAME}) u
CROSS JOIN LATERAL (
    SELECT coalesce(sum(z.vendor_cost_nano_usd), 0)::bigint AS settled_cost,
        coalesce(sum(z.charged), 0)::bigint AS settled_charge FROM (
        SELECT DISTINCT ON (x.request_id, x.claimant, x.sequence)
            x.vendor_cost_nano_usd, x.charged
        FROM settlements x WHERE {_SAME}
        ORDER BY x.request_id, x.claimant, x.sequence, x.revision DESC) z) s
WHERE {_PAGE} AND (u.cost <> s.settled_cost OR u.charged <> s.settled_charge)
""",  # noqa: S608
        sentence="usage sums to {cost} nano-USD and {charged} nano-credits; the settlements sum to "
        "{settled_cost} and {settled_charge}",
    ),
    Invariant(
        name="epochs_have_no_gap",
        query=f"""
SELECT a.account_id, a.mode_epoch, m.count, m.last FROM accounts a
CROSS JOIN LATERAL (
    SELECT count(*) AS count, coalesce(max(x.mode_epoch), 0) AS last
    FROM mode_changes x WHERE {_SAME}) m
WHERE {_PAGE} AND (a.mode_epoch <> m.count OR a.mode_epoch <> m.last)
""",  # noqa: S608
        sentence="the account is in epoch {mode_epoch}; there are {count} changes of mode, the "
        "last began epoch {last}",
    ),
)
