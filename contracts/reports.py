"""The messages of the reports service: requests, the chain of commands that makes an export, and its end."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator

from contracts.base import UUID, AwareDatetime, Command, Contract, Email, Event, JobKind, JobState, Locale, Sku, text
from contracts.orders import OrderState

ReportKind = Literal["orders", "order-lines", "stock-movements", "sales-summary"]
ReportFormat = Literal["csv", "jsonl", "parquet", "xlsx", "pdf", "html"]
MEDIA_TYPES: dict[ReportFormat, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pdf": "application/pdf",
    "html": "text/html; charset=utf-8",
}
ReportStatus = Literal["RUNNING", "READY", "FAILED", "CANCELLED", "EXPIRED"]
Role = Literal["customer", "operator"]
DEFAULT_TIMEZONE = "America/Sao_Paulo"
PAGES: tuple[str, ...] = ("pdf", "html")
"""The formats for people, with charts."""

LONGEST_CUSTOMER_ID = 64
FILTERS: dict[str, tuple[str, ...]] = {
    "orders": ("status", "sku", "customer_id"),
    "order-lines": ("status", "sku", "customer_id"),
    "stock-movements": ("sku",),
    "sales-summary": ("sku",),
}
"""The filters of each kind."""


@cache
def _zones() -> set[str]:
    """The time zones that are the same on every machine. Cached, because listing them reads a tree of files."""
    return available_timezones() - {"localtime", "Factory"}


class Filters(Contract):
    """Which rows. `sku` on `orders` means the orders that contain it."""

    status: OrderState | None = None
    sku: Sku | None = None
    customer_id: Annotated[str, text(LONGEST_CUSTOMER_ID)] | None = None


class Options(Contract):
    """How a file is written. A CSV with `;` has a decimal comma and local times without an offset, as spreadsheet
    programs in pt-BR read them; `bom` tells Excel that the file is UTF-8. `locale` is the language of pdf and html."""

    delimiter: Literal[",", ";"] = ","
    bom: StrictBool = False
    locale: Locale = "pt-BR"


class ReportWish(Contract):
    """A request for a report. All but `kind` and `format` may be left out.

    `from` (inclusive) and `to` (exclusive) are about when an order was placed, or a movement happened; without an
    offset they are local to `timezone`, as are the times and days in the report.
    """

    model_config = ConfigDict(
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        json_schema_extra={
            "examples": [{"kind": "orders", "format": "csv", "from": "2026-01-01T00:00:00-03:00"}],
        },
    )

    kind: ReportKind
    format: ReportFormat
    timezone: str = Field(default=DEFAULT_TIMEZONE, max_length=64, description="As IANA names it.")
    since: datetime | None = Field(default=None, alias="from")
    until: datetime | None = Field(default=None, alias="to")
    filters: Filters = Filters()
    options: Options = Options()

    @field_validator("format")
    @classmethod
    def _goes_with_kind(cls, value: str, info: ValidationInfo) -> str:
        if value in PAGES and info.data.get("kind") not in (None, "sales-summary"):
            raise ValueError(f"{value} is for sales-summary only; take csv, jsonl, parquet or xlsx")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in _zones():
            raise ValueError(f"{value!r} is no time zone: write one such as America/Sao_Paulo or UTC")
        return value

    @field_validator("since", "until")
    @classmethod
    def _is_local(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        if value is not None and not 1970 <= value.year <= 9000:
            raise ValueError("write a year from 1970 to 9000")
        if value is not None and value.tzinfo is None and "timezone" in info.data:
            return value.replace(tzinfo=ZoneInfo(info.data["timezone"]))
        return value

    @field_validator("until")
    @classmethod
    def _comes_after(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        since = info.data.get("since")
        # As instants: Python compares two times of one zone by their local clocks, which can go back.
        if value and since and value.tzinfo and since.tzinfo and value.astimezone(UTC) <= since.astimezone(UTC):
            raise ValueError("to must be later than from")
        return value

    @field_validator("filters")
    @classmethod
    def _filters_go_with_kind(cls, value: Filters, info: ValidationInfo) -> Filters:
        kind: Any = info.data.get("kind")
        wrong = [name for name, given in value if kind and given is not None and name not in FILTERS[kind]]
        if wrong:
            raise ValueError(f"{' and '.join(sorted(wrong))} cannot be asked of {kind}: {', '.join(FILTERS[kind])} can")
        return value

    @field_validator("options")
    @classmethod
    def _options_go_with_format(cls, value: Options, info: ValidationInfo) -> Options:
        known = {"csv": {"delimiter", "bom"}, "pdf": {"locale"}, "html": {"locale"}}
        format_ = info.data.get("format")
        wrong = {name for name, given in value if given != getattr(Options(), name)} - known.get(str(format_), set())
        if format_ and wrong:
            raise ValueError(f"{' and '.join(sorted(wrong))} is no option of {format_}")
        return value


OF_CUSTOMERS: tuple[ReportKind, ...] = ("orders", "order-lines")
"""The kinds that a customer may have."""


class NotForCustomers(Exception):
    """A customer may not have this report. `code` is for programs, the text for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def about_customer(request: ReportWish, customer: str) -> ReportWish:
    """A customer's request, limited to its own orders. Raises `NotForCustomers` if it asks for anything else."""
    if request.kind not in OF_CUSTOMERS:
        raise NotForCustomers("operators_only", f"Only an operator may have a report of kind {request.kind}.")
    if request.filters.customer_id not in (None, customer):
        detail = "A customer has reports of its own orders: leave customer_id out."
        raise NotForCustomers("not_your_orders", detail)
    if len(customer) > LONGEST_CUSTOMER_ID:
        detail = "Your token's subject is too long to be a customer's id: you have no orders."
        raise NotForCustomers("no_customer", detail)
    return request.model_copy(update={"filters": request.filters.model_copy(update={"customer_id": customer})})


