# SPDX-License-Identifier: Apache-2.0
"""What people see: tables that fit, bars that add up, results that can be read by programs."""

from __future__ import annotations

import io
import json

import pytest
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2, authorization_pb2, plan_pb2, usage_pb2
from ownkey.router.v1 import attempt_pb2, explain_pb2, text_pb2

from client.ownkey_cli.output import Output
from client.ownkey_cli.views.catalogue import estimate_table
from client.ownkey_cli.views.charts import Part, bar
from client.ownkey_cli.views.credits import mode_view, plans_table
from client.ownkey_cli.views.keys import keys_table
from client.ownkey_cli.views.receipts import cost_line, payer_line
from client.ownkey_cli.views.tables import table
from client.ownkey_cli.views.usage import UsageBy, sum_usage, usage_view
from tests.support.terminal import drawn

pytestmark = pytest.mark.requirement("O4")


class TestTable:
    COLUMNS = ("!name", ">amount", "text", "?!spare", "?>last")
    ROWS = (("first", "1,000,000", "words that may be folded", "spare cell", "12345"),)

    def test_a_wide_terminal_shows_everything_on_one_line(self) -> None:
        text = drawn(table(self.COLUMNS, self.ROWS, empty=""), columns=100)
        assert "first  1,000,000  words that may be folded  spare cell  12345" in text

    def test_a_narrow_one_leaves_the_last_spare_column_out_first(self) -> None:
        text = drawn(table(self.COLUMNS, self.ROWS, empty=""), columns=45)
        assert "spare cell" in text
        assert "12345" not in text

    def test_a_number_is_never_folded_as_long_as_it_fits_at_all(self) -> None:
        for columns in range(33, 120):
            text = drawn(table(self.COLUMNS, self.ROWS, empty=""), columns=columns)
            assert "1,000,000" in text, columns
            assert max(len(line) for line in text.splitlines()) <= columns

    def test_where_nothing_fits_each_row_stands_by_itself_with_nothing_cut_off(self) -> None:
        text = drawn(table(self.COLUMNS, self.ROWS * 2, empty=""), columns=30)
        one = ["name    first", "amount  1,000,000", "text    words that may be", "        folded"]
        lines = [line.rstrip() for line in text.splitlines()]
        assert lines[:4] == one
        assert "last    12345" in lines
        assert lines.count("name    first") == 2
        assert lines[lines.index("last    12345") + 1] == ""

    def test_a_long_text_gets_the_room_of_what_is_spare(self) -> None:
        columns = ("!name", "text", "?!spare")
        text = drawn(table(columns, [("a", "word " * 20, "s" * 30)], empty=""), columns=50)
        assert "sss" not in text
        assert len(text.splitlines()) <= 2 + 3

    def test_no_rows_are_a_sentence(self) -> None:
        assert drawn(table(self.COLUMNS, (), empty="Nothing yet.")) == "Nothing yet.\n"

    def test_text_of_others_cannot_steer_the_terminal(self) -> None:
        assert "\x1b" not in drawn(table(("label",), [("\x1b[2Jgone",)], empty=""))

    def test_brackets_are_text(self) -> None:
        assert "[bold]x[/]" in drawn(table(("label",), [("[bold]x[/]",)], empty=""))


class TestBar:
    def test_the_largest_fills_all_columns_in_proportion(self) -> None:
        parts = (Part(3, "█", "cyan"), Part(1, "░", "magenta"))
        assert bar(parts, largest=4, columns=8).plain == "██████░░"
        assert bar(parts, largest=8, columns=8).plain == "███░"

    def test_what_is_more_than_nothing_is_seen(self) -> None:
        parts = (Part(1_000_000, "█", ""), Part(1, "░", ""))
        assert bar(parts, largest=1_000_001, columns=8).plain == "███████░"

    def test_nothing_is_no_bar(self) -> None:
        assert bar((Part(0, "█", ""),), largest=5, columns=8).plain == ""
        assert bar((Part(0, "█", ""),), largest=0, columns=8).plain == ""


