"""malote logs: the whole story of an order, from the log lines of all services."""

import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from deploy.cli.errors import Failed
from deploy.cli.output import Json, console, print_json, visible

app = typer.Typer()
_LOOK_SECONDS = 0.2
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green")
_SHOWN = ("timestamp", "level", "service", "event", "lane", "message", "method", "path", "status", "ms", "exception")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER = re.compile(r"[0-9A-Fa-f]{8}")
Line = dict[str, Any]


@app.command()
def logs(
    about: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            show_default=False,
            help="Of an order, a job, a report, a message, a request or a trace; or an order's number from its mails.",
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="Read this instead of the local fleet's logs; - is stdin."),
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="Only lines of this service; more than one is fine.")
    ] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="Only later lines: 30m, 2h, or a time in ISO 8601.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """The story of an order in the log lines of all services, in order of time. --json: the lines as they are.

    What is about an order carries its job's id; a cancellation is a job of its own, and belongs to the story.
    """
    if follow and "-" in (source or ()):
        raise typer.BadParameter("stdin has an end: --follow goes with files", param_hint="--follow")
    if not about.strip():
        raise typer.BadParameter("give an id, such as an order's", param_hint="ID")
    if service and (unknown := set(service) - set(_services())):
        what = f"there is no service {', '.join(sorted(unknown))}: {', '.join(_services())} are there"
        raise typer.BadParameter(what, param_hint="--service")
    earliest = _moment(since) if since else ""
    files = [_opened(name) for name in source] if source else _local()
    story = Story(about, files)
    show = _Printer(as_json, service or [], earliest)
    for line in story.read():
        show(line)
    if not follow:
        return
    try:
        while True:
            for line in story.news():
                show(line)
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        return


class Story:
    """The lines about one thing, in files of JSON lines; whatever a tool put before a line's JSON does not matter."""

    def __init__(self, about: str, files: list[IO[bytes]]) -> None:
        self._about, self._files = about.strip(), files
        self._known = {self._about}

    def read(self) -> list[Line]:
        """All lines that there are, in order of time. Raises `Failed` if there is none."""
        if _NUMBER.fullmatch(self._about):
            self._known |= self._orders_with(self._about.lower())
        found: list[Line] = []
        before: set[str] = set()
        while before != self._known:  # an order leads to its jobs, a job to its order, and that to a cancellation
            before = set(self._known)
            found = [line for file in self._files for line in self._about_known(_from_start(file))]
        if not found:
            raise Failed(self._nothing())
        return sorted(found, key=_time)

    def news(self) -> list[Line]:
        """What was written since, in order of time."""
        return sorted((line for file in self._files for line in self._about_known(_whole_lines(file))), key=_time)

    def _about_known(self, raws: Iterable[bytes]) -> Iterator[Line]:
        wanted = re.compile(b"|".join(re.escape(known.encode()) for known in self._known))
        for raw in raws:
            if wanted.search(raw) and (line := _parsed(raw)) and not self._known.isdisjoint(_ids(line)):
                self._known |= {
                    str(line[name]) for name in ("correlation_id", "order_id", "report_id") if line.get(name)
                }
                yield line

    def _orders_with(self, number: str) -> set[str]:
        """The orders whose mails call them by this number: the end of their ids."""
        wanted = re.compile(rb'"order_id": ?"([0-9a-f-]{28}%s)"' % number.encode())
        return {
            match[1].decode() for file in self._files for raw in _from_start(file) for match in wanted.finditer(raw)
        }

    def _nothing(self) -> str:
        told = self._about.encode()
        places = _places(self._files)
        if any(told in raw and not _parsed(raw) for file in self._files for raw in _from_start(file)):
            return f"the lines about {self._about} in {places} are not JSON; MALOTE_LOG_FORMAT=json makes them so"
        return f"no line about {self._about} in {places}; --from reads other files, and stdin as -"


def _ids(line: Line) -> set[str]:
    """What a line is about: all its ids, also those in a request's path."""
    found = {str(value) for name, value in line.items() if name.endswith("_id")}
    several = line.get("correlation_ids")
    found |= {str(value) for value in several} if isinstance(several, list) else set()
    return found | set(_UUID.findall(str(line.get("path", ""))))


def _parsed(raw: bytes) -> Line | None:
    """The object in a line, after whatever `docker compose logs` or `kubectl logs` put before it."""
    try:
        line = json.loads(raw[raw.index(b"{") :])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and "event" in line else None


def _from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return _whole_lines(file)


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """From where the file was read to. A line that is being written is left for the next time; the last one of a file
    may have no end, and is whole if it can be read."""
    while raw := file.readline():
        if not raw.endswith(b"\n") and _parsed(raw) is None:
            file.seek(-len(raw), 1)
            return
        yield raw


def _time(line: Line) -> str:
    return str(line.get("timestamp", ""))


def _services() -> tuple[str, ...]:
    from contracts.flow import SERVICES  # with pydantic, which is slow to import

    return tuple(SERVICES)


def _places(files: list[IO[bytes]]) -> str:
    """Where was looked: of many files in one folder, the folder."""
    names = [file.name if isinstance(file.name, str) else "stdin" for file in files]
    folders = {str(Path(name).parent) for name in names}
    return f"{folders.pop()}/*.log" if len(names) > 3 and len(folders) == 1 else ", ".join(names)


def _local() -> list[IO[bytes]]:
    from deploy.local.environment import Environment

    folder = Environment().logs
    files = sorted(folder.glob("*.log"))
    if not files:
        raise Failed(f"no logs in {folder}; `malote up --detach` starts a fleet, --from reads other files")
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
    """As log lines have it: UTC in ISO 8601, which sorts as text."""
    from shared.settings import seconds  # with pydantic, which is slow to import

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
    """Prints lines: as they are, or a colour per service and the time of this machine's zone for people."""

    def __init__(self, as_json: bool, services: list[str], earliest: str) -> None:
        self._as_json, self._services, self._earliest = as_json, services, earliest
        self._out = console()
        self._colours: dict[str, str] = {}

    def __call__(self, line: Line) -> None:
        if (self._services and line.get("service") not in self._services) or _time(line) < self._earliest:
            return
        if self._as_json:
            print_json(line, indent=None)
        else:
            self._out.print(self._text(line), soft_wrap=True)

    def _text(self, line: Line) -> Any:
        from rich.text import Text

        service, level = str(line.get("service", "")), line.get("level", "info")
        colour = self._colours.setdefault(service, _COLOURS[len(self._colours) % len(_COLOURS)])
        text = Text(f"{visible(_clock(_time(line)))}  ", "dim")
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
    return local.strftime("%H:%M:%S.%f" if today else "%Y-%m-%d %H:%M:%S.%f")[:-3]


def _what(line: Line) -> str:
    if line["event"] == "http":
        return f"{line.get('method')} {line.get('path')} {line.get('status')} in {line.get('ms')} ms"
    return " ".join(str(part) for part in (line["event"], line.get("message")) if part)


def _rest(line: Line) -> str:
    """What else a line says, without the ids that it was found by; of a traceback its last line."""
    rest = {name: value for name, value in line.items() if name not in _SHOWN and not name.endswith("_id")}
    if rest.get("attempt") == 1:
        del rest["attempt"]
    if line.get("exception"):
        rest["exception"] = str(line["exception"]).strip().splitlines()[-1]
    own = [str(line["lane"])] if line.get("lane") not in (None, line.get("service")) else []
    return "  ".join([*own, *(f"{name}={value}" for name, value in rest.items())])
