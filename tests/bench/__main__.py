"""`make bench`: figures beside a rival from the same run, as a table and in `.data/bench.json`.

python -m tests.bench [--only WORD] [--scale 1.0] [--json]
"""

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench import growth, lane, latency, later, memory, outbox, reports, whole
from tests.bench.common import Figure, say, servers

RESULT = Path(".data/bench.json")
PARTS = (whole, latency, lane, later, outbox, growth, memory, reports)
RIVALS = ("celery", "pandas", "psycopg")
_END_OF_LOG = 2_000


def main() -> None:
    names = ", ".join(_name(part) for part in PARTS)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"only the parts with this in their name: {names}")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the messages and orders")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in place of the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or its servers would outlive it
    if missing := [name for name in RIVALS if importlib.util.find_spec(name) is None]:
        parser.error(f"the rivals are missing ({', '.join(missing)}): `make bench` installs them")
    parts = [part for part in PARTS if options.only in _name(part)]
    if not parts:
        parser.error(f"--only {options.only}: the parts are {names}")
    found = _as_rows(_measure(parts, options.scale))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    say(f"written to {RESULT}")


def _name(part: Any) -> str:
    return str(part.__name__).rpartition(".")[2]


def _measure(parts: Sequence[Any], scale: float) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="malote-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the database's own user works below it
        try:
            with servers(folder) as machines:
                for part in parts:
                    say(_name(part))
                    figures += part.measure(machines, scale)
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"-- the end of {log.name}\n{log.read_text(errors='replace')[-_END_OF_LOG:]}", file=sys.stderr)
            raise
    return figures


def _as_rows(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) | {"reached": figure.reached} for figure in figures]


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("what", "value", "unit", "rival", "rival's", "ratio", "target", "", title="Malote's figures")
    for row in rows:
        values = (_short(row["value"]), row["unit"], row["rival"] or "", _short(row["rival_value"]))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        reached = {None: "", True: "reached", False: "[bold red]MISSED[/]"}[row["reached"]]
        table.add_row(row["name"], *values, ratio, row["target"] or "", reached)
    Console(width=200).print(table)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    main()
