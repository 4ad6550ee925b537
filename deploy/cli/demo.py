"""malote demo: places 50 orders, watches each to its end, and compares it with the expected end."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import typer

from deploy.cli import mail, samples
from deploy.cli.errors import Failed
from deploy.cli.output import Json, console, print_json, state

app = typer.Typer()
ORDERS = 50
_AT_ONCE = 8
_PATIENCE = 60.0  # seconds to wait for the last order, and then for the last mail
_LOOK = 0.15
_MOST_PER_LINE = 10_000
_TOP_UP = 1_000
_ASSORTMENT = 8  # products of ordinary orders: those with the most pieces
_CELL = 26  # characters of one order in the table

ORDINARY = ""
TOO_MUCH = "more than is left"
TWICE = "sent twice with one idempotency key"
CANCELLED = "cancelled"
SHOP = "published to the broker by a plain AMQP client"
SPECIAL = (TOO_MUCH, TWICE, CANCELLED, SHOP)
Body = dict[str, Any]


@dataclass
class Case:
    """One order: the request, the expected end, and the present state. No other order has its customer."""

    what: str
    request: Body
    ids: set[str] = field(default_factory=set)
    job_id: str = ""
    found: dict[str, Body] = field(default_factory=dict)
    job: Body = field(default_factory=dict)
    cancel_job: Body = field(default_factory=dict)
    mails: list[str] = field(default_factory=list)
    lost_mails: int = 0
    doubled_mails: int = 0

    @property
    def expected(self) -> str:
        return {TOO_MUCH: "REJECTED", CANCELLED: "CANCELLED"}.get(self.what, "CONFIRMED")

    @property
    def order(self) -> Body:
        """The order as orders answered last; empty while orders does not know it."""
        return next(iter(self.found.values()), {})

    @property
    def status(self) -> str:
        return str(self.order.get("status", "SENT" if self.ids else ""))

    @property
    def has_ended(self) -> bool:
        """Whether the order has its final state. A confirmed order that is to be cancelled has not."""
        finals = {"REJECTED", "CANCELLED"} | ({"CONFIRMED"} if self.what != CANCELLED else set())
        return self.status in finals

    @property
    def seconds(self) -> float | None:
        """Seconds from placing to the end, by the clock of orders."""
        ended = self.order.get(f"{self.status.lower()}_at") if self.has_ended else None
        if not ended:
            return None
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(self.order["placed_at"])).total_seconds()

    @property
    def expects_mails(self) -> set[str]:
        return {"placed", self.expected.lower()}

    @property
    def has_all_mails(self) -> bool:
        return self.expects_mails <= set(self.mails) and not self.lost_mails

    def problems(self) -> list[str]:
        """The differences from the expected end."""
        error = (self.job.get("error") or {}).get("code")
        jobs = {"CONFIRMED": ("SUCCESS",), "REJECTED": ("FAILURE",), "CANCELLED": ("CANCELLED", "SUCCESS")}
        wrong = {
            f"is {self.status or 'not sent'}, not {self.expected}": self.status != self.expected,
            f"is {len(self.found)} orders": len(self.found) > 1,
            f"was given {len(self.ids)} ids": len(self.ids) > 1,
            f"was rejected for {self.order.get('reason')}": self.what == TOO_MUCH
            and self.order.get("reason") != "out_of_stock",
            f"has a job that is {self.job.get('status')} ({error})": bool(self.job)
            and self.job["status"] not in jobs[self.expected],
            f"has a cancellation that is {self.cancel_job.get('status')}": self.what == CANCELLED
            and self.cancel_job.get("status") != "SUCCESS",
            f"has the mails {', '.join(self.mails) or 'none'}": not self.expects_mails
            <= set(self.mails)
            <= self.expects_mails | ({"confirmed"} if self.what == CANCELLED else set()),
            f"has {self.lost_mails} mails that are not in the mailbox": self.lost_mails > 0,
            f"has {self.doubled_mails} mails twice in the mailbox": self.doubled_mails > 0,
        }
        return [said for said, is_so in wrong.items() if is_so]


Report = Callable[[Sequence[Case]], None]


@app.command()
def demo(as_json: Json = False) -> None:
    """Place 50 orders, watch each to its end, and check that each ended as it should. Starts what is not running."""
    from deploy.local.environment import Environment

    here = Environment()
    _start(here, as_json)
    started = time.monotonic()
    out = console()
    if as_json:
        cases = asyncio.run(_run(here, lambda cases: None))
    elif out.is_terminal:
        cases = _run_live(here, out)
    else:
        cases = asyncio.run(_run(here, _Lines()))
    took = time.monotonic() - started
    if as_json:
        print_json(_as_json(cases, took))
    else:
        _summarise(out, cases, took)
    wrong = [case for case in cases if case.problems()]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(cases)} orders did not end as they should; see {here.logs}")


def _start(here: Any, as_json: bool) -> None:
    """Start the missing parts, which then stay. With --json, their messages go to stderr."""
    from deploy.cli import up

    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        up.ensure(here)


async def _run(here: Any, report: Report) -> list[Case]:
    """Place all orders while watching their states; then wait for their mails."""
    from deploy.cli.client.gateway import Gateway

    since = time.time()
    async with Gateway.local(here) as gateway:
        cases = _cases(await _catalogue(gateway), mark=f"demo-{int(since * 1000):x}")
        await _stock_up(gateway, cases)
        slots = asyncio.Semaphore(_AT_ONCE)
        sending = asyncio.gather(*(_send(case, gateway, here, slots) for case in cases))
        try:
            await _watch(gateway, cases, sending, report)
        finally:
            sending.cancel()
        await _learn_jobs(gateway, cases)
        async with Gateway.local(here, "email") as email:
            await _find_mails(email, here.mailbox, cases, since)
    return cases


# -- what is sent ------------------------------------------------------------------------------------------------------


async def _catalogue(gateway: Any) -> list[Body]:
    """The products in the currency of the first product."""
    products = [product async for product in gateway.products()]
    if not products:
        raise Failed("the catalogue is empty; `malote products set` and `malote stock adjust` fill it")
    currency = products[0]["price"]["currency"]
    return [product for product in products if product["price"]["currency"] == currency]


def _cases(products: Sequence[Body], mark: str) -> list[Case]:
    """The special cases, and ordinary ones up to 50. Only the order for too many pieces has the scarcest product."""
    *plenty, scarcest = sorted(products, key=lambda product: product["available"], reverse=True)
    skus = [product["sku"] for product in plenty[:_ASSORTMENT]] or [scarcest["sku"]]
    currency = scarcest["price"]["currency"]
    kinds = [*SPECIAL, *[ORDINARY] * (ORDERS - len(SPECIAL))]
    requests = [samples.order(samples.customer(n, f"{mark}-{n}"), skus, currency) for n in range(ORDERS)]
    cases = [Case(what, request) for what, request in zip(kinds, requests, strict=True)]
    pieces = {"sku": scarcest["sku"], "quantity": _MOST_PER_LINE}
    cases[0].request["lines"] = [pieces] * (scarcest["available"] // _MOST_PER_LINE + 1)
    return cases


async def _stock_up(gateway: Any, cases: Sequence[Case]) -> None:
    """Add pieces, so that no order fails because an earlier demo took the stock."""
    wanted: Counter[str] = Counter()
    for case in cases:
        if case.what != TOO_MUCH:
            for line in case.request["lines"]:
                wanted[line["sku"]] += line["quantity"]
    async for product in gateway.products():
        if product["available"] < wanted[product["sku"]]:
            await gateway.adjust(product["sku"], _TOP_UP, "the demo sold out")


async def _send(case: Case, gateway: Any, here: Any, slots: asyncio.Semaphore) -> None:
    async with slots:
        if case.what == SHOP:
            await _publish(case, here.state()["shop_amqp_url"], here.tls_of())
        elif case.what == TWICE:
            key = case.request["customer"]["id"]
            _note(case, *await asyncio.gather(*(gateway.place(case.request, key=key) for _ in range(2))))
        else:
            _note(case, await gateway.place(case.request))
    if case.what == CANCELLED:
        (order_id,) = case.ids
        case.cancel_job = await gateway.cancel(order_id, wait=int(_PATIENCE / 2))


def _note(case: Case, *accepted: Body) -> None:
    case.ids = {job["order_id"] for job in accepted}
    case.job_id = accepted[0]["job_id"]


async def _publish(case: Case, amqp_url: str, tls: Any) -> None:
    """Publish an order to the broker as a shop's own system does: with address, key and JSON only."""
    import json

    import aio_pika
    from uuid_utils.compat import uuid7

    from shared.messaging.amqp.connections import connect

    order_id = str(uuid7())
    body = json.dumps({"order_id": order_id, **case.request}).encode()
    async with await connect(amqp_url, tls) as connection:
        channel = await connection.channel()
        commands = await channel.get_exchange("commands", ensure=False)
        await commands.publish(aio_pika.Message(body, message_id=order_id, delivery_mode=2), "order.place.v1")
    case.ids = {order_id}


