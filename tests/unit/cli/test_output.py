"""How amounts, lines and tables look and are read."""

import io
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import typer
from rich.console import Console

from deploy.cli import logs, orders, output
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


def test_a_time_of_today_is_shown_with_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    time.tzset()
    try:
        now = datetime.now(UTC)
        said = now.astimezone(ZoneInfo("America/Sao_Paulo")).strftime("%H:%M:%S")
        assert output.at(now.isoformat()) == f"{said}-03:00"
        assert output.at("2020-11-02T01:30:00Z") == "2020-11-01"
        assert logs._clock("2020-11-02T01:30:00.250999Z") == "2020-11-01 22:30:00.250-03:00"
    finally:
        monkeypatch.undo()
        time.tzset()


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


def test_text_from_outside_is_neither_markup_nor_orders_to_the_terminal() -> None:
    assert output.visible("a\tb\nc é\r\x1b]0;x\x07\x9b\x7f\ud800") == "a\tb\nc é" r"\r\x1b]0;x\x07\x9b\x7f\ud800"
    assert output.plain("[red]\x1b[0m") == r"\[red]\x1b[0m"


def test_an_id_is_never_cut_and_what_is_beside_it_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    out, id_ = io.StringIO(), "01a203d7-a897-71ba-89ef-dcccd3c45abc"
    monkeypatch.setattr(output, "console", lambda: Console(file=out, width=72))
    rows = [(id_, "WAITING", "email.outgoing", "order.confirmed.v1", "15:19:55", "customer: Field required")]
    output.console().print(output.table(("letter", "state", "lane", "message", "last", "reason~"), rows))
    lines = out.getvalue().splitlines()
    assert lines[1].startswith(f"{id_}  WAITING  email.")
    assert all(len(line) <= 72 for line in lines)
    assert len(lines) > 2, "the rest is on further lines"


def test_without_a_terminal_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "customer: Field required " * 20
    output.console().print(output.table(("letter", "reason~"), [("x" * 36, reason)]))
    assert f"{'x' * 36}  {reason.strip()}" in capsys.readouterr().out


def test_a_file_is_there_when_it_is_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "letters.jsonl"

    def breaks() -> None:
        with output.opened(target) as file:
            file.write(b"half")
            raise Failed("the connection broke")

    with pytest.raises(Failed, match="broke"):
        breaks()
    assert list(tmp_path.iterdir()) == []
    with output.opened(target) as file:
        file.write(b"whole")
    assert target.read_text() == "whole"


def test_a_symbolic_link_stays_one_and_a_device_a_device(tmp_path: Path) -> None:
    target, link, device = tmp_path / "real", tmp_path / "link", tmp_path / "null"
    target.write_text("before")
    link.symlink_to(target)
    device.symlink_to("/dev/null")
    for path in (link, device):
        with output.opened(path) as file:
            file.write(b"whole")
    assert link.is_symlink()
    assert target.read_text() == "whole"
    assert Path("/dev/null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "null", "real"]


def test_stdout_is_written_and_not_replaced(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with output.opened(Path("-")) as file:
        file.write(b"whole\n")
    assert capfdbinary.readouterr().out == b"whole\n"
