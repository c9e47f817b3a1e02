# SPDX-License-Identifier: Apache-2.0
"""The settings page in headless Chromium, against the running suite, as a person uses it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from google.protobuf import field_mask_pb2
from ownkey.keyvault.v1 import key_pb2, keyvault_service_pb2
from ownkey.ledger.v1 import account_pb2, grant_pb2, usage_pb2
from playwright.async_api import Browser, expect

from deploy.local.clients import Clients
from deploy.local.suite import Suite
from services.shared.ids import new_id
from tests.e2e import support
from tests.support.browser import running_browser
from tests.support.settings_page import SettingsPage, open_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.requirement("O10")]

NARROW = {"width": 360, "height": 740}
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
"""The rules of axe-core that the page is held to."""


@dataclass(frozen=True, slots=True)
class Stage:
    """
    What all tests here share: starting a browser takes longer than a test.

    Args:
        suite: With its settings page.
        browser: Chromium.
        clients: Stubs to the suite, to look behind the page.
        account: Whose page it is.
    """

    suite: Suite
    browser: Browser
    clients: Clients
    account: str

    async def keys(self) -> list[key_pb2.Key]:
        """The account's keys."""
        return await support.list_keys(self.clients, self.account)

    async def key(self, label: str) -> key_pb2.Key:
        """The key with a label."""
        return next(key for key in await self.keys() if key.label == label)

    async def clear(self) -> None:
        """Begin anew: no keys, nothing set, own keys first."""
        for key in await self.keys():
            await self.clients.keyvault.DeleteKey(
                keyvault_service_pb2.DeleteKeyRequest(name=key.name, request_id=new_id())
            )
        mode = account_pb2.BILLING_MODE_OWN_KEY_FIRST
        await support.set_mode(self.clients, self.account, mode)
        await self.clients.keyvault.UpdateSettings(
            keyvault_service_pb2.UpdateSettingsRequest(
                settings=key_pb2.Settings(name=f"{self.account}/settings"),
                update_mask=field_mask_pb2.FieldMask(paths=["active_provider", "use_backups"]),
                request_id=new_id(),
            )
        )

    async def posted(self) -> int:
        """What the account owns, nano-credits."""
        return (await self._balance()).posted_nano_credits

    async def nothing_is_held(self) -> bool:
        """Whether all that earlier tests began is settled."""
        return (await self._balance()).reserved_nano_credits == 0

    async def _balance(self) -> grant_pb2.Balance:
        request = grant_pb2.GetBalanceRequest(account=self.account)
        return (await self.clients.ledger.GetBalance(request)).balance


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(suite: Suite, settings_account: str) -> AsyncIterator[Stage]:
    async with running_browser() as browser, support.clients_of(suite) as clients:
        yield Stage(suite, browser, clients, settings_account)


@pytest_asyncio.fixture(loop_scope="module")
async def settings(stage: Stage) -> AsyncIterator[SettingsPage]:
    """The page of an account without keys, in a browser that was let in."""
    await stage.clear()
    context, opened = await open_settings(stage.browser, stage.suite)
    try:
        yield opened
        assert opened.faults == []
    finally:
        await context.close()


