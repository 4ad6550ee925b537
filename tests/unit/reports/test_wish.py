"""Wishes for reports: what goes together, and what is refused with which word."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.reports import CreateReport, ReportWish

ORDERS = {"kind": "orders", "format": "csv"}


@pytest.mark.parametrize(
    ("wrong", "where", "word"),
    [
        ({"format": "pdf"}, "format", "pdf is for sales-summary only"),
        ({"kind": "stock-movements", "filters": {"status": "PLACED"}}, "filters", "status cannot be asked"),
        ({"format": "jsonl", "options": {"bom": True}}, "options", "bom is no option of jsonl"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "to", "to must be later than from"),
        ({"from": "2026-01-02", "to": "2026-01-02"}, "to", "to must be later than from"),
        ({"timezone": "Mars/Olympus"}, "timezone", "is no time zone"),
        ({"timezone": "localtime"}, "timezone", "is no time zone"),
        ({"from": "0001-01-01"}, "from", "from 1970 to 9000"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], where: str, word: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ReportWish.model_validate(ORDERS | wrong)
    [problem] = refused.value.errors()
    assert problem["loc"] == (where,)
    assert word in problem["msg"]


@pytest.mark.parametrize(
    ("zone", "since", "until"),
    [
        ("America/New_York", "2026-03-08T02:30:00", "2026-03-08T03:10:00"),  # the clocks were put forward at 2
        ("America/Sao_Paulo", "2018-11-04T00:30:00", "2018-11-04T01:10:00"),
    ],
)
def test_a_range_is_compared_as_instants_where_clocks_are_changed(zone: str, since: str, until: str) -> None:
    with pytest.raises(ValidationError, match="to must be later than from"):
        ReportWish.model_validate(ORDERS | {"timezone": zone, "from": since, "to": until})


@pytest.mark.parametrize("zone", ["America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "UTC"])
def test_what_the_gateway_takes_the_service_can_read(zone: str) -> None:
    given = ORDERS | {"timezone": zone, "from": "2026-11-01T01:30:00", "to": "2026-11-01T01:30:01"}
    command = CreateReport(
        report_id="01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f", owner="ana", wish=ReportWish.model_validate(given)
    )
    read = CreateReport.read(command.model_dump_json().encode())
    for found, said in ((read.wish.since, command.wish.since), (read.wish.until, command.wish.until)):
        assert found
        assert said
        assert found.timestamp() == said.timestamp()  # Python takes an ambiguous time for equal to no other zone's


def test_a_time_without_an_offset_is_local() -> None:
    wish = ReportWish.model_validate(ORDERS | {"from": "2026-01-01"})
    assert wish.since == datetime(2026, 1, 1, 3, tzinfo=UTC)
