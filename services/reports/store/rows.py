"""The rows that a report shows: its SELECTs, and how an export takes them part by part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    String,
    Uuid,
    case,
    cast,
    column,
    exists,
    func,
    literal,
    select,
    tuple_,
    values,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from contracts.reports import COLUMNS, ReportWish
from services.reports import domain
from services.reports.domain import milliseconds
from services.reports.store.read_model import Line, Movement, Order

_orders: Any = Order.__table__  # type: ignore[attr-defined]
_lines: Any = Line.__table__  # type: ignore[attr-defined]
_movements: Any = Movement.__table__  # type: ignore[attr-defined]

Key = tuple[int | str, ...]
"""The last row of a part: its values of the columns by which the report is sorted."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A query for the rows of a report. `columns` are the raw values (see `contracts.reports.Column`), `key` are the
    columns by which the rows are sorted, `conditions` say which rows of `source` are in the report."""

    columns: Mapping[str, Any]
    key: tuple[Any, ...]
    source: Any
    conditions: tuple[Any, ...]

    def count(self) -> Any:
        """A query for the number of rows."""
        return select(func.count()).select_from(self.source).where(*self.conditions)

    def part(self, after: Key, limit: int) -> Any:
        """A query for the next `limit` rows after the key `after`. Keyset pagination: the last part costs no more than
        the first."""
        columns = [expression.label(name) for name, expression in self.columns.items()]
        return self._part(columns, after, limit)

    def end_of_part(self, after: Key, limit: int) -> Any:
        """A query for the key of the last row of that part and the number of its rows. An empty part gives no row."""
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
    """A key in the form in which messages carry it."""
    return tuple(value if isinstance(value, int) else str(value) for value in row)


def select_rows(request: ReportWish, revision: int) -> Rows:
    """The rows of a report at a revision of the read model, for all kinds of reports except the sales summary."""
    kinds = {"orders": _order_rows, "order-lines": _line_rows, "stock-movements": _movement_rows}
    return kinds[request.kind](request, revision)


def _order_rows(request: ReportWish, revision: int) -> Rows:
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
    conditions = [
        _orders.c.revision <= revision,
        *_within(request, _orders.c.placed_at),
        *_of_customer(request, status),
    ]
    if sku := request.filters.sku:
        conditions.append(exists().where(_lines.c.order_id == _orders.c.id, _lines.c.sku == sku))
    return Rows(columns, (_orders.c.placed_at, _orders.c.id), _orders, tuple(conditions))


def _line_rows(request: ReportWish, revision: int) -> Rows:
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
    conditions = [*_sold(request, revision), *_of_customer(request, status)]
    key = (_lines.c.placed_at, _lines.c.order_id, _lines.c.sku)
    return Rows(columns, key, _lines.join(_orders, _orders.c.id == _lines.c.order_id), tuple(conditions))


def _movement_rows(request: ReportWish, revision: int) -> Rows:
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
    conditions = [_movements.c.revision <= revision, *_within(request, _movements.c.moved_at)]
    if sku := request.filters.sku:
        conditions.append(_movements.c.sku == sku)
    return Rows(columns, (_movements.c.moved_at, _movements.c.id), _movements, tuple(conditions))


def select_summary(request: ReportWish, revision: int, days: Iterable[tuple[date, int, int]]) -> Any:
    """The sales summary of some days at a revision. Each of `days` is a date, its beginning and its end (exclusive) in
    epoch milliseconds. `revenue` is in minor units."""
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
    query = query.select_from(source).where(*_sold(request, revision))
    order = (calendar.c.day, _lines.c.sku, _orders.c.currency)
    return query.group_by(*order).order_by(*order)


def select_first_and_last(request: ReportWish, revision: int) -> Any:
    """The times at which the first and the last order of a summary were placed."""
    query = select(func.min(_lines.c.placed_at), func.max(_lines.c.placed_at))
    return query.where(*_sold(request, revision))


def as_csv(found: Rows, request: ReportWish) -> Rows:
    """The same rows, formatted for a CSV file by PostgreSQL: a million rows then never pass through Python."""
    types = {column.name: column.type for column in COLUMNS[request.kind]}
    columns = {name: _as_csv(each, types[name], request.options.delimiter) for name, each in found.columns.items()}
    return replace(found, columns=columns)


def _as_csv(value: Any, type_: str, delimiter: str) -> Any:
    if type_ == "time":
        at = func.to_timestamp(value // 1000)
        return at if delimiter == "," else cast(at, DateTime())  # a timestamp without the offset
    if type_ == "money":
        return value if delimiter == "," else func.replace(value, ".", ",")
    if type_ == "text" and isinstance(value, Column) and value.name not in ("currency", "kind"):  # no free text
        before = domain.BEFORE_A_FORMULA  # a search costs less than a replacement that changes nothing
        harmless = case((value.op("~")(before), func.regexp_replace(value, before, r"\&'", "g")), else_=value)
        return case((func.ascii(value).in_(domain.WHITE_STARTS), literal("'") + harmless), else_=harmless)
    return value


def _status(revision: int) -> Any:
    states = ("cancelled", "rejected", "confirmed")
    return case(*((_orders.c[f"{s}_revision"] <= revision, s.upper()) for s in states), else_="PLACED")


def _known(of_fact: Any, revision: int, value: Any) -> Any:
    """The value of a fact, or NULL if the fact was not known at a revision."""
    return case((of_fact <= revision, value))


def _within(request: ReportWish, at: Any) -> list[Any]:
    since, until = request.since and milliseconds(request.since), request.until and milliseconds(request.until)
    return [*([at >= since] if since is not None else []), *([at < until] if until is not None else [])]


def _sold(request: ReportWish, revision: int) -> list[Any]:
    of_sku = [_lines.c.sku == request.filters.sku] if request.filters.sku else []
    return [_lines.c.revision <= revision, *_within(request, _lines.c.placed_at), *of_sku]


def _of_customer(request: ReportWish, status: Any) -> list[Any]:
    customer, wanted = request.filters.customer_id, request.filters.status
    return [*([_orders.c.customer_id == customer] if customer else []), *([status == wanted] if wanted else [])]


class _IdText(FunctionElement[str]):
    """A UUID as text with hyphens. PostgreSQL prints a UUID so; SQLite stores its 32 digits without hyphens."""

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
