"""What reports decide: where parts are cut, how long a day is, what a link is worth."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from uuid import UUID

import pytest

from contracts.reports import ExportChunk, ReportWish
from services.reports import domain
from services.reports.domain import Part

REPORT = UUID("01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f")
HOUR = 3_600_000


def wish(format_: str, kind: str = "orders") -> ReportWish:
    return ReportWish.model_validate({"kind": kind, "format": format_})


def test_a_part_has_fewer_rows_where_a_row_takes_longer() -> None:
    rows = [domain.part_rows(wish(format_), 200_000) for format_ in ("csv", "jsonl", "parquet", "xlsx")]
    assert rows == [200_000, 50_000, 50_000, 10_000]
    assert domain.part_rows(wish("xlsx"), 5) == 1


def test_the_days_of_a_summary_are_cut_into_parts_that_follow_each_other() -> None:
    after: tuple[str, str] | None = ("2026-01-01", "2026-03-05")
    found, lefts = [], []
    while after:
        days, after, left = domain.part_days(after, "UTC")
        found.append([day.isoformat() for day, _, _ in days])
        lefts.append(left)
    assert [(part[0], part[-1]) for part in found] == [
        ("2026-01-01", "2026-01-31"),
        ("2026-02-01", "2026-03-03"),
        ("2026-03-04", "2026-03-05"),
    ]
    assert lefts == [64, 33, 2]
    assert domain.part_days((), "UTC") == ([], None, 0)


def test_a_day_is_as_long_as_it_is_where_clocks_are_changed() -> None:
    found = list(domain.days(date(2026, 3, 7), "America/New_York", 3))
    assert [(day.day, (ends - begins) // HOUR) for day, begins, ends in found] == [(7, 24), (8, 23), (9, 24)]
    assert all(before[2] == after[1] for before, after in pairwise(found))
    [(_, begins, ends)] = domain.days(date(2026, 11, 1), "America/New_York", 1)
    assert (ends - begins) // HOUR == 25


def test_a_day_whose_midnight_does_not_exist_begins_when_the_clocks_were_put_forward() -> None:
    [(_, begins, ends)] = domain.days(date(2018, 11, 4), "America/Sao_Paulo", 1)
    assert datetime.fromtimestamp(begins / 1000, UTC) == datetime(2018, 11, 4, 3, tzinfo=UTC)
    assert (ends - begins) // HOUR == 23


def test_the_last_part_is_followed_by_assembling() -> None:
    command = ExportChunk(report_id=REPORT, part=3, done=300, bytes=1_000)
    followed = domain.following(command, Part(100, 500, 1_000, (7, "x"), 400, 1_000))
    assert followed == ExportChunk(report_id=REPORT, part=4, after=(7, "x"), done=400, bytes=1_500, total=1_000)
    last = domain.following(command, Part(100, 500, 400, None, 400, 400))
    assert last.model_dump() == {"report_id": REPORT, "parts": 4, "rows": 400, "bytes": 1_500, "total": 400}


def test_progress_says_how_fast_and_how_long() -> None:
    said = domain.progress(Part(100, 500, 1_000, None, 250, 1_000), 5_000)
    assert (said.done, said.total, said.rate, said.seconds_left) == (250, 1_000, 50.0, 15.0)
    assert domain.progress(Part(0, 0, 0, None, 0, 0), 5_000).seconds_left is None


def test_a_file_is_named_after_what_it_shows_and_the_local_day() -> None:
    late = datetime(2026, 11, 3, 1, 30, tzinfo=UTC)
    assert domain.filename(wish("csv", "order-lines"), REPORT, late) == "order-lines-2026-11-02-4d5e6f.csv"


@dataclass
class Linked:
    id: UUID
    link_key: str | None
    expires_at: int | None


def test_a_link_is_worth_nothing_with_a_character_changed_or_once_it_is_revoked() -> None:
    link = domain.link("https://shop.example/", Linked(REPORT, "key", 1_800_000_000_999))
    assert link
    path, _, signed = link.partition("?")
    assert path == f"https://shop.example/v1/reports/{REPORT}/download"
    expires, signature = (field.partition("=")[2] for field in signed.split("&"))
    assert expires == "1800000000"
    assert domain.is_signed("key", REPORT, 1_800_000_000, signature)
    for number, character in enumerate(signature):
        changed = f"{signature[:number]}{'0' if character != '0' else '1'}{signature[number + 1 :]}"
        assert not domain.is_signed("key", REPORT, 1_800_000_000, changed)
    assert not domain.is_signed("key", REPORT, 1_800_000_001, signature)
    assert not domain.is_signed("key", UUID(int=1), 1_800_000_000, signature)
    assert not domain.is_signed("other", REPORT, 1_800_000_000, signature)
    assert not domain.is_signed(None, REPORT, 1_800_000_000, signature)
    assert domain.link("https://shop.example", Linked(REPORT, None, 1_800_000_000_999)) is None


@pytest.mark.parametrize("given", ["é", "", "0" * 1_000, "\x00"])
def test_a_signature_can_be_any_text_at_all(given: str) -> None:
    assert not domain.is_signed("key", REPORT, 1, given)
