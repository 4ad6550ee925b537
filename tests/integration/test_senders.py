"""Who sent a message, and which way it came: what a sender writes on it gains it nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
import pytest
from aiormq.exceptions import AMQPError
from pamqp.commands import Basic
from uuid_utils.compat import uuid7

from contracts.base import Message
from contracts.flow import SERVICES, SHOP
from contracts.jobs import JobFailed
from contracts.orders import CancelOrder
from deploy.local.rabbitmq import RabbitNode
from services.gateway import domain
from shared.messaging.decode import PROBLEM
from shared.messaging.publisher import outgoing
from tests.running import PASSWORDS, Broker, close, publishing, running, to_place, until
from tests.serving import serving

ORDER = to_place()


@asynccontextmanager
async def channel_of(user: str, rabbit: RabbitNode, broker: Broker) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    connection = await aiormq.connect(url_of(user, rabbit, broker))
    try:
        yield await connection.channel()
    finally:
        await connection.close()


def url_of(user: str, rabbit: RabbitNode, broker: Broker) -> str:
    return rabbit.url_for(user, PASSWORDS[user], urlsplit(broker.url).path.removeprefix("/"))


@pytest.mark.parametrize("header", ["CC", "BCC"])
async def test_a_lane_refuses_what_further_keys_of_its_senders_brought_to_it(
    rabbit: RabbitNode, guarded: Broker, tmp_path: Path, header: str
) -> None:
    """Stock may use its own lane's key in a retry queue, and any on its own exchange. The broker looks at no other."""
    cancel = CancelOrder(order_id=uuid7())
    ways = [("retry.100ms", "stock", "orders"), ("gate.stock", cancel.key, "stock.reserved.v1")]
    async with (
        running("orders", guarded.url, f"sqlite:///{tmp_path}/o.db"),
        channel_of("stock", rabbit, guarded) as channel,
    ):
        for exchange, key, further in ways:
            properties = Basic.Properties(message_id="m", message_type=cancel.key, headers={header: [further]})
            body = cancel.model_dump_json().encode()
            await channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties)
            letter = await guarded.take("orders.dlq")
            assert "to which lane 'orders' is not bound" in str(letter.headers["failure_reason"])


async def test_nobody_can_say_that_it_is_another_user(rabbit: RabbitNode, guarded: Broker) -> None:
    async with channel_of("stock", rabbit, guarded) as channel:
        forged = Basic.Properties(user_id="orders")
        with pytest.raises(AMQPError, match="user_id property set to 'orders'"):
            await channel.basic_publish(b"{}", exchange="gate.jobs", routing_key=JobFailed.key, properties=forged)


async def test_only_the_service_that_works_on_a_job_can_say_that_it_failed(
    rabbit: RabbitNode, guarded: Broker, tmp_path: Path
) -> None:
    failed = JobFailed(reason="dead_lettered", detail="so it says")
    async with (
        serving("gateway", guarded.url, f"sqlite:///{tmp_path}/g.db") as gateway,
        gateway.client("ana", "customer") as ana,
    ):
        wish = {"currency": "BRL", "lines": [{"sku": "A", "quantity": 1}], "customer": {"name": "Ana"}}
        wish["customer"] |= {"id": "ana", "email": "ana@example.com"}  # type: ignore[operator]
        job = (await ana.post("/v1/orders", json=wish)).json()
        for user, status in (("stock", "PENDING"), ("orders", "FAILURE")):
            await say(failed, job["job_id"], user, rabbit, guarded)
            if user == "stock":
                letter = await guarded.take("gateway.dlq")
                assert "stock has nothing to do with a job order.place" in str(letter.headers["failure_reason"])

            async def is_so() -> bool:
                return (await ana.get(f"/v1/jobs/{job['job_id']}")).json()["status"] == status  # noqa: B023

            await until(is_so, status)


async def say(message: Message, job_id: str, user: str, rabbit: RabbitNode, broker: Broker) -> None:
    """Publish a message about a job as a service's user."""
    publisher = await publishing(url_of(user, rabbit, broker), user)
    said = outgoing(message, user, None)
    about = replace(said.envelope, correlation_id=job_id)
    assert await publisher.publish([replace(said, envelope=about)]) == [True]
    await close(publisher)


async def test_a_header_of_the_kernels_own_is_not_believed_from_a_shop(
    rabbit: RabbitNode, guarded: Broker, tmp_path: Path
) -> None:
    spy = await guarded.spy(("orders", "order.rejected.v1"))
    async with (
        running("orders", guarded.url, f"sqlite:///{tmp_path}/o.db"),
        channel_of(SHOP, rabbit, guarded) as channel,
    ):
        headers = {PROBLEM: "look away", "sent_by": "orders", "attempt": 99}
        properties = Basic.Properties(message_id="m", headers=headers)
        body = ORDER.model_dump_json().encode()
        await channel.basic_publish(body, exchange="commands", routing_key=ORDER.key, properties=properties)
        assert (await spy.collect(1))[0]["order_id"] == str(ORDER.order_id)
    assert await guarded.depth("orders.dlq") == 0


def test_each_kind_of_job_has_a_service_that_works_on_it() -> None:
    """Or what that service says of a failure would be one more dead letter, and the job would never end."""
    workers = {kind.name: service for kind, service in domain.WORKERS.items()}
    assert set(workers.values()) == {"orders", "reports", "email", "deadletters"}
    for kind, service in workers.items():
        assert domain.is_worker(service, kind)
        assert not any(domain.is_worker(other, kind) for other in {*SERVICES, SHOP, ""} - {service})
        assert domain.is_worker("an administrator", kind)
        assert domain.is_worker(None, kind)