def usage_row(day: str, funding: int, attempts: int, *, key: str = "") -> usage_pb2.UsageRow:
    return usage_pb2.UsageRow(
        day=day,
        model="openai/gpt-4o-mini",
        provider="openai",
        key=key,
        funding=authorization_pb2.Funding.ValueType(funding),
        attempt_count=attempts,
        vendor_cost_nano_usd=1_000 * attempts,
        charged_nano_credits=2_000 * attempts,
        units=authorization_pb2.UsageUnits(input_token_count=10, output_token_count=5),
    )


class TestUsage:
    ROWS = (
        usage_row("2026-11-20", authorization_pb2.FUNDING_CREDITS, 2),
        usage_row(
            "2026-11-20", authorization_pb2.FUNDING_OWN_KEY, 6, key="accounts/demo/keys/main"
        ),
        usage_row("2026-11-19", authorization_pb2.FUNDING_CREDITS, 1),
    )

    def test_it_is_summed_by_day_in_order(self) -> None:
        sums = sum_usage(self.ROWS, UsageBy.DAY)
        assert [(one.name, one.attempts) for one in sums] == [("2026-11-19", 1), ("2026-11-20", 8)]
        assert (sums[1].own_key_attempts, sums[1].credit_attempts) == (6, 2)
        assert sums[1].vendor_cost_nano_usd == 8_000
        assert sums[1].charged_nano_credits == 16_000

    def test_by_key_the_most_used_comes_first(self) -> None:
        sums = sum_usage(self.ROWS, UsageBy.KEY)
        assert [(one.name, one.attempts) for one in sums] == [("main", 6), ("credits", 3)]

    def test_the_table_ends_with_the_total_and_a_legend(self) -> None:
        lines = drawn(usage_view(self.ROWS, UsageBy.DAY)).splitlines()
        assert lines[-2].startswith("all ")
        assert " 9 " in lines[-2]
        assert "█ own key" in lines[-1]
        assert "░ credits" in lines[-1]

    def test_no_usage_is_a_sentence(self) -> None:
        assert "Nothing was settled" in drawn(usage_view((), UsageBy.DAY))


class TestAnswers:
    def test_a_disabled_key_is_not_shown_as_active(self) -> None:
        key = key_pb2.Key(
            name="accounts/demo/keys/main",
            provider="openai",
            state=key_pb2.KEY_STATE_DISABLED,
            active=True,
            health=[key_pb2.KeyHealth(state=key_pb2.HEALTH_STATE_COOLING, remaining_millis=3_000)],
        )
        text = drawn(keys_table([key]))
        assert "disabled" in text
        assert "cooling 3 s" in text

    def test_a_pause_shows_its_whole_receipt(self) -> None:
        receipt = account_pb2.PauseReceipt(
            posted_nano_credits=5 * 10**9, digest=b"\x01" * 32, mac=b"\x02" * 32
        )
        text = drawn(mode_view(account_pb2.SetBillingModeResponse(receipt=receipt)))
        assert "5 credits" in text
        assert "01" * 32 in text
        assert "02" * 32 in text

    def test_a_proof_that_does_not_hold_says_so(self) -> None:
        proof = account_pb2.ResumeProof(proven=False)
        assert "NO" in drawn(mode_view(account_pb2.SetBillingModeResponse(proof=proof)))

    def test_a_plan_shows_its_fee(self) -> None:
        fee = plan_pb2.Fee(
            basis=plan_pb2.FEE_BASIS_VENDOR_COST,
            rate_parts_per_million=50_000,
            source=plan_pb2.FEE_SOURCE_INVOICE,
            free_request_count=1_000_000,
            cap_nano_credits={"openai/sora": 10**9},
        )
        text = drawn(plans_table([plan_pb2.Plan(name="plans/paid", fee=fee)]))
        for part in (
            "5 % of the vendor cost",
            "from invoice",
            "1,000,000 requests a month free",
            "openai/sora: at most 1 credit",
        ):
            assert part in text

    def test_a_generation_tells_who_pays_and_what_it_cost(self) -> None:
        receipt = attempt_pb2.Receipt(
            payer=attempt_pb2.FUNDING_CREDITS,
            fallback=True,
            provider="openai",
            model="openai/gpt-4o-mini",
            charged_nano_credits=756_000,
            settlement_state=attempt_pb2.SETTLEMENT_STATE_SETTLED,
            usage=attempt_pb2.Usage(
                input_token_count=2, output_token_count=10, basis=attempt_pb2.USAGE_BASIS_ESTIMATED
            ),
        )
        assert payer_line(receipt).plain.startswith("credits pay  openai/gpt-4o-mini at openai")
        assert "in place of an own key" in payer_line(receipt).plain
        end = text_pb2.TextFinish(finish_reason=text_pb2.FINISH_REASON_STOP, receipt=receipt)
        assert cost_line(end).plain == (
            "unpriced at the provider  ·  charged 0.000756 credits  ·  "
            "tokens 2 in, 10 out, estimated  ·  stop"
        )
        receipt.settlement_state = attempt_pb2.SETTLEMENT_STATE_PENDING
        assert "lands later" in cost_line(text_pb2.TextFinish(receipt=receipt)).plain


