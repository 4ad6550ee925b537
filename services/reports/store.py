"""The reports service's tables and its only SQL: the read model, what is exported from it, and who is told.

Every fact in the read model bears the revision of the model by which it came to be known. Revisions are given one
transaction at a time, so what was known at revision R can be asked for ever after: that is how an export that takes
many transactions, and may be killed between them, shows one moment only.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    String,
    Uuid,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
    update,
    values,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import registry
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Field, SQLModel
from uuid_utils.compat import uuid7

from contracts.base import Money
from contracts.http import NoticeChoice, OrderView
from contracts.orders import OrderRejected
from contracts.reports import (
    COLUMNS,
    AssembleReport,
    CancelReport,
    CreateReport,
    ExportChunk,
    ExportStopped,
    RebuildReadModel,
    RemoveReportFiles,
    ReportAssembled,
    ReportFailed,
    ReportReady,
    ReportWish,
)
from services.reports import domain
from services.reports.domain import OrderFact, Projected, StockFact, milliseconds
from shared.messaging.inbox import INSERTS
from shared.persistence import clock
from shared.persistence.changes import Changes
from shared.persistence.clock import moment, now
from shared.persistence.database import Database, load, one_process_at_a_time
from shared.persistence.table import TableModel

TIDIED_AT_ONCE = 100
LATE = 60_000
"""Milliseconds within which what was given an id is committed."""
AHEAD = 5_000
"""Milliseconds by which the clocks of processes differ in everyday life."""

FORGOTTEN_AFTER = 30 * 86_400_000
"""Milliseconds for which it is known what became of a report that is gone."""


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


# -- the read model ---------------------------------------------------------------------------------------------------


class ReadModel(Base, table=True):
    """One row, locked by whoever changes the read model. `emptied_at` and `filled_at` are the revisions at which the
    last rebuild began and ended: in between, there is less in it than there should be."""

    __tablename__ = "read_model"

    id: int = Field(default=1, primary_key=True)
    revision: int = Field(default=0, sa_type=BigInteger)
    emptied_at: int = Field(default=0, sa_type=BigInteger)
    filled_at: int = Field(default=0, sa_type=BigInteger)


class Order(Base, table=True):
    """An order. Times are epoch milliseconds; `amount` is `total` in major units (`69.90`), ready to be printed.

    `revision` is that of the order itself, with all that never changes in it; each later fact has its own.
    """

    __tablename__ = "orders"

    id: UUID = Field(primary_key=True)
    revision: int = Field(sa_type=BigInteger)
    placed_at: int = Field(sa_type=BigInteger)
    customer_id: str = Field(max_length=64)
    customer_name: str
    customer_email: str
    currency: str = Field(max_length=3)
    total: int | None = Field(default=None, sa_type=BigInteger)
    amount: str | None = None
    lines: int
    pieces: int
    reason: str | None = None
    confirmed_at: int | None = Field(default=None, sa_type=BigInteger)
    confirmed_revision: int | None = Field(default=None, sa_type=BigInteger)
    rejected_at: int | None = Field(default=None, sa_type=BigInteger)
    rejected_revision: int | None = Field(default=None, sa_type=BigInteger)
    cancelled_at: int | None = Field(default=None, sa_type=BigInteger)
    cancelled_revision: int | None = Field(default=None, sa_type=BigInteger)


class Line(Base, table=True):
    """A line of an order. What it shares with its order and never changes is here too, for the order of an export.

    `price` and `amount` are `unit_price` and `total` in major units.
    """

    __tablename__ = "order_lines"

    order_id: UUID = Field(primary_key=True)
    sku: str = Field(primary_key=True, max_length=40)
    revision: int = Field(sa_type=BigInteger)
    placed_at: int = Field(sa_type=BigInteger)
    name: str | None = None
    quantity: int
    unit_price: int | None = Field(default=None, sa_type=BigInteger)
    price: str | None = None
    total: int | None = Field(default=None, sa_type=BigInteger)
    amount: str | None = None


class Movement(Base, table=True):
    """A change of a level: `on_hand` and `reserved` say by how many pieces. `kind` is reserved, taken, released or
    adjusted. Nothing about it ever changes. `id` is made from what it is about, so it is there once."""

    __tablename__ = "stock_movements"

    id: str = Field(primary_key=True, max_length=96)
    revision: int = Field(sa_type=BigInteger)
    moved_at: int = Field(sa_type=BigInteger)
    sku: str = Field(max_length=40)
    kind: str = Field(max_length=16)
    on_hand: int
    reserved: int
    order_id: UUID | None = None
    reason: str | None = None
    adjusted_by: str | None = None


# -- reports ----------------------------------------------------------------------------------------------------------


class Report(Base, table=True):
    """A report that was asked for. `revision` is that of the read model which it shows; `chunk_rows` is kept, so that
    a changed setting changes no export that has begun. `link_key` signs links; without one, all are revoked."""

    __tablename__ = "reports"

    id: UUID = Field(primary_key=True)
    job_id: str = Field(max_length=255, index=True)
    owner: str = Field(max_length=255)
    role: str = Field(default="customer", max_length=16)
    email: str | None = Field(default=None, max_length=254)
    wish: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    revision: int = Field(sa_type=BigInteger)
    chunk_rows: int
    status: str = Field(sa_type=String(16))
    filename: str
    reason: str | None = None
    detail: str | None = None
    rows: int | None = Field(default=None, sa_type=BigInteger)
    bytes: int | None = Field(default=None, sa_type=BigInteger)
    sha256: str | None = Field(default=None, max_length=64)
    link_key: str | None = Field(default=None, max_length=64)
    created_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)


class Notification(Base, table=True):
    """Something that its reader (see `domain.reader`) should know; `content` is what `contracts.http.NotificationView`
    shows of it."""

    __tablename__ = "notifications"

    id: UUID = Field(primary_key=True)
    reader: str = Field(max_length=256)
    content: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: int = Field(sa_type=BigInteger)
    read_at: int | None = Field(default=None, sa_type=BigInteger)


class Choice(Base, table=True):
    """How somebody wants to be told. Who has none is told in every way that we know of."""

    __tablename__ = "choices"

    reader: str = Field(primary_key=True, max_length=256)
    mail: bool
    in_app: bool
    email: str | None = Field(default=None, max_length=254)
    locale: str = Field(max_length=8)


metadata = Base.metadata
_orders: Any = Order.__table__  # type: ignore[attr-defined]
_lines: Any = Line.__table__  # type: ignore[attr-defined]
_movements: Any = Movement.__table__  # type: ignore[attr-defined]
_notifications: Any = Notification.__table__  # type: ignore[attr-defined]


# -- what is exported -------------------------------------------------------------------------------------------------

Key = tuple[int | str, ...]
"""Where a part ends: the values of the columns by which a report is in order."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a report shows, raw (see `contracts.reports.Column`), and the key by which they are in order."""

    columns: Mapping[str, Any]
    key: tuple[Any, ...]
    source: Any
    conditions: tuple[Any, ...]

    def count(self) -> Any:
        """How many there are."""
        return select(func.count()).select_from(self.source).where(*self.conditions)

    def part(self, after: Key, limit: int) -> Any:
        """The next `limit` rows after the key `after`. By keyset: the last part costs no more than the first."""
        columns = [expression.label(name) for name, expression in self.columns.items()]
        return self._part(columns, after, limit)

    def end_of_part(self, after: Key, limit: int) -> Any:
        """The key of that part's last row, and how many rows it has; no row if it has none."""
        part = self._part(self.key, after, limit).cte("part")
        number = select(func.count()).select_from(part).scalar_subquery()
        return select(*part.c, number).order_by(*(column.desc() for column in part.c)).limit(1)

    def _part(self, columns: Iterable[Any], after: Key, limit: int) -> Any:
        query: Any = select(*columns).select_from(self.source).where(*self.conditions)
        if after:
            last = (literal(_typed(value, column), column.type) for value, column in zip(after, self.key, strict=True))
            query = query.where(tuple_(*self.key) > tuple_(*last))
        return query.order_by(*self.key).limit(limit)


