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
        name="months_are_granted_once",
        query=f"""
SELECT a.account_id, a.period_count, g.last FROM accounts a
CROSS JOIN LATERAL (
    SELECT coalesce(max(substr(x.grant_id, 2)::bigint) + 1, 0) AS last
    FROM grants x WHERE {_SAME} AND x.kind = 'MONTHLY' AND x.grant_id ~ '^m[0-9]+$') g
WHERE {_PAGE} AND a.period_count <> g.last
""",  # noqa: S608
        sentence="the account was granted {period_count} months; its last monthly grant is of "
        "month {last}",
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
        name="budgets_are_attempts",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, b.key, b.month, b.held_nano_usd, b.spent_nano_usd,
    b.held, b.spent
FROM accounts a CROSS JOIN LATERAL (
    SELECT key, month, coalesce(k.held_nano_usd, 0) AS held_nano_usd,
        coalesce(k.spent_nano_usd, 0) AS spent_nano_usd,
        coalesce(t.held, 0) AS held, coalesce(t.spent, 0) AS spent
    FROM (SELECT * FROM key_budgets x WHERE {_SAME}) k
    FULL JOIN (
        SELECT x.key, date_trunc('month', x.create_time AT TIME ZONE 'UTC')::date AS month,
            sum(CASE WHEN last.state IS NULL THEN x.worst_case_nano_usd ELSE 0 END)::bigint AS held,
            sum(CASE WHEN last.state IS NULL OR last.state = 'RELEASED' THEN 0
                WHEN last.capture IS NULL THEN x.worst_case_nano_usd
                ELSE coalesce(last.vendor_cost_nano_usd, 0) END)::bigint AS spent
        FROM authorizations x
        LEFT JOIN LATERAL (
            SELECT s.state, s.capture, s.vendor_cost_nano_usd FROM settlements s
            WHERE s.bucket = x.bucket AND s.account_id = x.account_id
                AND s.request_id = x.request_id AND s.claimant = x.claimant
                AND s.sequence = x.sequence
            ORDER BY s.revision DESC LIMIT 1) last ON true
        WHERE {_SAME} AND x.funding = 'OWN_KEY' AND x.worst_case_nano_usd IS NOT NULL
        GROUP BY 1, 2) t USING (key, month)) b
WHERE {_PAGE} AND (a.retained_from IS NULL OR b.month > a.retained_from AT TIME ZONE 'UTC')
    AND (b.held_nano_usd <> b.held OR b.spent_nano_usd <> b.spent)
ORDER BY a.account_id, b.key, b.month
""",  # noqa: S608
        sentence="the budget of {key} for the month of {month} holds {held_nano_usd} nano-USD and "
        "has spent {spent_nano_usd}; its attempts hold {held} and have spent {spent}",
    ),
    Invariant(
        name="allowance_is_attempts",
        query=f"""
SELECT a.account_id, a.allowance_used, t.taken FROM accounts a
CROSS JOIN LATERAL (
    SELECT count(*) AS taken FROM authorizations x
    LEFT JOIN LATERAL (
        SELECT (s.capture->>'delivered')::boolean AS delivered, true AS settled FROM settlements s
        WHERE s.bucket = x.bucket AND s.account_id = x.account_id
            AND s.request_id = x.request_id AND s.claimant = x.claimant
            AND s.sequence = x.sequence
        ORDER BY s.revision DESC LIMIT 1) last ON true
    WHERE {_SAME} AND x.allowance_month = a.allowance_month
        AND (last.settled IS NULL OR last.delivered)) t
WHERE {_PAGE} AND a.allowance_used <> t.taken
    AND (a.retained_from IS NULL OR a.allowance_month > a.retained_from AT TIME ZONE 'UTC')
""",  # noqa: S608
        sentence="the account counts {allowance_used} free requests this month; its attempts take "
        "{taken}",
    ),
    Invariant(
        name="charges_are_entries",
        query=f"""
