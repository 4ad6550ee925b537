"""A real browser, for what is made to be looked at."""

import contextlib
import ctypes.util
import shutil
from collections.abc import AsyncIterator

from playwright.async_api import Browser, async_playwright

from deploy.local import install

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's program, from the system's packages if it is missing."""
    if not any(map(shutil.which, _NAMES)):
        install.package("chromium")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "Chromium is missing: install it (Debian: apt-get install chromium)"
    return found


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser without a window. It is not sandboxed: root may not, and it sees only our own pages."""
    program = chromium()
    if ctypes.util.find_library("atomic") is None:  # what playwright's own driver is linked with
        install.package("libatomic1")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield launched
        finally:
            await launched.close()