# -- columns ----------------------------------------------------------------------------------------------------------

ColumnType = Literal["text", "integer", "money", "time", "day", "share"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a report.

    Raw, as it is read from the database: `time` is epoch milliseconds, `money` a decimal in major units (`69.90`),
    `day` ISO 8601, `share` a decimal from 0 to 1; NULL is an empty field.
    """

    name: str
    type: ColumnType
    about: str


COLUMNS: dict[str, tuple[Column, ...]] = {
    "orders": (
        Column("order_id", "text", "The order's id."),
        Column("status", "text", "PLACED, CONFIRMED, REJECTED or CANCELLED."),
        Column("reason", "text", "Why it was rejected."),
        Column("customer_id", "text", "The customer's id."),
        Column("customer_name", "text", "The customer's name."),
        Column("customer_email", "text", "The customer's address."),
        Column("currency", "text", "ISO 4217."),
        Column("total", "money", "What all lines cost; empty if it could not be priced."),
        Column("lines", "integer", "How many lines it has."),
        Column("pieces", "integer", "How many pieces in all."),
        Column("placed_at", "time", "When it was placed."),
        Column("confirmed_at", "time", "When it was confirmed."),
        Column("rejected_at", "time", "When it was rejected."),
        Column("cancelled_at", "time", "When it was cancelled."),
    ),
    "order-lines": (
        Column("order_id", "text", "The order's id."),
        Column("sku", "text", "The product."),
        Column("name", "text", "What it was called; empty if the order could not be priced."),
        Column("quantity", "integer", "Pieces."),
        Column("currency", "text", "ISO 4217."),
        Column("unit_price", "money", "What one piece cost."),
        Column("total", "money", "What the line cost."),
        Column("status", "text", "The order's status."),
        Column("customer_id", "text", "The customer's id."),
        Column("customer_name", "text", "The customer's name."),
        Column("placed_at", "time", "When the order was placed."),
    ),
    "stock-movements": (
        Column("movement_id", "text", "The movement's id."),
        Column("moved_at", "time", "When it happened."),
        Column("sku", "text", "The product."),
        Column("kind", "text", "reserved, taken, released or adjusted."),
        Column("on_hand", "integer", "Pieces that came to (or left) the warehouse."),
        Column("reserved", "integer", "Pieces that were promised (or no longer are)."),
        Column("order_id", "text", "The order that it is about."),
        Column("reason", "text", "Why it was adjusted."),
        Column("adjusted_by", "text", "Who adjusted it."),
    ),
    "sales-summary": (
        Column("day", "day", "The day on which the orders were placed, in the report's time zone."),
        Column("sku", "text", "The product."),
        Column("name", "text", "What it was called."),
        Column("currency", "text", "ISO 4217."),
        Column("orders", "integer", "Orders with this product, in any status."),
        Column("pieces", "integer", "Pieces in those that were neither rejected nor cancelled."),
        Column("revenue", "money", "What those pieces cost."),
        Column("rejected_orders", "integer", "Orders with this product that were rejected."),
        Column("rejected_share", "share", "The same as a share of all."),
    ),
}


def columns_in_markdown() -> str:
    """The columns of each kind, for the document of the route."""
    tables = []
    for kind, columns in COLUMNS.items():
        rows = "\n".join(f"| `{column.name}` | {column.type} | {column.about} |" for column in columns)
        tables.append(f"**{kind}**\n\n| column | type | what it is |\n|---|---|---|\n{rows}")
    return "\n\n".join(tables)


# -- messages ---------------------------------------------------------------------------------------------------------


class CancelReport(Command):
    """Cancel a report that is being made. Answered by `ReportCancelled` or `ReportCancelRefused`."""

    key: ClassVar[str] = "report.cancel.v1"
    job_kind: ClassVar[JobKind | None] = JobKind("report.cancel", "/v1/jobs/{job_id}/cancel", "report")

    report_id: UUID


class CreateReport(Command):
    """Make a report. It shows what the read model holds when this is handled, and nothing that comes later."""

    key: ClassVar[str] = "report.create.v1"
    carries_job: ClassVar[bool] = True
    job_kind: ClassVar[JobKind | None] = JobKind(
        "report.create", "/v1/reports", "report", is_creation=True, cancelled_by=CancelReport
    )

    report_id: UUID
    owner: Annotated[str, text(255)] = Field(examples=["ana"])
    role: Role | None = Field(default=None, description="The owner's role. A customer sees only its own reports.")
    email: Email | None = Field(
        default=None, description="The address for mail about its end. An operator's own choice takes precedence."
    )
    wish: ReportWish


class ExportChunk(Command):
    """Write one part of a report: the rows after the key `after`, as many as go into a part.

    The part depends only on the report and on this command, so a repeated command writes the same part again.
    """

    key: ClassVar[str] = "report.export.v1"
    carries_job: ClassVar[bool] = True

    report_id: UUID
    part: int = Field(ge=0)
    after: tuple[int | str, ...] = ()
    done: int = Field(default=0, ge=0, description="Rows in the parts before.")
    bytes: int = Field(default=0, ge=0, description="Bytes in the parts before.")
    total: int | None = Field(default=None, ge=0, description="Rows in all; None until the first part counted them.")


class AssembleReport(Command):
    """Put a report's parts together, and check them."""

    key: ClassVar[str] = "report.assemble.v1"
    carries_job: ClassVar[bool] = True

    report_id: UUID
    parts: int = Field(ge=1, le=1_000_000)
    rows: int = Field(ge=0, examples=[4812])
    bytes: int = Field(ge=0, examples=[391204], description="Bytes in all parts.")
    total: int | None = Field(default=None, ge=0, description="Rows that were counted at first; None: not counted.")


class RemoveReportFiles(Command):
    """Remove a report's parts, and with `result` the report itself."""

    key: ClassVar[str] = "report.remove_files.v1"

    report_id: UUID
    result: bool


class ReportAssembled(Event):
    """A report's file is complete."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.assembled.v1"

    report_id: UUID
    rows: int = Field(ge=0, examples=[4812])
    bytes: int = Field(ge=0, examples=[391204])
    sha256: str = Field(examples=["2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"])


class ExportStopped(Event):
    """An export came to a limit: no retry would help."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.stopped.v1"

    report_id: UUID
    reason: Annotated[str, text(64)] = Field(examples=["too_many_rows"])
    detail: Annotated[str, text(500)] = Field(examples=["A report has at most 1000000 rows; narrow it down."])


class ReportReady(Event):
    """A report can be downloaded until `expires_at`."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.ready.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    report_id: UUID
    kind: ReportKind
    format: ReportFormat
    rows: int = Field(ge=0, examples=[4812])
    bytes: int = Field(ge=0, examples=[391204])
    sha256: str = Field(examples=["2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"])
    expires_at: AwareDatetime


class ReportFailed(Event):
    """A report has failed."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.failed.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    report_id: UUID
    reason: Annotated[str, text(64)] = Field(examples=["too_many_rows"])
    detail: Annotated[str, text(500)] = Field(examples=["A report has at most 1000000 rows; narrow it down."])


class ReportCancelled(Event):
    """A report was cancelled on request. It ends two jobs: the request's, and the report's own."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.cancelled.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    report_id: UUID
    report_job_id: str = Field(examples=["01985b3e-7b02-7f11-8a61-0c9d4e2b7a35"])

    def job_states(self, correlation_id: str) -> dict[str, JobState]:
        return {self.report_job_id: JobState.CANCELLED, correlation_id: JobState.SUCCESS}


class ReportCancelRefused(Event):
    """A request to cancel came too late: `reason` says how the report had ended."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.cancel_refused.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    report_id: UUID
    reason: Literal["already_ready", "already_failed", "already_cancelled", "already_expired"]


# -- the read model ---------------------------------------------------------------------------------------------------

Source = Literal["orders", "reservations", "adjustments"]


class RebuildReadModel(Command):
    """Empty the read model and fill it again from the services that own what it shows."""

    key: ClassVar[str] = "report.rebuild.v1"
    carries_job: ClassVar[bool] = True
    job_kind: ClassVar[JobKind | None] = JobKind("reports.rebuild", "/v1/reports/rebuild")


class FetchPage(Command):
    """Ask a source for its next page, the one after the id `after`."""

    key: ClassVar[str] = "report.fetch_page.v1"
    carries_job: ClassVar[bool] = True

    source: Source
    after: str | None = None
    done: int = Field(default=0, ge=0, description="Entries fetched so far, of all sources.")
    since: int = Field(ge=0, description="The revision at which the read model was emptied for this rebuild.")


class ReadModelRebuilt(Event):
    """The read model is filled again, from so many entries."""

    exchange: ClassVar[str] = "reports"
    key: ClassVar[str] = "report.rebuilt.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    entries: int = Field(ge=0, examples=[4812])


class ProjectPage(Command):
    """Put a page of a source into the read model. `entries` are as the source's query route gave them.

    `then` is sent in the transaction that stores the page, so the next page is fetched, or the end is reported, only
    after the page is stored.
    """

    key: ClassVar[str] = "report.project_page.v1"
    carries_job: ClassVar[bool] = True

    source: Source
    since: int = Field(ge=0, description="As of the `FetchPage` that brought it.")
    entries: tuple[dict[str, Any], ...]
    then: FetchPage | ReadModelRebuilt
