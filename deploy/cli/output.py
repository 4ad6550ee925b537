"""What all commands print alike: JSON for programs, tables and colours for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from deploy.cli.errors import Failed

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")]
Wait = Annotated[int, typer.Option(min=0, metavar="SECONDS", help="Wait for the end, at most so long.")]

_PIPE_WIDTH = 200  # where no terminal cuts lines, a table need not either
_GAP, _LEAST = 2, 8
_COLOURS = {
    "CONFIRMED": "green",
    "SUCCESS": "green",
    "REJECTED": "red",
    "FAILURE": "red",
    "CANCELLED": "yellow",
    "RETRY": "yellow",
    "PLACED": "cyan",
    "STARTED": "cyan",
    "READY": "green",
    "FAILED": "red",
    "RUNNING": "cyan",
    "EXPIRED": "yellow",
}


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def console() -> Any:
    """Rich's console on stdout; loaded late, it takes a while."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A plain table of Rich's markup. `>name` is flush right; `name~` is cut where the terminal is too narrow."""
    from rich.table import Table
    from rich.text import Text

    cells = [*rows]
    titles = [column.strip(">~") for column in columns]
    widths = [max(len(titles[n]), *(Text.from_markup(row[n]).cell_len for row in cells), 0) for n in range(len(titles))]
    missing = sum(widths) + _GAP * len(widths) - console().width
    for number in reversed(range(len(columns))):
        if columns[number].endswith("~") and missing > 0:
            give = min(missing, max(widths[number] - _LEAST, 0))
            widths[number] -= give
            missing -= give
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, title, width in zip(columns, titles, widths, strict=True):
        justify: Any = "right" if column.startswith(">") else "left"
        made.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        made.add_row(*row)
    return made


def plain(text: str) -> str:
    """Text from outside, which must not be read as markup."""
    from rich.markup import escape

    return escape(text)


def state(status: str) -> str:
    """A status in its colour, as Rich's markup."""
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def at(moment: str | None) -> str:
    """A time in this machine's zone, short; empty for none."""
    if not moment:
        return ""
    local = datetime.fromisoformat(moment).astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return local.strftime("%H:%M:%S" if today else "%Y-%m-%d")


def money(amount: dict[str, Any] | None) -> str:
    """`{"amount": 6990, "currency": "BRL"}` -> `69.90 BRL`; empty for none."""
    if not amount:
        return ""
    return f"{Decimal(amount['amount']).scaleb(-_digits(amount['currency'])):,f} {amount['currency']}"


def size(number: int | None) -> str:
    """`12.3 MB`, in powers of ten as disks are sold; empty for none."""
    from rich.filesize import decimal

    return "" if number is None else decimal(number)


def minor_units(price: str, currency: str) -> int:
    """`69.90` in BRL -> 6990. Raises `typer.BadParameter` for what is no price in that currency."""
    try:
        amount = Decimal(price).scaleb(_digits(currency))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount != amount.to_integral_value() or amount < 0:
        raise typer.BadParameter(f"{price!r} is not a price in {currency}")
    return int(amount)


def _digits(currency: str) -> int:
    from contracts.base import minor_digits  # with pydantic, which is slow to import

    return minor_digits(currency)


def end_of_job(job: dict[str, Any], as_json: bool, waited: bool) -> None:
    """Say what became of a job. Raises `Failed` if it was waited for and did not succeed."""
    if as_json:
        print_json(job)
    else:
        about = next((f"{what:<6} {job[f'{what}_id']}\n" for what in ("order", "report") if job.get(f"{what}_id")), "")
        typer.echo(f"{about}job    {job['job_id']}\nstatus {job['status']}{_why(job)}")
    if waited and job["status"] != "SUCCESS":
        raise Failed(_unhappy(job))


def _why(job: dict[str, Any]) -> str:
    error = job.get("error") or {}
    return f" ({error.get('code')})" if error else ""


def _unhappy(job: dict[str, Any]) -> str:
    if job["status"] in ("FAILURE", "CANCELLED"):
        return f"the job ended as {job['status']}{_why(job)}"
    return f"the job has not ended yet; `malote jobs watch {job['job_id']}` follows it"
