"""How amounts, lines and tables look and are read."""

import io

import pytest
import typer
from rich.console import Console

from deploy.cli import orders, output
from deploy.cli.errors import Failed
from deploy.cli.token import _seconds


@pytest.mark.parametrize(
    ("text", "currency", "units", "shown"),
    [
        ("69.90", "BRL", 6990, "69.90 BRL"),
        ("69.9", "BRL", 6990, "69.90 BRL"),
        ("1250", "JPY", 1250, "1,250 JPY"),
        ("1.234", "KWD", 1234, "1.234 KWD"),
        ("0", "BRL", 0, "0.00 BRL"),
    ],
)
def test_a_price_is_read_as_it_is_shown(text: str, currency: str, units: int, shown: str) -> None:
    assert output.minor_units(text, currency) == units
    assert output.money({"amount": units, "currency": currency}) == shown


@pytest.mark.parametrize("text", ["", "x", "1.999", "-1", "nan", "inf", "1,50"])
def test_what_is_no_price_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        output.minor_units(text, "BRL")


def test_a_line_without_a_quantity_is_one_piece() -> None:
    assert orders.line("MUG-BLUE") == {"sku": "MUG-BLUE", "quantity": 1}
    assert orders.line("MUG-BLUE:12") == {"sku": "MUG-BLUE", "quantity": 12}


@pytest.mark.parametrize("text", ["", ":2", "A:x", "A:-1", "A:1:2", "A:1.5"])
def test_what_is_no_line_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        orders.line(text)


@pytest.mark.parametrize(("text", "found"), [("90", 90), ("90s", 90), ("30m", 1800), ("12h", 43200)])
def test_durations_are_seconds_or_have_a_unit(text: str, found: int) -> None:
    assert _seconds(text) == found


@pytest.mark.parametrize("text", ["0", "3y", "-1", "", "500ms"])
def test_what_is_no_duration_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        _seconds(text)


def test_a_narrow_terminal_cuts_what_may_give_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(output, "console", lambda: Console(file=out, width=80))
    row = (
        "01a203d7-a897-71ba-89ef-dcccd3c45abc",
        "CONFIRMED",
        "1,657.00 BRL",
        "15:19:55",
        "Maria Aparecida dos Santos",
    )
    output.console().print(output.table(("order", "status", ">total", "placed", "customer~"), [row]))
    line = out.getvalue().splitlines()[1]
    assert len(line) <= 80
    assert line.split()[:5] == [*row[:2], *row[2].split(), row[3]]
    assert line.rstrip().endswith("…")


def test_only_success_is_a_good_end_of_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"order_id": "o", "job_id": "j", "status": "FAILURE", "error": {"code": "out_of_stock"}}
    with pytest.raises(Failed, match="out_of_stock"):
        output.end_of_job(job, as_json=False, waited=True)
    output.end_of_job(job | {"status": "PENDING", "error": None}, as_json=False, waited=False)
    with pytest.raises(Failed, match="jobs watch j"):
        output.end_of_job(job | {"status": "PENDING", "error": None}, as_json=False, waited=True)
