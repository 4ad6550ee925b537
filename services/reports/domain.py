"""The decisions of reports: the content of each fact, the parts of an export, names, and signed links. Pure."""

import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

from contracts.base import minor_digits
from contracts.http.orders import OrderView
from contracts.http.stock import AdjustmentView, ReservationView
from contracts.jobs import JobProgressed
from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from contracts.reports import (
    AssembleReport,
    CreateReport,
    ExportChunk,
    FetchPage,
    ProjectPage,
    ReadModelRebuilt,
    RebuildReadModel,
    ReportWish,
    Source,
)
from contracts.stock import StockAdjusted, StockReleased, StockReserved, StockTaken

SHEET_ROWS = 1_048_575
"""Rows of an xlsx sheet below its header (ECMA-376 readers take 1,048,576 in all)."""

SLOWER = {"jsonl": 4, "parquet": 4, "xlsx": 20}
"""How many times longer a row takes than in a csv. Parts are smaller by this factor, so that no message takes long."""

SUMMARY_DAYS = 31
"""Days in one part of a sales summary."""

_ENDS_A_CELL = ',;"\t\r\n'
_BEGINS_A_FORMULA = "=+@\uff1d\uff0b\uff0d\uff20-"
BEFORE_A_FORMULA = f"(?:^|[{_ENDS_A_CELL}])[ {_ENDS_A_CELL}]*(?=[{_BEGINS_A_FORMULA}])"
"""A regular expression, for Python and for PostgreSQL. A spreadsheet program may run a text that begins with = + - @ or
their full-width forms (OWASP, "CSV Injection"), and may split a file at a separator that is not the file's own. So a
CSV has a ' between this and what follows, in texts only: numbers stay numbers."""

MAY_BE_A_FORMULA = f"[{_BEGINS_A_FORMULA}](?<=[ {_ENDS_A_CELL}].)"
"""Finds the same as `BEFORE_A_FORMULA` in a text with a separator in front, ten times as fast in Python."""

WHITE_STARTS = (0x09, 0x0A, 0x0D)
"""The code points of tab, LF and CR. A text that begins with one gets a ' in front: a program may drop them."""


