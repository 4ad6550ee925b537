"""The raw rows of a sales summary."""

import asyncio
import csv
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.base import minor_digits
from contracts.reports import ReportWish
from services.reports.store.rows import Key, select_first_and_last


async def first_and_last_day(session: AsyncSession, request: ReportWish, revision: int) -> Key:
    """The first and the last day of a summary as ISO dates, as its chunks carry them; empty without any order."""
    zone = ZoneInfo(request.timezone)
    times = (await session.execute(select_first_and_last(request, revision))).one()
    if times[0] is None:
        return ()
    return tuple(datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).date().isoformat() for at in times)


async def save_summary(session: AsyncSession, query: Any, target: Path) -> int:
    """Write the raw rows of a summary to a file; return their number. Between partitions, other lanes run."""
    number = 0
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        async for partition in (await session.stream(query)).partitions(1_000):
            writer.writerows(map(_raw, partition))
            number += len(partition)
            await asyncio.sleep(0)
    return number


def _raw(row: Any) -> tuple[Any, ...]:
    revenue = Decimal(int(row.revenue)).scaleb(-minor_digits(row.currency))
    share = Decimal(row.rejected_orders) / row.orders
    counts = (row.orders, row.pieces, f"{revenue:f}", row.rejected_orders, f"{share:.4f}")
    return (row.day, row.sku, row.name, row.currency, *counts)
