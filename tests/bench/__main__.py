"""`make bench`: figures beside a rival from the same run, as a table and in `.data/bench.json`.

python -m tests.bench [--only WORD] [--scale 1.0]
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import lane, reports, whole
from tests.bench.common import Figure, servers

RESULT = Path(".data/bench.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", help="run only the benchmarks with this in their name: lane, whole, reports"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the messages and orders")
    options = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="malote-bench-") as folder, servers(Path(folder)) as machines:
        for module in (lane, whole, reports):
            if options.only in module.__name__:
                figures += module.measure(machines, options.scale)
    _show(figures)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    Console().print(f"written to {RESULT}")


def _show(figures: list[Figure]) -> None:
    table = Table("what", "value", "unit", "rival", "rival's", "ratio", "target", title="Malote's figures")
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        theirs = "" if figure.rival_value is None else _short(figure.rival_value)
        table.add_row(
            figure.name, f"{_short(figure.value)}", figure.unit, figure.rival or "", theirs, ratio, figure.target or ""
        )
    Console(width=160).print(table)


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    main()
