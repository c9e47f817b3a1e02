# SPDX-License-Identifier: Apache-2.0
"""
`python -m tests.screenshots`: pictures of the settings page for the README, from a real suite.

The suite and its browser are this run's own; everything on the pictures is made up.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from deploy.local.suite import Ports, Suite
from deploy.local.walk import walk
from tests.support.browser import running_browser
from tests.support.settings_page import open_settings
from tests.support.source import ROOT

FOLDER = ROOT / "docs" / "images"
LOOKS = ("light", "dark")
VIEW = {"width": 1240, "height": 900}
NOTES_GONE_SECONDS = 7.0
COOLING_SECONDS = 30.0
"""How long the walk's last rate limit keeps the key from being used."""


def main() -> None:
    """Start a suite, use it a little, take the pictures."""
    console = Console(quiet=True)
    with (
        tempfile.TemporaryDirectory(prefix="ownkey-screenshots-") as folder,
        Suite(Path(folder) / "state", ports=Ports.any_free()) as suite,
    ):
        account = asyncio.run(walk(suite, console))
        suite.start_settings_page(account)
        asyncio.run(_take(suite))


async def _take(suite: Suite) -> None:
    async with running_browser() as browser:
        context, settings = await open_settings(browser, suite, viewport=VIEW)
        await settings.choose_mode("Own key first")
        await settings.button("Enable OpenAI, my key").click()
        await settings.button("Test OpenAI, my key").click()
        await settings.said("It works")
        await settings.add(
            "sk-ant-api03-research-0123456789abcdefghijkl", "research", provider="anthropic"
        )
        await settings.add(
            "sk-or-v1-nocredit-0123456789abcdefghijklmnop", "spare", provider="openrouter"
        )
        await settings.add(
            "sk-proj-kept-here-0123456789abcdefghijklmnop",
            "only here",
            where="In this browser only",
        )
        await asyncio.sleep(COOLING_SECONDS)
        for source in ("Own key", "Credits", "Automatic"):
            await settings.choose("Paid by", source)
            await settings.generate()
        await asyncio.sleep(NOTES_GONE_SECONDS)
        await settings.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        FOLDER.mkdir(parents=True, exist_ok=True)
        for look in LOOKS:
            await settings.page.emulate_media(color_scheme=look, reduced_motion="reduce")
            path = FOLDER / f"settings-{look}.png"
            await settings.page.screenshot(path=path, full_page=True)
            sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes\n")
        await context.close()


if __name__ == "__main__":
    main()