def _typed(value: int | str, column: Any) -> Any:
    return UUID(str(value)) if isinstance(column.type, Uuid) else value


def plain_key(row: Sequence[Any]) -> Key:
    """A key as a message carries it."""
    return tuple(value if isinstance(value, int) else str(value) for value in row)


def rows(wish: ReportWish, revision: int) -> Rows:
    """The rows of a report of any kind but the summary, as the read model had them at a revision."""
    kinds = {"orders": _order_rows, "order-lines": _line_rows, "stock-movements": _movement_rows}
    return kinds[wish.kind](wish, revision)


def _order_rows(wish: ReportWish, revision: int) -> Rows:
    status = _status(revision)
    columns = {
        "order_id": _IdText(_orders.c.id),
        "status": status,
        "reason": _known(_orders.c.rejected_revision, revision, _orders.c.reason),
        "customer_id": _orders.c.customer_id,
        "customer_name": _orders.c.customer_name,
        "customer_email": _orders.c.customer_email,
        "currency": _orders.c.currency,
        "total": _orders.c.amount,
        "lines": _orders.c.lines,
        "pieces": _orders.c.pieces,
        "placed_at": _orders.c.placed_at,
    } | {
        f"{state}_at": _known(_orders.c[f"{state}_revision"], revision, _orders.c[f"{state}_at"])
        for state in ("confirmed", "rejected", "cancelled")
    }
    conditions = [_orders.c.revision <= revision, *_within(wish, _orders.c.placed_at), *_of_customer(wish, status)]
    if sku := wish.filters.sku:
        conditions.append(exists().where(_lines.c.order_id == _orders.c.id, _lines.c.sku == sku))
    return Rows(columns, (_orders.c.placed_at, _orders.c.id), _orders, tuple(conditions))


