"""A job as the command line shows it."""

import io
from typing import Any

import pytest
from rich.console import Console

from deploy.cli import jobs

AT = "2026-11-02T14:30:00+00:00"
BEGUN: dict[str, Any] = {
    "id": "j",
    "order_id": None,
    "kind": "export",
    "status": "STARTED",
    "progress": {"done": 3, "total": 10, "unit": "rows"},
    "error": None,
    "timeline": [{"at": "2026-11-02T14:30:01.500000+00:00", "message": "export.begun.v1", "service": "reports"}],
    "created_at": AT,
    "updated_at": AT,
    "ended_at": None,
}
FAILED = BEGUN | {"status": "FAILURE", "error": {"code": "failed", "detail": "[no] disk"}, "ended_at": AT}


def shown(job: dict[str, Any]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(jobs.picture(job))
    return console.export_text()


def test_progress_and_timeline_are_shown() -> None:
    text = shown(BEGUN)
    assert "3 of 10 rows" in text
    assert "1.500 s  export.begun.v1" in text


def test_progress_without_an_end_in_sight_says_so() -> None:
    assert "3 of ? rows" in shown(BEGUN | {"progress": {"done": 3, "total": None, "unit": "rows"}})


def test_a_failure_is_shown_with_its_reason_letter_by_letter() -> None:
    assert "FAILURE (failed: [no] disk)" in shown(FAILED)


def test_without_a_terminal_each_piece_of_news_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell = jobs._Lines()
    for job in (BEGUN, BEGUN | {"progress": {"done": 9, "total": 10, "unit": "rows"}}, FAILED | {"progress": None}):
        tell(job)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2] for line in lines if line.startswith("2026")] == [
        "export.begun.v1 by reports",
        "STARTED",
        "FAILURE (failed: [no] disk)",
    ]
    assert [line for line in lines if line.endswith("rows")] == ["3 of 10 rows", "9 of 10 rows"]
