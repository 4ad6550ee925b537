"""malote reports: ask for exports, watch them, fetch them."""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from deploy.cli.errors import Failed
from deploy.cli.following import follow
from deploy.cli.ids import hinted
from deploy.cli.output import (
    Json,
    Limit,
    Wait,
    at,
    beside,
    console,
    end_of_job,
    hint_at_more,
    is_regular,
    is_stdout,
    opened,
    plain,
    print_json,
    size,
    state,
    table,
)

app = typer.Typer(no_args_is_help=True)
ReportId = Annotated[UUID, typer.Argument(metavar="REPORT_ID", show_default=False)]
Watch = Annotated[bool, typer.Option("--watch", help="Show the progress until it ends.")]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Fetch it to this file, or into this folder; - is stdout.")
]
Status = Literal["RUNNING", "READY", "FAILED", "CANCELLED", "EXPIRED"]
Body = dict[str, Any]


@app.command()
def create(
    kind: Annotated[
        Literal["orders", "order-lines", "stock-movements", "sales-summary"], typer.Option(show_default=False)
    ],
    format_: Annotated[
        Literal["csv", "jsonl", "parquet", "xlsx", "pdf", "html"],
        typer.Option("--format", help="pdf and html: of a sales-summary."),
    ] = "csv",
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="From then on: 2026-01-01.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to then, without it.")] = None,
    timezone: Annotated[str | None, typer.Option(help="As IANA names it; else America/Sao_Paulo.")] = None,
    status: Annotated[Literal["PLACED", "CONFIRMED", "REJECTED", "CANCELLED"] | None, typer.Option()] = None,
    sku: Annotated[str | None, typer.Option(help="Only this product.")] = None,
    customer: Annotated[str | None, typer.Option(metavar="ID", help="Only this customer.")] = None,
    delimiter: Annotated[Literal[",", ";"] | None, typer.Option(help="Of a csv; ; for spreadsheets in pt-BR.")] = None,
    bom: Annotated[bool, typer.Option("--bom", help="Have Excel see that a csv is UTF-8.")] = False,
    locale: Annotated[Literal["pt-BR", "en"] | None, typer.Option(help="The language of a pdf or html.")] = None,
    watch: Watch = False,
    wait: Wait = 0,
    output: Output = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Sent again with the same one, it is one report.")] = None,
    as_json: Json = False,
) -> None:
    """Ask for a report. With --output it is waited for and fetched; Ctrl-C leaves it in the making."""
    from deploy.cli.client.gateway import ask

    filters = {"status": status, "sku": sku, "customer_id": customer}
    options = {"delimiter": delimiter, "bom": bom or None, "locale": locale}
    fields = {"from": since, "to": until, "timezone": timezone, "filters": _given(filters), "options": _given(options)}
    request = {"kind": kind, "format": format_, **_given(fields)}
    if output:
        _demand_folder(output)
    is_followed = watch or (output is not None and not wait)
    job = ask(lambda gateway: gateway.create_report(request, key=idempotency_key, wait=0 if is_followed else wait))
    if is_followed:
        cancels = f"`malote reports cancel {job['report_id']}` cancels it"
        with beside(output):
            job = follow(job, cancels, is_silent=as_json or not watch)
    if output and job["status"] == "SUCCESS":
        job["file"] = str(_fetch(job["report_id"], output, as_json))
    with beside(output):
        end_of_job(job, as_json, is_followed or wait > 0)
        if not as_json:
            _print_result(job)


@app.command("list")
def list_(status: Annotated[Status | None, typer.Option()] = None, limit: Limit = 20, as_json: Json = False) -> None:
    """The newest reports."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.reports(limit, status))
    if as_json:
        print_json(page)
        return
    columns = ("report", "kind", "format", "status", ">rows", ">size", "created", "kept until")
    console().print(table(columns, map(_row, page["data"])) if page["data"] else "no reports")
    hint_at_more(page, limit)


@app.command()
def show(report_id: ReportId, as_json: Json = False) -> None:
    """One report: what was asked for, what became of it, and the link that works without a token."""
    from deploy.cli.client.gateway import ask

    report = ask(lambda gateway: hinted(gateway, "report", report_id, lambda g: g.report(report_id)))
    if as_json:
        print_json(report)
    else:
        _describe(report)


@app.command()
def download(report_id: ReportId, output: Output = None, as_json: Json = False) -> None:
    """Fetch a report's file, under its own name if none is given. A download that broke is gone on with."""
    if output:
        _demand_folder(output)
    target = _fetch(report_id, output or Path(), as_json)
    with beside(output):
        if as_json:
            print_json({"report_id": str(report_id), "file": str(target)})
        else:
            typer.echo(target)


