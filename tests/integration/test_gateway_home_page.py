"""The page at the root in a real browser: within its own policy, on a telephone, in the dark, by keyboard."""

from pathlib import Path

from playwright.async_api import ViewportSize

from tests.browser import browser
from tests.serving import NO_BROKER, serving

TELEPHONE = ViewportSize(width=390, height=844)
CONTRAST = """() => {
    const light = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return Math.min(...[...document.querySelectorAll('h1, p, a, span, code')].map(e => {
        const ink = light(getComputedStyle(e).color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    }));
}"""


async def test_it_is_readable_anywhere_and_led_through_by_keyboard(tmp_path: Path) -> None:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/gateway.db") as gateway, browser() as chromium:
        for scheme in ("dark", "light"):
            page = await chromium.new_page(viewport=TELEPHONE, color_scheme=scheme, base_url=gateway.url)  # type: ignore[arg-type]
            complaints: list[str] = []
            page.on("console", lambda said, to=complaints: to.append(said.text))  # type: ignore[misc]
            await page.goto("/")
            assert await page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]
            assert await page.evaluate(CONTRAST) >= 4.5, scheme
            assert await page.locator("pre").evaluate("e => e.scrollWidth <= e.clientWidth"), "the command wraps"
            assert complaints == []
        links = await page.locator("a").count()
        for number in range(links):
            await page.keyboard.press("Tab")
            assert await page.locator("a").nth(number).evaluate("e => e === document.activeElement")
        await page.locator("a").nth(links - 1).press("Enter")
        await page.wait_for_url("**/livez")