SELECT a.account_id, bad.name, bad.summed, bad.settled FROM accounts a
CROSS JOIN LATERAL (
    -- Entries before the attempt began are of a request that was forgotten, whose id came again.
    SELECT name, coalesce(max(s.settled), 0) AS settled,
        coalesce(sum(e.amount) FILTER (WHERE s.began IS NULL OR e.time >= s.began), 0)::bigint
            AS summed
    FROM (
        SELECT x.authorization_id AS name, x.create_time AS time,
            CASE WHEN x.credit IN ('SPENT', 'FEES') THEN x.amount ELSE 0 END
            - CASE WHEN x.debit IN ('SPENT', 'FEES') THEN x.amount ELSE 0 END AS amount
        FROM entries x WHERE {_SAME} AND x.authorization_id <> '') e
    FULL JOIN (
        SELECT DISTINCT ON (x.request_id, x.claimant, x.sequence)
            'r' || x.request_id || '-' || y.run || '-' || x.sequence AS name,
            x.charged + x.absorbed AS settled, y.create_time AS began
        FROM settlements x JOIN authorizations y
            ON y.bucket = x.bucket AND y.account_id = x.account_id
            AND y.request_id = x.request_id AND y.claimant = x.claimant
            AND y.sequence = x.sequence
        WHERE {_SAME}
        ORDER BY x.request_id, x.claimant, x.sequence, x.revision DESC) s USING (name)
    GROUP BY name
    HAVING coalesce(sum(e.amount) FILTER (WHERE s.began IS NULL OR e.time >= s.began), 0)
            <> coalesce(max(s.settled), 0)
        AND (max(s.settled) IS NOT NULL OR a.retained_from IS NULL
            OR min(e.time) >= a.retained_from)
    ORDER BY name LIMIT 1) bad
