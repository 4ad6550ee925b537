"""The ladder of delays and the dead letters, on a real broker."""

from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail
from contracts.orders import Customer, OrderLine, OrderPlaced, PlaceOrder
from contracts.stock import StockReserved
from shared.messaging.handler import Poison, RetryLater, on
from shared.messaging.unit import UnitOfWork
from tests.integration.reserving import RESERVED, on_order_placed
from tests.running import Broker, an_order, module_of, reserved, running, until
from tests.servers import ON_SQLITE


async def test_a_message_that_comes_too_early_is_tried_again_until_its_time(broker: Broker, database_url: str) -> None:
    attempts: list[int] = []

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        assert unit.cause
        attempts.append(unit.cause.attempt)
        if len(attempts) < 3:
            raise RetryLater("wait for it")
        return reserved(order.order_id)

    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        await broker.publish(an_order(), id_="early", correlation_id="the job")
        await spy.collect(1)
    assert attempts == [1, 2, 3]
    assert spy.seen[0].correlation_id == "the job"
    assert spy.seen[0].headers["causation_id"] == "early"
    assert await broker.depth("stock.dlq") == 0


async def test_a_lane_whose_messages_are_tried_again_is_ready_and_warns_of_it(broker: Broker, tmp_path: Any) -> None:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        if unit.cause and unit.cause.attempt == 1:
            raise RuntimeError("ask ana@example.com")
        return reserved(order.order_id)

    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        assert stock.warnings() == {}
        for _ in range(3):
            await broker.publish(an_order())

        async def warned() -> str | None:
            return stock.warnings().get("lane stock")

        assert (
            await until(warned, "a warning")
            == "retried 3 times within the last 120 s, lastly because of: ask <address>"
        )
        transport = httpx.ASGITransport(stock.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://stock") as client:
            answer = await client.get("/readyz")
            assert answer.status_code == 200
            assert answer.json()["warnings"] == stock.warnings()
            assert 'malote_lane_retrying{lane="stock",service="stock"}' in (await client.get("/metrics")).text
            assert (await client.get("/readyz?only=database")).json()["warnings"] == {}


async def test_a_retry_comes_back_to_its_own_lane_and_to_no_other(broker: Broker, tmp_path: Any) -> None:
    """`order.placed.v1` goes to `stock` and `email`: only stock fails, so email must see it once."""
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await broker.publish(an_order([("FAIL", 1)]))
        await broker.take("stock.dlq")
    assert await broker.depth("email") == 1


@ON_SQLITE
async def test_poison_is_dead_lettered_at_once_with_its_own_words(broker: Broker, database_url: str) -> None:
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        await broker.publish(an_order([("POISON", 1)]), headers={"source": "a till"})
        letter = await broker.take("stock.dlq")
    assert letter.headers["failure_reason"] == "nobody can reserve this"
    assert letter.headers["failure_attempts"] == 1
    assert letter.headers["failure_traceback"] == ""
    assert letter.headers["source"] == "a till"


async def test_a_dead_letter_that_is_sent_again_is_done(broker: Broker, database_url: str) -> None:
    """What is dead-lettered is not in the inbox; its attempts are counted anew."""
    broken = [True]

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        if broken:
            raise Poison("not today")
        return reserved(order.order_id)

    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        order = an_order()
        await broker.publish(order, id_="again")
        letter = await broker.take("stock.dlq")
        broken.clear()
        await broker.send(
            letter.body, "lanes", "stock", message_id=letter.message_id, type=letter.type, headers=letter.headers
        )
        assert (await spy.collect(1))[0]["order_id"] == str(order.order_id)


def a_wish(currency: str = "BRL") -> PlaceOrder:
    customer = Customer(id="ana", name="Ana", email="ana@example.com")
    return PlaceOrder(order_id=uuid7(), customer=customer, currency=currency, lines=(OrderLine(sku="A", quantity=1),))


async def test_a_failing_command_tells_its_job_of_each_retry_and_of_its_end(broker: Broker, database_url: str) -> None:
    @on(PlaceOrder)
    async def on_place_order(command: PlaceOrder, unit: UnitOfWork) -> None:
        raise RuntimeError("the price list\nis on fire")

    spy = await broker.spy(("jobs", "#"))
    async with running("orders", broker.url, database_url, module_of(on_place_order)):
        await broker.publish(a_wish(), id_="the-job", correlation_id="somebody else's job")
        said = await spy.collect(3)
        await broker.take("orders.dlq")
    assert [message.routing_key for message in spy.seen] == ["job.retrying.v1", "job.retrying.v1", "job.failed.v1"]
    assert {message.correlation_id for message in spy.seen} == {"the-job"}
    assert [step.get("retry_in") for step in said] == [0.1, 0.2, None]
    assert said[2] == {"reason": "dead_lettered", "detail": "the price list is on fire"}


async def test_a_failure_whose_words_nobody_can_print_is_told_once(broker: Broker, tmp_path: Any) -> None:
    """Its letter is out before its job is told: if that could not be said, the message would fail for ever."""

    @on(PlaceOrder)
    async def on_place_order(command: PlaceOrder, unit: UnitOfWork) -> None:
        raise Poison(" " if command.currency == "BRL" else "\x1b[31mcaf\udce9\x00")

    spy = await broker.spy(("jobs", "job.failed.v1"))
    async with running("orders", broker.url, f"sqlite:///{tmp_path}/o.db", module_of(on_place_order)):
        for number, currency in enumerate(("BRL", "USD"), 1):
            await broker.publish(a_wish(currency))
            said = await spy.collect(number)
            await broker.take("orders.dlq")
    assert [failed["detail"] for failed in said] == ["Poison", "[31mcaf?"]
    assert await broker.depth("orders.dlq") == 0


async def test_a_shop_names_no_job_and_no_failure_on_what_cannot_be_read(broker: Broker, tmp_path: Any) -> None:
    forged = {"failure_first_at": "2001-01-01T00:00:00+00:00", "failure_attempts": 99, "attempt": 2}
    async with running("orders", broker.url, f"sqlite:///{tmp_path}/o.db"):
        about = {"message_id": "its own", "correlation_id": "somebody else's job", "headers": forged}
        await broker.send(b"{", "commands", PlaceOrder.key, **about)
        letter = await broker.take("orders.dlq")
    assert letter.correlation_id == "its own"
    assert letter.headers["failure_first_at"] == letter.headers["failure_last_at"]
    assert letter.headers["failure_attempts"] == 1
    assert "attempt" not in letter.headers


async def test_an_outage_while_a_failure_is_recorded_does_not_make_two_of_one_message(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []
    outages: list[int] = []

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> None:
        assert unit.cause
        failed.append(unit.cause.attempt)
        raise RuntimeError("this order always fails")

    async def commit(session: AsyncSession) -> None:
        if failed and len(outages) < 4:
            outages.append(1)
            raise OperationalError("COMMIT", {}, ConnectionError("the server is gone"))
        await original(session)

    original = AsyncSession.commit
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        monkeypatch.setattr(AsyncSession, "commit", commit)
        await broker.publish(an_order())
        await broker.take("stock.dlq")
        assert failed == [1, 2, 3]
        assert len(outages) == 4
    assert await broker.depth("stock.dlq") == 0


async def test_outside_work_whose_rows_cannot_be_loaded_fails_alone(broker: Broker, tmp_path: Any) -> None:
    bad, handled = uuid7(), []

    async def due(session: AsyncSession, commands: Any) -> list[Any]:
        if any(str(command.mail_id) == str(bad) for command in commands):
            raise ValueError("this row cannot be read")
        return []

    @on(DeliverMail, loads=due, concurrency=4)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        handled.append(command.mail_id)

    for mail_id in (bad, uuid7(), uuid7(), uuid7()):
        await broker.publish(DeliverMail(mail_id=mail_id))
    async with running("email", broker.url, f"sqlite:///{tmp_path}/e.db", module_of(on_deliver_mail)):
        letter = await broker.take("email.outgoing.dlq")
        assert letter.headers["failure_message"] == "this row cannot be read"
    assert len(handled) == 3


async def test_a_sender_that_claims_to_be_a_dead_letters_replay_is_not_believed(broker: Broker, tmp_path: Any) -> None:
    """Neither at once, nor once it has come back through the retry queues, nor among the dead letters."""
    attempts: list[int] = []

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        attempts.append(1)
        if len(attempts) == 2 or order.lines[0].sku == "FAIL":
            raise RetryLater("come again")
        return reserved(order.order_id)

    settled, said = await broker.spy(("jobs", "letter.settled.v1")), await broker.spy(RESERVED)
    forged = {"replay": f"{uuid7()}/1"}
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        for _ in range(2):
            await broker.publish(an_order(), headers=forged)
        await broker.publish(an_order([("FAIL", 1)]), headers=forged)
        letter = await broker.take("stock.dlq")
        await said.collect(2)
        assert "replay" not in letter.headers
        real = {"type": letter.type, "message_id": "back", "headers": forged}
        await broker.send(an_order().model_dump_json().encode(), "retry.100ms", "stock", **real)
        await said.collect(3)
        assert [found["letter_id"] for found in await settled.collect(1)] == [forged["replay"][:36]]


async def test_a_replay_that_was_done_before_is_settled_too(broker: Broker, tmp_path: Any) -> None:
    settled = await broker.spy(("jobs", "letter.settled.v1"))
    replay = f"{uuid7()}/3"
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        order = an_order()
        await broker.publish(order, id_="known")
        sent = {"type": order.key, "message_id": "known", "headers": {"replay": replay}}
        await broker.send(order.model_dump_json().encode(), "retry.100ms", "stock", **sent)
        assert await settled.collect(1) == [{"letter_id": replay[:36], "number": 3}]


async def test_a_replay_of_outside_work_is_settled_whether_it_was_done_before_or_not(
    broker: Broker, tmp_path: Any
) -> None:
    @on(DeliverMail, concurrency=2)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        pass

    settled = await broker.spy(("jobs", "letter.settled.v1"))
    body = DeliverMail(mail_id=uuid7()).model_dump_json().encode()
    async with running("email", broker.url, f"sqlite:///{tmp_path}/e.db", module_of(on_deliver_mail)):
        for number in (1, 2):
            sent = {"type": DeliverMail.key, "message_id": "one", "headers": {"replay": f"{uuid7()}/{number}"}}
            await broker.send(body, "retry.100ms", "email.outgoing", **sent)
            await settled.collect(number)
    assert [found["number"] for found in await settled.collect(2)] == [1, 2]