# -- what becomes of it ------------------------------------------------------------------------------------------------


async def _watch(gateway: Any, cases: Sequence[Case], sending: "asyncio.Future[Any]", report: Report) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if all_sent := sending.done():
            sending.result()
        await _look(gateway, cases)
        report(cases)
        if all_sent and all(case.has_ended for case in cases):
            return
        await asyncio.sleep(_LOOK)


async def _look(gateway: Any, cases: Sequence[Case]) -> None:
    """Read all orders since the first one of this demo. Others may buy at the same time."""
    by_customer = {case.request["customer"]["id"]: case for case in cases}
    first = min((order_id for case in cases for order_id in case.ids), default=None)
    async for order in gateway.each_order():
        if first and order["id"] < first:  # UUIDv7: older than this demo
            return
        if case := by_customer.get(order["customer"]["id"]):
            case.found[order["id"]] = order


async def _learn_jobs(gateway: Any, cases: Sequence[Case]) -> None:
    """Read the jobs, which end a moment after their orders, once the gateway has the message."""
    for case in cases:
        if case.job_id and case.has_ended:
            case.job = await gateway.ended(case.job_id, 10)


async def _find_mails(email: Any, mailbox: Path, cases: Sequence[Case], since: float) -> None:
    """Read the mails of each order, and check that each is in the mailbox once."""
    deadline = time.monotonic() + _PATIENCE
    waiting = [case for case in cases if case.found]
    read: dict[Path, str] = {}
    while waiting and time.monotonic() < deadline:
        for path in mail.files_of(mailbox):
            if path not in read and path.stat().st_mtime > since - 1:
                read[path] = mail.headers(path)["id"]
        delivered = Counter(read.values())
        for case in waiting:
            written = (await email.ask("GET", "/v1/mails", params={"order_id": case.order["id"], "limit": 100}))["data"]
            copies = [delivered[entry["message_id"].strip("<>")] for entry in written]
            case.mails = [entry["kind"] for entry in written]
            case.lost_mails, case.doubled_mails = copies.count(0), sum(number > 1 for number in copies)
        waiting = [case for case in waiting if not case.has_all_mails]
        if waiting:
            await asyncio.sleep(_LOOK)


