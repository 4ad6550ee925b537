"""What must be true once all has ended, seen from outside: the databases' rows, the mailbox, the broker's queues."""

import asyncio
import contextlib
import mailbox
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from contracts.orders import OrderCancelled, OrderCancelRefused, OrderConfirmed, OrderRejected
from services.deadletters.store.letters import Content, Letter
from services.email.adapters import CONNECTIONS
from services.email.store import Mail, MailStatus
from services.gateway.store.jobs import Job
from services.orders.store import ListPrice, Order
from services.reports.store.read_model import Order as ReportedOrder
from services.stock.store import Product, Reservation
from shared.messaging import topology
from shared.messaging.inbox import attempts
from shared.messaging.outbox import outbox
from shared.persistence.database import Database
from tests.chaos.shop import FIRST_LEVEL, SCARCE, UNKNOWN, Wish
from tests.chaos.world import LADDER, World

FINAL = ("CONFIRMED", "REJECTED", "CANCELLED")
ENDS = {message.key for message in (OrderConfirmed, OrderRejected, OrderCancelled, OrderCancelRefused)}
"""What a job's timeline comes to."""
SHOWN = 5
"""Examples of each problem."""


async def unrest(world: World) -> list[str]:
    """What has not ended yet: messages under way, attempts without an outcome."""
    found = []
    for service, url in world.fleet.database_urls.items():
        for table in (outbox, attempts):
            if number := await _one(url, select(func.count()).select_from(table)):
                found.append(f"{number} rows in {service}'s {table.name}")
    async with world.administrator() as channel:
        for queue in topology.queues(LADDER):
            declared = await channel.declare_queue(queue, passive=True)
            if number := declared.declaration_result.message_count:
                found.append(f"{number} messages in {queue}")
    return found


async def is_everywhere(world: World, wish: Wish) -> bool:
    """Whether a confirmed order is so in the reports, too, and both its mails were sent."""
    confirmed = select(ReportedOrder.id).where(
        ReportedOrder.customer_id == wish.customer, ReportedOrder.confirmed_at > 0
    )
    with contextlib.suppress(Exception):  # a database that has only just come back
        order_id = await _one(world.fleet.database_urls["reports"], confirmed)
        sent = select(func.count()).where(Mail.order_id == order_id, Mail.status == MailStatus.SENT)
        return order_id is not None and await _one(world.fleet.database_urls["email"], sent) == 2
    return False


async def problems(world: World) -> list[str]:
    """What is wrong; nothing if all is well."""
    orders = await _rows(world, "orders", Order)
    reservations = {row.order_id: row for row in await _rows(world, "stock", Reservation)}
    told = [
        _orders(world, orders),
        _prices(world, await _rows(world, "orders", ListPrice)),
        _levels(world, orders, await _rows(world, "stock", Product)),
        _reservations(orders, reservations),
        _jobs(world, {row.id: row for row in orders}, await _rows(world, "gateway", Job)),
        _mails(world, orders, await _rows(world, "email", Mail)),
        _reported(orders, {row.id: row for row in await _rows(world, "reports", ReportedOrder)}),
        _letters(world, await _rows(world, "deadletters", Letter), await _rows(world, "deadletters", Content)),
    ]
    return [problem for some in told for problem in some]


def _orders(world: World, orders: list[Order]) -> Iterable[str]:
    """Each order that was accepted is there once, and in a final state."""
    counted = Counter(order.customer_id for order in orders)
    accepted = {wish.customer for wish in world.shop.wishes if wish.is_accepted}
    yield from _shown("lost orders", [customer for customer in accepted if not counted[customer]])
    yield from _shown("placed more than once", [customer for customer, number in counted.items() if number > 1])
    strangers = counted.keys() - {wish.customer for wish in world.shop.wishes}
    yield from _shown("orders of nobody", strangers)
    asked = {wish.customer: dict(wish.lines) for wish in world.shop.wishes}
    priced = [order for order in orders if order.total is not None]
    other = [order.id for order in priced if _pieces(order) != asked.get(order.customer_id)]
    yield from _shown("not what was asked for", other)
    yield from _shown("at a price that it never had", [row.id for row in priced if not _is_priced(world, row)])
    enough = [row.id for row in orders if row.state == "REJECTED" and not {*SCARCE, UNKNOWN} & _pieces(row).keys()]
    yield from _shown("rejected, though there was enough", enough)
    yield from _shown("without an end", [f"{row.id} {row.state}" for row in orders if row.state not in FINAL])


