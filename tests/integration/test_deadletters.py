"""Dead letters, from the lane that failed to their end: over HTTP, on a real broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from contracts.jobs import LetterSettled
from contracts.orders import OrderConfirmed, PlaceOrder
from services.deadletters.store import actions, retention
from shared.messaging.handler import Poison, on
from shared.messaging.unit import UnitOfWork
from shared.persistence.database import Database
from tests.deadlettering import Shop, shop_on
from tests.integration.hostile import publish_raw, short, table
from tests.integration.reserving import RESERVED
from tests.running import Broker, an_order, module_of, running, until
from tests.serving import NO_BROKER, serving


@pytest.fixture
async def shop(broker: Broker, database_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    """On SQLite and on PostgreSQL."""
    async with shop_on(broker, database_url, tmp_path) as found:
        yield found


@pytest.fixture
async def small_shop(broker: Broker, tmp_path: Path) -> AsyncIterator[Shop]:
    """On SQLite, for what does not depend on the database."""
    async with shop_on(broker, f"sqlite:///{tmp_path}/letters.db", tmp_path) as found:
        yield found


async def test_letters_are_grouped_searched_shown_and_exported_and_looking_changes_nothing(shop: Shop) -> None:
    letters = await shop.fails("A", "A", "A", "B-1")
    groups = (await shop.ask("/groups"))["data"]
    assert [(group["count"], group["lane"], group["message"]) for group in groups] == [
        (3, "stock", "order.placed.v1"),
        (1, "stock", "order.placed.v1"),
    ]
    assert groups[0]["reason"] == "nobody can reserve A for order <id>"
    assert groups[0]["first_at"] == letters[0]["first_at"]
    assert groups[0]["last_at"] == letters[2]["last_at"]

    async def found(**wanted: Any) -> list[int]:
        ids = [letter["id"] for letter in (await shop.ask(**wanted))["data"]]
        return sorted(next(n for n, letter in enumerate(letters) if letter["id"] == id_) for id_ in ids)

    assert await found(group=groups[0]["id"]) == [0, 1, 2]
    assert await found(order_id=letters[1]["order_id"]) == await found(job_id=letters[1]["job_id"]) == [1]
    assert await found(text=letters[2]["order_id"].upper()) == [2]
    assert await found(text="RESERVE b-1") == await found(lane="stock", text='"sku":"b-1"') == [3]
    assert await found(lane="email") == await found(message="x.y.v1") == await found(text="b_1") == []
    assert await found(limit=2, starting_after=letters[2]["id"]) == [0, 1]

    one = await shop.ask(f"/{letters[3]['id']}")
    assert (one["body"]["lines"][0]["sku"], one["encoding"], one["history"]) == ("B-1", "json", [])
    answer = await shop.operator.get("/v1/dead-letters/export", params={"group": groups[0]["id"]})
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [x["id"] for x in letters[:3]]
    assert await shop.waiting(4) == letters
    assert (await shop.ask("/actions"))["data"] == []
    missing = await shop.operator.get(f"/v1/dead-letters/{uuid7()}")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_replay_sends_one_first_and_the_rest_if_that_went_well_and_none_twice(shop: Shop) -> None:
    spy = await shop.broker.spy(RESERVED)
    email = await shop.broker.depth("email")
    letters = await shop.fails(*["A"] * 12)
    calls = shop.stock.calls
    failed = await shop.do("replay", all=True)
    assert (failed["status"], failed["error"]["code"], failed["error"]["not_sent"]) == ("FAILURE", "probe_failed", 11)
    assert failed["error"]["letter_id"] == letters[0]["id"]
    assert f"letter {letters[0]['id']} " in failed["error"]["detail"]
    assert "11 more were not sent" in failed["error"]["detail"]
    assert "nobody can reserve A" in failed["error"]["detail"]
    assert shop.stock.calls == calls + 1
    again = await shop.waiting(12)
    assert [letter["number"] for letter in again] == [1, *[0] * 11]
    assert again[0]["attempts"] == letters[0]["attempts"] + 1
    assert again[0]["first_at"] == letters[0]["first_at"] < again[0]["last_at"]

    shop.stock.broken.clear()
    assert (await shop.do("replay", all=True, rate=1000))["result"] == {"sent": 12, "done": 12, "failed": 0}
    assert {said["order_id"] for said in await spy.collect(12)} == {letter["order_id"] for letter in letters}
    assert (len(spy.seen), shop.stock.calls, await shop.reservations()) == (12, calls + 13, 12)
    assert {message.correlation_id for message in spy.seen} == {letter["job_id"] for letter in letters}
    assert await shop.broker.depth("email") == email + 12, "what failed in stock goes to no other lane again"
    assert await shop.waiting(0) == []
    one = await shop.ask(f"/{letters[0]['id']}")
    assert one["state"] == "DONE"
    assert [(entry["what"], entry.get("by")) for entry in one["history"]] == [
        ("sent again", "olga"), ("failed again", None), ("sent again", "olga"), ("done", None),
    ]  # fmt: skip
    done = (await shop.ask("/actions"))["data"]
    assert [(a["by"], a["kind"], a["status"], a["total"], a["done"], a["failed"]) for a in done] == [
        ("olga", "replay", "DONE", 12, 12, 0),
        ("olga", "replay", "FAILED", 12, 0, 1),
    ]


async def test_what_fails_again_waits_again_and_the_rest_goes_on(small_shop: Shop) -> None:
    letters = await small_shop.fails("A", "B", "A", "B", "A")
    small_shop.stock.broken = {"B"}
    job = await small_shop.do("replay", ids=[letter["id"] for letter in letters], rate=1000)
    assert (job["status"], job["result"]) == ("SUCCESS", {"sent": 5, "done": 3, "failed": 2})
    left = await small_shop.waiting(2)
    assert [letter["id"] for letter in left] == [letters[1]["id"], letters[3]["id"]]


async def test_a_replay_that_is_stopped_sends_no_more(small_shop: Shop) -> None:
    await small_shop.fails(*["A"] * 20)
    small_shop.stock.broken.clear()
    started = await small_shop.operator.post("/v1/dead-letters/replay", json={"all": True, "rate": 4})
    job = started.headers["location"]
    await until(lambda: _has(small_shop.reservations, 3), "some to be done")
    answer = await small_shop.operator.post(f"{job}/cancel", headers={"Prefer": "wait=20"})
    stopped = answer.json()["result"]
    assert stopped["sent"] + stopped["not_sent"] == 20
    assert (await small_shop.operator.get(job)).json()["status"] == "CANCELLED"
    assert len(await small_shop.waiting(stopped["not_sent"])) > 10
    await until(lambda: _has(small_shop.reservations, stopped["sent"]), "what had been sent")
    refused = await small_shop.operator.post(f"{job}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_cancellable")


async def test_what_was_sent_and_had_no_outcome_is_sent_again_once_its_replay_was_stopped(
    small_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome is lost with a broker, or was never told, by consumers older than this is."""
    await small_shop.fails("A", "A")
    small_shop.stock.broken.clear()
    calls = small_shop.stock.calls
    with monkeypatch.context() as old:
        old.setattr("shared.messaging.batch.confirm_replay", lambda *_: None)
        started = await small_shop.operator.post("/v1/dead-letters/replay", json={"all": True})
        await until(lambda: _has(small_shop.reservations, 1), "the first to be done")
    meanwhile = await small_shop.do("replay", filter={"state": "SENT"})
    assert meanwhile["result"]["sent"] == 0, "it is left to whoever sent it"
    path = f"{started.headers['location']}/cancel"
    stopped = await small_shop.operator.post(path, headers={"Prefer": "wait=20"})
    assert (stopped.json()["result"]["sent"], stopped.json()["result"]["not_sent"]) == (1, 1)

    job = await small_shop.do("replay", filter={"state": "SENT", "lane": "stock"})
    assert job["result"] == {"sent": 1, "done": 1, "failed": 0}
    assert (await small_shop.reservations(), small_shop.stock.calls - calls) == (1, 1), "its effect was there before"
    assert len(await small_shop.waiting(1)) == 1
    [done] = (await small_shop.ask(state="DONE"))["data"]
    assert done["number"] == 2


