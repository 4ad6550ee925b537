"""One order's story in the logs of a whole fleet."""

import json

from tests.e2e.conftest import Fleet, until
from tests.e2e.test_fleet import an_order, client, mails_to, placed


def test_an_order_is_found_in_the_logs_of_every_service_by_each_of_its_ids(fleet: Fleet) -> None:
    order = an_order()
    with client(fleet) as http:
        job = placed(http, order)
        cancelled = http.post(f"/v1/orders/{job['order_id']}/cancel", headers={"Prefer": "wait=20"}).json()
        assert cancelled["status"] == "SUCCESS"
    mails_to(fleet, order["customer"]["email"], 3)

    def story(about: str, *more: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in fleet.malote("logs", about, "--json", *more).splitlines()]

    def mails() -> list[dict[str, object]]:
        return [line for line in story(job["order_id"]) if line["event"] == "mail sent"]

    until(lambda: len(mails()) == 3, "a line for each mail")
    lines = story(job["order_id"])
    assert {line["service"] for line in lines} == {"gateway", "orders", "stock", "email", "reports"}
    jobs = {job["job_id"], cancelled["job_id"]}
    assert {line.get("correlation_id") for line in lines} == jobs
    requests = [line["path"] for line in lines if line["event"] == "http"]
    assert requests == ["/v1/orders", f"/v1/orders/{job['order_id']}/cancel"]
    handled = {(line["lane"], line["message"]) for line in lines if line["event"] == "done"}
    assert {
        ("orders", "order.place.v1"),
        ("stock", "order.placed.v1"),
        ("orders", "stock.reserved.v1"),
        ("gateway", "order.confirmed.v1"),
        ("orders", "order.cancel.v1"),
        ("stock", "order.cancelled.v1"),
        ("email.outgoing", "mail.deliver.v1"),
    } <= handled
    assert [line["timestamp"] for line in lines] == sorted(str(line["timestamp"]) for line in lines)
    for other in (job["job_id"], cancelled["job_id"], job["order_id"][-8:].upper(), str(mails()[0]["message_id"])):
        assert story(other) == lines, other
    email = order["customer"]["email"]
    assert email not in json.dumps(lines)
    assert "Souza" not in json.dumps(lines)
    for_people = fleet.malote("logs", job["order_id"], "--service", "email")
    assert "mail sent" in for_people
    assert "gateway" not in for_people
    assert "order.place.v1" not in for_people


def test_an_id_that_nobody_wrote_about_says_where_it_was_looked_for(fleet: Fleet) -> None:
    nobody = "01890000-0000-7000-8000-000000000000"
    fleet.malote("logs", nobody, expect=1)