def part_rows(request: ReportWish, chunk_rows: int) -> int:
    """The most rows of one part."""
    return max(1, chunk_rows // SLOWER.get(request.format, 1))


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is written: its rows and bytes, the key after which the next part begins (None after the last part),
    and the progress of the export."""

    rows: int
    bytes: int
    total: int | None
    after: tuple[int | str, ...] | None
    done: int
    of: int
    unit: Literal["rows", "days"] = "rows"


def following(command: ExportChunk, part: Part) -> ExportChunk | AssembleReport:
    """The command after a part: for the next part, or, after the last one, for joining all parts."""
    rows, number, size = command.done + part.rows, command.part + 1, command.bytes + part.bytes
    if part.after is None:
        return AssembleReport(report_id=command.report_id, parts=number, rows=rows, bytes=size, total=part.total)
    return ExportChunk(
        report_id=command.report_id, part=number, after=part.after, done=rows, bytes=size, total=part.total
    )


def progress(part: Part, elapsed: int) -> JobProgressed:
    """The progress of an export after so many milliseconds."""
    rate = part.done / max(elapsed, 1) * 1000
    left = (part.of - part.done) / rate if rate else None
    return JobProgressed(done=part.done, total=part.of, unit=part.unit, rate=rate, seconds_left=left)


def part_days(after: Sequence[int | str], zone: str) -> tuple[list[tuple[date, int, int]], tuple[str, str] | None, int]:
    """The days of the next part of a summary, given the first and the last remaining day; the remaining days after it
    (None: none); and the number of remaining days before it."""
    if not after:
        return [], None, 0
    first, last = (date.fromisoformat(str(day)) for day in after)
    left = (last - first).days + 1
    following = first + timedelta(days=SUMMARY_DAYS)
    found = list(days(first, zone, min(SUMMARY_DAYS, left)))
    return found, (following.isoformat(), last.isoformat()) if following <= last else None, left


def days(first: date, zone: str, number: int) -> Iterator[tuple[date, int, int]]:
    """Consecutive local days, each with its beginning and end (exclusive) in epoch milliseconds.

    A day on which clocks are changed has 23 or 25 hours.
    """
    for day in (first + timedelta(days=n) for n in range(number)):
        yield day, midnight(day, zone), midnight(day + timedelta(days=1), zone)


def midnight(day: date, zone: str) -> int:
    """The beginning of a local day in epoch milliseconds: one o'clock if clocks are put forward at midnight, and the
    first of two midnights."""
    return milliseconds(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)))


def milliseconds(at: datetime) -> int:
    """Epoch milliseconds of an aware time."""
    return round(at.timestamp() * 1000)


def filename(request: ReportWish, report_id: UUID, created: datetime) -> str:
    """The file name of a download: `orders-2026-11-02-4d5e6f.csv`."""
    day = created.astimezone(ZoneInfo(request.timezone)).date()
    return f"{request.kind}-{day}-{report_id.hex[-6:]}.{request.format}"


def role_of(command: CreateReport) -> str:
    """The role in which a report is asked for. A command without a role is a customer's if it selects the owner's
    orders only."""
    return command.role or ("customer" if command.wish.filters.customer_id == command.owner else "operator")


def reader(subject: str, role: str) -> str:
    """The reader of notifications. One subject is two readers, as an operator and as a customer; the separator is no
    character of a subject."""
    return f"\x1f{subject}" if role == "operator" else subject


def folder(report_id: UUID) -> str:
    """The prefix of all objects of a report."""
    return f"{report_id}/"


def parts(report_id: UUID) -> str:
    """The prefix of the parts of a report."""
    return f"{folder(report_id)}parts/"


def part_name(report_id: UUID, part: int) -> str:
    """The object of a part. A part that is written again has the same name."""
    return f"{parts(report_id)}{part:06}"


def result_name(report_id: UUID) -> str:
    """The object of a finished report."""
    return f"{folder(report_id)}result"


def signature(link_key: str, report_id: UUID, expires: int) -> str:
    """The signature of a link to a report: an HMAC-SHA256 of the report's id and the link's end (epoch seconds), in
    hex.

    Each report has a key of its own. Removing or replacing the key revokes every link.
    """
    return hmac.new(link_key.encode(), f"{report_id}.{expires}".encode(), hashlib.sha256).hexdigest()


def is_signed(link_key: str | None, report_id: UUID, expires: int, given: str) -> bool:
    """Whether a signature is that of this link."""
    expected = signature(link_key or "", report_id, expires)
    return bool(link_key) and hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))


class Linked(Protocol):
    """The fields of a report from which a link is made."""

    id: UUID
    link_key: str | None
    expires_at: int | None


def link(public_url: str, report: Linked) -> str | None:
    """The address that opens a report without a token; None if the link was revoked."""
    if not report.link_key or report.expires_at is None:
        return None
    expires = report.expires_at // 1000
    signed = f"expires={expires}&signature={signature(report.link_key, report.id, expires)}"
    return f"{public_url.rstrip('/')}/v1/reports/{report.id}/download?{signed}"


_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(ValueError):
    """A range that begins after the end (RFC 9110, 14.4): answered 416."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and last byte that a `Range` header asks for (RFC 9110, 14.2); None: send all.

    A header with several ranges or of an unknown form is ignored, as the RFC allows. Raises `Unsatisfiable`.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
        if found[2] and int(found[2]) < first:
            return None
    if first > last:
        raise Unsatisfiable(f"the file has {size} bytes")
    return first, last


# -- the read model ---------------------------------------------------------------------------------------------------

OrderFact = OrderPlaced | OrderConfirmed | OrderRejected | OrderCancelled | OrderView
StockFact = StockReserved | StockTaken | StockReleased | StockAdjusted | ReservationView | AdjustmentView
Projected = OrderFact | StockFact | ProjectPage | RebuildReadModel
KEYS: dict[Source, str] = {"orders": "id", "reservations": "order_id", "adjustments": "id"}
"""The field by which a source's pages are ordered. Sources are asked in this order."""

_VIEWS: dict[str, type[OrderView | ReservationView | AdjustmentView]] = {
    "orders": OrderView,
    "reservations": ReservationView,
    "adjustments": AdjustmentView,
}


def facts(message: Projected) -> list[OrderFact | StockFact]:
    """The facts in a message about orders and stock. Raises `pydantic.ValidationError` if a page cannot be read."""
    if isinstance(message, ProjectPage):
        return [_VIEWS[message.source].model_validate(entry, extra="ignore") for entry in message.entries]
    return [] if isinstance(message, RebuildReadModel) else [message]


def order_id(fact: OrderFact) -> UUID:
    """The order that a fact is about."""
    return fact.id if isinstance(fact, OrderView) else fact.order_id


def turns(fact: OrderFact) -> dict[str, int]:
    """The later states of an order that a fact names, each with its time (epoch milliseconds)."""
    times = {name: getattr(fact, f"{name}_at", None) for name in ("confirmed", "rejected", "cancelled")}
    return {name: milliseconds(at) for name, at in times.items() if at}


def movements(fact: StockFact) -> dict[str, dict[str, Any]]:
    """The movements that a fact consists of, by their ids. An id is derived from the fact, so a repeated movement is
    recognised."""
    if isinstance(fact, StockAdjusted | AdjustmentView):
        id_ = fact.adjustment_id if isinstance(fact, StockAdjusted) else fact.id
        how = {"kind": "adjusted", "on_hand": fact.delta, "reserved": 0}
        why = {"reason": fact.reason, "adjusted_by": fact.adjusted_by}
        return {str(id_): {"sku": fact.sku, "moved_at": milliseconds(fact.adjusted_at), **how, **why}}
    return {
        f"{fact.order_id}.{kind}.{line.sku}": {
            "sku": line.sku,
            "moved_at": milliseconds(at),
            "kind": kind,
            "on_hand": on_hand * line.quantity,
            "reserved": reserved * line.quantity,
            "order_id": fact.order_id,
        }
        for kind, at, on_hand, reserved in _steps(fact)
        for line in fact.lines
    }


def _steps(
    fact: StockReserved | StockTaken | StockReleased | ReservationView,
) -> Iterator[tuple[str, datetime, int, int]]:
    """The steps of an order's pieces: kind, time, and the changes of on hand and reserved."""
    reserved_at, taken_at, released_at = (
        getattr(fact, name, None) for name in ("reserved_at", "taken_at", "released_at")
    )
    if reserved_at:
        yield "reserved", reserved_at, 0, 1
    if taken_at:
        yield "taken", taken_at, -1, -1
    if released_at:
        was_taken = fact.was_taken if isinstance(fact, StockReleased) else taken_at is not None
        yield "released", released_at, int(was_taken), int(was_taken) - 1


def major(amount: int, currency: str) -> str:
    """An amount in minor units as a decimal in major ones: `69.90`."""
    return f"{Decimal(amount).scaleb(-minor_digits(currency)):f}"


def next_page(page: FetchPage, entries: Sequence[dict[str, Any]], has_more: bool) -> FetchPage | ReadModelRebuilt:
    """The message after a page: the next page of the source, the first page of the next source, or the end."""
    done, since = page.done + len(entries), page.since
    if has_more:
        return FetchPage(source=page.source, after=entries[-1][KEYS[page.source]], done=done, since=since)
    sources = list(KEYS)
    following = sources[sources.index(page.source) + 1 :]
    return FetchPage(source=following[0], done=done, since=since) if following else ReadModelRebuilt(entries=done)
