"""The page of the messages in a real browser: it works by itself, in the dark and on a telephone too."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, ViewportSize

from shared.docs import asyncapi
from tests.browser import browser
from tests.nodejs import FOLDER
from tests.serving import NO_BROKER, serving

TELEPHONE, SCREEN = ViewportSize(width=360, height=800), ViewportSize(width=1400, height=900)
WHOLE = json.loads(asyncapi.text(asyncapi.ALL))


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
        await self.page.locator("h1, .waiting", has_text=shows).wait_for(timeout=60_000)

    async def heading(self, text: str) -> None:
        await self.page.locator("h1", has_text=text).wait_for()

    async def text(self) -> str:
        return " ".join((await self.page.locator("main").inner_text()).split())

    async def sticks_out(self) -> bool:
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


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
    await looked.open("/asyncapi", "Malote's messages")
    assert await page.evaluate("document.documentElement.scrollHeight") < 8_000, "an index first"
    listed = await page.evaluate("[...document.querySelectorAll('.index a')].map(a => decodeURIComponent(a.hash))")
    queues = [name for name, channel in WHOLE["channels"].items() if channel["bindings"]["amqp"]["is"] == "queue"]
    messages = [f"#/message/{name}" for name in WHOLE["components"]["messages"]]
    assert sorted(listed) == sorted([*messages, *(f"#/channel/{name}" for name in queues)])
    brightness = "e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    for part in ("body", "header", "input"):
        assert await page.locator(part).first.evaluate(brightness) < 3 * 80, part
    for address in [*listed, "#/guide"]:  # each can be shown
        await page.evaluate("address => { location.hash = address }", address)
        await looked.heading("Guide" if address == "#/guide" else address.rpartition("/")[2])
    return looked.complaints


async def _on_a_telephone(chromium: Browser, url: str) -> list[str]:
    """From the keyboard: search, open, read, go back."""
    page = await chromium.new_page(viewport=TELEPHONE, base_url=url)
    looked = Looked(page, url)
    await looked.open("/asyncapi/stock", "Messages of stock")
    assert not await looked.sticks_out()
    assert await page.locator(".index a", has_text="stock.low.v1").count() == 1
    assert await page.locator(".index a", has_text="report.create.v1").count() == 0, (
        "only what the service has to do with"
    )
    await page.keyboard.press("/")
    await page.keyboard.type("reserved THRESHOLD")
    await page.locator("[role=status]", has_text="0 found.").wait_for()
    await page.keyboard.press("ControlOrMeta+a")
    await page.keyboard.type("low threshold")
    await page.locator("[role=status]", has_text="1 found.").wait_for()
    await page.keyboard.press("Enter")
    await looked.heading("stock.low.v1")
    assert await page.title() == "stock.low.v1 · Messages of stock"
    assert not await looked.sticks_out()
    said = await looked.text()
    assert "Sent by stock, to the exchange stock under the key stock.low.v1." in said
    assert "Read by email." in said
    assert "threshold integer required At least 0." in said
    assert "message_id string required AMQP property." in said
    example = json.loads(await page.locator("pre").first.inner_text())
    assert example["threshold"] == 5
    await page.go_back()
    await looked.heading("Messages of stock")
    await page.goto("/asyncapi#/message/order.place.v1")
    await looked.heading("order.place.v1")
    said = await looked.text()
    assert "a shop's own system, as the user shop" in said
    assert 'customer.locale string optional One of "pt-BR", "en". By default "pt-BR".' in said
    assert "lines[].quantity integer required At least 1; at most 10000." in said
    await page.locator("dl a", has_text="orders").click()
    await page.locator(".summary", has_text="Price an order from the price list").wait_for()
    assert "x-dead-letter-exchange" in await looked.text()
    return looked.complaints


async def _without_its_document(chromium: Browser, url: str) -> list[str]:
    page = await chromium.new_page(base_url=url)
    looked = Looked(page, url)

    async def refuse(route: Route) -> None:
        await route.fulfill(status=503)

    await page.route("**/*.json", refuse)
    await looked.open("/asyncapi", "/asyncapi.json answers 503")
    return looked.complaints


def test_the_locked_packages_name_no_registry() -> None:
    assert "://registry" not in (FOLDER / "package-lock.json").read_text()
