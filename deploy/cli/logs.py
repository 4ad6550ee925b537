"""malote logs: all log lines of an order, or recent lines, from all services."""

import shutil
import sys
import tempfile
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import IO, Annotated, Any, Literal

import typer

from deploy.cli.errors import Failed
from deploy.cli.output import Json, console, print_json, visible
from deploy.cli.recent import LEVELS, Recent, rank
from deploy.cli.story import Line, Story, places, time_of
from deploy.local import replicas
from deploy.local.clock import zoned

app = typer.Typer()
_LOOK_SECONDS = 0.2
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green")
_SHOWN = ("timestamp", "level", "service", "event", "lane", "message", "method", "path", "status", "ms", "exception")
_RECENT = "10m"
_OTHERS = ("supervisor", "watch", "mail")
"""The other programs of a local fleet, which have logs as well."""


@app.command()
def logs(
    about: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            show_default=False,
            help="Of an order, a job, a report, a message, a request or a trace; or an order's number from its mails. "
            f"Without one: what all said in the last {_RECENT}, or since --since.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="Read this instead of the local fleet's logs; - is stdin."),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(help="Only lines of this service, or of its replica stock-1; more than one is fine."),
    ] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Only lines of this level or a worse one.")
    ] = "debug",
    since: Annotated[str, typer.Option(metavar="TIME", help="Only later lines: 30m, 2h, or a time in ISO 8601.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """All log lines of an order, from all services; without an ID, recent lines. --json: the lines as they are.

    Lines about an order have the id of its job. The lines of its cancellation, which is a job of its own, are included.
    """
    if follow and "-" in (source or ()):
        raise typer.BadParameter("stdin has an end: --follow goes with files", param_hint="--follow")
    if about is not None and not about.strip():
        raise typer.BadParameter("give an id, such as an order's, or none at all", param_hint="ID")
    known = (*_services(), *_OTHERS)
    owners = {name: replicas.split(name)[0] for name in service or ()}
    if unknown := {name for name, owner in owners.items() if owner not in known}:
        what = f"there is no service {', '.join(sorted(unknown))}: {', '.join(known)} are there"
        raise typer.BadParameter(what, param_hint="--service")
    apart = [name for name, owner in owners.items() if name != owner]
    if apart and (about or source):
        what = f"a replica has a log of its own on this machine only, and a story needs all: {owners[apart[0]]} fits"
        raise typer.BadParameter(what, param_hint=f"--service {apart[0]}")
    earliest = _moment(since) if since else _moment(_RECENT) if about is None and not source else ""
    files = [_opened(name) for name in source] if source else _local(owners if apart else {})
    lines: Story | Recent = Story(about, files) if about else Recent(files, earliest)
    show = _Printer(as_json, [*owners.values()], earliest, level)
    try:
        for line in lines.read():
            show(line)
        if not show.number and not follow:
            back = f" since {earliest}; an earlier --since looks further back" if earliest else ""
            typer.echo(f"no line in {places(files)} fits{back}", err=True)
        while follow:
            for line in lines.news():
                show(line)
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:  # Ctrl-C ends --follow
        if not follow:
            raise


def _services() -> tuple[str, ...]:
    from contracts.flow import SERVICES  # with pydantic, which is slow to import

    return tuple(SERVICES)


def _local(only: Collection[str]) -> list[IO[bytes]]:
    """The logs of this machine's fleet, or only of some: `stock` with all its replicas, `stock-1` alone."""
    from deploy.local.environment import Environment

    folder = Environment().logs
    files = sorted(folder.glob("*.log"))
    if only:
        files = [path for path in files if not {path.stem, replicas.split(path.stem)[0]}.isdisjoint(only)]
    if not files:
        of = f" of {', '.join(only)}" if only else ""
        raise Failed(f"no logs{of} in {folder}; `malote up --detach` starts a fleet, --from reads other files")
    return [_opened(str(path)) for path in files]


def _opened(name: str) -> IO[bytes]:
    try:
        file: IO[bytes] = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - as below
    except OSError as error:
        raise Failed(f"cannot read {name}: {error.strerror}") from error
    if name != "-" and file.seekable():
        return file
    spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it ends with the process, and is read more than once
    shutil.copyfileobj(file, spool)
    return spool


def _moment(since: str) -> str:
    """A time as in log lines: UTC in ISO 8601, which sorts as text."""
    from shared.config.settings import seconds  # with pydantic, which is slow to import

    try:
        at = datetime.now(UTC) - timedelta(seconds=seconds(since))
    except (ValueError, OverflowError):
        try:
            at = datetime.fromisoformat(since).astimezone(UTC)
        except (ValueError, OverflowError):
            what = f"{since!r} is neither a time such as 2026-01-31T09:00 nor a while such as 30m or 2h"
            raise typer.BadParameter(what, param_hint="--since") from None
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Printer:
    """Prints lines unchanged, or for people with a colour for each service and times in this machine's zone."""

    def __init__(self, as_json: bool, services: list[str], earliest: str, level: str) -> None:
        self._as_json, self._services, self._earliest = as_json, services, earliest
        self._least = LEVELS.index(level)
        self._out = console()
        self._colours: dict[str, str] = {}
        self.number = 0

    def __call__(self, line: Line) -> None:
        if (self._services and line.get("service") not in self._services) or time_of(line) < self._earliest:
            return
        if rank(line) < self._least:
            return
        self.number += 1
        if self._as_json:
            print_json(line, indent=None)
        else:
            self._out.print(self._text(line), soft_wrap=True)

    def _text(self, line: Line) -> Any:
        from rich.text import Text

        service, level = str(line.get("service", "")), line.get("level", "info")
        colour = self._colours.setdefault(service, _COLOURS[len(self._colours) % len(_COLOURS)])
        text = Text(f"{visible(_clock(time_of(line)))}  ", "dim")
        text.append(f"{visible(service):<11} ", colour)
        text.append(f"{visible(_what(line)):<44}", {"warning": "yellow", "error": "red"}.get(level, ""))
        text.append("  " + visible(_rest(line)), "dim")
        text.rstrip()
        return text


def _clock(stamp: str) -> str:
    try:
        local = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return stamp
    today = local.date() == datetime.now(local.tzinfo).date()
    return zoned(local, f"{'' if today else '%Y-%m-%d '}%H:%M:%S.{local.microsecond // 1000:03}")


def _what(line: Line) -> str:
    if line["event"] == "http":
        return f"{line.get('method')} {line.get('path')} {line.get('status')} in {line.get('ms')} ms"
    return " ".join(str(part) for part in (line["event"], line.get("message")) if part)


def _rest(line: Line) -> str:
    """The other fields of a line, without the ids by which it was found, and with the last line of a traceback."""
    rest = {name: value for name, value in line.items() if name not in _SHOWN and not name.endswith("_id")}
    if rest.get("attempt") == 1:
        del rest["attempt"]
    if line.get("exception"):
        rest["exception"] = str(line["exception"]).strip().splitlines()[-1]
    own = [str(line["lane"])] if line.get("lane") not in (None, line.get("service")) else []
    return "  ".join([*own, *(f"{name}={value}" for name, value in rest.items())])
