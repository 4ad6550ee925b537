"""A reports service with a read model made by hand, and exports by which it is judged."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.reports import CreateReport, ReportWish
from services.reports import domain
from services.reports.store.read_model import Line, Movement, Order, ReadModel
from shared.persistence.database import Database
from shared.service import Service
from tests.migrated import migrate
from tests.running import Broker, running

READY, FAILED, CANCELLED = (f"report.{end}.v1" for end in ("ready", "failed", "cancelled"))
ENDS = [("reports", key) for key in (READY, FAILED, CANCELLED)]
SECOND = 1_000
FIRST = 1_767_236_400_000
"""2026-01-01T00:00:00-03:00, in epoch milliseconds."""


def order(number: int, **more: Any) -> Order:
    """The confirmed order that was placed so many seconds into the year 2026."""
    at = FIRST + number * SECOND
    core: dict[str, Any] = {
        "id": UUID(int=number),
        "revision": 1,
        "placed_at": at,
        "customer_id": f"c{number % 100}",
        "customer_name": f"Ana {number}",
        "customer_email": f"ana{number}@example.com",
        "currency": "BRL",
        "total": 200,
        "amount": "2.00",
        "lines": 1,
        "pieces": 2,
        "confirmed_at": at + 500,
        "confirmed_revision": 1,
    }
    return Order(**{**core, **more})


def line(of: Order, sku: str = "A", **more: Any) -> Line:
    """A line of an order: two pieces at one real each."""
    core: dict[str, Any] = {
        "order_id": of.id,
        "sku": sku,
        "revision": of.revision,
        "placed_at": of.placed_at,
        "name": f"Product {sku}",
        "quantity": 2,
        "unit_price": 100,
        "price": "1.00",
        "total": 200,
        "amount": "2.00",
    }
    return Line(**{**core, **more})


async def fill(database_url: str, rows: Iterable[Order | Line | Movement], revision: int = 1) -> None:
    """Put rows into the read model, which has that revision then."""
    await asyncio.to_thread(migrate, "reports", database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        session.add_all(rows)
        model = await session.get(ReadModel, 1)
        assert model
        model.revision = revision
    await database.dispose()


def wish(kind: str = "orders", format_: str = "csv", **more: Any) -> ReportWish:
    """A wish for a report."""
    return ReportWish.model_validate({"kind": kind, "format": format_, **more})


def wanted(asked: ReportWish | None = None, owner: str = "ana", **more: Any) -> CreateReport:
    """The command that asks for a report of all orders as CSV, or for another."""
    return CreateReport(report_id=uuid7(), owner=owner, wish=asked or wish(), **more)


@contextlib.asynccontextmanager
async def exporting(broker: Broker, database_url: str, folder: Path, **more: Any) -> AsyncIterator[Service]:
    """The reports service at work, with its files in `folder`."""
    told = {"storage_url": str(folder), **more}
    async with running("reports", broker.url, database_url, **told) as service:
        yield service


async def ended(broker: Broker, *commands: CreateReport, seconds: float = 60.0) -> list[tuple[str, dict[str, Any]]]:
    """Ask for reports; how each ended, in their order: the key and the body of what was said."""
    spy = await broker.spy(*ENDS)
    for command in commands:
        await broker.publish(command)
    await spy.collect(len(commands), seconds)
    said = {body["report_id"]: (str(m.routing_key), body) for m in spy.seen if (body := json.loads(m.body))}
    return [said[str(command.report_id)] for command in commands]


def result(folder: Path, command: CreateReport) -> bytes:
    """The file of a finished report."""
    return (folder / domain.result_name(command.report_id)).read_bytes()


def parts(folder: Path, command: CreateReport) -> list[str]:
    """The names of a report's parts that are stored."""
    return sorted(path.name for path in (folder / domain.parts(command.report_id)).glob("*"))