class TestKeys:
    @pytest.mark.requirement("K1", "K2", "K3", "K8")
    async def test_a_key_is_cleaned_tested_and_never_shown_again(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        secret = support.new_secret()
        await settings.add(f"  Bearer {secret} ", "team")
        card = settings.key("team")

        await expect(card).to_contain_text("Works")
        await expect(card.locator("code")).to_have_text(f"sk-proj-…{secret[-4:]}")
        assert secret not in await settings.everything()
        await settings.page.reload()
        await expect(card).to_contain_text("On the server")
        assert secret not in await settings.everything()
        assert secret not in (stage.suite.state.logs / "web.log").read_text()

    @pytest.mark.requirement("K2", "K3")
    async def test_a_refused_key_is_told_with_what_to_do_and_is_not_kept(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        for secret, reason in (
            (support.new_secret(fault="revoked"), "KEY_INVALID"),
            (support.new_secret("openrouter"), "SECRET_MALFORMED"),
        ):
            await settings.fill_add(secret, "refused")
            await settings.button("Test and add").click()
            told = settings.dialog.get_by_role("alert")
            await expect(told).to_contain_text(reason)
            await expect(settings.page.get_by_label("Key", exact=True)).to_have_value("")
            await expect(settings.page.get_by_label("Key", exact=True)).to_be_focused()
            assert secret not in await settings.everything()
            await settings.page.keyboard.press("Escape")
            await expect(settings.dialog).to_have_count(0)

        assert await stage.keys() == []

    @pytest.mark.requirement("K4", "K5", "K6", "K14")
    async def test_keys_are_tested_picked_ordered_and_switched(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "first")
        await settings.add(support.new_secret(fault="nocredit"), "second")
        poor = settings.key("second")
        await expect(poor).to_contain_text("Out of money")
        await expect(poor.locator(".next")).not_to_be_empty()
        await settings.button("Test OpenAI, first").click()
        await settings.said("OpenAI, first: It works")
        await settings.button("Make active: OpenAI, second").click()
        await expect(poor.locator(".badge").first).to_have_text("Active")
        await settings.more("second", "Move up")
        await expect(settings.page.locator(".key").first).to_contain_text("second")
        await settings.button("Disable OpenAI, second").click()
        await expect(poor).to_contain_text("Disabled")
        keys = await stage.keys()

        assert [key.label for key in keys] == ["second", "first"]
        assert [key.active for key in keys] == [True, False]
        assert keys[0].state == key_pb2.KEY_STATE_DISABLED
        await settings.button("Enable OpenAI, second").click()
        await settings.said("serves again")
        assert (await stage.key("second")).state == key_pb2.KEY_STATE_ENABLED

    @pytest.mark.requirement("K7", "K8")
    async def test_a_key_is_edited_replaced_and_deleted(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "old name")
        await settings.more("old name", "Edit")
        await settings.page.get_by_label("Label", exact=True).fill("new name")
        await settings.page.get_by_label("Monthly limit in US dollars").fill("2.5")
        await settings.button("Save").click()
        await expect(settings.key("new name")).to_contain_text("≤ $2.50 a month")
        secret = support.new_secret()
        await settings.button("Replace OpenAI, new name").click()
        await settings.page.get_by_label("New key").fill(secret)
        await settings.button("Test and replace").click()
        await settings.said("Replaced OpenAI, new name")
        key = await stage.key("new name")

        assert (key.version, key.hint[-4:]) == (2, secret[-4:])
        assert key.monthly_limit_nano_usd == 2_500_000_000
        assert secret not in await settings.everything()
        await settings.more("new name", "Delete")
        await settings.button("Delete it").click()
        await expect(settings.page.locator(".key")).to_have_count(0)
        assert await stage.keys() == []

    @pytest.mark.requirement("K5")
    async def test_the_active_provider_and_backups_are_chosen(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "one")
        await settings.add(support.new_secret("anthropic"), "two", provider="anthropic")
        await settings.page.get_by_label("Requests that name no model go to").select_option(
            "anthropic"
        )
        await settings.said("go to Anthropic now")
        await settings.page.get_by_label("Use the other keys as backups").check()
        await settings.said("The other keys are backups now")
        request = keyvault_service_pb2.GetSettingsRequest(name=f"{stage.account}/settings")
        kept = (await stage.clients.keyvault.GetSettings(request)).settings

        assert (kept.active_provider, kept.use_backups) == ("anthropic", True)

    @pytest.mark.requirement("K10")
    async def test_a_key_lives_in_the_browser_and_moves(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        secret = support.new_secret()
        await settings.add(secret, "here", where="In this browser only")
        await expect(settings.key("here")).to_contain_text("In this browser")
        await settings.button("Test OpenAI, here").click()
        await settings.said("It works")
        await settings.choose("Paid by", "Own key")
        assert "Your key pays" in await settings.generate()
        assert secret not in await settings.everything()
        assert (await stage.key("here")).residence == key_pb2.RESIDENCE_CLIENT_HELD

        for action, shown, residence in (
            ("Move to the server", "On the server", key_pb2.RESIDENCE_SERVER),
            ("Move to this browser", "In this browser", key_pb2.RESIDENCE_CLIENT_HELD),
        ):
            await settings.more("here", action)
            await settings.button("Move it").click()
            await expect(settings.key("here")).to_contain_text(shown)
            assert (await stage.key("here")).residence == residence
        assert "Your key pays" in await settings.generate()


class TestPaying:
    @pytest.mark.requirement("L4", "R12")
    async def test_the_balance_is_the_ledgers_to_the_last_unit(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        # An odd unit, so that two digits cannot be all.
        odd = grant_pb2.AdjustCreditsRequest(
            request_id=new_id(),
            account=stage.account,
            amount_nano_credits=1 + (await stage.posted()) % 2,
            reason="a unit more",
        )
        await stage.clients.ledger.AdjustCredits(odd)
        await support.eventually(stage.nothing_is_held)
        whole, part = divmod(await stage.posted(), support.NANO)
        await settings.page.reload()
        payer = settings.page.locator("#payer")

        exact = f"{whole:,}.{part:09}".rstrip("0")
        await expect(payer).to_contain_text(f"{exact} credits, to the last unit")
        shown = f"{exact}00"[: len(f"{whole:,}.") + 2]
        await expect(payer.locator(".balance")).to_have_text(f"{shown} credits available")
        summary = settings.page.locator("#summary")
        await expect(summary).to_contain_text(f"{shown} credits")
        await expect(summary).to_contain_text("Own key first")

    @pytest.mark.requirement("L4", "L5")
    async def test_credits_pause_with_a_receipt_and_resume_with_a_proof(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "payer")
        before = await stage.posted()
        await settings.choose_mode("Own key only")
        payer = settings.page.locator("#payer")
        await expect(payer).to_contain_text("Receipt of the pause")
        await expect(payer.locator(".balance")).to_contain_text("Paused")
        assert "Your key pays" in await settings.generate()
        await settings.choose_mode("Own key first")

        await expect(payer).to_contain_text("Resumed, and proven")
        assert await stage.posted() == before

    @pytest.mark.requirement("L1")
    async def test_a_mode_that_the_plan_forbids_cannot_be_chosen(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        plans = await stage.clients.ledger.GetAccount(
            account_pb2.GetAccountRequest(name=stage.account)
        )
        assert plans.account.plan == "plans/standard"
        # As the page would read it of another plan.
        await settings.page.route(
            "**/api/ledger/ListPlans",
            lambda route: route.fulfill(
                json={
                    "plans": [
                        {
                            "name": "plans/standard",
                            "title": "Small",
                            "allowedModes": ["BILLING_MODE_CREDITS", "BILLING_MODE_OWN_KEY_FIRST"],
                        }
                    ]
                }
            ),
        )
        await settings.page.reload()
        only = settings.page.get_by_role("radio", name="Own key only")

        await expect(only).to_be_disabled()
        await expect(only).to_have_accessible_description(re.compile("Not on the plan Small"))


class TestTrying:
    @pytest.mark.requirement("R2", "R7")
    async def test_the_preference_is_inert_on_an_own_key_and_says_why(
        self, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "own")
        prefer = settings.page.get_by_role("group", name="Prefer")
        await expect(settings.page.locator("#foreseen")).to_contain_text("Your key would pay")
        await expect(prefer.get_by_role("radio").first).to_be_disabled()
        await expect(settings.page.locator("#tier-why")).to_contain_text(
            "Without effect on your own key: it serves openai/gpt-4o-mini"
        )
        answer = await settings.generate()

        assert "Your key pays openai/gpt-4o-mini at OpenAI" in answer
        assert "Simulated answer of gpt-4o-mini" in answer
        assert "No credits were charged" in answer

    @pytest.mark.requirement("R7", "R12")
    async def test_on_credits_the_preference_chooses_the_model(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.choose("Paid by", "Credits")
        before = await stage.posted()
        for preference, model in (
            ("Speed", "openai/gpt-4.1-nano"),
            ("Quality", "anthropic/claude-sonnet-4-6"),
        ):
            await settings.choose("Prefer", preference)
            await expect(settings.page.locator("#foreseen")).to_contain_text(model)
            answer = await settings.generate()
            assert f"Credits pay {model}" in answer
            assert "Charged" in answer

        assert await stage.posted() < before
        await settings.page.get_by_label("Model", exact=True).select_option("openai/gpt-4o-mini")
        await expect(settings.page.locator("#tier-why")).to_contain_text("You named a model")

    @pytest.mark.requirement("R11")
    async def test_a_failure_says_why_what_to_do_and_what_was_tried(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.choose("Paid by", "Own key")
        answer = await settings.generate()
        assert "NO_USABLE_OWN_KEY" in answer
        assert "Add a key that serves this model" in answer

        mode = account_pb2.BILLING_MODE_OWN_KEY_ONLY
        await support.set_mode(stage.clients, stage.account, mode)
        secret = support.new_secret()
        await settings.add(secret, "failing")

        async def tried() -> bool:
            return "Tried: openai (server error)" in await settings.generate()

        async with support.fault(stage.clients, secret, "error500"):
            # A router may go by what it knew for a second more.
            await support.eventually(tried, seconds=20.0)


class TestUsage:
    @pytest.mark.requirement("L10")
    async def test_charts_have_the_numbers_of_the_ledger_as_tables(
        self, stage: Stage, settings: SettingsPage
    ) -> None:
        await settings.add(support.new_secret(), "used")
        await settings.generate()
        rows = (
            await stage.clients.ledger.GetUsage(usage_pb2.GetUsageRequest(account=stage.account))
        ).rows
        own = sum(row.attempt_count for row in rows if row.key)
        usage = settings.page.locator("#usage")

        await expect(usage.get_by_role("img")).to_have_accessible_name(
            re.compile(rf"Requests by day: {own} requests? on own keys")
        )
        await usage.get_by_text("As a table").first.click()
        await expect(usage.get_by_role("table", name="By day").locator("tbody tr")).to_have_count(
            len({row.day for row in rows})
        )
        await settings.choose("Measured by", "Vendor cost")
        await expect(usage.get_by_role("table", name="By day")).to_be_visible()
        await expect(usage.get_by_role("table", name="By day")).to_contain_text("$")


class TestEverybody:
    async def test_a_link_lets_one_browser_in_and_leaves_the_address(self, stage: Stage) -> None:
        link = stage.suite.settings_link
        first, second = await stage.browser.new_context(), await stage.browser.new_context()
        page = await first.new_page()
        await page.goto(link)
        await expect(page.get_by_role("heading", name="Your keys")).to_be_visible()
        assert "#" not in page.url
        await page.reload()
        await expect(page.get_by_role("heading", name="Your keys")).to_be_visible()
        other = await second.new_page()
        await other.goto(link)

        await expect(
            other.get_by_role("heading", name="This page opens by its link")
        ).to_be_visible()
        await expect(other.locator("#open")).to_be_hidden()
        await first.close()
        await second.close()

    async def test_a_screen_reader_finds_parts_names_and_what_happens(
        self, settings: SettingsPage
    ) -> None:
        """The accessibility tree, as Chromium gives it to assistive technology."""
        await settings.add(support.new_secret(), "read aloud")
        page = settings.page
        tree = await page.locator("body").aria_snapshot()

        for line in (
            "- banner:",
            "- main:",
            '- navigation "Parts of this page":',
            '- region "At a glance":',
            '- heading "Your keys" [level=2]',
            '- heading "Try it" [level=2]',
            '- heading "Who pays" [level=2]',
            '- heading "Usage" [level=2]',
            '- heading "OpenAI read aloud" [level=3]',
            '- button "Disable OpenAI, read aloud"',
            '- radio "Own key first',
            '- textbox "Prompt"',
            '- combobox "Model"',
        ):
            assert line in tree, f"{line} is not in {tree}"
        await settings.said("Added OpenAI")

    async def test_without_a_link_the_page_says_how_it_opens(self, stage: Stage) -> None:
        page = await stage.browser.new_page()
        await page.goto(f"http://{stage.suite.addresses.web}/#token=made-up")

        await expect(
            page.get_by_role("heading", name="This page opens by its link")
        ).to_be_visible()
        assert "token" not in page.url
        await page.close()

    async def test_the_keyboard_is_enough(self, stage: Stage, settings: SettingsPage) -> None:
        secret = support.new_secret()
        press = settings.page.keyboard.press
        await press("Tab")
        await expect(settings.page.get_by_text("Skip to the settings")).to_be_focused()
        await press("Enter")
        await press("Tab")
        await expect(settings.button("Add a key")).to_be_focused()
        await press("Enter")
        await expect(settings.page.get_by_label("Provider", exact=True)).to_be_focused()
        await press("Tab")
        await settings.page.keyboard.type(secret)
        await press("Enter")
        await expect(settings.dialog).to_have_count(0)
        await expect(settings.button("Add a key")).to_be_focused()
        await settings.button("Disable OpenAI").focus()
        await press("Space")
        await expect(settings.button("Enable OpenAI")).to_be_focused()
        await settings.page.get_by_role("radio", name="Own key first").focus()
        await press("ArrowDown")
        await press("Tab")
        await expect(settings.button("Apply")).to_be_focused()
        await press("Enter")
        await expect(settings.page.get_by_role("heading", name="Who pays")).to_be_focused()

        [key] = await stage.keys()
        assert key.state == key_pb2.KEY_STATE_DISABLED

    async def test_axe_finds_nothing_that_keeps_anybody_out(self, stage: Stage) -> None:
        await stage.clear()
        # What axe-core is injected by would be refused by the page's own policy.
        context, settings = await open_settings(stage.browser, stage.suite, bypass_csp=True)
        page = settings.page
        await settings.add(support.new_secret(fault="nocredit"), "poor")
        await settings.add(support.new_secret("anthropic"), "well", provider="anthropic")
        await settings.generate()
        found = {"light": await Axe().run(page, options={"runOnly": list(RULES)})}
        await page.set_viewport_size(NARROW)
        found["narrow"] = await Axe().run(page, options={"runOnly": list(RULES)})
        wide = await page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        found["dark"] = await Axe().run(page, options={"runOnly": ["color-contrast"]})
        await settings.button("Add a key").click()
        found["dialog"] = await Axe().run(page, context="dialog", options={"runOnly": list(RULES)})
        await context.close()

        for look, result in found.items():
            assert result.violations_count == 0, f"{look}: {result.generate_report()}"
        assert not wide
