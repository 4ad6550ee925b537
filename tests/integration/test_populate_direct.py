"""A past that was put straight into the tables is the same as one that the services went through."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from contracts.base import Message
from contracts.reports import ReadModelRebuilt, RebuildReadModel
from deploy.local import direct
from services.orders.store import Order as Placed
from services.reports import handlers
from services.reports.adapters.exporter import Exporter
from services.reports.store.read_model import Line, Movement, Order, ReadModel
from services.stock.store import Product
from shared.persistence.database import Database
from shared.testing import Harness
from tests.integration.test_reports_rebuild import facts, known
from tests.running import settings_for
from tests.serving import NO_BROKER, serving

NUMBER = 400
UNTIL = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Three empty databases."""
    if request.param == "sqlite":
        yield {service: f"sqlite:///{tmp_path / service}.db" for service in direct.DATABASES}
        return
    cluster = request.getfixturevalue("postgres")
    names = {service: f"direct_{service}" for service in direct.DATABASES}
    yield {service: cluster.create_database(name) for service, name in names.items()}
    for name in names.values():
        cluster.drop_database(name)


async def rebuilt(harness: Harness) -> list[Message]:
    """Have the read model made from what orders and stock answer."""
    said: list[Message] = [RebuildReadModel()]
    done: list[Message] = []
    while said:
        message = said.pop(0)
        if isinstance(message, ReadModelRebuilt):
            done.append(message)
        elif type(message).__name__ in ("RebuildReadModel", "FetchPage", "ProjectPage"):
            said += await harness.when(message)
    return done


async def test_a_rebuild_gives_the_same_read_model(
    urls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "STEP", 150)
    await direct.populate(urls, NUMBER, days=30, until=UNTIL)
    async with (
        serving("orders", NO_BROKER, urls["orders"]) as orders,
        serving("stock", NO_BROKER, urls["stock"]) as stock,
    ):
        settings: Any = settings_for(
            "reports", NO_BROKER, urls["reports"], orders_url=orders.url, stock_url=stock.url, storage_url=str(tmp_path)
        )
        written = Database(urls["reports"])
        resources = [settings, Exporter(settings, written)]
        async with Harness(handlers, Order, resources=resources) as harness:
            await harness.given(ReadModel())
            (end,) = await rebuilt(harness)
            assert isinstance(end, ReadModelRebuilt)
            assert end.entries > 2 * NUMBER
            assert await known(written) == await known(harness._database)
        await written.dispose()


async def test_levels_and_movements_agree_and_each_step_has_a_revision_of_its_own(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "STEP", 150)
    told: list[int] = []
    await direct.populate(urls, NUMBER, days=30, until=UNTIL, done=told.append)
    assert told == [150, 150, 100]
    reports, stock = Database(urls["reports"]), Database(urls["stock"])
    async with stock.reading() as session:
        levels = {row.sku: (row.on_hand, row.reserved) for row in (await session.scalars(select(Product))).all()}
    assert (await facts(reports))[1] == levels
    async with reports.reading() as session:
        revision = (await session.get_one(ReadModel, 1)).revision
        for table in (Order, Line, Movement):
            column: Any = table.revision
            assert sorted((await session.scalars(select(column).distinct())).all()) == [1, 2, 3], table
        confirmed: Any = Order.confirmed_at
        known_at: Any = Order.confirmed_revision
        strange = select(func.count()).select_from(Order).where(confirmed.is_(None) != known_at.is_(None))
        assert await session.scalar(strange) == 0
    assert revision == 3
    for database in (reports, stock):
        await database.dispose()


async def test_what_is_there_already_stays_and_its_prices_are_kept_to(urls: dict[str, str]) -> None:
    await direct.populate(urls, 50, days=30, until=UNTIL)
    databases = {service: Database(url) for service, url in urls.items()}
    changed: Any = text("UPDATE products SET price = 123, revision = 2 WHERE sku = 'COFFEE-1KG'")
    async with databases["stock"].transaction() as session:
        await session.execute(changed)
    async with databases["orders"].transaction() as session:
        await session.execute(text("UPDATE prices SET amount = 123, revision = 2 WHERE sku = 'COFFEE-1KG'"))
    await direct.populate(urls, 350, days=30, seed=2, until=UNTIL)
    async with databases["orders"].reading() as session:
        rows = (await session.scalars(select(Placed))).all()
    assert len(rows) == 400
    prices = {
        line["unit_price"]["amount"] for row in rows for line in row.lines if line["sku"] == "COFFEE-1KG" and row.total
    }
    assert prices == {123, 6990}
    for database in databases.values():
        await database.dispose()


async def test_it_can_be_done_only_once_with_the_same_arguments_and_leaves_nothing_half_done(
    urls: dict[str, str],
) -> None:
    await direct.populate(urls, 50, days=30, until=UNTIL)
    with pytest.raises(Exception, match=r"(?i)unique"):
        await direct.populate(urls, 50, days=30, until=UNTIL)
    reports, orders = Database(urls["reports"]), Database(urls["orders"])
    async with reports.reading() as session, orders.reading() as theirs:
        assert await session.scalar(select(func.count()).select_from(Order)) == 50
        assert await theirs.scalar(select(func.count()).select_from(Placed)) == 50
        assert (await session.get_one(ReadModel, 1)).revision == 1
    for database in (reports, orders):
        await database.dispose()
