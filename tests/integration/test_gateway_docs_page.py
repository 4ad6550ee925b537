"""The page of the HTTP interface in a real browser: nothing that it cannot find, and readable in the dark."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Locator

from tests.browser import browser
from tests.serving import NO_BROKER, Served, serving

SCREEN = {"width": 1200, "height": 900}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/gateway.db") as served:
        yield served


async def test_it_shows_an_operation_with_its_errors_and_readable_in_the_dark(gateway: Served) -> None:
    async with browser() as chromium:
        page = await chromium.new_page(viewport=SCREEN, color_scheme="dark", base_url=gateway.url)  # type: ignore[arg-type]
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto("/docs")
        await page.locator(".opblock").first.wait_for(timeout=60_000)
        placing = page.locator("[id^=operations-orders-place_order]")
        await placing.locator(".opblock-summary-control").click()
        await placing.locator(".responses-table .highlight-code").last.wait_for(timeout=60_000)
        assert not await page.locator(".errors-wrapper").count(), await page.locator(".errors-wrapper").inner_text()
        assert complaints == []
        name = page.locator(".models .json-schema-2020-12-head", has_text="ProblemDetails")
        assert await _is_light_on_dark(name.locator(".json-schema-2020-12__title"))
        assert await _is_light_on_dark(name.locator(".json-schema-2020-12-expand-deep-button"))
        assert await _is_light_on_dark(placing.locator(".responses-table .highlight-code").last)


async def _is_light_on_dark(part: Locator) -> bool:
    """As it is painted: filters are not in the styles that a page says of itself."""
    picture = Image.open(io.BytesIO(await part.screenshot())).convert("L")
    shades = sorted(picture.tobytes())
    return shades[len(shades) // 2] < 80 and shades[-1] > shades[len(shades) // 2] + 90