def _pieces(order: Order) -> dict[str, int]:
    return {line["sku"]: line["quantity"] for line in order.lines}


def _is_priced(world: World, order: Order) -> bool:
    return all(line["unit_price"]["amount"] in world.shop.prices[line["sku"]] for line in order.lines)


def _prices(world: World, prices: list[ListPrice]) -> Iterable[str]:
    """Orders knows the price that was set last."""
    wrong = [row for row in prices if row.amount != world.shop.prices[row.sku][-1]]
    yield from _shown("prices", [f"{row.sku} at {row.amount}, not {world.shop.prices[row.sku][-1]}" for row in wrong])


def _levels(world: World, orders: list[Order], products: list[Product]) -> Iterable[str]:
    sold: Counter[str] = Counter()
    for order in orders:
        if order.state == "CONFIRMED":
            sold.update(_pieces(order))
    for product in products:
        expected = world.shop.delivered[product.sku] - sold[product.sku]
        if (product.on_hand, product.reserved) != (expected, 0):
            yield f"{product.sku}: {product.on_hand} on hand and {product.reserved} reserved in place of {expected}, 0"
    if {product.sku for product in products} != FIRST_LEVEL.keys():
        yield f"products are missing: {[product.sku for product in products]}"


def _reservations(orders: list[Order], reservations: dict[UUID, Reservation]) -> Iterable[str]:
    fits = {"CONFIRMED": {"TAKEN"}, "CANCELLED": {"RELEASED", "REFUSED"}, "REJECTED": {"REFUSED", "RELEASED"}}
    wrong = []
    for order in (order for order in orders if order.total is not None):  # the others never came to stock
        found = reservations.get(order.id)
        if found is None or found.state not in fits.get(order.state, ()):
            wrong.append(f"order {order.id} is {order.state}, its reservation {found and found.state}")
    yield from _shown("reservations", wrong)


def _jobs(world: World, orders: dict[UUID, Order], jobs: list[Job]) -> Iterable[str]:
    """Each job has ended, as its order did, and its timeline goes from its command to that end; reports are made."""
    by_id = {str(job.id): job for job in jobs}
    promised = [id_ for wish in world.shop.wishes for id_ in (wish.job_id, *wish.cancel_jobs) if id_]
    promised += [*world.office.reports, *world.office.replays]
    yield from _shown("jobs are lost", [id_ for id_ in promised if id_ not in by_id])
    yield from _shown("jobs nobody asked for", by_id.keys() - set(promised))
    wrong = []
    for job in jobs:
        order = orders.get(job.resource_id) if job.resource_id else None
        state = order.state if order else None
        if job.kind == "report.create":
            fits = {"SUCCESS"}
        elif job.kind == "dead_letters.replay":
            fits = {"SUCCESS", "FAILURE"}  # poison stays poison
        elif job.kind == "order.cancel":
            fits = {"CANCELLED": {"SUCCESS", "FAILURE"}, "REJECTED": {"FAILURE"}}.get(state or "", set())
        else:
            fits = {"CONFIRMED": {"SUCCESS"}, "REJECTED": {"FAILURE"}, "CANCELLED": {"CANCELLED", "SUCCESS"}}.get(
                state or "", set()
            )
        if job.status not in fits:
            wrong.append(f"job {job.id} ({job.kind}) is {job.status}, its order {job.resource_id} {state}")
        passed = [line["message"] for line in job.timeline]
        is_whole = not job.kind.startswith("order.") or (passed[:1] == [f"{job.kind}.v1"] and ENDS & set(passed[1:]))
        if not is_whole or job.ended_at is None:
            wrong.append(f"job {job.id} ({job.kind}) has the timeline {passed}")
    yield from _shown("jobs", wrong)


