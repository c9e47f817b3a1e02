# SPDX-License-Identifier: Apache-2.0
"""The settings page as a person uses it, by the names that it shows and says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect
from playwright.async_api import Error as BrowserError

from deploy.local.suite import Suite

ACTION_MILLISECONDS_MAX = 20_000.0
"""Longer than a click takes, shorter than a test may."""
LOOK = """async () => {
  const kept = [document.documentElement.outerHTML, location.href, document.cookie];
  kept.push(JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage }));
  kept.push(...[...document.querySelectorAll("input, textarea")].map((field) => field.value));
  kept.push(...performance.getEntries().map((entry) => entry.name));
  // Opened before the page did, it would be made, and made wrongly.
  if (!(await indexedDB.databases()).some(({ name }) => name === "ownkey")) return kept.join("\\n");
  const open = indexedDB.open("ownkey");
  await new Promise((resolve) => { open.onsuccess = resolve; });
  for (const name of open.result.objectStoreNames) {
    const request = open.result.transaction(name).objectStore(name).getAll();
    await new Promise((resolve) => { request.onsuccess = resolve; });
    kept.push(JSON.stringify(request.result));
  }
  open.result.close();
  return kept.join("\\n");
}"""


expect.set_options(timeout=ACTION_MILLISECONDS_MAX)


@dataclass(frozen=True, slots=True)
class SettingsPage:
    """
    The page in a browser that was let in.

    Args:
        page: The tab.
        faults: What the page's own code failed with; a test ends with none.
    """

    page: Page
    faults: list[BrowserError]

    def key(self, label: str) -> Locator:
        """The card of the key with a label."""
        return self.page.locator(".key").filter(has_text=label)

    def button(self, name: str) -> Locator:
        """A button by the name that is said for it."""
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def dialog(self) -> Locator:
        """The dialog that is open."""
        return self.page.get_by_role("dialog")

    async def said(self, text: str) -> None:
        """Wait until the page has said something."""
        await expect(self.page.get_by_role("status").last).to_contain_text(text)

    async def add(
        self, secret: str, label: str, *, provider: str = "openai", where: str = "On the server"
    ) -> None:
        """Add a key by its dialog, and wait for it."""
        await self.fill_add(secret, label, provider=provider, where=where)
        await self.button("Test and add").click()
        await expect(self.dialog).to_have_count(0)
        await expect(self.key(label)).to_be_visible()

    async def fill_add(
        self, secret: str, label: str, *, provider: str = "openai", where: str = "On the server"
    ) -> None:
        """Fill the dialog for a new key."""
        await self.button("Add a key").click()
        await self.page.get_by_label("Provider", exact=True).select_option(provider)
        await self.page.get_by_label("Key", exact=True).fill(secret)
        await self.page.get_by_label("Label", exact=True).fill(label)
        await self.page.get_by_role("radio", name=where).check()

    async def more(self, label: str, action: str) -> None:
        """Press one of a key's further buttons."""
        card = self.key(label)
        if not await card.locator("details[open]").count():
            await card.locator("summary").click()
        await card.get_by_text(action, exact=True).click()

    async def choose_mode(self, name: str) -> None:
        """Choose who pays, and wait until it is so."""
        await self.page.get_by_role("radio", name=name).first.check()
        await self.button("Apply").click()
        await expect(self.button("Apply")).to_be_disabled()
        await expect(self.page.locator("#summary")).to_contain_text(name)

    async def generate(self) -> str:
        """Generate; what the answer's place shows at the end."""
        await self.button("Generate").click()
        await expect(self.button("Generate")).to_be_enabled()
        return await self.page.locator("#answer").inner_text()

    async def choose(self, group: str, option: str) -> None:
        """Choose one of a row."""
        row = self.page.get_by_role("group", name=group)
        await row.get_by_role("radio", name=option, exact=True).check()

    async def everything(self) -> str:
        """All that the page holds: its elements, fields, addresses and stores."""
        held: str = await self.page.evaluate(LOOK)
        return held


async def open_settings(
    browser: Browser, suite: Suite, **settings: Any
) -> tuple[BrowserContext, SettingsPage]:
    """
    The page in a profile of its own, opened by the newest link.

    Args:
        browser: Chromium.
        suite: Whose page it is.
        settings: Of the profile, for example `color_scheme`.
    """
    context = await browser.new_context(reduced_motion="reduce", **settings)
    context.set_default_timeout(ACTION_MILLISECONDS_MAX)
    page = await context.new_page()
    faults: list[BrowserError] = []
    page.on("pageerror", lambda fault: faults.append(fault))  # noqa: PLW0108 - it is marked
    await page.goto(suite.settings_link)
    await expect(page.get_by_role("heading", name="Your keys")).to_be_visible()
    return context, SettingsPage(page, faults)