def _line_rows(wish: ReportWish, revision: int) -> Rows:
    status = _status(revision)
    columns = {
        "order_id": _IdText(_lines.c.order_id),
        "sku": _lines.c.sku,
        "name": _lines.c.name,
        "quantity": _lines.c.quantity,
        "currency": _orders.c.currency,
        "unit_price": _lines.c.price,
        "total": _lines.c.amount,
        "status": status,
        "customer_id": _orders.c.customer_id,
        "customer_name": _orders.c.customer_name,
        "placed_at": _lines.c.placed_at,
    }
    conditions = [*_sold(wish, revision), *_of_customer(wish, status)]
    key = (_lines.c.placed_at, _lines.c.order_id, _lines.c.sku)
    return Rows(columns, key, _lines.join(_orders, _orders.c.id == _lines.c.order_id), tuple(conditions))


def _movement_rows(wish: ReportWish, revision: int) -> Rows:
    columns = {
        "movement_id": _movements.c.id,
        "moved_at": _movements.c.moved_at,
        "sku": _movements.c.sku,
        "kind": _movements.c.kind,
        "on_hand": _movements.c.on_hand,
        "reserved": _movements.c.reserved,
        "order_id": _IdText(_movements.c.order_id),
        "reason": _movements.c.reason,
        "adjusted_by": _movements.c.adjusted_by,
    }
    conditions = [_movements.c.revision <= revision, *_within(wish, _movements.c.moved_at)]
    if sku := wish.filters.sku:
        conditions.append(_movements.c.sku == sku)
    return Rows(columns, (_movements.c.moved_at, _movements.c.id), _movements, tuple(conditions))


