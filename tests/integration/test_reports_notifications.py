"""What people are told in the application: the list, what is unread, and the stream."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.reports.store import notifications
from services.reports.store.notifications import Notification
from shared.persistence.clock import first_id, now
from tests.integration.reporting import Fleet, a_notification, check, fleet
from tests.running import until
from tests.servers import ON_SQLITE

Event = dict[str, str]
PATH = "/v1/notifications"


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, database_url) as found:
        yield found


async def tell(served: Fleet, *rows: Notification) -> None:
    """As the lane does: written and announced in one transaction."""
    async with served.reports.service.database.transaction() as session:
        session.add_all(rows)
        for row in rows:
            notifications.news.announce(session, row.reader)


# -- the list ---------------------------------------------------------------------------------------------------------


async def test_notifications_are_listed_newest_first_with_how_many_are_unread(served: Fleet) -> None:
    mine, others = [a_notification() for _ in range(3)], a_notification("bia")
    await tell(served, *mine, others)
    ids = [str(row.id) for row in mine[::-1]]
    async with served.gateway.client() as ana, served.gateway.client("olga", "operator") as operator:
        found = (await ana.get(PATH)).json()
        assert [entry["id"] for entry in found["data"]] == ids
        assert (found["unread"], found["has_more"]) == (3, False)
        first = found["data"][0]
        assert (first["message"], first["kind"], first["rows"]) == ("report.ready.v1", "orders", 3)
        page = (await ana.get(PATH, params={"limit": 1, "starting_after": ids[0]})).json()
        assert ([entry["id"] for entry in page["data"]], page["has_more"], page["unread"]) == ([ids[1]], True, 3)
        assert (await operator.get(PATH)).json() == {"data": [], "has_more": False, "unread": 0}


async def test_one_or_all_are_marked_as_read_by_their_reader_only(served: Fleet) -> None:
    mine, others = [a_notification() for _ in range(3)], a_notification("bia")
    await tell(served, *mine, others)
    async with served.gateway.client() as ana, served.gateway.client("bia") as bia:
        read = [(await ana.post(f"{PATH}/{mine[0].id}/read")).json()["read_at"] for _ in range(2)]
        assert read[0] is not None
        assert read[0] == read[1]
        assert (await ana.get(PATH)).json()["unread"] == 2
        for id_ in (others.id, uuid7()):
            check(await ana.post(f"{PATH}/{id_}/read"), 404, "notification_not_found")
        check(await ana.post(f"{PATH}/..%2fread/read"), 404)
        assert (await ana.post(f"{PATH}/read")).status_code == 204
        found = (await ana.get(PATH)).json()
        assert found["unread"] == 0
        assert found["data"][2]["read_at"] == read[0]
        assert (await bia.get(PATH)).json()["unread"] == 1


# -- the stream -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(client: httpx.AsyncClient, last: str | None = None) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream that has begun."""
    async with client.stream("GET", f"{PATH}/events", headers={"Last-Event-ID": last} if last else {}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events(answer)


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    event: Event = {}
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            event[name] = value
        elif event:
            yield event
            event = {}


async def take(stream: AsyncIterator[Event], number: int = 1) -> list[UUID]:
    """The ids of the next so many events."""
    async with asyncio.timeout(60):
        found = [await anext(stream) for _ in range(number)]
    assert {event["event"] for event in found} == {"notification"}
    assert [json.loads(event["data"])["id"] for event in found] == [event["id"] for event in found]
    return [UUID(event["id"]) for event in found]


async def test_a_stream_tells_its_reader_what_comes_and_nothing_else(served: Fleet) -> None:
    await tell(served, a_notification())  # before anyone listened
    first, others, second = a_notification(), a_notification("bia"), a_notification()
    async with served.gateway.client() as ana, listening(ana) as stream:
        await tell(served, first)
        assert await take(stream) == [first.id]
        await tell(served, others)
        await tell(served, second)
        assert await take(stream) == [second.id]


async def test_what_another_process_wrote_is_told_too(served: Fleet) -> None:
    written = a_notification()
    async with served.gateway.client() as ana, listening(ana) as stream:
        await served.knows(written)  # and announced to nobody here
        assert await take(stream) == [written.id]


async def test_a_stream_goes_on_after_the_last_event_that_was_seen(
    served: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "SENT_AT_ONCE", 2)
    day = 86_400_000
    old = [a_notification(id_=first_id(now() - day + n)) for n in range(3)]
    missed = [a_notification(id_=first_id(now() - day // 2 + n)) for n in range(3)]
    recent = [a_notification() for _ in range(3)]
    await tell(served, *old, *missed, *recent)
    expected = [row.id for row in (*missed, *recent)]
    async with served.gateway.client() as ana:
        async with listening(ana, str(old[-1].id)) as stream:
            assert await take(stream, 6) == expected
        async with listening(ana, str(recent[0].id)) as stream:
            assert await take(stream, 2) == expected[4:]
            more = a_notification()
            await tell(served, more)
            assert await take(stream) == [more.id]


@ON_SQLITE
async def test_an_event_id_that_is_none_means_from_now_on(served: Fleet) -> None:
    await tell(served, a_notification())
    news = a_notification()
    async with served.gateway.client() as ana, listening(ana, "4711") as stream:
        await tell(served, news)
        assert await take(stream) == [news.id]


async def test_an_event_of_a_clock_that_ran_ahead_hides_nothing_that_follows(served: Fleet) -> None:
    ahead, news = a_notification(id_=first_id(now() + 3 * 86_400_000)), a_notification()
    await tell(served, ahead)
    async with served.gateway.client() as ana, listening(ana, str(ahead.id)) as stream:
        await tell(served, news)
        assert await take(stream) == [news.id]


async def test_a_reader_whose_process_runs_ahead_for_a_while_is_told_what_follows(
    served: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served.gateway.client() as ana, listening(ana) as stream:
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 3 * 86_400 * 10**9)
        first = a_notification()
        await tell(served, first)
        assert await take(stream) == [first.id]
        monkeypatch.setattr(time, "time_ns", real)
        news = a_notification()
        await tell(served, news)
        assert await take(stream) == [news.id]


async def test_what_sorts_earlier_and_comes_later_is_told_once(served: Fleet) -> None:
    late, news, last = (a_notification(id_=first_id(now() - 5000 + n)) for n in range(3))
    async with served.gateway.client() as ana, listening(ana) as stream:
        await tell(served, news)
        assert await take(stream) == [news.id]
        await tell(served, late)
        await tell(served, last)
        assert await take(stream, 2) == [late.id, last.id]


@ON_SQLITE
async def test_a_client_that_goes_away_leaves_nothing_behind(served: Fleet) -> None:
    async def is_waiting() -> bool:
        return bool(notifications.news._waiting)

    async def is_gone() -> bool:
        return not notifications.news._waiting

    async with served.gateway.client() as ana, listening(ana):
        await until(is_waiting, "the stream to wait for news")
    await until(is_gone, "the stream behind the gateway to end")
