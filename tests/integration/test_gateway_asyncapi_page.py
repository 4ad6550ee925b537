"""The page of the messages in a real browser: it works by itself, in the dark and on a telephone too."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, ViewportSize

from shared import asyncapi
from tests.browser import browser
from tests.nodejs import FOLDER, PAGE, VENDORED, packages
from tests.serving import NO_BROKER, serving

TELEPHONE, SCREEN = ViewportSize(width=390, height=844), ViewportSize(width=1400, height=900)


class Looked:
    """A page, and what it did that it should not have."""

    def __init__(self, page: Page, own: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((own, "data:")) else self.complaints.append(r.url))

    async def open(self, path: str, shows: str) -> None:
        await self.page.goto(path)
        await self.page.locator("#introduction, .waiting", has_text=shows).wait_for(timeout=60_000)


@pytest.fixture
async def gateway_url(tmp_path: Path) -> AsyncIterator[str]:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/gateway.db") as gateway:
        yield gateway.url


async def test_it_shows_every_message_and_asks_nobody_else(gateway_url: str) -> None:
    async with browser() as chromium:
        screen, telephone, broken = await asyncio.gather(
            _on_a_screen_in_the_dark(chromium, gateway_url),
            _on_a_telephone(chromium, gateway_url),
            _without_its_document(chromium, gateway_url),
        )
    assert (screen, telephone) == ([], [])
    assert all("503" in complaint for complaint in broken)


async def _on_a_screen_in_the_dark(chromium: Browser, url: str) -> list[str]:
    page = await chromium.new_page(viewport=SCREEN, color_scheme="dark", base_url=url)
    looked = Looked(page, url)
    await looked.open("/asyncapi", f"Malote {asyncapi.VERSION}")
    document = json.loads(asyncapi.text(asyncapi.ALL))
    shown = await page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert {f"message-{key}" for key in document["components"]["messages"]} <= set(shown)
    assert {f"operation-{part['action']}-{name}" for name, part in document["operations"].items()} <= set(shown)
    brightness = "e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    for part in ("body", ".aui-root .bg-white", ".aui-root .bg-gray-200", ".aui-root .bg-gray-100"):
        assert await page.locator(part).first.evaluate(brightness) < 3 * 80, part
    return looked.complaints


async def _on_a_telephone(chromium: Browser, url: str) -> list[str]:
    page = await chromium.new_page(viewport=TELEPHONE, base_url=url)
    looked = Looked(page, url)
    await looked.open("/asyncapi/stock", "Malote: stock")
    assert await page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"], "nothing sticks out"
    assert await page.locator("[id='message-stock.low.v1']").count() == 1
    assert await page.locator("[id='message-order.place.v1']").count() == 0, "only what the service has to do with"
    return looked.complaints


async def _without_its_document(chromium: Browser, url: str) -> list[str]:
    page = await chromium.new_page(base_url=url)
    looked = Looked(page, url)

    async def refuse(route: Route) -> None:
        await route.fulfill(status=503)

    await page.route("**/*.json", refuse)
    await looked.open("/asyncapi", "/asyncapi.json answers 503")
    return looked.complaints


@pytest.mark.parametrize("name", VENDORED)
def test_the_component_is_the_one_of_the_locked_version(name: str) -> None:
    packages()
    assert (PAGE / name).read_bytes() == VENDORED[name].read_bytes(), "run `make page`"


def test_the_locked_packages_name_no_registry() -> None:
    assert "://registry" not in (FOLDER / "package-lock.json").read_text()
