"""The log lines of all services about one subject, such as an order."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from deploy.cli.errors import Failed

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
START = re.compile(rb'\{"timestamp"')
_NAME, _END = re.compile(r'"(\w+)": ?'), re.compile(r"[,}] ?")
_VALUES = json.JSONDecoder()
_NUMBER = re.compile(r"[0-9A-Fa-f]{8}")
Line = dict[str, Any]


class Story:
    """The lines about one subject, in files of JSON lines. Text that a tool put before the JSON is ignored."""

    def __init__(self, about: str, files: list[IO[bytes]]) -> None:
        self._about, self._files = about.strip(), files
        self._known = {self._about}

    def read(self) -> list[Line]:
        """All lines in order of time. Raises `Failed` if there is none."""
        if _NUMBER.fullmatch(self._about):
            self._known |= self._orders_with(self._about.lower())
        found: list[Line] = []
        before: set[str] = set()
        while before != self._known:  # an order leads to its jobs, a job to its order, and the order to a cancellation
            before = set(self._known)
            found = [line for file in self._files for line in self._about_known(from_start(file))]
        if not found:
            raise Failed(self._nothing())
        return sorted(found, key=time_of)

    def news(self) -> list[Line]:
        """The lines since the last call, in order of time."""
        return sorted((line for file in self._files for line in self._about_known(whole_lines(file))), key=time_of)

    def _about_known(self, raws: Iterable[bytes]) -> Iterator[Line]:
        wanted = re.compile(b"|".join(re.escape(known.encode()) for known in self._known))
        for raw in raws:
            for line in lines_in(raw) if wanted.search(raw) else ():
                if not self._known.isdisjoint(_ids(line)):
                    self._known |= {
                        str(line[name]) for name in ("correlation_id", "order_id", "report_id") if line.get(name)
                    }
                    yield line

    def _orders_with(self, number: str) -> set[str]:
        """The orders with this number, which is the end of their ids."""
        wanted = re.compile(rb'"order_id": ?"([0-9a-f-]{28}%s)"' % number.encode())
        return {match[1].decode() for file in self._files for raw in from_start(file) for match in wanted.finditer(raw)}

    def _nothing(self) -> str:
        told = self._about.encode()
        where = places(self._files)
        if any(told in raw and not parsed(raw) for file in self._files for raw in from_start(file)):
            return f"the lines about {self._about} in {where} are not JSON; MALOTE_LOG_FORMAT=json makes them so"
        return f"no line about {self._about} in {where}; --from reads other files, and stdin as -"


def _ids(line: Line) -> set[str]:
    """All ids of a line, also those in a request's path."""
    found = {str(value) for name, value in line.items() if name.endswith("_id")}
    several = line.get("correlation_ids")
    found |= {str(value) for value in several} if isinstance(several, list) else set()
    return found | set(_UUID.findall(str(line.get("path", ""))))


def lines_in(raw: bytes) -> list[Line]:
    """The log lines in a line of a file: usually one, or none. On a full disk, lines are cut and joined to the next
    ones: each has what can be read of it, and the rest as `torn`."""
    starts = [found.start() for found in START.finditer(raw)]
    if starts and b'"' in raw[: starts[0]]:  # the end of a log line; the prefix of a tool has no quotes
        starts.insert(0, 0)
    elif line := parsed(raw):
        return [line]
    elif not starts:
        return []
    pieces = [raw[begin:end] for begin, end in zip(starts, [*starts[1:], len(raw)], strict=True)]
    return [parsed(piece) or _torn(piece) for piece in pieces]


def _torn(piece: bytes) -> Line:
    text = piece.decode(errors="replace").rstrip("\n")
    name = _NAME.search(text)
    begin = end = name.start() if name else 0
    read: Line = {}
    while name:
        try:
            value, at = _VALUES.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            break
        if not (after := _END.match(text, at)):
            break
        read[name[1]], end = value, after.end()
        name = _NAME.match(text, end)
    rest = "…".join(filter(None, (text[:begin].strip("{ "), text[end:])))
    return {"event": "(torn line)"} | read | {"torn": rest}


def parsed(raw: bytes) -> Line | None:
    """The object in a line, after the prefix of `docker compose logs` or `kubectl logs`."""
    try:
        line = json.loads(raw[raw.index(b"{") :])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and "event" in line else None


def from_start(file: IO[bytes]) -> Iterator[bytes]:
    """All lines of the file."""
    file.seek(0)
    return whole_lines(file)


def whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The complete lines after the last read position. A line that is still being written is left for the next call.
    The last line of a file may lack its end, and counts if it can be parsed."""
    while raw := file.readline():
        if not raw.endswith(b"\n") and parsed(raw) is None:
            file.seek(-len(raw), 1)
            return
        yield raw


def time_of(line: Line) -> str:
    """The time of a line: UTC in ISO 8601, which sorts as text."""
    return str(line.get("timestamp", ""))


def places(files: list[IO[bytes]]) -> str:
    """The searched files; for many files in one folder, the folder."""
    names = [file.name if isinstance(file.name, str) else "stdin" for file in files]
    folders = {str(Path(name).parent) for name in names}
    return f"{folders.pop()}/*.log" if len(names) > 3 and len(folders) == 1 else ", ".join(names)
