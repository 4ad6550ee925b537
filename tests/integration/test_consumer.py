"""Lanes on a real broker and both databases: once, in order, and nothing lost."""

import asyncio
import secrets
import struct
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail
from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from services.email.store import Mail, MailStatus
from services.stock.store import Reservation
from shared.messaging import inbox as inbox_of
from shared.messaging import suspects
from shared.messaging.handler import on
from shared.messaging.inbox import attempts, inbox
from shared.messaging.outbox import outbox
from shared.messaging.suspects import LONE_ATTEMPTS
from shared.messaging.unit import UnitOfWork
from shared.service import Service
from tests.integration.hostile import publish_raw, short, table, table_of
from tests.integration.reserving import RESERVED, count, on_order_placed
from tests.running import Broker, an_order, module_of, reserved, running, until


async def test_a_message_sent_three_times_at_once_and_later_has_one_effect(broker: Broker, database_url: str) -> None:
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        order = an_order()
        for _ in range(3):
            await broker.publish(order, id_="the-same")
        await spy.collect(1)
        await broker.publish(order, id_="the-same")
        await broker.publish(an_order(), id_="another")
        assert len(await spy.collect(2)) == 2
        assert await count(stock, Reservation) == 2
        assert await count(stock, inbox) == 2
    assert len(spy.seen) == 2


async def test_copies_that_reach_two_processes_at_once_have_one_effect(broker: Broker, database_url: str) -> None:
    spy = await broker.spy(RESERVED)
    handlers = module_of(on_order_placed)
    async with (
        running("stock", broker.url, database_url, handlers, batch_limit=2) as stock,
        running("stock", broker.url, database_url, handlers, batch_limit=2),
    ):
        orders = [an_order() for _ in range(20)]
        await asyncio.gather(*(broker.publish(order, id_=f"m{n}") for n, order in enumerate(orders) for _ in range(3)))
        await broker.publish(an_order(), id_="last")
        await spy.collect(21)
        await until(lambda: _is_empty(stock, outbox), "the outbox to be empty")
        assert await count(stock, Reservation) == 21
    assert await broker.depth("stock") == 0
    assert len(await spy.collect(21)) == 21


