"""Reports as a person has them made: asked for, watched, fetched, opened from the mail, removed."""

import csv
import hashlib
import json
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import forking
from tests.e2e.conftest import Fleet, until
from tests.e2e.test_cli import asked, mails_to, refused

ORDERS = 500
DAYS = "30"
READER = "reader-of-reports@example.com"


@pytest.fixture(scope="module")
def shop(fleet: Fleet) -> Fleet:
    """A fleet whose shop has a past."""
    done = asked(fleet, "populate", str(ORDERS), "--direct", "--days", DAYS)
    assert (done["accepted"], done["failed"]) == (ORDERS, 0)
    return fleet


def database(fleet: Fleet, service: str, query: str) -> list[Any]:
    """What a service's own database says."""
    path = Path(fleet.status["mailbox"]).parent / f"{service}.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_all_orders_are_watched_into_a_file(shop: Fleet, tmp_path: Path) -> None:
    create = ("reports", "create", "--kind", "orders", "--format", "csv")
    said = shop.malote(*create, "--watch", "--output", str(tmp_path / "orders.csv"))
    assert "SUCCESS" in said
    assert str(tmp_path / "orders.csv") in said
    with (tmp_path / "orders.csv").open(newline="") as file:
        rows = {row["order_id"].replace("-", ""): row for row in csv.DictReader(file)}
    owned = database(shop, "orders", "SELECT id, state, customer_id, customer FROM orders")
    assert len(rows) >= ORDERS
    assert {(id_, row["status"], row["customer_id"]) for id_, row in rows.items()} <= {each[:3] for each in owned}
    names = {json.loads(each[3])["name"] for each in owned if each[0] in rows}
    assert {row["customer_name"].removeprefix("'") for row in rows.values()} == {
        name.removeprefix("'") for name in names
    }
    assert any(name.startswith("=") for name in names), "one that a spreadsheet would run"
    assert not any(row["customer_name"].startswith(("=", "+", "-", "@")) for row in rows.values())


def test_an_order_that_was_placed_today_is_in_the_report(shop: Fleet, tmp_path: Path) -> None:
    placed = asked(shop, "orders", "place", "--sku", "COFFEE-1KG", "--customer", "today", "--wait", "20")
    create = ("reports", "create", "--kind", "orders", "--format", "jsonl", "--customer", "today")

    def look() -> str | None:
        shop.malote(*create, "--output", str(tmp_path / "today.jsonl"))
        said = (tmp_path / "today.jsonl").read_text()
        return said if "CONFIRMED" in said else None

    (order,) = map(json.loads, until(look, "the order in the report").splitlines())
    assert (order["order_id"], order["total"]) == (placed["order_id"], "69.90")


def test_a_sales_summary_is_a_page_and_a_paper(shop: Fleet, tmp_path: Path) -> None:
    create = ("reports", "create", "--kind", "sales-summary", "--locale", "en")
    page = asked(shop, *create, "--format", "html", "--output", str(tmp_path / "sales.html"))
    assert (page["status"], page["file"]) == ("SUCCESS", str(tmp_path / "sales.html"))
    assert '<html lang="en"' in (tmp_path / "sales.html").read_text()
    asked(shop, *create, "--format", "pdf", "--output", str(tmp_path / "sales.pdf"))
    assert (tmp_path / "sales.pdf").read_bytes().startswith(b"%PDF-")


def test_the_link_in_the_mail_opens_the_report_without_a_token(shop: Fleet, tmp_path: Path) -> None:
    shop.malote("notifications", "choose", "--email", READER, "--locale", "en")
    made = asked(shop, "reports", "create", "--kind", "order-lines", "--format", "xlsx", "--wait", "60")
    mail = asked(shop, "mail", "show", mails_to(shop, READER, 1)[0]["id"])
    (link,) = set(re.findall(r"http://\S+/download\?\S+", mail["text"]))
    target = tmp_path / "lines.xlsx"
    shop.run("curl", "-sf", link, "-o", str(target))
    assert hashlib.sha256(target.read_bytes()).hexdigest() == made["result"]["sha256"]

    newer = shop.malote("reports", "link", made["report_id"]).strip()
    assert newer != link
    assert status_of(shop, link) == 403
    assert status_of(shop, newer) == 200
    shop.malote("reports", "link", made["report_id"], "--revoke")
    assert status_of(shop, newer) == 403


def status_of(fleet: Fleet, url: str) -> int:
    return int(fleet.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url))


def test_notifications_are_told_and_read(shop: Fleet) -> None:
    made = asked(shop, "reports", "create", "--kind", "stock-movements", "--wait", "60")
    told = asked(shop, "notifications")
    assert told["data"][0]["report_id"] == made["report_id"]
    assert told["unread"] > 0
    assert made["report_id"] in shop.malote("notifications")
    assert asked(shop, "notifications", "--read-all")["unread"] == 0


def test_notifications_are_said_as_they_come(shop: Fleet, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as out:
        following = forking.start(
            "deploy.cli.app:main", "notifications", "--follow", "--json", env=shop.environment, stdout=out
        )
    try:  # again, because it cannot be seen from outside that the stream has begun

        def look() -> bool:
            shop.malote("reports", "create", "--kind", "orders", "--wait", "30")
            return bool(said.stat().st_size)

        until(look, "a notification")
        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 0
    finally:
        following.kill()
    assert json.loads(said.read_text().splitlines()[0])["message"] == "report.ready.v1"


def test_who_wants_no_notifications_gets_none(shop: Fleet) -> None:
    assert asked(shop, "notifications", "choose", "--no-in-app")["in_app"] is False
    before = asked(shop, "notifications")["data"]
    asked(shop, "reports", "create", "--kind", "orders", "--wait", "60")
    assert asked(shop, "notifications", "choose", "--in-app")["in_app"] is True
    assert asked(shop, "notifications")["data"] == before


def test_a_report_is_listed_shown_downloaded_and_removed(shop: Fleet, tmp_path: Path) -> None:
    made = asked(shop, "reports", "create", "--kind", "orders", "--format", "parquet", "--wait", "60")
    report = asked(shop, "reports", "show", made["report_id"])
    assert report["id"] in {listed["id"] for listed in asked(shop, "reports", "list", "--status", "READY")["data"]}
    assert report["sha256"] in shop.malote("reports", "show", report["id"])
    file = Path(asked(shop, "reports", "download", report["id"], "--output", str(tmp_path))["file"])
    assert file == tmp_path / report["filename"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == report["sha256"]
    assert "has ended" in refused(shop, "reports", "cancel", report["id"], expect=4)
    shop.malote("reports", "delete", report["id"])
    assert "EXPIRED" in refused(shop, "reports", "download", report["id"], "--output", str(tmp_path), expect=1)


def test_a_wish_that_contradicts_itself_is_refused_in_words(shop: Fleet) -> None:
    said = refused(shop, "reports", "create", "--kind", "orders", "--format", "pdf", expect=4)
    assert "pdf is for sales-summary only" in said


def test_a_rebuild_gives_the_same_rows(shop: Fleet, tmp_path: Path) -> None:
    create = ("reports", "create", "--kind", "stock-movements")
    asked(shop, *create, "--output", str(tmp_path / "before.csv"))
    assert asked(shop, "reports", "rebuild", "--watch")["status"] == "SUCCESS"
    asked(shop, *create, "--output", str(tmp_path / "after.csv"))
    before, after = ({*(tmp_path / name).read_text().splitlines()} for name in ("before.csv", "after.csv"))
    assert before == after
