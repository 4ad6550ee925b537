"""An office beside the shop: it reads what the shop did, asks for reports, and sends dead letters again."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
from uuid_utils.compat import uuid7

from tests.chaos.shop import Shop

WATCHED = 20
"""Of the newest orders."""
JOB_RANKS = {"PENDING": 0, "STARTED": 1, "RETRY": 1, "SUCCESS": 2, "FAILURE": 2, "CANCELLED": 2}
ORDER_RANKS = {"PLACED": 0, "CONFIRMED": 1, "REJECTED": 2, "CANCELLED": 2}


class Office:
    """Its work goes on inside `open()`. What is wrong with what it reads is one of the shop's surprises."""

    def __init__(self, shop: Shop, seed: object) -> None:
        self.reports: list[str] = []
        """The jobs of those that were accepted."""
        self.replays: list[str] = []
        self._shop, self._random = shop, random.Random(f"{seed} office")
        self._seen: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def open(self, *, replays: bool) -> AsyncIterator[None]:
        """People work; at the end of the block they have finished what they asked for."""
        closing = asyncio.Event()
        people = [self._watch_levels, self._watch_orders, self._ask_for_reports, *([self._replay] if replays else [])]
        busy = [asyncio.create_task(work(closing)) for work in people]
        try:
            yield
        finally:
            closing.set()
            for done in await asyncio.gather(*busy, return_exceptions=True):
                if isinstance(done, BaseException):
                    self._shop.surprises.append(f"the office: {done!r}")

    # -- what is read never goes back ---------------------------------------------------------------------------

    async def _watch_levels(self, closing: asyncio.Event) -> None:
        while not await _is_set(closing, 0.5):
            if found := await self._read("/v1/products?limit=100"):
                self._shop.surprises += [f"a level below zero: {p}" for p in found["data"] if _is_wrong(p)]

    async def _watch_orders(self, closing: asyncio.Event) -> None:
        while not await _is_set(closing, 0.5):
            for wish in [wish for wish in self._shop.wishes[-WATCHED:] if wish.job_id]:
                await self._watch(f"/v1/jobs/{wish.job_id}", JOB_RANKS)
                await self._watch(f"/v1/orders/{wish.order_id}", ORDER_RANKS)

    async def _watch(self, path: str, ranks: dict[str, int]) -> None:
        before, found = self._seen.get(path), await self._read(path, missing=path not in self._seen)
        if found:
            status = self._seen[path] = found["status"]
            if before and ranks[status] < ranks[before]:
                self._shop.surprises.append(f"{path} went back from {before} to {status}")

    async def _read(self, path: str, *, missing: bool = False) -> dict[str, Any] | None:
        """None if there is no answer just now, or if it is `missing` and may be."""
        with contextlib.suppress(httpx.HTTPError):
            answer = await self._shop.http.get(path)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            if answer.status_code == 404 and not missing:
                self._shop.surprises.append(f"{path} was there, and is not")
        return None

    # -- what is asked for --------------------------------------------------------------------------------------

    async def _ask_for_reports(self, closing: asyncio.Event) -> None:
        while not await _is_set(closing, self._random.uniform(4, 10)):
            wish = {"kind": self._random.choice(["orders", "order-lines"]), "format": "csv"}
            self.reports.append(await self._start("/v1/reports", wish))

    async def _replay(self, closing: asyncio.Event) -> None:
        while not await _is_set(closing, self._random.uniform(8, 16)):
            self.replays.append(await self._start("/v1/dead-letters/replay", {"all": True, "rate": 50}))

    async def _start(self, path: str, wish: dict[str, Any]) -> str:
        answer = await self._shop.insist("POST", path, wish, key=str(uuid7()), good=(202,))
        return str(answer["job_id"])


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is, after so many seconds at the most."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _is_wrong(product: dict[str, Any]) -> bool:
    return min(product["on_hand"], product["reserved"], product["on_hand"] - product["reserved"]) < 0