def summary(wish: ReportWish, revision: int, days: Iterable[tuple[date, int, int]]) -> Any:
    """The sales summary of some days, each given with its beginning and end: `revenue` is in minor units."""
    named = (column("day", String), column("begins", BigInteger), column("ends", BigInteger))
    calendar = values(*named).data([(each.isoformat(), begins, ends) for each, begins, ends in days]).cte("calendar")
    status = _status(revision)
    sold, rejected = status.in_(("PLACED", "CONFIRMED")), status == "REJECTED"
    within = (_lines.c.placed_at >= calendar.c.begins) & (_lines.c.placed_at < calendar.c.ends)
    source = calendar.join(_lines, within).join(_orders, _orders.c.id == _lines.c.order_id)
    query: Any = select(
        calendar.c.day,
        _lines.c.sku,
        func.max(_lines.c.name).label("name"),
        _orders.c.currency,
        func.count().label("orders"),
        func.sum(case((sold, _lines.c.quantity), else_=0)).label("pieces"),
        func.sum(case((sold, func.coalesce(_lines.c.total, 0)), else_=0)).label("revenue"),
        func.sum(case((rejected, 1), else_=0)).label("rejected_orders"),
    )
    query = query.select_from(source).where(*_sold(wish, revision))
    order = (calendar.c.day, _lines.c.sku, _orders.c.currency)
    return query.group_by(*order).order_by(*order)


def placed_between(wish: ReportWish, revision: int) -> Any:
    """When the first and the last order of a summary were placed."""
    query = select(func.min(_lines.c.placed_at), func.max(_lines.c.placed_at))
    return query.where(*_sold(wish, revision))


def printed(found: Rows, wish: ReportWish) -> Rows:
    """The rows as a CSV file has them, in PostgreSQL's SQL: a million rows are then never seen by Python."""
    types = {column.name: column.type for column in COLUMNS[wish.kind]}
    columns = {name: _printed(each, types[name], wish.options.delimiter) for name, each in found.columns.items()}
    return replace(found, columns=columns)


def _printed(value: Any, type_: str, delimiter: str) -> Any:
    if type_ == "time":
        at = func.to_timestamp(value // 1000)
        return at if delimiter == "," else cast(at, DateTime())  # which drops the offset
    if type_ == "money":
        return value if delimiter == "," else func.replace(value, ".", ",")
    if type_ == "text" and isinstance(value, Column) and value.name not in ("currency", "kind"):  # others say it
        before = domain.BEFORE_A_FORMULA  # asked for first: looking costs less than replacing nothing
        harmless = case((value.op("~")(before), func.regexp_replace(value, before, r"\&'", "g")), else_=value)
        return case((func.ascii(value).in_(domain.WHITE_STARTS), literal("'") + harmless), else_=harmless)
    return value


def _status(revision: int) -> Any:
    states = ("cancelled", "rejected", "confirmed")
    return case(*((_orders.c[f"{s}_revision"] <= revision, s.upper()) for s in states), else_="PLACED")


def _known(of_fact: Any, revision: int, value: Any) -> Any:
    """A fact's value, if it was known at a revision."""
    return case((of_fact <= revision, value))


def _within(wish: ReportWish, at: Any) -> list[Any]:
    since, until = wish.since and milliseconds(wish.since), wish.until and milliseconds(wish.until)
    return [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]


def _sold(wish: ReportWish, revision: int) -> list[Any]:
    of_sku = [_lines.c.sku == wish.filters.sku] if wish.filters.sku else []
    return [_lines.c.revision <= revision, *_within(wish, _lines.c.placed_at), *of_sku]


def _of_customer(wish: ReportWish, status: Any) -> list[Any]:
    customer, wanted = wish.filters.customer_id, wish.filters.status
    return [*([_orders.c.customer_id == customer] if customer else []), *([status == wanted] if wanted else [])]


class _IdText(FunctionElement[str]):
    """A UUID as text: PostgreSQL prints it by itself, SQLite keeps its 32 digits."""

    inherit_cache = True
    type = String()
    name = "id_text"


@compiles(_IdText)
def _print_id(element: Any, compiler: Any, **how: Any) -> str:
    return str(compiler.process(element.clauses, **how))


@compiles(_IdText, "sqlite")
def _hyphenate_id(element: Any, compiler: Any, **how: Any) -> str:
    digits = compiler.process(element.clauses, **how)
    pieces = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"substr({digits}, {start}, {length})" for start, length in pieces)


# -- exports ----------------------------------------------------------------------------------------------------------