class TestOutput:
    def test_with_json_the_answer_is_one_document_and_notes_stay_out_of_it(self) -> None:
        stdout, stderr = io.StringIO(), io.StringIO()
        out = Output(as_json=True, stdout=stdout, stderr=stderr)
        out.note("trying again")
        answer = keyvault_service_pb2.ListKeysResponse(keys=[key_pb2.Key(label="Grüße")])
        out.answer(answer, lambda: "never drawn")
        assert json.loads(stdout.getvalue())["keys"][0]["label"] == "Grüße"
        assert stderr.getvalue() == "trying again\n"

    def test_a_failure_is_a_json_line_beside_it(self) -> None:
        stdout, stderr = io.StringIO(), io.StringIO()
        Output(as_json=True, stdout=stdout, stderr=stderr).fault({"reason": "X"})
        assert json.loads(stderr.getvalue()) == {"error": {"reason": "X"}}
        assert stdout.getvalue() == ""

    def test_a_pipe_gets_a_generated_text_as_it_is(self) -> None:
        stdout = io.StringIO()
        Output(as_json=False, stdout=stdout).text("a\x1bb")
        assert stdout.getvalue() == "a\x1bb"


class TestEstimate:
    @pytest.mark.requirement("R6")
    def test_credits_and_each_model_on_an_own_key_stand_side_by_side(self) -> None:
        rates = attempt_pb2.PriceUsed(
            input_nano_usd_per_million_tokens=150_000_000,
            output_nano_usd_per_million_tokens=600_000_000,
        )
        own = explain_pb2.CostEstimate(
            funding=attempt_pb2.FUNDING_OWN_KEY,
            provider="openrouter",
            model="openai/gpt-4o-mini",
            cost_nano_usd=17_400_000,
            price=rates,
        )
        on_credits = explain_pb2.CostEstimate(
            funding=attempt_pb2.FUNDING_CREDITS,
            cost_nano_usd=500_000_000,
            cost_nano_credits=50_000_000_000,
        )
        text = drawn(estimate_table([own, on_credits]), columns=120)
        assert "openai/gpt-4o-mini  openrouter  $0.0174" in text
        assert "$0.15/M, $0.60/M" in text
        assert "$0.5000" in text
        assert "50 credits" in text

    def test_nothing_to_compare_is_a_sentence(self) -> None:
        assert "has a price" in drawn(estimate_table([]), columns=120)
