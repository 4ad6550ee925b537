"""malote jobs: show, list, watch, cancel."""

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from deploy.cli.errors import Failed
from deploy.cli.ids import hinted
from deploy.cli.output import (
    Json,
    Limit,
    Wait,
    at,
    console,
    end_of_job,
    hint_at_more,
    plain,
    print_json,
    reason,
    state,
    table,
)

app = typer.Typer(no_args_is_help=True)
JobId = Annotated[UUID, typer.Argument(metavar="JOB_ID", show_default=False)]
Status = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "CANCELLED"]


@app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """One job: its state, progress and timeline."""
    from deploy.cli.client.gateway import ask

    job = ask(lambda gateway: hinted(gateway, "job", job_id, lambda gateway: gateway.job(job_id)))
    if as_json:
        print_json(job)
    else:
        console().print(picture(job))


@app.command("list")
def list_(status: Annotated[Status | None, typer.Option()] = None, limit: Limit = 20, as_json: Json = False) -> None:
    """The newest jobs."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.jobs(limit, status))
    if as_json:
        print_json(page)
        return
    rows = table(("job", "kind", "status", "since", "error~"), map(_row, page["data"]))
    console().print(rows if page["data"] else "no jobs")
    hint_at_more(page, limit)


@app.command()
def watch(job_id: JobId, as_json: Json = False) -> None:
    """Follow a job live until it ends: exit status 0 if it succeeded, 1 if not. --json: a line for each change."""
    if as_json:
        job = asyncio.run(_follow(job_id, lambda job: typer.echo(json.dumps(job, ensure_ascii=False))))
    elif sys.stdout.isatty():
        job = _follow_live(job_id)
    else:
        job = asyncio.run(_follow(job_id, _Lines()))
    if job["status"] != "SUCCESS":
        raise Failed(f"the job ended as {job['status']}{reason(job)}")


@app.command()
def cancel(job_id: JobId, wait: Wait = 0, as_json: Json = False) -> None:
    """Ask for the end of what a job is about: an order, a report, a replay. The request is a job of its own.

    With --wait, exit status 1 if it came too late."""
    from deploy.cli.client.gateway import ask

    cancelled = ask(lambda gateway: hinted(gateway, "job", job_id, lambda g: g.cancel_job(job_id, wait=wait)))
    end_of_job(cancelled, as_json, wait > 0)


def picture(job: dict[str, Any]) -> Any:
    """A job for people: state, progress and timeline."""
    from rich.console import Group

    about = [f"job     {job['id']}", f"kind    {job['kind']}", f"status  {state(job['status'])}{plain(reason(job))}"]
    about[1:1] = [f"{what:<7} {job[f'{what}_id']}" for what in ("order", "report") if job.get(f"{what}_id")]
    if progress := job["progress"]:
        about.append(f"done    {progress['done']} of {progress['total'] or '?'} {progress['unit']}")
    rows = [(at(entry["at"]), after(job, entry), entry["message"], entry["service"]) for entry in job["timeline"]]
    return Group("\n".join(about), _bar(job), "", table(("at", "after", "message", "by"), rows))


def _bar(job: dict[str, Any]) -> Any:
    """A bar with the progress of a job; without a known total it only moves."""
    from rich.progress_bar import ProgressBar

    has_ended = job["ended_at"] is not None
    unknown: dict[str, Any] = {"done": int(job["status"] == "SUCCESS"), "total": None}
    progress = job["progress"] or unknown
    is_vague = progress["total"] is None and not has_ended
    return ProgressBar(total=progress["total"] or 1, completed=progress["done"], width=60, pulse=is_vague)


def after(job: dict[str, Any], entry: dict[str, Any]) -> str:
    """How long after the job's start a message came."""
    took = datetime.fromisoformat(entry["at"]) - datetime.fromisoformat(job["created_at"])
    return f"{max(took.total_seconds(), 0):.3f} s"


def _row(job: dict[str, Any]) -> Sequence[str]:
    error = (job["error"] or {}).get("code") or ""
    return job["id"], job["kind"], state(job["status"]), at(job["created_at"]), plain(error)


async def _follow(job_id: UUID, seen: Any) -> dict[str, Any]:
    """Call `seen` with the job after each change. Return the ended job."""
    from deploy.cli.client.gateway import Gateway

    job: dict[str, Any] = {}
    async with Gateway.here() as gateway:
        async for found in gateway.watch(job_id):
            if found != job:
                job = found
                seen(job)
    return job


def _follow_live(job_id: UUID) -> dict[str, Any]:
    from rich.live import Live

    with Live(console=console()) as live:
        return asyncio.run(_follow(job_id, lambda job: live.update(picture(job), refresh=True)))


class _Lines:
    """Prints a line for each change, if stdout is no terminal."""

    def __init__(self) -> None:
        self._printed = 0
        self._status = ""

    def __call__(self, job: dict[str, Any]) -> None:
        for entry in job["timeline"][self._printed :]:
            typer.echo(f"{entry['at']} {entry['message']} by {entry['service']}")
        self._printed = len(job["timeline"])
        if job["progress"]:
            typer.echo(f"{job['progress']['done']} of {job['progress']['total'] or '?'} {job['progress']['unit']}")
        if job["status"] != self._status:
            self._status = job["status"]
            typer.echo(f"{job['updated_at']} {self._status}{reason(job)}")