# -- what is shown -----------------------------------------------------------------------------------------------------


def _run_live(here: Any, out: Any) -> list[Case]:
    from rich.live import Live

    with Live(console=out, refresh_per_second=10) as live:
        return asyncio.run(_run(here, lambda cases: live.update(_picture(cases, out.width))))


def _picture(cases: Sequence[Case], width: int) -> Any:
    """All orders side by side, so that 50 fit on a terminal of 80 by 24; below them the number in each state."""
    from rich.console import Group
    from rich.table import Table

    across = max(1, min(5, width // _CELL))
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for _ in range(across):
        grid.add_column("order", width=8, no_wrap=True)
        grid.add_column("status", width=9, no_wrap=True)
        grid.add_column("ms", width=5, no_wrap=True, justify="right")
    cells = [_cell(case) for case in cases]
    down = -(-len(cells) // across)
    for row in range(down):
        grid.add_row(*(text for cell in cells[row::down] for text in cell))
    return Group(grid, _count(cases))


def _cell(case: Case) -> tuple[str, str, str]:
    name = _short(case)
    took = "" if case.seconds is None else f"{case.seconds * 1000:.0f}"
    return f"[bold]{name}[/]" if case.what else name, state(case.status), took


def _short(case: Case) -> str:
    """The number of an order as in mails: the end of its id. The beginning of a UUIDv7 is only the time."""
    return next(iter(case.ids), "")[-8:].upper()


def _count(cases: Sequence[Case]) -> str:
    counted = Counter(case.status for case in cases if case.status)
    ended = sum(case.has_ended for case in cases)
    return f"{ended} of {len(cases)} ended: " + ", ".join(f"{n} {status.lower()}" for status, n in counted.items())


class _Lines:
    """Prints a line for each order that has ended, if stdout is no terminal."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def __call__(self, cases: Sequence[Case]) -> None:
        for number, case in enumerate(cases):
            if case.has_ended and number not in self._told:
                self._told.add(number)
                took = f"{case.seconds or 0:.3f} s"
                typer.echo(f"{UUID(case.order['id'])}  {case.status:<9}  {took}  {case.what}".rstrip())


def _summarise(out: Any, cases: Sequence[Case], took: float) -> None:
    out.print()
    for case in cases:
        problems = case.problems()
        if case.what or problems:
            sign = "[red]WRONG[/]" if problems else "[green]ok[/]   "
            reason = f" ({case.order['reason']})" if case.order.get("reason") else ""
            out.print(f"{sign} {_short(case)}  {state(case.status)}{reason}  {case.what or 'ordinary'}")
        for problem in problems:
            out.print(f"      {problem}", markup=False)
    fine = [case for case in cases if not case.what and not case.problems()]
    mails = sum(len(case.mails) for case in cases)
    out.print(f"[green]ok[/]    {len(fine)} ordinary orders confirmed, each with its two mails")
    out.print(f"{_count(cases)}; {mails} mails; {took:.1f} s", markup=False)


def _as_json(cases: Sequence[Case], took: float) -> Body:
    counted = Counter(case.status.lower() for case in cases)
    return {
        "ok": not any(case.problems() for case in cases),
        "seconds": round(took, 3),
        "placed": len(cases),
        **{status: counted[status] for status in ("confirmed", "rejected", "cancelled")},
        "mails": sum(len(case.mails) for case in cases),
        "orders": [
            {
                "order_id": case.order.get("id"),
                "what": case.what or "ordinary",
                "expected": case.expected,
                "status": case.status,
                "reason": case.order.get("reason"),
                "seconds": case.seconds,
                "mails": sorted(case.mails),
                "problems": case.problems(),
            }
            for case in cases
        ],
    }
