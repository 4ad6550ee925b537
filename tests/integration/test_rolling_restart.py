"""Every service is restarted under load, one of its two processes after the other: nobody notices."""

import asyncio
import contextlib
import itertools
import mailbox
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.flow import FLOW, SERVICES
from shared.persistence.database import Database
from tests.fleet import Fleet
from tests.integration.test_gateway_jobs import ORDER
from tests.postgres import PostgresCluster
from tests.running import LADDER, Broker, until
from tests.serving import token
from tests.several import listen

SKU = ORDER["lines"][0]["sku"]
AT_ONCE = 2


class Shop:
    """Places orders at whichever gateway takes them, until it is told to stop."""

    def __init__(self, urls: list[str]) -> None:
        login = {"Authorization": f"Bearer {token('ana', 'operator')}"}
        self.gateways = [httpx.AsyncClient(base_url=url, headers=login, timeout=40, trust_env=False) for url in urls]
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.is_open = True

    async def place(self) -> None:
        gateways = itertools.cycle(self.gateways)
        while self.is_open:
            key, answer = {"Idempotency-Key": f'"{uuid7()}"'}, None
            while answer is None:
                with contextlib.suppress(httpx.TransportError):  # it is being restarted: to the next, with the same key
                    answer = await next(gateways).post("/v1/orders", json=ORDER, headers=key)
            if answer.status_code == 202:
                self.accepted.append(answer.json()["order_id"])
            else:
                self.refused.append(answer.text)
            await asyncio.sleep(0.1)

    async def opens(self) -> None:
        """Fill the shelves, and wait until the product is for sale."""
        price = {"name": "Coffee", "price": {"amount": 1000, "currency": "BRL"}, "low_threshold": 0}
        delivered = {"delta": 1_000_000, "reason": "delivery"}
        (await self.gateways[0].put(f"/v1/products/{SKU}", json=price)).raise_for_status()
        (await self.gateways[0].post(f"/v1/products/{SKU}/adjustments", json=delivered)).raise_for_status()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_rolling_restart_of_every_service_under_load_loses_nothing_and_doubles_nothing(
    broker: Broker, kind: str, postgres: PostgresCluster, tmp_path: Path
) -> None:
    names = {service: f"{service}_{tmp_path.parent.name}".replace("-", "_") for service in SERVICES}
    urls = {
        service: postgres.create_database(name) if kind == "postgresql" else f"sqlite:///{tmp_path}/{service}.db"
        for service, name in names.items()
    }
    told = {"MALOTE_RETRY_LADDER": ",".join(LADDER)}
    fleet = Fleet(
        tmp_path, dict.fromkeys(SERVICES, broker.url), urls, dict.fromkeys(SERVICES, 2), environment=lambda _: told
    )
    shop = Shop([fleet.processes[name].url for name in fleet.of("gateway")])
    databases = {service: Database(url) for service, url in urls.items()}
    try:
        await fleet.start()
        await fleet.ready()
        await shop.opens()
        await until(lambda: _ask(databases["orders"], "SELECT count(*) FROM prices"), "the price list")
        ear = await listen(broker, *{message.exchange for message in FLOW})
        placing = [asyncio.create_task(shop.place()) for _ in range(AT_ONCE)]
        before = len(shop.accepted)
        async with asyncio.TaskGroup() as restarts:  # if one fails, no other goes on
            for process in fleet.of_number(1).values():
                restarts.create_task(process.restart())
        assert len(shop.accepted) > before, "the other gateway takes orders meanwhile"
        async with asyncio.TaskGroup() as stops:  # those that were restarted take over, and are enough for the rest
            for process in fleet.of_number(2).values():
                stops.create_task(process.stop())
        shop.is_open = False
        await asyncio.gather(*placing)
        placed = len(shop.accepted)
        await until(lambda: _has(databases["orders"], "orders WHERE state = 'CONFIRMED'", placed), "all orders", 60)
        await until(lambda: _has(databases["email"], "mails WHERE status = 'SENT'", 2 * placed), "all mails", 60)
        await until(lambda: _has(databases["gateway"], "jobs WHERE status = 'SUCCESS'", placed), "all jobs", 60)
        for database in databases.values():
            await until(lambda of=database: _has(of, "outbox", 0), "the outbox to be empty")  # type: ignore[misc]
        assert not shop.refused
        assert len(set(shop.accepted)) == placed
        assert not ear.twice
        mails = Counter(mail["Message-ID"] for mail in mailbox.Maildir(fleet.mailbox))
        assert len(mails) == mails.total() == 2 * placed
        assert await _ask(databases["stock"], "SELECT on_hand + reserved FROM products") == 1_000_000 - 2 * placed
        assert await _ask(databases["deadletters"], "SELECT count(*) FROM letters") == 0
    finally:
        fleet.end()
        for database in databases.values():
            await database.dispose()
        if kind == "postgresql":
            for name in names.values():
                postgres.drop_database(name)


async def _ask(database: Database, question: str) -> Any:
    async with database.reading() as session:
        return await session.scalar(text(question))


async def _has(database: Database, what: str, number: int) -> bool:
    return bool(await _ask(database, f"SELECT count(*) FROM {what}") == number)