@app.command()
def cancel(report_id: ReportId, wait: Wait = 0, as_json: Json = False) -> None:
    """Cancel a report in the making. With --wait, exit status 1 if it could not be cancelled in time."""
    from deploy.cli.client.gateway import Gateway, ask

    async def stop(gateway: Gateway) -> Body:
        report = await gateway.report(report_id)
        return await gateway.cancel_job(report["job_id"], wait=wait)

    end_of_job(ask(stop), as_json, wait > 0)


@app.command()
def delete(report_id: ReportId) -> None:
    """Remove a finished report before its time."""
    from deploy.cli.client.gateway import ask

    ask(lambda gateway: gateway.delete_report(report_id))
    typer.echo(f"{report_id} is removed")


@app.command()
def link(
    report_id: ReportId,
    revoke: Annotated[bool, typer.Option("--revoke", help="Stop all links to it, and give no new one.")] = False,
    as_json: Json = False,
) -> None:
    """Print a new link to a report that works without a token; earlier ones stop."""
    from deploy.cli.client.gateway import ask

    if revoke:
        ask(lambda gateway: gateway.revoke_link(report_id))
        typer.echo(f"no link to {report_id} works any more", err=as_json)
        return
    made = ask(lambda gateway: gateway.link(report_id))
    if as_json:
        print_json(made)
    else:
        typer.echo(made["url"])


@app.command()
def rebuild(watch: Watch = False, wait: Wait = 0, as_json: Json = False) -> None:
    """Fill the reports' read model again, from what orders and stock have. Exports in the making fail."""
    from deploy.cli.client.gateway import ask

    job = ask(lambda gateway: gateway.rebuild(wait=0 if watch else wait))
    if watch:
        job = follow(job, is_silent=as_json)
    end_of_job(job, as_json, watch or wait > 0)


def target_of(output: Path, report: Body) -> Path:
    """The file to write: in a folder, with the report's own name."""
    is_folder = output.is_dir() and not is_stdout(output)
    return output / Path(report["filename"]).name if is_folder else output


def _given(fields: Body) -> Body:
    return {name: value for name, value in fields.items() if value is not None and value != {}}


def _demand_folder(output: Path) -> None:
    if not output.is_dir() and not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.absolute().parent}", param_hint="--output")


def _fetch(report_id: object, output: Path, as_json: bool) -> Path:
    """Download a report; return its place."""
    from deploy.cli.client.gateway import Gateway, ask

    async def fetch(gateway: Gateway) -> Path:
        report = await gateway.report(report_id)
        if report["status"] != "READY":
            why = f": {report['detail']}" if report.get("detail") else ""
            raise Failed(f"there is no file: the report is {report['status']}{why}")
        target = target_of(output, report)
        try:
            async with _downloading(report, as_json or is_stdout(target)) as seen:
                if is_regular(target):
                    await gateway.download(report, target, seen)
                else:
                    await _download_through(gateway, report, target, seen)
        except OSError as error:
            raise Failed(f"{target}: {error.strerror or error}") from error
        return target

    return ask(fetch)


async def _download_through(gateway: Any, report: Body, target: Path, seen: Callable[[int], None]) -> None:
    """Write to a file that cannot be replaced, such as stdout, once the whole report is there and verified."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "report"
        await gateway.download(report, whole, seen)
        with whole.open("rb") as source, opened(target) as file:
            shutil.copyfileobj(source, file)


@contextlib.asynccontextmanager
async def _downloading(report: Body, is_silent: bool) -> AsyncIterator[Callable[[int], None]]:
    """A bar of bytes on a terminal."""
    if is_silent or not sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("downloading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=report["bytes"])
        yield lambda there: bar.update(task, completed=there)


def _print_result(job: Body) -> None:
    result = job.get("result") or {}
    if "rows" in result:
        typer.echo(f"rows   {result['rows']:,}\nsize   {size(result['bytes'])}\nsha256 {result['sha256']}")
    if "file" in job:
        typer.echo(f"file   {job['file']}")


def _row(report: Body) -> Sequence[str]:
    rows = "" if report["rows"] is None else f"{report['rows']:,}"
    about = (report["id"], report["kind"], report["format"], state(report["status"]))
    return *about, rows, size(report["bytes"]), at(report["created_at"]), at(report["expires_at"])


def _describe(report: Body) -> None:
    out, why = console(), ": ".join(filter(None, (report["reason"], report["detail"])))
    out.print(f"report    {report['id']}\nstatus    {state(report['status'])}{plain(f' ({why})') if why else ''}")
    out.print(f"request   {json.dumps(report['wish'], ensure_ascii=False)}", markup=False)
    out.print(f"job       {report['job_id']}\ncreated   {at(report['created_at'])}", markup=False)
    if report["bytes"] is not None:
        out.print(f"rows      {report['rows']:,}\nsize      {size(report['bytes'])}\nsha256    {report['sha256']}")
    if report["expires_at"]:
        out.print(f"kept till {at(report['expires_at'])}")
    if report["link"]:
        out.print(f"link      {report['link']['url']}", markup=False, soft_wrap=True)