async def asked(session: AsyncSession, commands: Sequence[CreateReport]) -> Iterable[SQLModel]:
    """The revision that the read model has, the reports that exist already, and how to tell who asks."""
    model = await load(session, ReadModel, [1])
    known = await load(session, Report, (command.report_id for command in commands), lock=True)
    return [*model, *known, *await load(session, Choice, (domain.reader(c.owner, domain.role_of(c)) for c in commands))]


async def theirs(session: AsyncSession, commands: Sequence[ExportChunk | AssembleReport]) -> Iterable[SQLModel]:
    """The reports that are being made."""
    return await load(session, Report, (command.report_id for command in commands))


async def ending(
    session: AsyncSession, messages: Sequence[ReportAssembled | ExportStopped | CancelReport]
) -> Iterable[SQLModel]:
    """The reports that end, what their owners have beside them, and how they want to be told."""
    found = await load(session, Report, (m.report_id for m in messages), lock=True)
    table: Any = Report
    owners = {report.owner for report in found}
    await one_process_at_a_time(session, owners)  # or two reports would both find room for themselves alone
    stored = (await session.scalars(select(Report).where(table.owner.in_(owners), table.status == "READY"))).all()
    return [*stored, *await _with_choices(session, found)]


async def failing(session: AsyncSession, job_ids: Collection[str]) -> Iterable[SQLModel]:
    """The reports of jobs that failed, and how their owners want to be told."""
    column: Any = Report.job_id
    reports = select(Report).where(column.in_(job_ids)).order_by(Report.id).with_for_update()  # type: ignore[arg-type]
    return await _with_choices(session, (await session.scalars(reports)).all())


async def _with_choices(session: AsyncSession, reports: Sequence[Report]) -> Iterable[SQLModel]:
    return [*reports, *await load(session, Choice, (domain.reader(report.owner, report.role) for report in reports))]


def new_report(command: CreateReport, revision: int, chunk_rows: int, job_id: str) -> Report:
    """A report that is to be made, of the read model's revision."""
    at = now()
    return Report(
        id=command.report_id,
        job_id=job_id,
        owner=command.owner,
        role=domain.role_of(command),
        email=command.email,
        wish=command.wish.model_dump(mode="json"),
        revision=revision,
        chunk_rows=chunk_rows,
        status="RUNNING",
        filename=domain.filename(command.wish, command.report_id, moment(at)),
        created_at=at,
    )


def finish(report: Report, event: ReportAssembled, keep_days: float) -> int:
    """Let a report be downloaded for so many days; return when they end."""
    report.status, report.ended_at = "READY", now()
    report.rows, report.bytes, report.sha256 = event.rows, event.bytes, event.sha256
    report.link_key, report.expires_at = new_link_key(), report.ended_at + round(keep_days * 86_400_000)
    return report.expires_at


def new_link_key() -> str:
    """What signs a report's links."""
    return secrets.token_hex(32)


def about(report: Report) -> dict[str, Any]:
    """What is said of a report wherever it is told of."""
    return {"report_id": report.id, "kind": report.wish["kind"], "format": report.wish["format"]}


def new_notification(report: Report, said: ReportReady | ReportFailed) -> Notification:
    """What its owner sees of a report's end."""
    ends = {"rows": report.rows, "bytes": report.bytes, "detail": report.detail}
    content = {"message": said.key, **about(report), "report_id": str(report.id), **ends}
    return Notification(id=uuid7(), reader=domain.reader(report.owner, report.role), content=content, created_at=now())


async def stored_bytes(session: AsyncSession, owner: str) -> int:
    """What the finished reports of somebody take."""
    reports: Any = Report
    taken = select(func.sum(reports.bytes)).where(reports.owner == owner, reports.status == "READY")
    return int(await session.scalar(taken) or 0)


async def emptied_at(session: AsyncSession) -> int:
    """The revision at which the read model was last emptied."""
    return (await load(session, ReadModel, [1]))[0].emptied_at


# -- who is told ------------------------------------------------------------------------------------------------------