async def test_one_that_always_fails_goes_up_the_ladder_and_its_neighbours_are_done_at_once(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    for number in range(100):
        await broker.publish(an_order([("FAIL" if number == 37 else "A", 1)]), id_=f"m{number}")
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        await spy.collect(99)
        letter = await broker.take("stock.dlq")
        assert letter.message_id == "m37"
        assert letter.headers["failure_attempts"] == 3
        assert letter.headers["failure_exception"] == "RuntimeError"
        assert letter.headers["failure_message"] == "this order always fails"
        assert "on_order_placed" in str(letter.headers["failure_traceback"])
        assert letter.headers["failure_first_at"] < letter.headers["failure_last_at"]
        assert letter.headers["failure_service"] == "stock"
        assert OrderPlaced.read(letter.body).lines[0].sku == "FAIL"
        assert await count(stock, Reservation) == 99
        await until(lambda: _is_empty(stock, outbox), "the outbox to be empty")


# -- what nobody can read ------------------------------------------------------------------------------------

GOOD = an_order().model_dump_json().encode()
UNREADABLE: dict[str, tuple[bytes, str, dict[str, Any], str]] = {
    "not JSON": (b"\xff{", "order.placed.v1", {}, "not JSON"),
    "empty": (b"", "order.placed.v1", {}, "not JSON"),
    "not the contract": (b'{"order_id": 7}', "order.placed.v1", {}, "not a valid order.placed.v1: order_id"),
    "a list": (b"[]", "order.placed.v1", {}, "not a valid order.placed.v1"),
    "unknown type": (GOOD, "order.vanished.v1", {}, "unknown message 'order.vanished.v1'"),
    "unknown version": (GOOD, "order.placed.v99", {}, "unknown message 'order.placed.v99'"),
    "another's": (GOOD, "stock.low.v1", {}, "'stock.low.v1' is not for lane 'stock'"),
    "NUL in the id": (GOOD, "order.placed.v1", {"message_id": "a\0b"}, "NUL"),
    "NUL in the job": (GOOD, "order.placed.v1", {"correlation_id": "a\0b"}, "NUL"),
}


async def test_what_cannot_be_read_is_dead_lettered_at_once_and_the_lane_goes_on(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    stock_queue = await broker.channel.get_queue("lane.stock")
    for key in {key for _, key, _, _ in UNREADABLE.values()}:
        await stock_queue.bind("orders", key)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        for body, key, properties, reason in UNREADABLE.values():
            await broker.send(body, "orders", key, **{"message_id": "bad", **properties})
            letter = await broker.take("stock.dlq")
            assert reason in str(letter.headers["failure_reason"])
            assert letter.headers["failure_attempts"] == 1
            assert letter.body == body
        await publish_raw(broker.channel, GOOD, "orders", "order.placed.v1")  # aio-pika would make an id
        letter = await broker.take("stock.dlq")
        assert str(letter.headers["failure_reason"]).startswith("no message_id: a order.placed.v1")
        await broker.publish(an_order())
        await spy.collect(1)


def _long(text: str) -> bytes:
    return b"S" + struct.pack(">I", len(text.encode())) + text.encode()


def _deep(levels: int) -> bytes:
    return b"F" + table(x=_deep(levels - 1)) if levels else b"V"


HOSTILE: dict[str, dict[str, bytes]] = {
    "a timestamp after the year 9999": {"timestamp": struct.pack(">Q", 2**63)},
    "a sender that is no text": {"app_id": short(b"\xff\xfe")},
    "an id that is no text": {"message_id": short(b"\xff\xfe")},
    "a header's name that is no text": {"headers": table_of({b"\xff": b"t\x01"})},
    "a header with such a timestamp": {"headers": table(x=b"T" + struct.pack(">Q", 2**63))},
    "tables in tables": {"headers": table(x=_deep(900))},
}
STRANGE: dict[str, dict[str, bytes]] = {
    "NUL in the sender": {"app_id": short(b"a\0b")},
    "a header of bytes": {"headers": table(x=b"S" + struct.pack(">I", 2) + b"\xff\xfe")},
    "a header that is too large for a float": {"headers": table(x=b"d" + struct.pack(">d", 1e300))},
    "a tiny decimal": {"headers": table(x=b"D" + struct.pack(">Bi", 255, 2**31 - 1))},
    "headers as large as a frame": {"headers": table(**{f"k{n}": _long("😀" * 990) for n in range(32)})},
    "a long trace": {"headers": table(traceparent=_long("x" * 60_000), causation_id=_long("\0" * 60_000))},
    "an attempt of its own": {"headers": table(attempt=b"l" + struct.pack(">q", 2**62))},
    "a time at the edge of the calendar": {"headers": table(cloudEvents_time=_long("0001-01-01T00:00:00+14:00"))},
    "further routing keys": {"headers": table(CC=b"A" + struct.pack(">I", 10) + _long("email"))},
    "a type that contradicts its key": {"type": short(b"order.cancelled.v1")},
}


async def test_hostile_properties_are_dead_lettered_at_once_and_the_lane_goes_on(broker: Broker, tmp_path: Any) -> None:
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        consuming = stock._subscriptions[0]._connection
        assert consuming
        lost: list[object] = []
        consuming.close_callbacks.add(lambda *_: lost.append(1))
        for encoded in HOSTILE.values():
            properties = {"message_id": short(secrets.token_hex(4).encode()), **encoded}
            await publish_raw(broker.channel, GOOD, "orders", "order.placed.v1", **properties)
            letter = await broker.take("stock.dlq")
            assert "its properties or headers cannot be read: " in str(letter.headers["failure_reason"])
            assert letter.body == GOOD
        await broker.publish(an_order())
        await spy.collect(1)
        assert not lost


async def test_strange_properties_change_nothing_about_what_a_message_says(broker: Broker, tmp_path: Any) -> None:
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        for sku in ("A", "FAIL"):
            for encoded in STRANGE.values():
                properties = {"message_id": short(secrets.token_hex(4).encode()), **encoded}
                body = an_order([(sku, 1)]).model_dump_json().encode()
                await publish_raw(broker.channel, body, "orders", "order.placed.v1", **properties)
        for _ in STRANGE:
            letter = await broker.take("stock.dlq")
            assert letter.headers["failure_attempts"] == 3
            assert letter.type == "order.placed.v1"
        assert await count(stock, Reservation) == len(STRANGE)
    # The shop asked for copies to `email` when the message is sent on; nothing but what `orders` routes may get there.
    assert await broker.depth("email") == 2 * len(STRANGE)
    assert await broker.depth("email.dlq") == 0


# -- lanes with concurrency ----------------------------------------------------------------------------------


def outside(sent: list[Any], gate: asyncio.Event | None = None, fails: list[Exception] | None = None) -> ModuleType:
    """An email service whose work outside the database is to append to `sent`."""

    @on(DeliverMail, concurrency=4)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        if fails:
            raise fails.pop()
        sent.append(command.mail_id)
        await (gate.wait() if gate else asyncio.sleep(0))

    return module_of(on_deliver_mail)


async def test_work_outside_the_database_is_done_once_for_copies_at_once_and_later(
    broker: Broker, database_url: str
) -> None:
    sent: list[Any] = []
    gate = asyncio.Event()
    async with running("email", broker.url, database_url, outside(sent, gate)) as email:
        mail = DeliverMail(mail_id=uuid7())
        for _ in range(3):
            await broker.publish(mail, id_="the-same")
        await until(lambda: _has(sent, 1), "the first")
        gate.set()
        await until(lambda: _is_empty(email, attempts), "its end")
        await broker.publish(mail, id_="the-same")
        await broker.publish(DeliverMail(mail_id=uuid7()), id_="another")
        await until(lambda: _has(sent, 2), "the second")
    assert len(sent) == 2
    assert await broker.depth("email.outgoing") == 0


async def test_a_copy_that_waited_for_its_message_is_settled_by_a_lane_that_stops(
    broker: Broker, database_url: str
) -> None:
    sent: list[Any] = []
    gate = asyncio.Event()
    async with running("email", broker.url, database_url, outside(sent, gate)) as email:
        [lane] = email.lanes
        for _ in range(2):
            await broker.publish(DeliverMail(mail_id=uuid7()), id_="the-same")
        await until(lambda: _has(lane.intake.unanswered(), 2), "both to be taken")
        await until(lambda: _has(sent, 1), "the first to be at work")
        lane.stop()
        gate.set()
    assert len(sent) == 1
    assert await broker.depth("email.outgoing") == 0


async def test_work_that_is_cut_short_by_restarts_is_not_taken_for_a_killer(broker: Broker, database_url: str) -> None:
    sent: list[Any] = []
    mails = [DeliverMail(mail_id=uuid7()) for _ in range(2)]
    for mail in mails:
        await broker.publish(mail)
    for _ in range(LONE_ATTEMPTS + 1):
        sent.clear()
        async with running("email", broker.url, database_url, outside(sent, asyncio.Event()), grace_seconds=0.01):
            await until(lambda: _has(sent, len(mails)), "both to be at work")
    async with running("email", broker.url, database_url, outside(sent)) as email:
        await until(lambda: _counts(email, inbox, len(mails)), "both to be done")
        assert await _is_empty(email, attempts)
    assert await broker.depth("email.outgoing.dlq") == 0


def one_at_a_gate(sent: list[Any], gate: asyncio.Event, waits: DeliverMail) -> ModuleType:
    """The same with one message that waits until the gate is open."""

    @on(DeliverMail, concurrency=4)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        sent.append(command.mail_id)
        await (gate.wait() if command == waits else asyncio.sleep(0))

    return module_of(on_deliver_mail)


async def were_in_hand_at_deaths(service: Service, mails: list[DeliverMail], number: int = 2) -> None:
    async with service.database.transaction() as session:
        for dead in range(number):
            await inbox_of.begin_attempts(session, "email.outgoing", [str(m.mail_id) for m in mails], f"process {dead}")


async def test_what_was_in_hand_at_two_deaths_is_tried_one_by_one_and_holds_up_nothing_new(
    broker: Broker, database_url: str
) -> None:
    sent: list[Any] = []
    gate = asyncio.Event()
    new, first, *others = mails = [DeliverMail(mail_id=uuid7()) for _ in range(6)]
    async with running("email", broker.url, database_url, one_at_a_gate(sent, gate, first)) as email:
        await were_in_hand_at_deaths(email, [first, *others])
        for mail in (first, *others, new):
            await broker.publish(mail, id_=str(mail.mail_id))
        await until(lambda: _counts(email, inbox, 1), "what is new to be done")
        assert sent == [first.mail_id, new.mail_id]
        gate.set()
        await until(lambda: _counts(email, inbox, len(mails)), "all to be done")
        await until(lambda: _is_empty(email, attempts), "all attempts to be over")
    assert sent == [first.mail_id, new.mail_id, *(mail.mail_id for mail in others)]
    assert await broker.depth("email.outgoing") == 0


async def test_what_was_in_hand_at_one_death_is_tried_a_few_at_a_time(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "FEW", 2)
    sent: list[Any] = []
    gate = asyncio.Event()
    mails = [DeliverMail(mail_id=uuid7()) for _ in range(5)]
    async with running("email", broker.url, database_url, outside(sent, gate)) as email:
        await were_in_hand_at_deaths(email, mails, 1)
        for mail in mails:
            await broker.publish(mail, id_=str(mail.mail_id))
        [lane] = email.lanes
        await until(lambda: _has(lane.processor._suspects, 3), "the others to wait")  # type: ignore[attr-defined]
        await until(lambda: _has(sent, 2), "two to be tried")
        gate.set()
        await until(lambda: _counts(email, inbox, len(mails)), "all to be done")
    assert len(sent) == len(mails)
    assert await broker.depth("email.outgoing.dlq") == 0


async def test_what_waits_for_its_turn_at_the_end_of_a_process_is_left_to_the_next(
    broker: Broker, database_url: str
) -> None:
    sent: list[Any] = []
    gate = asyncio.Event()
    first, *others = mails = [DeliverMail(mail_id=uuid7()) for _ in range(4)]
    async with running("email", broker.url, database_url, one_at_a_gate(sent, gate, first)) as email:
        await were_in_hand_at_deaths(email, mails)
        for mail in mails:
            await broker.publish(mail, id_=str(mail.mail_id))
        [lane] = email.lanes
        await until(lambda: _has(lane.processor._suspects, len(others)), "the others to wait")  # type: ignore[attr-defined]
        lane.stop()
        gate.set()
    assert sent == [first.mail_id]
    assert await broker.depth("email.outgoing") == len(others)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # on SQLite one writes at a time
async def test_one_that_ends_while_the_next_is_put_aside_does_not_leave_it_aside(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    gate = asyncio.Event()
    first, other = mails = [DeliverMail(mail_id=uuid7()) for _ in range(2)]
    async with running("email", broker.url, database_url, one_at_a_gate(sent, gate, first)) as email:
        [lane] = email.lanes
        await were_in_hand_at_deaths(email, mails)
        await broker.publish(first, id_=str(first.mail_id))
        await until(lambda: _has(sent, 1), "the first to be tried")
        give_back = inbox_of.give_back

        async def give_back_slowly(*arguments: Any) -> None:
            await give_back(*arguments)
            gate.set()
            await until(lambda: _counts(email, inbox, 1), "the first to be done")
            await until(
                lambda: _has_not([raw for raw, _ in lane.intake.unanswered()], str(first.mail_id)),
                "the first to have left",
            )

        monkeypatch.setattr(inbox_of, "give_back", give_back_slowly)
        await broker.publish(other, id_=str(other.mail_id))
        await until(lambda: _counts(email, inbox, 2), "the other to be tried")


async def test_work_outside_the_database_is_done_once_by_two_processes(broker: Broker, database_url: str) -> None:
    """The one that meets a living process at the same message steps back and finds it done later."""
    sent: list[Any] = []
    gate = asyncio.Event()
    handlers = outside(sent, gate)
    async with (
        running("email", broker.url, database_url, handlers) as email,
        running("email", broker.url, database_url, handlers) as other,
    ):
        mails = [DeliverMail(mail_id=uuid7()) for _ in range(3)]  # odd, so that copies reach both
        for _ in range(3):
            await asyncio.gather(*(broker.publish(mail, id_=str(mail.mail_id)) for mail in mails))
        await until(lambda: _has(sent, len(mails)), "one of each")
        await until(lambda: _stepped_back(broker), "a copy to step back")
        gate.set()
        await until(lambda: _counts(email, inbox, len(mails)), "all to be recorded")
        await until(lambda: _all_idle(broker, email, other), "the copies to come back")
    assert sorted(sent) == sorted(mail.mail_id for mail in mails)
    assert await broker.depth("email.outgoing") == 0
    assert await broker.depth("email.outgoing.dlq") == 0


async def test_copies_race_with_the_record_of_the_first_and_never_get_between(
    broker: Broker, database_url: str
) -> None:
    sent: list[Any] = []
    handlers = outside(sent)
    async with (
        running("email", broker.url, database_url, handlers) as email,
        running("email", broker.url, database_url, handlers) as other,
    ):
        mails = [DeliverMail(mail_id=uuid7()) for _ in range(25)]
        await asyncio.gather(*(broker.publish(mail, id_=str(mail.mail_id)) for mail in mails for _ in range(4)))
        await until(lambda: _counts(email, inbox, len(mails)), "all to be recorded")
        await until(lambda: _all_idle(broker, email, other), "the copies to come back")
    assert sorted(sent) == sorted(mail.mail_id for mail in mails)
    assert await broker.depth("email.outgoing.dlq") == 0


async def test_an_outcome_is_recorded_though_the_first_commit_of_it_fails(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def due(session: AsyncSession, messages: Any) -> list[Mail]:
        return [mail for m in messages if (mail := await session.get(Mail, m.mail_id))]

    @on(DeliverMail, loads=due, concurrency=4)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        mail = unit.get(Mail, command.mail_id)
        assert mail
        mail.status, mail.smtp_answer = MailStatus.SENT, "250 ok"
        answered.set()

    async def commit(session: AsyncSession) -> None:
        if answered.is_set() and not failed:
            failed.append(1)
            raise OperationalError("COMMIT", {}, ConnectionError("the server is gone"))
        await original(session)

    failed: list[int] = []
    original = AsyncSession.commit
    async with running("email", broker.url, database_url, module_of(on_deliver_mail)) as email:
        mail_id = uuid7()
        async with email.database.transaction() as session:
            session.add(_a_mail(mail_id))
        monkeypatch.setattr(AsyncSession, "commit", commit)
        await broker.publish(DeliverMail(mail_id=mail_id))
        await until(lambda: _counts(email, inbox, 1), "the record")
        async with email.database.reading() as session:
            mail = await session.get(Mail, mail_id)
        assert failed
        assert mail
        assert (mail.status, mail.smtp_answer) == (MailStatus.SENT, "250 ok")


async def test_a_handler_whose_own_task_was_cancelled_fails_and_does_not_end_its_lane(
    broker: Broker, tmp_path: Any
) -> None:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        if order.lines[0].sku == "CANCELLED":
            raise asyncio.CancelledError
        return reserved(order.order_id)

    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await broker.publish(an_order([("CANCELLED", 1)]))
        letter = await broker.take("stock.dlq")
        assert letter.headers["failure_message"] == "something that it waited for was cancelled"
        await broker.publish(an_order())
        await spy.collect(1)


# -- small helpers -------------------------------------------------------------------------------------------


def _a_mail(mail_id: Any) -> Mail:
    return Mail(
        id=mail_id,
        kind="placed",
        recipient="ana@example.com",
        locale="en",
        subject="s",
        text="t",
        html="h",
        message_id=f"<{mail_id}@x>",
        correlation_id="job",
        created_at=0,
    )


async def _is_empty(service: Service, table: Any) -> bool:
    return await count(service, table) == 0


async def _counts(service: Service, table: Any, number: int) -> bool:
    return await count(service, table) == number


async def _has(things: list[Any], number: int) -> bool:
    return len(things) >= number


async def _stepped_back(broker: Broker) -> bool:
    return bool(await broker.depth("wait.100ms"))


async def _all_idle(broker: Broker, *services: Service) -> bool:
    waiting = [await broker.depth(queue) for queue in ("wait.100ms", "wait.200ms", "email.outgoing")]
    lanes = [lane for service in services for lane in service.lanes if lane.name == "email.outgoing"]
    return not any(waiting) and not any(lane.intake.waiting or lane.processor._in_flight for lane in lanes)


async def _has_not(raws: Any, message_id: str) -> bool:
    return all(raw.message_id != message_id for raw in raws)