def _mails(world: World, orders: list[Order], mails: list[Mail]) -> Iterable[str]:
    """A mail of each kind that is due; more copies in the mailbox only where a death can explain them."""
    written: dict[UUID | None, Counter[str]] = defaultdict(Counter)
    for mail in mails:
        written[mail.order_id][mail.kind] += 1
    wrong = []
    for order in orders:
        due = {"placed"} if order.total is not None else set()
        due |= {kind for kind in ("confirmed", "rejected", "cancelled") if getattr(order, f"{kind}_at") is not None}
        if written[order.id] != Counter(due):
            wrong.append(f"order {order.id} {order.state} has the mails {dict(written[order.id])}, not {sorted(due)}")
    yield from _shown("mails", wrong)
    yield from _shown("mails about no order", written.keys() - {order.id for order in orders})
    yield from _shown("not sent", [f"{mail.message_id} {mail.status}" for mail in mails if mail.status != "SENT"])
    copies: dict[str, list[float]] = defaultdict(list)
    for mail in mailbox.Maildir(world.fleet.mailbox, create=True):
        copies[str(mail["Message-ID"])].append(mail.get_date())
    ids = {mail.message_id for mail in mails}
    yield from _shown("not in the mailbox", ids - copies.keys())
    yield from _shown("in the mailbox, though nobody wrote them", copies.keys() - ids)
    again = [(id_, moment) for id_, moments in copies.items() for moment in sorted(moments)[:-1]]
    yield from _shown(
        "mails came again, though no process of email died when they came first",
        [id_ for id_, moment in again if not any(since <= moment <= end for since, end in world.email_deaths)],
    )
    if len(again) > (most := CONNECTIONS * len(world.email_deaths)):
        yield f"{len(again)} mails came again; {len(world.email_deaths)} deaths of email explain {most} at the most"


def _reported(orders: list[Order], reported: dict[UUID, ReportedOrder]) -> Iterable[str]:
    """Reports know of each order what orders knows."""
    wrong = []
    for order in orders:
        found = reported.get(order.id)
        turns = ("confirmed", "rejected", "cancelled")
        known = {turn for turn in turns if found and getattr(found, f"{turn}_at") is not None}
        if found is None or known != {turn for turn in turns if getattr(order, f"{turn}_at") is not None}:
            wrong.append(f"order {order.id} is {order.state}; reports know of it {known if found else None}")
    yield from _shown("reports", wrong)


def _letters(world: World, letters: list[Letter], contents: list[Content]) -> Iterable[str]:
    """The dead letters are the poison, each once where nothing else went wrong, and again with each replay."""
    marked: Counter[str] = Counter()
    strangers = []
    bodies = {content.letter_id: content.body.decode(errors="replace") for content in contents}
    for letter in letters:
        mark = next((mark for mark in world.poison if mark in bodies[letter.id]), None)
        marked.update([mark] if mark else [])
        strangers += [] if mark else [f"{letter.lane} {letter.message} {letter.message_id}: {letter.reason}"]
    yield from _shown("dead letters that nobody poisoned", strangers)
    times = 1 + len(world.office.replays)
    wrong = [f"{mark}: {marked[mark]} times" for mark, n in world.poison.items() if not 1 <= marked[mark] <= n * times]
    yield from _shown("poison that is not a dead letter just once", wrong)


def summary(world: World, orders: list[Order]) -> str:
    states = Counter(order.state for order in orders)
    return f"{len(orders)} orders ({', '.join(f'{n} {state}' for state, n in sorted(states.items()))})"


async def settled(world: World, seconds: float) -> list[str]:
    """Wait until there is nothing under way and nothing wrong; what is, if it does not come to that in time."""
    end = asyncio.get_running_loop().time() + seconds
    looks: tuple[Callable[[World], Awaitable[list[str]]], ...] = (unrest, problems, unrest)
    while True:
        found: list[str] = []
        for look in looks:
            try:
                found = await look(world)
            except Exception as error:  # a database or broker that has only just come back
                found = [f"cannot look: {error!r}"]
            if found:
                break
        if not found or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(1.0)


def surprises(world: World) -> list[str]:
    """What customers saw that no fault excuses."""
    return _shown("the shop saw", world.shop.surprises)


async def told(world: World) -> str:
    """One line on what all of it came to."""
    orders = await _rows(world, "orders", Order)
    mails = len(mailbox.Maildir(world.fleet.mailbox, create=True))
    by_broker = sum(1 for wish in world.shop.wishes if wish.is_accepted and not wish.job_id)
    return f"{summary(world, orders)}, {by_broker} of them by the broker; {mails} mails; {len(world.poison)} poisoned"


def _shown(what: str, cases: Iterable[object]) -> list[str]:
    some = list(cases)
    more = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
    return [f"{what}: {', '.join(map(str, some[:SHOWN]))}{more}"] if some else []


async def _rows(world: World, service: str, table: Any) -> list[Any]:
    database = Database(world.fleet.database_urls[service])
    try:
        async with database.reading() as session:
            return list((await session.scalars(select(table))).all())
    finally:
        await database.dispose()


async def _one(url: str, query: Any) -> Any:
    database = Database(url)
    try:
        async with database.reading() as session:
            return await session.scalar(query)
    finally:
        await database.dispose()
