"""What reports does: keep its read model, make exports, and notify those who asked for them."""

from contracts.base import UUID, Message
from contracts.broker import is_from
from contracts.email import MailReport
from contracts.jobs import JobFailed, JobProgressed
from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from contracts.reports import (
    AssembleReport,
    CancelReport,
    CreateReport,
    ExportChunk,
    ExportStopped,
    FetchPage,
    ProjectPage,
    ReadModelRebuilt,
    RebuildReadModel,
    RemoveReportFiles,
    ReportAssembled,
    ReportCancelled,
    ReportCancelRefused,
    ReportFailed,
    ReportReady,
)
from contracts.stock import StockAdjusted, StockReleased, StockReserved, StockTaken
from services.reports import domain
from services.reports.adapters.exporter import Exporter
from services.reports.adapters.failures import Stopped, storage_limit_reached
from services.reports.domain import OrderFact, StockFact
from services.reports.settings import ReportsSettings
from services.reports.store.choices import Choice
from services.reports.store.notifications import new_notification, news
from services.reports.store.read_model import Movement, Order, ReadModel, load_projected, new_order
from services.reports.store.reports import (
    Report,
    finish,
    load_ending,
    load_exported,
    load_of_failed_jobs,
    load_requested,
    new_report,
)
from shared.messaging.handler import RetryLater, on
from shared.messaging.unit import OutsideWork, UnitOfWork
from shared.persistence.clock import moment, now

AT_ONCE = 4

# -- the read model ---------------------------------------------------------------------------------------------------


@on(OrderPlaced, OrderConfirmed, OrderRejected, OrderCancelled, loads=load_projected)
async def on_order_event(
    event: OrderPlaced | OrderConfirmed | OrderRejected | OrderCancelled, unit: UnitOfWork
) -> None:
    """Store what an event says about its order."""
    _keep(event, unit)


@on(StockReserved, StockTaken, StockReleased, StockAdjusted, loads=load_projected)
async def on_stock_event(event: StockReserved | StockTaken | StockReleased | StockAdjusted, unit: UnitOfWork) -> None:
    """Store what an event says about levels."""
    _keep(event, unit)


@on(RebuildReadModel, loads=load_projected)
async def on_rebuild_read_model(_: RebuildReadModel, unit: UnitOfWork) -> FetchPage:
    """Fetch the first page. `load_projected` has emptied the read model; events that arrive from now on are stored
    beside the pages."""
    return FetchPage(source="orders", since=_model(unit).emptied_at)


@on(FetchPage, concurrency=1)
async def on_fetch_page(page: FetchPage, work: OutsideWork, exporter: Exporter) -> list[Message]:
    """Fetch a page from the service that owns the source."""
    entries, has_more = await exporter.owners.page(page.source, page.after)
    then = domain.next_page(page, entries, has_more)
    progress = JobProgressed(done=page.done + len(entries), unit="entries")
    return [ProjectPage(source=page.source, since=page.since, entries=tuple(entries), then=then), progress]


@on(ProjectPage, loads=load_projected)
async def on_project_page(page: ProjectPage, unit: UnitOfWork) -> FetchPage | ReadModelRebuilt:
    """Store the facts of a page, in the same way as those of events."""
    for fact in domain.facts(page):
        _keep(fact, unit)
    model = _model(unit)
    is_current = page.since == model.emptied_at  # no later rebuild has begun
    if isinstance(page.then, ReadModelRebuilt) and is_current:
        model.filled_at = model.revision
    return page.then


def _keep(fact: OrderFact | StockFact, unit: UnitOfWork) -> None:
    """Store a fact that is not known yet. A known fact stays as it is, so facts may come twice and in any order."""
    revision = _model(unit).revision
    if isinstance(fact, OrderFact):
        _keep_order(fact, revision, unit)
        return
    for id_, movement in domain.movements(fact).items():
        if not unit.get(Movement, id_):
            unit.add(Movement(id=id_, revision=revision, **movement))