async def _newest(session: AsyncSession, readers: Collection[str]) -> dict[str, UUID | None]:
    """The newest notification of each reader: one look into the index for each, however many there are."""
    asked = values(column("reader", String), name="asked").data([(reader,) for reader in readers]).cte("asked")
    newest = select(_notifications.c.id).where(_notifications.c.reader == asked.c.reader)
    newest = newest.order_by(_notifications.c.id.desc()).limit(1)
    rows = await session.execute(select(asked.c.reader, newest.scalar_subquery().label("newest")))
    return {row.reader: row.newest for row in rows}


def expired(report: Report) -> RemoveReportFiles:
    """End a report that was ready: what removes its files. Its link keeps its key: whoever follows the link is told
    that the report is gone, not that the link is wrong."""
    report.status, report.expires_at = "EXPIRED", min(report.expires_at or now(), now())
    return RemoveReportFiles(report_id=report.id, result=True)


news = Changes(_newest)
"""One for the process, by reader: its lane announces notifications, its requests wait for them."""


# -- what is projected ------------------------------------------------------------------------------------------------


async def read_model(session: AsyncSession) -> ReadModel:
    """The read model's one row, locked."""
    return (await load(session, ReadModel, [1], lock=True))[0]


async def touched(session: AsyncSession, messages: Sequence[Projected]) -> Iterable[SQLModel]:
    """The read model, locked and one revision further, and what is known of all that the messages are about.

    A rebuild empties it here, before anything of its batch is projected: what came with it is kept.
    """
    model = await read_model(session)
    model.revision += 1
    if any(isinstance(message, RebuildReadModel) for message in messages):
        await _empty(session)
        model.emptied_at = model.revision
    facts = [fact for message in messages for fact in domain.facts(message)]
    orders = {domain.order_id(fact) for fact in facts if isinstance(fact, OrderFact)}
    movements = {id_ for fact in facts if isinstance(fact, StockFact) for id_ in domain.movements(fact)}
    return [model, *await load(session, Order, orders), *await load(session, Movement, movements)]


async def _empty(session: AsyncSession) -> None:
    """Empty what is projected, at once however much there is.

    PostgreSQL's TRUNCATE is seen even by who began to read before it: an export asks for `emptied_at` after reading.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("TRUNCATE orders, order_lines, stock_movements"))
        return
    for table in (Order, Line, Movement):
        await session.execute(delete(table), execution_options={"synchronize_session": False})


def new_order(fact: OrderFact, revision: int) -> tuple[Order, list[Line]]:
    """An order with its lines: all that never changes in it, and that every fact about it says."""
    order = Order(
        id=domain.order_id(fact),
        revision=revision,
        placed_at=domain.milliseconds(fact.placed_at),
        customer_id=fact.customer.id,
        customer_name=fact.customer.name,
        customer_email=fact.customer.email,
        currency=fact.currency if isinstance(fact, OrderRejected | OrderView) else fact.total.currency,
        total=fact.total.amount if fact.total else None,
        amount=_major(fact.total),
        lines=len(fact.lines),
        pieces=sum(line.quantity for line in fact.lines),
    )
    return order, [
        Line(
            order_id=order.id,
            sku=line.sku,
            revision=revision,
            placed_at=order.placed_at,
            name=line.name,
            quantity=line.quantity,
            unit_price=line.unit_price.amount if line.unit_price else None,
            price=_major(line.unit_price),
            total=line.total.amount if line.total else None,
            amount=_major(line.total),
        )
        for line in fact.lines
    ]


def _major(money: Money | None) -> str | None:
    return None if money is None else domain.major(money.amount, money.currency)


# -- what is asked over HTTP ------------------------------------------------------------------------------------------


async def report(session: AsyncSession, report_id: UUID) -> Report | None:
    """One report, locked."""
    return next(iter(await load(session, Report, [report_id], lock=True)), None)


def reports(customer: str | None, status: str | None) -> Any:
    """The reports of one customer or of all, in one status or in any."""
    query: Any = select(Report)
    if customer is not None:
        query = query.where(Report.owner == customer, Report.role == "customer")
    return query.where(Report.status == status) if status else query


async def overdue(session: AsyncSession) -> Sequence[Report]:
    """Some reports that have been kept for their time, locked; not those that another process is at."""
    reports: Any = Report
    query = select(Report).where(reports.status == "READY", reports.expires_at <= clock.of_database(session))
    query = query.order_by(reports.expires_at).limit(TIDIED_AT_ONCE).with_for_update(skip_locked=True)
    return (await session.scalars(query)).all()


async def forget(database: Database, keep_days: float) -> None:
    """Delete what ended longer ago than anyone asks for, in small steps."""
    reports: Any = Report
    async with database.reading() as session:
        before = await clock.read(session) - FORGOTTEN_AFTER
    ended = func.coalesce(reports.expires_at, reports.ended_at) < before
    await _delete(database, reports, before, ended, reports.status.in_(("EXPIRED", "FAILED", "CANCELLED")))
    await _delete(database, Notification, before - round(keep_days * 86_400_000))


async def _delete(database: Database, table: Any, made_before: int, *which: Any) -> None:
    """By the id, whose beginning is the time at which it was made: that has an index."""
    some = select(table.id).where(table.id < _id_of(made_before), *which).order_by(table.id).limit(TIDIED_AT_ONCE)
    some = some.with_for_update(skip_locked=True)  # not those that another process is at
    found: Sequence[UUID] = [UUID(int=0)]
    while found:
        async with database.transaction() as session:
            found = (await session.scalars(some)).all()
            await session.execute(delete(table).where(table.id.in_(found)))


def notifications(reader: str) -> Any:
    """All that somebody was told."""
    return select(Notification).where(_notifications.c.reader == reader)


async def unread(session: AsyncSession, reader: str) -> int:
    """How much of what somebody was told is unread."""
    mine = (_notifications.c.reader == reader, _notifications.c.read_at.is_(None))
    return int(await session.scalar(select(func.count()).select_from(_notifications).where(*mine)) or 0)


async def read_all(session: AsyncSession, reader: str) -> None:
    """Mark all that somebody was told as read."""
    mine = (_notifications.c.reader == reader, _notifications.c.read_at.is_(None))
    await session.execute(update(_notifications).where(*mine).values(read_at=now()))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client was sent: everything up to the id `until`, and `ids` of what comes after it."""

    until: UUID
    ids: frozenset[UUID] = frozenset()


