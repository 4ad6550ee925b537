"""Recent log lines of all services or some, by level and time."""

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from deploy.cli.story import START, Line, from_start, lines_in, time_of, whole_lines
from deploy.local import replicas

LEVELS = ("debug", "info", "warning", "error", "critical")
_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*) (.*)", re.DOTALL)
_FIRST = re.compile(rb'[^{]*\{"timestamp": ?"([^"]+)"')


class Recent:
    """The lines of several files from `earliest` on, in order of time.

    A line that is no JSON, such as a traceback or a refused setting, counts as an error at the time of the line before
    it. The lines of the supervisor's log consist of a time and a text.
    """

    def __init__(self, files: Sequence[IO[bytes]], earliest: str) -> None:
        self._files, self._earliest = files, earliest
        self._last = dict.fromkeys(map(id, files), "")

    def read(self) -> Iterator[Line]:
        """All lines that are written."""
        return heapq.merge(*(self._wanted(file, from_start(file)) for file in self._files), key=time_of)

    def news(self) -> list[Line]:
        """The lines since the last call."""
        return sorted((line for file in self._files for line in self._wanted(file, whole_lines(file))), key=time_of)

    def _wanted(self, file: IO[bytes], raws: Iterable[bytes]) -> Iterator[Line]:
        service = replicas.split(Path(file.name).stem)[0] if isinstance(file.name, str) else ""
        earliest = self._earliest.encode()
        for raw in raws:
            stamp = _FIRST.match(raw)
            if stamp and stamp[1] < earliest and not START.search(raw, stamp.end()):
                self._last[id(file)] = stamp[1].decode()  # skips most lines of a large file without parsing
                continue
            for line in self._lines(raw, self._last[id(file)], service):
                self._last[id(file)] = time_of(line)
                if time_of(line) >= self._earliest:
                    yield line

    def _lines(self, raw: bytes, last: str, service: str) -> list[Line]:
        if lines := lines_in(raw):
            return [{"timestamp": last, "service": service, "level": "info"} | line for line in lines]
        text = raw.decode(errors="replace").rstrip()
        return [self._words(raw, text, last, service)] if text else []

    def _words(self, raw: bytes, text: str, last: str, service: str) -> Line:
        if stamped := _STAMPED.match(raw.rstrip()):
            at, said = (part.decode(errors="replace") for part in stamped.groups())
            level = "warning" if re.search(r"\b(ended|failed|cannot|not everything)\b", said) else "info"
            return {"timestamp": at.replace("+00:00", ".000000Z"), "level": level, "service": service, "event": said}
        return {"timestamp": last, "level": "error", "service": service, "event": text}


def rank(line: dict[str, Any]) -> int:
    """The place of a line's level in `LEVELS`."""
    level = str(line.get("level", "info")).lower()
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
