"""Reports on the command line: how far they are, and how their files are fetched."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from deploy.cli import following, reports
from deploy.cli.errors import Failed, Refused
from deploy.cli.output import end_of_job
from tests.unit.cli.test_client import BEGUN, ENDED, event, gateway

FILE = bytes(range(256)) * 40
REPORT: dict[str, Any] = {
    "id": "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f",
    "filename": "orders-2026-11-02-4d5e6f.csv",
    "bytes": len(FILE),
    "sha256": hashlib.sha256(FILE).hexdigest(),
}
ROWS = {"done": 120_000, "total": 1_000_000, "unit": "rows", "rate": 250_123.4, "seconds_left": 3.6}


class Breaking(httpx.AsyncByteStream):
    """Some bytes, and then the connection is gone."""

    def __init__(self, some: bytes) -> None:
        self._some = some

    async def __aiter__(self) -> Any:
        yield self._some
        raise httpx.ReadError("gone")


def storage(asked: list[str | None], breaks_after: int | None = None, file: bytes = FILE) -> Callable[..., Any]:
    """A gateway with one file, which gives only so many bytes at a time."""

    def answer(request: httpx.Request) -> httpx.Response:
        wanted = request.headers.get("range")
        asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        assert not wanted or request.headers["if-range"] == f'"{REPORT["sha256"]}"'
        rest = file[first:]
        status = 206 if wanted else 200
        if breaks_after is not None and len(rest) > breaks_after:
            return httpx.Response(status, stream=Breaking(rest[:breaks_after]))
        return httpx.Response(status, content=rest)

    return answer


async def test_a_download_is_whole(tmp_path: Path) -> None:
    seen: list[int] = []
    await gateway(storage([])).download(REPORT, tmp_path / "file", seen.append)
    assert (tmp_path / "file").read_bytes() == FILE
    assert (seen[0], seen[-1]) == (0, len(FILE))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_download_that_breaks_goes_on_from_where_it_was(tmp_path: Path) -> None:
    asked: list[str | None] = []
    await gateway(storage(asked, breaks_after=4_000)).download(REPORT, tmp_path / "file", lambda _: None)
    assert (tmp_path / "file").read_bytes() == FILE
    assert asked == [None, "bytes=4000-", "bytes=8000-"]


async def test_a_download_that_breaks_for_good_is_gone_on_with_by_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="goes on from 500 bytes"):
        await gateway(storage([], breaks_after=100)).download(REPORT, tmp_path / "file", lambda _: None)
    assert not (tmp_path / "file").exists()
    asked: list[str | None] = []
    await gateway(storage(asked)).download(REPORT, tmp_path / "file", lambda _: None)
    assert asked == ["bytes=500-"]
    assert (tmp_path / "file").read_bytes() == FILE


async def test_a_server_that_knows_no_ranges_sends_all_of_it_again(tmp_path: Path) -> None:
    answers = [httpx.Response(200, stream=Breaking(FILE[:100])), httpx.Response(200, content=FILE)]
    await gateway(lambda _: answers.pop(0)).download(REPORT, tmp_path / "file", lambda _: None)
    assert (tmp_path / "file").read_bytes() == FILE


async def test_what_is_not_the_reports_file_is_thrown_away(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="not the report's file"):
        await gateway(storage([], file=FILE[::-1])).download(REPORT, tmp_path / "file", lambda _: None)
    assert [*tmp_path.iterdir()] == []


async def test_a_report_that_is_gone_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of yesterday")
    problem = {"detail": "The report was kept for its time.", "code": "report_expired"}
    with pytest.raises(Refused, match="410 report_expired"):
        await gateway(lambda _: httpx.Response(410, json=problem)).download(REPORT, tmp_path / "file", lambda _: None)
    assert (tmp_path / "file").read_text() == "of yesterday"


async def test_an_answer_without_a_body_is_no_failure() -> None:
    await gateway(lambda _: httpx.Response(204)).delete_report("r")


async def test_notifications_are_followed_over_a_connection_that_breaks() -> None:
    resumed: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        resumed.append(request.headers.get("last-event-id"))
        number = len(resumed)
        return httpx.Response(200, text=event("notification", str(number), f'{{"id": "{number}"}}') + ": ping\n\n")

    seen: list[str] = []
    async for notice in gateway(answer).follow():
        seen.append(notice["id"])
        if len(seen) == 3:
            break
    assert (seen, resumed) == (["1", "2", "3"], [None, "1", "2"])


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (ROWS, "120,000 of 1,000,000 rows, 250,123 rows/s, 4 s left"),
        (ROWS | {"rate": None, "seconds_left": None}, "120,000 of 1,000,000 rows"),
        ({"done": 3, "total": None, "unit": "entries"}, "3 entries"),
    ],
)
def test_how_far_it_is_is_said_as_far_as_it_is_known(progress: dict[str, Any], said: str) -> None:
    assert following.rate(progress) == said


def test_without_a_terminal_each_state_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    failed = ENDED | {"status": "FAILURE", "error": {"code": "too_many_rows", "detail": "Narrow it down."}}
    with following._lines() as show:
        for job in (BEGUN, BEGUN | {"status": "STARTED"}, BEGUN | {"status": "STARTED", "progress": ROWS}, failed):
            show({"progress": None} | job)
    assert capsys.readouterr().out.splitlines() == [
        "PENDING",
        "STARTED",
        "120,000 of 1,000,000 rows, 250,123 rows/s, 4 s left",
        "FAILURE",
    ]


def test_why_a_job_failed_is_said_once_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    failed = ENDED | {"job_id": "j", "status": "FAILURE", "error": {"code": "too_many_rows", "detail": "Narrow it."}}
    with following._lines() as show:
        show({"progress": None} | failed)
    with pytest.raises(Failed, match=r"ended as FAILURE \(too_many_rows: Narrow it\.\)"):
        end_of_job(failed, as_json=False, waited=True)
    assert "too_many_rows" not in capsys.readouterr().out


def test_in_a_folder_a_file_has_the_reports_own_name(tmp_path: Path) -> None:
    assert reports.target_of(tmp_path, REPORT) == tmp_path / REPORT["filename"]
    assert reports.target_of(tmp_path, REPORT | {"filename": "../../etc/passwd"}) == tmp_path / "passwd"
    assert reports.target_of(tmp_path / "mine.csv", REPORT) == tmp_path / "mine.csv"


def test_an_interrupted_watch_says_that_it_goes_on_and_how_to_end_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(work: Any) -> None:
        work.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(following.asyncio, "run", interrupt)
    with pytest.raises(typer.Exit) as end:
        following.follow({"job_id": "j"}, "`malote reports cancel r` cancels it", is_silent=True)
    said = capsys.readouterr()
    assert (end.value.exit_code, said.out) == (130, "")
    assert "jobs watch j" in said.err
    assert "reports cancel r" in said.err


def test_only_what_is_wished_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wishes: list[dict[str, Any]] = []

    class Here:
        async def create_report(self, wish: dict[str, Any], **_: Any) -> dict[str, Any]:
            wishes.append(wish)
            return BEGUN | {"report_id": "r"}

    monkeypatch.setattr("deploy.cli.client.gateway.ask", lambda question: asyncio.run(question(Here())))
    run = CliRunner()
    assert run.invoke(reports.app, ["create", "--kind", "orders"]).exit_code == 0
    filtered = ["--from", "2026-01-01", "--sku", "A", "--delimiter", ";", "--bom", "--json"]
    done = run.invoke(reports.app, ["create", "--kind", "orders", *filtered])
    assert json.loads(done.stdout)["report_id"] == "r"
    assert wishes == [
        {"kind": "orders", "format": "csv"},
        {
            "kind": "orders",
            "format": "csv",
            "from": "2026-01-01",
            "filters": {"sku": "A"},
            "options": {"delimiter": ";", "bom": True},
        },
    ]