async def seen(session: AsyncSession, reader: str, last_event_id: str | None) -> Seen:
    """What a client has that names the last event it was sent; all that there is, if it names none of ours."""
    at = await clock.read(session)
    settled = _id_of(at - LATE)
    with suppress(ValueError):
        named = UUID(last_event_id or "")
        if named < _id_of(at + AHEAD):
            return Seen(named)
        return Seen(settled, frozenset([named]))  # of a clock that ran ahead: what follows it sorts before it
    _, found = await told_since(session, reader, Seen(settled))
    return found


async def told_since(session: AsyncSession, reader: str, seen: Seen) -> tuple[list[Notification], Seen]:
    """Some of what somebody was told and has not seen, in its order; and what is seen then.

    Ids are given before they are committed. So the last minute is looked at again each time: by another process, one
    that sorts earlier can come to be known later.
    """
    limit = TIDIED_AT_ONCE + len(seen.ids)
    query = notifications(reader).where(_notifications.c.id > seen.until).order_by(_notifications.c.id).limit(limit)
    found = (await session.scalars(query)).all()
    settled = _id_of(await clock.read(session) - LATE)
    until = max(seen.until, min(settled, found[-1].id) if len(found) == limit else settled)
    ids = frozenset(row.id for row in found if row.id > until)
    return [row for row in found if row.id not in seen.ids], Seen(until, ids)


def _id_of(milliseconds: int) -> UUID:
    """The first UUIDv7 that could be given at a time."""
    return UUID(int=milliseconds << 80)


async def keep_choice(session: AsyncSession, reader: str, choice: NoticeChoice) -> None:
    """Write down how somebody wants to be told."""
    values = choice.model_dump()
    insert = INSERTS[session.get_bind().dialect.name](Choice).values(reader=reader, **values)
    await session.execute(insert.on_conflict_do_update(index_elements=["reader"], set_=values))