async def test_an_outcome_of_an_earlier_sending_counts_for_nothing_once_a_letter_was_sent_again(
    small_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter, other = await small_shop.fails("A", "B")
    small_shop.stock.broken.clear()
    monkeypatch.setattr("shared.messaging.batch.confirm_replay", lambda *_: None)
    first = await small_shop.operator.post("/v1/dead-letters/replay", json={"ids": [letter["id"]]})
    await until(lambda: _is_sent(small_shop, letter["id"], 1), "it to be sent")
    stopped = await small_shop.operator.post(f"{first.headers['location']}/cancel", headers={"Prefer": "wait=20"})
    assert stopped.status_code == 200
    second = await small_shop.operator.post("/v1/dead-letters/replay", json={"filter": {"state": "SENT"}})
    await until(lambda: _is_sent(small_shop, letter["id"], 2), "it to be sent again")
    await small_shop.broker.publish(LetterSettled(letter_id=letter["id"], number=1))
    headers = {"replay": f"{letter['id']}/1", "failure_reason": "late"}
    await small_shop.broker.send(b"{}", "dead-letters", "stock", message_id="m", headers=headers)
    await small_shop.broker.send(b"{}", "dead-letters", "stock", message_id="after")
    await small_shop.waiting(2)
    await small_shop.do("purge", ids=[other["id"]])  # in the same queue as what was settled, after it
    assert (await small_shop.ask(f"/{letter['id']}"))["state"] == "SENT"
    await small_shop.broker.publish(LetterSettled(letter_id=letter["id"], number=2))
    job = await until(lambda: _job_in(small_shop, second.headers["location"], "SUCCESS"), "the end")
    assert job["result"] == {"sent": 1, "done": 1, "failed": 0}


async def test_two_replays_of_the_same_letters_send_each_of_them_once(shop: Shop) -> None:
    await shop.fails(*["A"] * 30)
    shop.stock.broken.clear()
    calls = shop.stock.calls
    one, other = await asyncio.gather(*(shop.do("replay", all=True, rate=1000) for _ in range(2)))
    assert one["result"]["done"] + other["result"]["done"] == 30
    assert (shop.stock.calls - calls, await shop.reservations()) == (30, 30)
    done = (await shop.ask(state="DONE", limit=100))["data"]
    assert {letter["number"] for letter in done} == {1}


async def test_an_edited_letter_is_sent_as_a_new_message_that_names_the_old_one(small_shop: Shop) -> None:
    spy = await small_shop.broker.spy(RESERVED)
    letter, other = await small_shop.fails("A", "A")
    body = (await small_shop.ask(f"/{letter['id']}"))["body"]
    path = f"{letter['id']}/edit"

    async def refused(**wish: Any) -> tuple[int, list[str]]:
        answer = await small_shop.operator.post(f"/v1/dead-letters/{path}", json=wish)
        return answer.status_code, [error["pointer"] for error in answer.json()["errors"]]

    assert await refused(body={**body, "lines": 7}) == (422, ["/body/lines"])
    assert await refused(body={}) == (
        422,
        [f"/body/{name}" for name in ("order_id", "customer", "lines", "total", "placed_at")],
    )
    assert await refused(body=body, message="order.place.v1") == (422, ["/message"])
    assert len(await small_shop.waiting(2)) == 2

    small_shop.stock.broken.clear()
    small_shop.stock.broken.add("A")
    job = await small_shop.do(path, body={**body, "lines": [{**body["lines"][0], "sku": "C"}]})
    assert job["status"] == "SUCCESS"
    assert (await spy.collect(1))[0]["order_id"] == letter["order_id"]
    assert spy.seen[0].headers["causation_id"] == job["result"]["message_id"]
    assert spy.seen[0].correlation_id == letter["job_id"], "what follows belongs to the same job"
    old = await small_shop.ask(f"/{letter['id']}")
    assert (old["state"], old["history"][0]["message_id"]) == ("REPLACED", job["result"]["message_id"])
    action = (await small_shop.ask("/actions"))["data"][0]
    assert letter["message_id"] in action["detail"]
    assert job["result"]["message_id"] in action["detail"]
    gone = await small_shop.operator.post(f"/v1/dead-letters/{path}", json={"body": body})
    assert (gone.status_code, gone.json()["code"]) == (409, "letter_ended")

    await small_shop.do(f"{other['id']}/edit", body=body)
    [failed] = await small_shop.waiting(1)
    view = await small_shop.ask(f"/{failed['id']}")
    assert view["headers"]["edited_from"] == other["id"]
    assert view["headers"]["causation_id"] == other["message_id"]
    assert failed["message_id"] != other["message_id"]


async def test_an_edit_that_comes_again_under_its_key_is_answered_as_before_and_its_body_is_kept_nowhere(
    small_shop: Shop, tmp_path: Path
) -> None:
    [letter] = await small_shop.fails("A")
    small_shop.stock.broken.clear()
    path = f"/v1/dead-letters/{letter['id']}/edit"
    body = (await small_shop.ask(f"/{letter['id']}"))["body"]
    headers = {"Idempotency-Key": "once", "Prefer": "wait=20"}
    first = await small_shop.operator.post(path, json={"body": body}, headers=headers)
    await small_shop.do("purge", ids=[letter["id"]])
    again = await small_shop.operator.post(path, json={"body": body}, headers=headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await small_shop.operator.post(path, json={"body": {}}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    shown = (await small_shop.ask("/actions"))["data"][1]
    assert (shown["kind"], shown["wish"]) == ("edit", {"letter_id": letter["id"], "message": "order.placed.v1"})
    database = Database(f"sqlite:///{tmp_path}/letters.db")
    async with database.reading() as session:
        assert {name for action in await session.scalars(actions.select_actions()) for name in action.wish} == {
            "letter_id",
            "message",
            "selection",
        }
    await database.dispose()


async def test_purged_letters_are_gone_and_it_is_written_down(small_shop: Shop) -> None:
    letters = await small_shop.fails("A", "A", "B")
    groups = (await small_shop.ask("/groups"))["data"]
    assert (await small_shop.do("purge", filter={"group": groups[0]["id"]}))["result"] == {"purged": 2}
    assert [letter["id"] for letter in await small_shop.waiting(1)] == [letters[2]["id"]]
    assert (await small_shop.operator.post("/v1/dead-letters/purge", json={"all": True})).status_code == 422
    assert (await small_shop.operator.post("/v1/dead-letters/purge", json={"filter": {}})).status_code == 422
    assert (await small_shop.do("purge", ids=[letters[2]["id"]]))["result"] == {"purged": 1}
    actions = (await small_shop.ask("/actions"))["data"]
    assert [(action["by"], action["kind"], action["done"]) for action in actions] == [
        ("olga", "purge", 1),
        ("olga", "purge", 2),
    ]
    assert actions[1]["wish"]["selection"]["filter"] == {"group": groups[0]["id"]}


async def test_whatever_is_dead_can_be_kept_and_shown(shop: Shop) -> None:
    channel, to = shop.broker.channel, ("dead-letters", "stock")
    bodies = [
        b"\xff\x00 no text",
        b"plain \x00 text",
        b"[1, NaN]",
        b"",
        b'{"order_id": "\\ud800"}',
        b"7",
        b"x" * 200_000,
    ]
    for number, body in enumerate(bodies):
        await shop.broker.send(body, *to, headers={"failure_reason": f"r{number}\x00", "n": number, "f": 1.5})
    await publish_raw(channel, b"no properties", *to)
    await publish_raw(channel, b"not utf-8", *to, message_id=short(b"\xff\xfe"), type=short(b"\xff"))
    await publish_raw(channel, b"nul", *to, message_id=short(b"a\x00b"), correlation_id=short(b"\x00"))
    await publish_raw(channel, b"nested", *to, headers=table(deep=b"F" + table(list=b"A\x00\x00\x00\x02t\x01")))
    await shop.broker.send(b"long", *to, headers={"long": "x" * 60_000, "failure_reason": "y" * 60_000})
    letters = await shop.waiting(len(bodies) + 5)
    shown = [await shop.ask(f"/{letter['id']}") for letter in letters]
    assert [view["encoding"] for view in shown[:7]] == ["base64", "text", "text", "text", "text", "json", "text"]
    assert shown[-1]["headers"]["long"] == "x" * 60_000
    assert len(letters[-1]["reason"]) == 500
    assert len((await shop.operator.get("/v1/dead-letters/export")).text.splitlines()) == len(letters)
    job = await shop.do("replay", all=True)
    assert job["error"]["code"] == "probe_failed", "it can be sent, and is refused again"
    assert "unknown message" in job["error"]["detail"]
    assert len(await shop.waiting(len(letters))) == len(letters)


async def test_what_can_hardly_be_shown_keeps_nothing_else_from_being_shown(small_shop: Shop) -> None:
    to = ("dead-letters", "stock")
    for name in ("first", "last"):
        for at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
            headers = {"failure_reason": "r", f"failure_{name}_at": at}
            await small_shop.broker.send(f"{name} {at}".encode(), *to, headers=headers)
    await small_shop.broker.send(b"[" * 300 + b"]" * 300, *to, headers={"failure_reason": "deep"})
    deep = b"t\x01"
    for _ in range(300):
        deep = b"F" + table(a=deep)
    await publish_raw(small_shop.broker.channel, b"deep header", *to, headers=table(deep=deep))
    letters = await small_shop.waiting(6)
    assert sum(group["count"] for group in (await small_shop.ask("/groups"))["data"]) == 6
    views = [await small_shop.ask(f"/{letter['id']}") for letter in letters]
    assert [view["encoding"] for view in views] == ["text"] * 6
    lines = (await small_shop.operator.get("/v1/dead-letters/export")).text.splitlines()
    assert [json.loads(line) for line in lines] == views


async def test_a_letter_that_the_broker_delivers_again_is_stored_once_even_if_it_was_purged_meanwhile(
    small_shop: Shop,
) -> None:
    async def deliver(*last_at: str) -> None:
        for at in last_at:
            headers = {"failure_reason": "r", "failure_last_at": f"2026-01-01T00:00:0{at}+00:00"}
            await small_shop.broker.send(b"{}", "dead-letters", "stock", message_id="m", headers=headers)

    await deliver("1", "1", "2")
    letters = await small_shop.waiting(2)
    await small_shop.do("purge", ids=[letter["id"] for letter in letters])
    await deliver("1", "2", "3")
    assert [letter["last_at"][-3:] for letter in await small_shop.waiting(1)] == ["03Z"]


async def test_what_comes_late_of_an_earlier_sending_changes_nothing(small_shop: Shop) -> None:
    """A copy that its sender's death left behind fails when the letter has been done, or sent once more."""
    [letter] = await small_shop.fails("A")
    small_shop.stock.broken.clear()
    await small_shop.do("replay", ids=[letter["id"]])
    for headers in ({"replay": f"{letter['id']}/1"}, {}):
        headers |= {"failure_reason": "late", "failure_last_at": "2026-01-01T00:00:00+00:00"}
        await small_shop.broker.send(b"{}", "dead-letters", "stock", message_id="m", headers=headers)
    [other] = await small_shop.waiting(1)
    assert other["message_id"] == "m"
    shown = await small_shop.ask(f"/{letter['id']}")
    assert (shown["state"], [entry["what"] for entry in shown["history"]]) == ("DONE", ["sent again", "done"])


async def test_what_the_broker_itself_gives_up_is_collected_under_the_name_that_it_came_by(small_shop: Shop) -> None:
    """By a consumer that rejects it, as a foreign one may. What a shop says of itself counts for nothing."""
    channel = small_shop.broker.channel
    queue = await channel.declare_queue("lane.orders", passive=True)
    forged = {"replay": f"{uuid7()}/1"}
    await small_shop.broker.send(
        b"{}",
        "commands",
        "order.place.v1",
        message_id="m",
        correlation_id="theirs",
        type="order.cancel.v1",
        headers=forged,
    )
    message = await until(lambda: queue.get(fail=False), "the order")
    await message.reject(requeue=False)
    [letter] = await small_shop.waiting(1)
    assert (letter["lane"], letter["message"], letter["reason"]) == (
        "orders",
        "order.place.v1",
        "a consumer rejected it",
    )
    assert letter["job_id"] == letter["message_id"] == "m"


async def test_a_job_whose_message_was_given_up_ends_well_once_that_is_done_after_all(
    broker: Broker, small_shop: Shop, tmp_path: Path
) -> None:
    broken = [True]

    @on(PlaceOrder)
    async def on_place_order(command: PlaceOrder, unit: UnitOfWork) -> OrderConfirmed:
        if broken:
            raise Poison("not today")
        order = an_order(order_id=command.order_id)
        return OrderConfirmed(**order.model_dump(), confirmed_at=order.placed_at)

    customer = {"id": "ana", "name": "Ana", "email": "ana@example.com"}
    wish = {"customer": customer, "currency": "BRL", "lines": [{"sku": "A", "quantity": 1}]}
    async with running("orders", broker.url, f"sqlite:///{tmp_path}/orders.db", module_of(on_place_order)):
        answer = await small_shop.operator.post("/v1/orders", json=wish, headers={"Prefer": "wait=20"})
        assert answer.json()["error"]["code"] == "dead_lettered"
        [letter] = await small_shop.waiting(1)
        assert letter["job_id"] == answer.json()["job_id"]
        broken.clear()
        assert (await small_shop.do("replay", ids=[letter["id"]]))["result"]["done"] == 1
        path = answer.json()["links"]["job"]
        job = await until(lambda: _job_in(small_shop, path, "SUCCESS"), "the job to come alive")
        assert job["error"] is None
        assert job["result"]["order_id"] == answer.json()["order_id"]


async def test_its_own_dead_letters_are_dead_letters_like_any(small_shop: Shop) -> None:
    await small_shop.broker.send(b"{}", "commands", "letters.replay.v1", message_id=str(uuid7()))
    [letter] = await small_shop.waiting(1)
    assert (letter["lane"], letter["message"]) == ("deadletters", "letters.replay.v1")
    assert "selection: Field required" in letter["reason"]


async def test_what_can_never_be_sent_is_refused_at_the_door(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db") as gateway,
        gateway.client("olga", "operator") as olga,
    ):
        for wish, why in (
            ({"filter": {"lane": "old.lane"}}, "there is no lane 'old.lane'"),
            ({"filter": {"state": "DONE"}}, "what is DONE is not sent again"),
            ({"all": True, "rate": 0.001}, "greater than or equal to 0.01"),
        ):
            answer = await olga.post("/v1/dead-letters/replay", json=wish)
            assert (answer.status_code, why in answer.text) == (422, True), answer.text
        for filter_ in ({"lane": "stock"}, {"state": "SENT"}, {"state": "WAITING"}):
            assert (await olga.post("/v1/dead-letters/replay", json={"filter": filter_})).status_code == 202
        assert (await olga.post("/v1/dead-letters/purge", json={"filter": {"lane": "old.lane"}})).status_code == 202


async def test_only_operators_look_and_do(tmp_path: Path) -> None:
    async with (
        serving("deadletters", NO_BROKER, f"sqlite:///{tmp_path}/d.db") as letters,
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", deadletters_url=letters.url) as gateway,
        gateway.client("ana") as ana,
        letters.client("ana") as direct,
    ):
        looks = ("", "/groups", "/actions", "/export", f"/{uuid7()}")
        for client in (ana, direct):
            answers = [await client.get(f"/v1/dead-letters{path}") for path in looks]
            assert {answer.status_code for answer in answers} == {403}
        for path in ("replay", "purge"):
            assert (await ana.post(f"/v1/dead-letters/{path}", json={"filter": {"lane": "stock"}})).status_code == 403
        assert (await ana.post(f"/v1/dead-letters/{uuid7()}/edit", json={"body": {}})).status_code == 403


async def test_letters_without_an_end_are_kept_and_others_for_their_time(small_shop: Shop, tmp_path: Path) -> None:
    letters = await small_shop.fails("A", "A")
    small_shop.stock.broken.clear()
    await small_shop.do("replay", ids=[letters[0]["id"]])
    database = Database(f"sqlite:///{tmp_path}/letters.db")
    assert await retention.forget(database, keep_days=1) == 0
    assert await retention.forget(database, keep_days=-1) == 1
    await database.dispose()
    assert (await small_shop.operator.get(f"/v1/dead-letters/{letters[0]['id']}")).status_code == 404
    assert (await small_shop.waiting(1))[0]["id"] == letters[1]["id"]


async def _has(look: Any, number: int) -> bool:
    return bool(await look() >= number)


async def _is_sent(shop: Shop, letter_id: str, number: int) -> bool:
    return bool((await shop.ask(f"/{letter_id}"))["number"] == number)


async def _job_in(shop: Shop, path: str, status: str) -> dict[str, Any] | None:
    job: dict[str, Any] = (await shop.operator.get(path)).json()
    return job if job["status"] == status else None