def _model(unit: UnitOfWork) -> ReadModel:
    model = unit.get(ReadModel, 1)
    assert model, "the migration inserts the row, and each loader loads it"
    return model


def _keep_order(fact: OrderFact, revision: int, unit: UnitOfWork) -> None:
    order = unit.get(Order, domain.order_id(fact))
    if order is None:
        order, lines = new_order(fact, revision)
        for row in (order, *lines):
            unit.add(row)
    for name, at in domain.turns(fact).items():
        if getattr(order, f"{name}_at") is None:
            setattr(order, f"{name}_at", at)
            setattr(order, f"{name}_revision", revision)
    order.reason = order.reason or getattr(fact, "reason", None)


# -- a report is made -------------------------------------------------------------------------------------------------


@on(CreateReport, loads=load_requested)
async def on_create_report(command: CreateReport, unit: UnitOfWork, settings: ReportsSettings) -> list[Message]:
    """Store the report with the revision that it shows, and begin with the first part."""
    if unit.get(Report, command.report_id):
        return []
    model = _model(unit)
    report = new_report(command, model.revision, settings.chunk_rows, unit.job_id)
    unit.add(report)
    if model.emptied_at > model.filled_at:
        detail = "What it would show is not filled again yet; ask later. An operator sees how far `reports.rebuild` is."
        return _fail(report, "read_model_rebuilding", detail, unit, settings)
    return [ExportChunk(report_id=command.report_id, part=0)]


@on(ExportChunk, loads=load_exported, concurrency=AT_ONCE)
async def on_export_chunk(command: ExportChunk, work: OutsideWork, exporter: Exporter) -> list[Message]:
    """Write one part, and send the command for the next. Parts are short, so no export delays another for long."""
    report = work.get(Report, command.report_id)
    if report is None or report.status != "RUNNING":
        return [_clean(command.report_id, report)]
    try:
        part = await exporter.write_part(report, command)
    except Stopped as stopped:
        return [ExportStopped(report_id=report.id, reason=stopped.reason, detail=str(stopped))]
    return [domain.progress(part, now() - report.created_at), domain.following(command, part)]


@on(AssembleReport, loads=load_exported, concurrency=2)
async def on_assemble_report(
    command: AssembleReport, work: OutsideWork, exporter: Exporter
) -> ReportAssembled | ExportStopped | RemoveReportFiles:
    """Join the parts. If the process dies, another one joins the same parts again."""
    report = work.get(Report, command.report_id)
    if report is None or report.status != "RUNNING":
        return _clean(command.report_id, report)
    try:
        size, sha256 = await exporter.assemble(report, command)
    except Stopped as stopped:
        return ExportStopped(report_id=report.id, reason=stopped.reason, detail=str(stopped))
    return ReportAssembled(report_id=report.id, rows=command.rows, bytes=size, sha256=sha256)


@on(RemoveReportFiles, concurrency=AT_ONCE)
async def on_remove_report_files(command: RemoveReportFiles, work: OutsideWork, exporter: Exporter) -> None:
    """Remove the parts, and the finished file if the command says so."""
    await exporter.remove(command.report_id, result=command.result)


# -- a report ends ----------------------------------------------------------------------------------------------------


@on(ReportAssembled, loads=load_ending)
async def on_report_assembled(event: ReportAssembled, unit: UnitOfWork, settings: ReportsSettings) -> list[Message]:
    """Make the file available for download, unless the report was cancelled meanwhile."""
    report = unit.get(Report, event.report_id)
    if report is None or report.status != "RUNNING":
        return [_clean(event.report_id, report)]
    kept = [other for other in unit.all(Report) if other.owner == report.owner and other.status == "READY"]
    stored = sum(other.bytes or 0 for other in kept)
    if stored + event.bytes > settings.storage_limit_mb * 1_000_000:
        stopped = storage_limit_reached(settings)
        return _fail(report, stopped.reason, str(stopped), unit, settings)
    expires_at = finish(report, event, settings.keep_days)
    ends = {"rows": event.rows, "bytes": event.bytes, "sha256": event.sha256}
    ready = ReportReady(**report.reference, **ends, expires_at=moment(expires_at))
    return [ready, *_notify(report, ready, unit, settings), RemoveReportFiles(report_id=report.id, result=False)]