WHERE {_PAGE}
""",  # noqa: S608
        sentence="the entries of attempt {name} for work and fees sum to {summed}; it was settled "
        "for {settled}",
    ),
    Invariant(
        name="outcomes_are_settlements",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, x.request_id, y.sequence
FROM accounts a JOIN requests x ON {_SAME}
JOIN authorizations y ON y.bucket = x.bucket AND y.account_id = x.account_id
    AND y.request_id = x.request_id AND y.run = x.run
CROSS JOIN LATERAL (
    SELECT s.state, s.charged, s.capture, s.vendor_cost_nano_usd FROM settlements s
    WHERE s.bucket = y.bucket AND s.account_id = y.account_id
        AND s.request_id = y.request_id AND s.claimant = y.claimant AND s.sequence = y.sequence
    ORDER BY s.revision DESC LIMIT 1) last
WHERE {_PAGE} AND x.state = 'FAILED_UNCHARGED' AND last.state <> 'RELEASED'
    AND CASE WHEN y.funding = 'CREDITS' THEN last.charged > 0
        ELSE last.capture IS NULL OR last.vendor_cost_nano_usd IS DISTINCT FROM 0 END
ORDER BY a.account_id, y.number
""",  # noqa: S608
        sentence="request {request_id} is on record as failed without a charge; its attempt "
        "{sequence} was charged, or may have been by the provider",
    ),
    Invariant(
        name="rows_have_their_request",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, bad.kind, bad.request_id, bad.sequence
FROM accounts a CROSS JOIN LATERAL (
    SELECT 'attempt' AS kind, x.request_id, x.sequence FROM authorizations x
    WHERE {_SAME} AND NOT EXISTS (
        SELECT 1 FROM requests r WHERE r.bucket = x.bucket AND r.account_id = x.account_id
            AND r.request_id = x.request_id)
    UNION ALL
    SELECT 'refused attempt', x.request_id, x.sequence FROM refusals x
    WHERE {_SAME} AND NOT EXISTS (
        SELECT 1 FROM requests r WHERE r.bucket = x.bucket AND r.account_id = x.account_id
            AND r.request_id = x.request_id)
    UNION ALL
    SELECT 'settlement of an attempt', x.request_id, x.sequence FROM settlements x
    WHERE {_SAME} AND NOT EXISTS (
        SELECT 1 FROM authorizations y WHERE y.bucket = x.bucket AND y.account_id = x.account_id
            AND y.request_id = x.request_id AND y.claimant = x.claimant
            AND y.sequence = x.sequence)) bad
WHERE {_PAGE}
ORDER BY a.account_id, bad.kind, bad.request_id, bad.sequence
""",  # noqa: S608
        sentence="there is a {kind}, number {sequence} of request {request_id}, and nothing that "
        "it belongs to",
    ),
    Invariant(
        name="usage_is_settlements",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, b.*
FROM accounts a CROSS JOIN LATERAL (
    SELECT day, model, provider, key, funding, coalesce(u.attempt_count, 0) AS attempt_count,
        coalesce(u.vendor_cost_nano_usd, 0) AS cost, coalesce(u.charged_nano_credits, 0) AS charged,
        coalesce(u.fee_nano_credits, 0) AS fee, coalesce(s.count, 0) AS count,
        coalesce(s.settled_cost, 0) AS settled_cost,
        coalesce(s.settled_charge, 0) AS settled_charge, coalesce(s.settled_fee, 0) AS settled_fee
    FROM (
        SELECT * FROM usage_days x WHERE {_SAME}
            AND (a.retained_from IS NULL OR x.day >= a.retained_from AT TIME ZONE 'UTC')) u
    FULL JOIN (
        SELECT (z.settle_time AT TIME ZONE 'UTC')::date AS day, y.model, y.provider, y.key,
            y.funding, count(*) AS count,
            coalesce(sum(z.vendor_cost_nano_usd), 0)::bigint AS settled_cost,
            sum(z.charged)::bigint AS settled_charge, sum(z.fee)::bigint AS settled_fee
        FROM (
            SELECT DISTINCT ON (x.request_id, x.claimant, x.sequence) x.*
            FROM settlements x WHERE {_SAME}
            ORDER BY x.request_id, x.claimant, x.sequence, x.revision DESC) z
        JOIN authorizations y ON y.bucket = z.bucket AND y.account_id = z.account_id
            AND y.request_id = z.request_id AND y.claimant = z.claimant
            AND y.sequence = z.sequence
        WHERE z.capture IS NOT NULL
            AND (a.retained_from IS NULL OR z.settle_time >= a.retained_from)
        GROUP BY 1, 2, 3, 4, 5) s USING (day, model, provider, key, funding)) b
WHERE {_PAGE} AND (b.attempt_count <> b.count OR b.cost <> b.settled_cost
    OR b.charged <> b.settled_charge OR b.fee <> b.settled_fee)
ORDER BY a.account_id, b.day, b.model, b.provider, b.key, b.funding
""",  # noqa: S608
        sentence="usage of {model} at {provider} by {funding} {key} on {day} counts "
        "{attempt_count} attempts, {cost} nano-USD and {charged} nano-credits, {fee} of them fees; "
        "the settlements come to {count}, {settled_cost}, {settled_charge} and {settled_fee}",
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
    Invariant(
        name="mode_is_its_last_change",
        query=f"""
SELECT a.account_id, a.billing_mode, x.billing_mode AS changed_to FROM accounts a
JOIN mode_changes x ON {_SAME} AND x.mode_epoch = a.mode_epoch
WHERE {_PAGE} AND a.billing_mode <> x.billing_mode
""",  # noqa: S608
        sentence="the account is in mode {billing_mode}; its last change was to {changed_to}",
    ),
    Invariant(
        name="epochs_begin_at_their_entry",
        query=f"""
SELECT DISTINCT ON (a.account_id) a.account_id, x.mode_epoch, x.posted, x.entry_sequence,
    coalesce(e.posted_after, 0) AS owned
FROM accounts a JOIN mode_changes x ON {_SAME}
LEFT JOIN entries e ON e.bucket = x.bucket AND e.account_id = x.account_id
    AND e.sequence = x.entry_sequence
WHERE {_PAGE} AND x.posted <> coalesce(e.posted_after, 0)
ORDER BY a.account_id, x.mode_epoch
""",  # noqa: S608
        sentence="epoch {mode_epoch} began with {posted} owned; after entry {entry_sequence}, the "
        "last before it, {owned} were",
    ),
)

_TABLES = (
    "grants",
    "requests",
    "authorizations",
    "settlements",
    "refusals",
    "entries",
    "operations",
    "mode_changes",
    "usage_days",
    "key_budgets",
    "entry_links",
)

# An account's page never meets rows that belong to none.
STRAYS = Invariant(
    name="rows_have_their_account",
    query=" UNION ALL ".join(
        f"""
(SELECT DISTINCT x.account_id, '{table}' AS stray FROM {table} x
WHERE x.bucket BETWEEN $1 AND $2 AND NOT EXISTS (
    SELECT 1 FROM accounts a WHERE {_SAME}) LIMIT 100)
"""  # noqa: S608 - every part is a constant of this module
        for table in _TABLES
    ),
    sentence="there are rows in {stray} and no such account",
)
"""What must hold of a range of buckets: its parameters are the first and the last."""
