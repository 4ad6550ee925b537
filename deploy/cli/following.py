"""Watching a job that a command has started, until the job ends or Ctrl-C."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer

from deploy.cli.output import console, reason

Body = dict[str, Any]
INTERRUPTED = 130


def follow(job: Body, stops: str = "", *, is_silent: bool) -> Body:
    """Watch a job to its end. Return the accepted job with its end.

    After Ctrl-C the job goes on; `stops` says how to stop it."""
    from deploy.cli.client.gateway import Gateway

    async def go(show: Callable[[Body], None]) -> Body:
        seen: Body = {}
        async with Gateway.here() as gateway:
            async for seen in gateway.watch(job["job_id"]):
                show(seen)
        return seen

    try:
        with _silence() if is_silent else _bar() if sys.stdout.isatty() else _lines() as show:
            found = asyncio.run(go(show))
    except KeyboardInterrupt:
        says = f"it goes on: `malote jobs watch {job['job_id']}` watches it again"
        typer.echo("\n" + "; ".join(filter(None, (says, stops))), err=True)
        raise typer.Exit(INTERRUPTED) from None
    return job | {name: found[name] for name in ("status", "result", "error")}


def rate(progress: Body) -> str:
    """The known parts of `120,000 of 1,000,000 rows, 250,000 rows/s, 4 s left`."""
    total = "" if progress["total"] is None else f" of {progress['total']:,}"
    said = [f"{progress['done']:,}{total} {progress['unit']}"]
    if progress.get("rate"):
        said.append(f"{progress['rate']:,.0f} {progress['unit']}/s")
    if progress.get("seconds_left") is not None:
        said.append(f"{progress['seconds_left']:.0f} s left")
    return ", ".join(said)


@contextlib.contextmanager
def _silence() -> Iterator[Callable[[Body], None]]:
    yield lambda _: None


@contextlib.contextmanager
def _lines() -> Iterator[Callable[[Body], None]]:
    """Prints a line for each change of state, and for the progress once a second, if stdout is no terminal."""
    shown, shown_at = "", 0.0

    def show(job: Body) -> None:
        nonlocal shown, shown_at
        if job["status"] != shown:
            typer.echo(
                f"{job['status']}{'' if job['ended_at'] else reason(job)}"
            )  # the caller prints the reason of the end
        if job["progress"] and not job["ended_at"] and time.monotonic() - shown_at > 1:
            shown_at = time.monotonic()
            typer.echo(rate(job["progress"]))
        shown = job["status"]

    yield show


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Body], None]]:
    """A bar that moves with the job."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task("PENDING", total=None, said="")

        def show(job: Body) -> None:
            progress = job["progress"] or {"done": 0, "total": None, "unit": ""}
            total = progress["total"]
            if job["status"] == "SUCCESS":
                total = progress["done"] = total or progress["done"] or 1
            said = rate(progress) if job["progress"] else ""
            bar.update(task, description=job["status"], total=total, completed=progress["done"], said=said)

        yield show
