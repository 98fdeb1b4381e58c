"""A real browser, for pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Dialog, Page, sync_playwright

_TIMEOUT_MS = 180_000
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Seen:
    """A page, the addresses that it asked for, what it complained of and what it asked the person."""

    page: Page
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def note_dialog(self, dialog: Dialog) -> None:
        """Keep what a script said to the person, and close it."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@contextmanager
def opened_browser() -> Iterator[Seen]:
    """An empty page in Chromium; the test is skipped where none is installed."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        # Its sandbox needs rights that root in a container does not have; it opens nothing but pages of the tests.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        seen = Seen(browser.new_page())
        seen.page.set_default_timeout(_TIMEOUT_MS)
        seen.page.on("dialog", seen.note_dialog)
        seen.page.on("request", lambda request: seen.requested.append(request.url))
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        yield seen
        browser.close()
