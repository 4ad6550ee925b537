"""The output of all commands: JSON for programs, tables and colours for people."""

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.errors import Failed
from deploy.local.clock import zoned

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
_MOST = 100
Limit = Annotated[int, typer.Option(min=1, max=_MOST, help="How many, newest first.")]
Wait = Annotated[int, typer.Option(min=0, metavar="SECONDS", help="The longest wait for the end.")]

_PIPE_WIDTH = 100_000  # without a terminal, lines are not cut
_GAP, _LEAST_CUT, _LEAST_FOLDED = 2, 5, 8
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
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
    "WAITING": "red",
    "SENT": "cyan",
    "DONE": "green",
    "REPLACED": "yellow",
}


def print_json(value: Any, indent: int | None = 1) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    typer.echo(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def console() -> Any:
    """Rich's console on stdout. It is imported late, because that is slow."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A plain table of Rich's markup. `>name` is flush right. On a narrow terminal, `name~` is cut first; then all
    other columns are folded, except the first, whose ids people copy."""
    from rich.table import Table
    from rich.text import Text

    cells = [*rows]
    titles = [column.strip(">~") for column in columns]
    widths = [max(len(titles[n]), *(Text.from_markup(row[n]).cell_len for row in cells), 0) for n in range(len(titles))]
    missing = sum(widths) + _GAP * (len(widths) - 1) - console().width
    for number in reversed(range(len(columns))):
        if columns[number].endswith("~") and missing > 0:
            give = min(missing, max(widths[number] - _LEAST_CUT, 0))
            widths[number] -= give
            missing -= give
    while missing > 0 and (widest := max(widths[1:], default=0)) > _LEAST_FOLDED:
        widths[widths.index(widest, 1)] -= 1
        missing -= 1
    made = Table(
        box=None,
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
        header_style="bold",
        width=sum(widths) + _GAP * (len(widths) - 1),
    )
    for column, title, width in zip(columns, titles, widths, strict=True):
        justify: Any = "right" if column.startswith(">") else "left"
        is_cut = column.endswith("~")
        overflow: Any = "ellipsis" if is_cut else "fold"
        made.add_column(title, justify=justify, no_wrap=is_cut, overflow=overflow, width=width)
    for row in cells:
        made.add_row(*row)
    return made


def is_stdout(output: Path) -> bool:
    """Whether a file is stdout: `-`, or another name of it such as /dev/stdout."""
    if str(output) == "-":
        return True
    try:
        return os.path.samestat(output.stat(), os.fstat(sys.__stdout__.fileno() if sys.__stdout__ else 1))
    except (OSError, ValueError):
        return False


def is_regular(output: Path) -> bool:
    """Whether a file can be replaced as a whole: it is not stdout, and no device, pipe or socket."""
    if is_stdout(output):
        return False
    try:
        return stat.S_ISREG(output.stat().st_mode)
    except OSError:
        return True  # it does not exist yet


@contextlib.contextmanager
def opened(output: Path) -> Iterator[Any]:
    """A file for writing bytes, which appears once it is complete, or not at all; a symbolic link stays one. Stdout and
    other files that are not regular are written directly."""
    if is_stdout(output):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not is_regular(output):
        with output.open("wb") as file:
            yield file
        return
    target = output.resolve()
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with scratch.open("wb") as file:
            yield file
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def beside(output: Path | None) -> contextlib.AbstractContextManager[Any]:
    """Send the output of the block to stderr, if stdout has the file."""
    return contextlib.redirect_stdout(sys.stderr) if output and is_stdout(output) else contextlib.nullcontext()


def number_of(number: int, what: str) -> str:
    """`1 letter`, `2,000 letters`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    """Text from outside with its control characters spelt out, so that a terminal obeys none of them."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def plain(text: str) -> str:
    """Text from outside, which is also safe in Rich's markup."""
    from rich.markup import escape

    return escape(visible(text))


def state(status: str) -> str:
    """A status in its colour, as Rich's markup."""
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def at(moment: str | None) -> str:
    """A time in this machine's zone, short: the day, or the time of today; empty for none."""
    if not moment:
        return ""
    local = datetime.fromisoformat(moment).astimezone()
    today = local.date() == datetime.now(local.tzinfo).date()
    return zoned(local, "%H:%M:%S") if today else local.strftime("%Y-%m-%d")


def hint_at_more(page: dict[str, Any], limit: int) -> None:
    """Say on stderr that a list ends at its limit, and how to see more."""
    if page["has_more"]:
        how = f"; --limit lists up to {_MOST}" if limit < _MOST else ""
        typer.echo(f"there are more than these {len(page['data'])}{how}", err=True)


def money(amount: dict[str, Any] | None) -> str:
    """`{"amount": 6990, "currency": "BRL"}` -> `69.90 BRL`; empty for none."""
    if not amount:
        return ""
    return f"{Decimal(amount['amount']).scaleb(-_digits(amount['currency'])):,f} {amount['currency']}"


def size(number: int | None) -> str:
    """`12.3 MB`, in powers of ten; empty for none."""
    from rich.filesize import decimal

    return "" if number is None else decimal(number)


def minor_units(price: str, currency: str) -> int:
    """`69.90` in BRL -> 6990. Raises `typer.BadParameter` for a text that is no price in the currency."""
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
    """Print the end of a job. Raises `Failed` with the reason if the command waited and the job did not succeed."""
    if as_json:
        print_json(job)
    else:
        about = next((f"{what:<6} {job[f'{what}_id']}\n" for what in ("order", "report") if job.get(f"{what}_id")), "")
        typer.echo(f"{about}job    {job['job_id']}\nstatus {job['status']}")
    if waited and job["status"] != "SUCCESS":
        raise Failed(_unhappy(job))


def reason(job: dict[str, Any]) -> str:
    """` (out_of_stock: …)`, or nothing for a job without an error."""
    error = job.get("error") or {}
    said = visible(": ".join(str(error[name]) for name in ("code", "detail") if error.get(name)))
    return f" ({said})" if said else ""


def _unhappy(job: dict[str, Any]) -> str:
    if job["status"] in ("FAILURE", "CANCELLED"):
        return f"the job ended as {job['status']}{reason(job)}"
    return f"the job has not ended yet; `malote jobs watch {job['job_id']}` follows it"
