"""Two shops that do the same work, each with all its processes on this machine: Malote's, and the usual way's."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx
import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from contracts.flow import SERVICES, SHOP
from deploy.local.ports import HOST, free_port
from deploy.local.processes import put_behind
from shared.http.tokens import issue_token
from shared.messaging import topology
from shared.persistence.database import Database, migrate
from tests.bench.common import SECRET, Machines, cpu_seconds, process, wait_for
from tests.bench.load import all_at_once, post
from tests.bench.peer import models
from tests.bench.sink import Count

PEER = "FastAPI + Celery"
CONNECTIONS = 32
PRODUCTS = 20
WARM_UP = 100
LEVEL = 1_000_000
TOKEN = issue_token(SECRET, subject="bench", role="operator", ttl=24 * 3600)
# What is best for it on two cores. Threads take half the CPU of processes (`--pool=prefork` with 2, 4 or 8); 4 or 16 of
# them, a second web process, quorum queues in place of its own durable ones, 4 messages ahead of each thread in place
# of 16: none of these gains anything.
PEER_WEB = ("--workers=1",)
PEER_WORKER = ("--pool=threads", "--concurrency=8")


@dataclass
class Shop:
    """A shop that takes orders: where it listens, the database that knows them, what it mails, what it runs."""

    port: int
    database: Database
    mails: Count
    processes: Mapping[str, psutil.Process]
    urls: Mapping[str, str] = field(default_factory=dict)
    ordered: int = 0
    reported: Database | None = None


@dataclass(frozen=True)
class Run:
    """What a number of orders took: orders a second until all were `posted` (answered with 202), until all were
    `confirmed`, and until the `whole` of them was over, both mails and what reports writes down of them included;
    seconds until each POST was `answered`; milliseconds of CPU an order by process."""

    posted: float
    confirmed: float
    whole: float
    answered: list[float]
    cpu: dict[str, float]


async def run(shop: Shop, number: int) -> Run:
    """Place orders as fast as they are taken, and wait until each is confirmed, both its mails have gone, and reports
    has written it down."""
    shop.ordered += number
    goal, before = 2 * shop.ordered, {name: cpu_seconds(p) for name, p in shop.processes.items()}
    requests = [request() for _ in range(number)]
    since, started = time.time(), time.monotonic()
    answers = await all_at_once(HOST, shop.port, requests, CONNECTIONS)
    posted = time.monotonic() - started
    assert {answer.status for answer in answers} == {202}, {answer.status: answer.body for answer in answers}

    async def is_over() -> bool:
        return shop.mails.value >= goal and await _is_reported(shop, since, number)

    whole = await wait_for(is_over, "all mails to be sent, and the read model") - started
    spent = {name: (cpu_seconds(p) - before[name]) * 1000 / number for name, p in shop.processes.items()}
    assert shop.mails.value == goal, "mails were sent twice"
    found = text("SELECT count(*), max(confirmed_at) FROM orders WHERE confirmed_at >= :since")
    async with shop.database.reading() as session:
        confirmed, last = (await session.execute(found, {"since": int(since * 1000)})).one()
    assert confirmed == number, f"{confirmed} of {number} orders are confirmed"
    answered = [answer.seconds for answer in answers]
    return Run(number / posted, number / (last / 1000 - since), number / whole, answered, spent)


async def _is_reported(shop: Shop, since: float, number: int) -> bool:
    """Whether the read model, whose service stands back furthest, has all of them. The peer has none."""
    if shop.reported is None:
        return True
    found = text("SELECT count(*) FROM orders WHERE placed_at >= :since AND confirmed_at IS NOT NULL")
    async with shop.reported.reading() as session:
        return bool(await session.scalar(found, {"since": int(since * 1000)}) == number)


def request(**headers: str) -> bytes:
    """A wish for an order of two lines."""
    skus = [f"SKU-{secrets.randbelow(PRODUCTS)}" for _ in range(2)]
    customer = {"id": secrets.token_hex(4), "name": "Ana", "email": "ana@example.com", "locale": "pt-BR"}
    body = {"customer": customer, "currency": "BRL", "lines": [{"sku": sku, "quantity": 1} for sku in skus]}
    return post("/v1/orders", TOKEN, body, **headers)


@contextlib.contextmanager
def _sink(machines: Machines) -> Iterator[tuple[int, Count]]:
    port, path = free_port(), machines.folder / f"mails-{secrets.token_hex(4)}"
    count = Count(path)
    with process(machines.folder / "sink.log", "tests.bench.sink", {}, str(port), str(path)):
        yield port, count


# -- Malote -----------------------------------------------------------------------------------------------------------


async def new_databases(machines: Machines, kind: str) -> dict[str, str]:
    """A migrated database for each service."""
    urls = {service: machines.database(kind) for service in SERVICES}
    for service, url in urls.items():
        await asyncio.to_thread(migrate, service, url)
    return urls


@contextlib.asynccontextmanager
async def malote(machines: Machines, kind: str, urls: Mapping[str, str] | None = None) -> AsyncIterator[Shop]:
    """Every service once, with the databases of `urls` or new ones; warm, and with products to sell."""
    urls = urls or await new_databases(machines, kind)
    ports = {name: free_port() for name in SERVICES}
    passwords = {user: secrets.token_hex(8) for user in (*SERVICES, SHOP)}
    with contextlib.ExitStack() as stack:
        vhost_url = stack.enter_context(machines.vhost())
        await topology.apply(vhost_url, machines.rabbit.management_url, passwords)
        smtp_port, mails = stack.enter_context(_sink(machines))
        common = {
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
            "GATEWAY_OPERATOR_LIMIT": "100000/second",
            "EMAIL_SMTP_HOST": HOST,
            "EMAIL_SMTP_PORT": str(smtp_port),
            **{f"GATEWAY_{name.upper()}_URL": f"http://{HOST}:{port}" for name, port in ports.items()},
            "REPORTS_STORAGE_URL": str(machines.folder / "reports"),
        }
        processes = {}
        for service in SERVICES:
            own = {
                f"{service.upper()}_AMQP_URL": machines.rabbit.url_for(
                    service, passwords[service], vhost_url.rpartition("/")[2]
                ),
                f"{service.upper()}_DATABASE_URL": urls[service],
                f"{service.upper()}_PORT": str(ports[service]),
            }
            child = process(machines.folder / f"{service}.log", "shared.service", common | own, service)
            processes[service] = psutil.Process(stack.enter_context(child).pid)
            put_behind(processes[service].pid, service)  # as `make up` does, and for the peer's worker, too
        database, reported = Database(urls["orders"]), Database(urls["reports"])
        shop = Shop(ports["gateway"], database, mails, processes | machines.processes(), urls, reported=reported)
        try:
            await _ready(f"http://{HOST}:{port}/readyz" for port in ports.values())
            await _stock_up(shop)
            await run(shop, WARM_UP)
            yield shop
        finally:
            await database.dispose()
            await reported.dispose()


async def _stock_up(shop: Shop) -> None:
    address = f"http://{HOST}:{shop.port}/v1/products"
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        for n in range(PRODUCTS):
            product = {"name": f"Product {n}", "price": {"amount": 1000 + n, "currency": "BRL"}, "low_threshold": 0}
            (await http.put(f"{address}/SKU-{n}", json=product)).raise_for_status()
            delivered = {"delta": LEVEL, "reason": "bench"}
            (await http.post(f"{address}/SKU-{n}/adjustments", json=delivered)).raise_for_status()

    async def has_prices() -> bool:
        async with shop.database.reading() as session:
            return bool(await session.scalar(text("SELECT count(*) FROM prices")) == PRODUCTS)

    await wait_for(has_prices, "the price list")


# -- the usual way ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def peer(machines: Machines) -> AsyncIterator[Shop]:
    """The peer's web process and its workers, on PostgreSQL; warm, and with the same products."""
    url, port = machines.database("postgresql"), free_port()
    _fill_peer(url)
    with contextlib.ExitStack() as stack:
        smtp_port, mails = stack.enter_context(_sink(machines))
        environment = {
            "PEER_DATABASE_URL": url,
            "PEER_AMQP_URL": stack.enter_context(machines.vhost()),
            "PEER_SMTP_HOST": HOST,
            "PEER_SMTP_PORT": str(smtp_port),
            "PEER_JWT_SECRET": SECRET,
        }
        log, quiet = machines.folder / "peer.log", ("--without-gossip", "--without-mingle", "--without-heartbeat")
        web = ("tests.bench.peer.app:app", f"--port={port}", "--no-access-log", "--log-level=warning", *PEER_WEB)
        worker = ("--app=tests.bench.peer.tasks", "worker", "--loglevel=warning", *quiet, *PEER_WORKER)
        started = {
            "web": stack.enter_context(process(log, "uvicorn", environment, *web)),
            "worker": stack.enter_context(process(log, "celery", environment, *worker)),
        }
        processes = {name: psutil.Process(child.pid) for name, child in started.items()}
        put_behind(processes["worker"].pid, "orders")
        database = Database(url)
        shop = Shop(port, database, mails, processes | machines.processes())
        try:
            await _ready([f"http://{HOST}:{port}/readyz"])
            await run(shop, WARM_UP)
            yield shop
        finally:
            await database.dispose()


def _fill_peer(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    models.Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(
            models.Product(sku=f"SKU-{n}", name=f"Product {n}", price=1000 + n, currency="BRL", on_hand=LEVEL)
            for n in range(PRODUCTS)
        )
    engine.dispose()


async def _ready(addresses: Iterable[str]) -> None:
    wanted = [*addresses]
    async with httpx.AsyncClient(trust_env=False) as http:

        async def all_ready() -> bool:
            try:
                answers = [await http.get(address) for address in wanted]
            except httpx.HTTPError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await wait_for(all_ready, "all services")
