"""What two processes do with the same letters at once, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.deadletters import CancelReplay, LetterFilter, ReplayCancelRefused
from services.deadletters import api, handlers, periodic, store
from services.deadletters.store import actions, letters
from services.deadletters.store.actions import Action
from services.deadletters.store.letters import Group, Letter
from shared.persistence.clock import now
from shared.persistence.database import Database
from shared.testing import Harness
from tests.migrated import migrate
from tests.serving import NO_BROKER, serving


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(database_url)
    await found.create_all(store.metadata)
    yield found
    await found.dispose()


def a_letter(**more: Any) -> Letter:
    known = {"lane": "stock", "message": "order.placed.v1", "group_id": "0" * 12, "reason": "r", "text": "", "size": 0}
    known |= {"attempts": 1, "first_at": 1, "last_at": 1, "state": "WAITING", "history": []}
    return Letter(id=uuid7(), **known | more)


def a_replay(selection: dict[str, Any] | None = None, kind: str = "replay", **more: Any) -> Action:
    wish = {"selection": selection or {"all": True}, "rate": 1}
    known = {"kind": kind, "by": "olga", "at": now(), "wish": wish, "status": "RUNNING", "rate": 1}
    return Action(id=uuid7(), until_id=uuid7(), **known | more)


async def test_letters_that_another_replay_is_taking_are_passed_over(database: Database) -> None:
    async with database.transaction() as session:
        session.add_all([a_letter() for _ in range(5)])
    one, other = a_replay(), a_replay()
    first_has_them = asyncio.Event()

    async def take_first() -> list[Letter]:
        async with database.transaction() as session:
            found = await actions.lock_next(session, one, 4)
            first_has_them.set()
            for letter in found:
                letter.state = "SENT"
            await asyncio.sleep(0.2)  # the other one has looked meanwhile, and waits
        return found

    async def take_second() -> list[Letter]:
        await first_has_them.wait()
        async with database.transaction() as session:
            found = await actions.lock_next(session, other, 4)
            return found or await actions.lock_next(session, other, 4)

    first, second = await asyncio.gather(take_first(), take_second())
    assert len(first) == 4
    assert len(second) == 1
    assert not {letter.id for letter in first} & {letter.id for letter in second}


async def test_an_action_that_another_process_is_at_is_left_to_it(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    replay = a_replay()
    async with database.transaction() as session:
        session.add(replay)
    async with database.transaction() as here, database.transaction() as there:
        assert await actions.lock_running(here, replay.id)
        assert await actions.lock_running(there, replay.id) is None


async def test_letters_of_a_lane_that_is_there_no_more_are_not_sent_but_can_be_removed(database: Database) -> None:
    old, other = a_letter(lane="old.lane"), a_letter()
    ids = {"ids": [str(old.id), str(other.id)]}
    async with database.transaction() as session:
        session.add_all([old, other])
    for selection, found in (({"all": True}, 1), (ids, 1), ({"filter": {"lane": "old.lane"}}, 0)):
        replay = a_replay(selection)
        async with database.reading() as session:
            assert await actions.count_selected(session, replay) == found
            assert [letter.id for letter in await actions.lock_next(session, replay, 9)] == [other.id] * found
            assert await actions.count_selected(session, a_replay({"filter": {"lane": "old.lane"}}, "purge")) == 1
            assert await letters.count_waiting(session) == {"old.lane": 1, "stock": 1}


async def test_what_was_sent_is_taken_again_or_removed_only_once_whoever_sent_it_has_ended(database: Database) -> None:
    running, stopped = a_replay(), a_replay(status="CANCELLED", ended_at=1)
    waits, awaited, forsaken = (
        a_letter(),
        a_letter(state="SENT", number=1, action_id=running.id),
        a_letter(state="SENT", number=1, action_id=stopped.id),
    )
    async with database.transaction() as session:
        session.add_all([running, stopped, waits, awaited, forsaken])
    sent: dict[str, Any] = {"filter": {"state": "SENT"}}
    every: dict[str, Any] = {"ids": [str(letter.id) for letter in (waits, awaited, forsaken)]}

    async def taken(action: Action) -> list[Any]:
        async with database.reading() as session:
            found = await actions.lock_next(session, action, 9)
            assert await actions.count_selected(session, action) == len(found)
            return [letter.id for letter in found]

    assert await taken(a_replay(sent)) == [forsaken.id]
    assert await taken(a_replay()) == await taken(a_replay(every)) == [waits.id]
    assert await taken(a_replay(sent, "purge")) == [forsaken.id]
    assert await taken(a_replay(every, "purge")) == [waits.id, forsaken.id]
    assert await taken(a_replay({"filter": {"state": "DONE"}})) == []


async def test_two_replays_of_what_was_sent_before_take_each_letter_once(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    ended = a_replay(status="DONE", ended_at=1)
    async with database.transaction() as session:
        session.add_all([ended, *(a_letter(state="SENT", number=1, action_id=ended.id) for _ in range(3))])
    one, other = (a_replay({"filter": {"state": "SENT"}}) for _ in range(2))
    async with database.transaction() as here:
        here.add_all([one, other])
    async with database.transaction() as here:
        for letter in await actions.lock_next(here, one, 9):
            letter.number, letter.action_id = 2, one.id
        async with database.transaction() as there:
            second = asyncio.create_task(actions.lock_next(there, other, 9))
            await asyncio.sleep(0.2)  # it has looked meanwhile, and waits
            await here.commit()
            assert await second == []


async def test_groups_beyond_the_largest_are_counted_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "GROUPS_SHOWN", 2)
    names = [f"{number:012x}" for number in range(3)]
    async with database.reading() as session:
        assert await letters.groups(session, LetterFilter()) == ([], False, 0)
    async with database.transaction() as session:
        await letters.insert_groups(session, [Group(id=n, lane="stock", message="m", reason="r") for n in names])
        session.add_all([a_letter(group_id=n) for number, n in enumerate(names) for _ in range(3 - number)])
    async with database.reading() as session:
        found, has_more, total = await letters.groups(session, LetterFilter())
        assert ([entry["count"] for entry in found], has_more, total) == ([3, 2], True, 6)
        found, has_more, total = await letters.groups(session, LetterFilter(group=names[1]))
        assert ([entry["count"] for entry in found], has_more, total) == ([2], False, 2)


async def test_letters_of_an_order_or_a_job_and_what_has_not_ended_are_found_by_an_index(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    await asyncio.to_thread(migrate, "deadletters", url)
    database = Database(url)
    order = letters.select_letters(LetterFilter(order_id=uuid7())).order_by(Letter.id.desc()).limit(20)  # type: ignore[attr-defined]
    job = letters.select_letters(LetterFilter(job_id="j")).order_by(Letter.id.desc()).limit(20)  # type: ignore[attr-defined]
    async with database.reading() as session:
        for query, index in ((order, "ix_letters_order_state_id"), (job, "ix_letters_job_state_id")):
            sql = str(query.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
            plan = [row.detail for row in await session.execute(text(f"EXPLAIN QUERY PLAN {sql}"))]
            assert len(plan) == 1, plan
            assert index in plan[0]
        plan = [
            row.detail
            for row in await session.execute(text("EXPLAIN QUERY PLAN SELECT id FROM actions WHERE ended_at IS NULL"))
        ]
        assert "ix_actions_running" in plan[0]
    await database.dispose()


async def test_letters_of_a_lane_that_is_there_no_more_are_measured_as_long_as_they_wait(tmp_path: Path) -> None:
    def measured(lane: str) -> float | None:
        return REGISTRY.get_sample_value("malote_dead_letters", {"lane": lane})

    async with serving("deadletters", NO_BROKER, f"sqlite:///{tmp_path}/d.db") as served:
        letter = a_letter(lane="old.lane")
        async with served.service.database.transaction() as session:
            session.add(letter)
        await periodic.measure(served.service.database)
        assert (measured("old.lane"), measured("stock")) == (1, 0)
        async with served.service.database.transaction() as session:
            await letters.remove(session, [letter.id])
        await periodic.measure(served.service.database)
        assert (measured("old.lane"), measured("stock")) == (None, 0)


async def test_a_letter_that_cannot_be_shown_is_a_line_of_its_own_in_an_export() -> None:
    letter = a_letter(first_at=10**18)
    content = letters.Content(letter_id=letter.id, body=b"{}", properties={}, headers={})
    assert str(letter.id) in api._line(letter, content)
    assert "cannot be shown" in api._line(letter, content)


async def test_a_replay_that_has_ended_is_not_stopped_any_more_and_that_is_written_down() -> None:
    replay, job = a_replay(status="DONE", ended_at=1), uuid7()
    async with Harness(handlers, Letter) as deadletters:
        await deadletters.given(replay)
        said = await deadletters.when(CancelReplay(replay_id=replay.id, by="olga"), job=str(job))
        assert said == [ReplayCancelRefused(replay_id=replay.id, reason="already_done")]
        action = await deadletters.row(Action, job)
        assert (action.kind, action.status, action.detail) == ("cancel", "FAILED", "already_done")