@on(ExportStopped, loads=load_ending)
async def on_export_stopped(event: ExportStopped, unit: UnitOfWork, settings: ReportsSettings) -> list[Message]:
    """The export reached a limit: the report has failed."""
    return _fail(unit.get(Report, event.report_id), event.reason, event.detail, unit, settings)


@on(JobFailed, loads_jobs=load_of_failed_jobs)
async def on_job_failed(event: JobFailed, unit: UnitOfWork, settings: ReportsSettings) -> list[Message]:
    """A message of an export was dead-lettered: the report has failed."""
    if not (unit.cause and is_from(unit.cause.user, "reports")):
        return []  # another service's message failed, or another service sent this event
    found = next((report for report in unit.all(Report) if report.job_id == unit.job_id), None)
    return _fail(found, "export_failed", event.detail, unit, settings)


@on(CancelReport, loads=load_ending)
async def on_cancel_report(command: CancelReport, unit: UnitOfWork) -> list[Message]:
    """Cancel a report that is not finished. Always answer: a job waits for the answer."""
    report = unit.get(Report, command.report_id)
    if report is None:
        raise RetryLater(f"report {command.report_id} is not asked for yet")
    if report.status != "RUNNING":
        return [ReportCancelRefused(report_id=report.id, reason=f"already_{report.status.lower()}")]
    report.status, report.ended_at = "CANCELLED", now()
    cancelled = ReportCancelled(report_id=report.id, report_job_id=report.job_id)
    return [cancelled, RemoveReportFiles(report_id=report.id, result=True)]


def _clean(report_id: UUID, report: Report | None) -> RemoveReportFiles:
    is_ready = report is not None and report.status == "READY"
    return RemoveReportFiles(report_id=report_id, result=not is_ready)


def _fail(
    report: Report | None, reason: str, detail: str, unit: UnitOfWork, settings: ReportsSettings
) -> list[Message]:
    if report is None:
        return []
    if report.status != "RUNNING":  # cancelled while a part was written: the part must go too
        return [_clean(report.id, report)]
    report.status, report.reason, report.detail, report.ended_at = "FAILED", reason, detail, now()
    failed = ReportFailed(report_id=report.id, reason=reason, detail=detail)
    return [failed, *_notify(report, failed, unit, settings), RemoveReportFiles(report_id=report.id, result=True)]


def _notify(
    report: Report, event: ReportReady | ReportFailed, unit: UnitOfWork, settings: ReportsSettings
) -> list[Message]:
    """Notify the owner in the ways that it chose; without a choice, in every way for which there is an address."""
    reader = domain.reader(report.owner, report.role)
    choice = unit.get(Choice, reader) or Choice(reader=reader, mail=True, in_app=True, locale="pt-BR")
    if choice.in_app:
        unit.add(new_notification(report, event))
        news.announce(unit.session, reader)
    # The gateway limits the mails to each address when a customer asks, so its mail goes to that address only.
    address = (report.role == "operator" and choice.email) or report.email
    if not (choice.mail and address):
        return []
    link = domain.link(str(settings.public_url), report) if report.status == "READY" else None
    ends = {"rows": report.rows, "bytes": report.bytes, "reason": report.reason, "detail": report.detail}
    expires_at = moment(report.expires_at) if report.expires_at else None
    mail = report.reference | ends | {"recipient": address, "locale": choice.locale}
    return [MailReport(**mail, link=link, expires_at=expires_at)]
