"""What is on the broker, and who may do what with it."""

import asyncio
import importlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
from fastapi import APIRouter
from uuid_utils.compat import uuid7

from contracts.broker import dead_letters_of
from contracts.flow import LANES, MONITOR, SHOP
from deploy.local.rabbitmq import RabbitNode
from shared.messaging import topology
from shared.service import Service
from tests.integration.hostile import publish_raw
from tests.migrated import migrate
from tests.running import LADDER, PASSWORDS, Broker, running, settings_for, to_place, until
from tests.servers import manage

A_BODY = to_place()


@asynccontextmanager
async def channel_of(user: str, rabbit: RabbitNode, broker: Broker) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    url = rabbit.url_for(user, PASSWORDS[user], vhost_of(broker))
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


def vhost_of(broker: Broker) -> str:
    return urlsplit(broker.url).path.removeprefix("/")


async def publish(channel: aio_pika.abc.AbstractChannel, exchange: str, key: str, body: bytes = b"{}") -> None:
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await target.publish(aio_pika.Message(body, message_id=str(uuid7())), key)


async def test_what_is_on_the_broker_is_what_the_definitions_say(rabbit: RabbitNode, guarded: Broker) -> None:
    await topology.apply(guarded.url, rabbit.management_url + "/", PASSWORDS, LADDER)  # again changes nothing
    vhost = vhost_of(guarded)
    said = topology.definitions(LADDER, vhost)
    found: Any = manage(rabbit, "GET", f"/definitions/{vhost}")
    for part in ("exchanges", "queues", "bindings"):
        mine = [{**thing, "vhost": vhost} for thing in found[part]]
        mine = [{name: value for name, value in thing.items() if name != "internal"} for thing in mine]  # never so
        assert _sorted(mine) == _sorted(said[part])
    everything: Any = manage(rabbit, "GET", "/definitions")
    for part in ("permissions", "topic_permissions"):
        mine = [thing for thing in everything[part] if thing["vhost"] == vhost and thing["user"] in PASSWORDS]
        assert _sorted(mine) == _sorted(said[part])
    assert {user["name"] for user in said["users"]} <= {user["name"] for user in everything["users"]}


def _sorted(things: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(thing, sort_keys=True) for thing in things)


async def test_a_shop_can_place_an_order(rabbit: RabbitNode, guarded: Broker, tmp_path: Any) -> None:
    spy = await guarded.spy(("orders", "order.rejected.v1"))
    async with running("orders", guarded.url, f"sqlite:///{tmp_path}/orders.db"):
        async with channel_of(SHOP, rabbit, guarded) as channel:
            await publish(channel, "commands", "order.place.v1", A_BODY.model_dump_json().encode())
        assert (await spy.collect(1))[0]["order_id"] == str(A_BODY.order_id)


async def test_what_a_shop_says_its_message_is_called_counts_for_nothing(
    rabbit: RabbitNode, guarded: Broker, tmp_path: Any
) -> None:
    """Neither `type`, nor an attempt, nor a job of its own: the routing key that it may use is all there is."""
    async with (
        running("orders", guarded.url, f"sqlite:///{tmp_path}/orders.db"),
        channel_of(SHOP, rabbit, guarded) as channel,
    ):
        body = b'{"order_id": "%s"}' % str(uuid7()).encode()
        properties = {"type": b"\x0forder.cancel.v1", "message_id": b"\x01x", "correlation_id": b"\x06theirs"}
        await publish_raw(channel, body, "commands", "order.place.v1", **properties)
        letter = await guarded.take("orders.dlq")
        assert "not a valid order.place.v1: customer: Field required" in str(letter.headers["failure_reason"])


async def test_without_a_message_id_an_order_is_told_by_its_order_id(
    rabbit: RabbitNode, guarded: Broker, tmp_path: Any
) -> None:
    spy = await guarded.spy(("orders", "order.rejected.v1"))
    body = A_BODY.model_dump_json().encode()
    async with (
        running("orders", guarded.url, f"sqlite:///{tmp_path}/orders.db"),
        channel_of(SHOP, rabbit, guarded) as channel,
    ):
        for _ in range(3):
            await publish_raw(channel, body, "commands", "order.place.v1")
        another = A_BODY.model_copy(update={"order_id": uuid7()})
        await publish_raw(channel, another.model_dump_json().encode(), "commands", "order.place.v1")
        assert len({said["order_id"] for said in await spy.collect(2)}) == 2
    assert len(spy.seen) == 2
    assert spy.seen[0].correlation_id == str(A_BODY.order_id)


async def test_a_monitor_sees_every_depth_and_may_touch_nothing(rabbit: RabbitNode, guarded: Broker) -> None:
    passwords = {**PASSWORDS, MONITOR: "watching"}
    await topology.apply(guarded.url, rabbit.management_url + "/", passwords, LADDER)
    vhost, address = vhost_of(guarded), urlsplit(rabbit.management_url)
    url = f"http://{address.hostname}:{address.port}/api/queues/{vhost}/lane.stock"
    async with httpx.AsyncClient(auth=(MONITOR, "watching"), trust_env=False) as api:
        assert (await api.get(url)).json()["name"] == "lane.stock"
        assert (await api.delete(url)).status_code in (401, 403)
        assert (await api.request("DELETE", f"{url}/contents")).status_code in (401, 403)


async def test_the_broker_drops_no_dead_letter_however_often_its_collector_is_gone(
    rabbit: RabbitNode, guarded: Broker
) -> None:
    found: Any = manage(rabbit, "GET", f"/policies/{vhost_of(guarded)}")
    [policy] = [one for one in found if one["name"] == "dead-letters"]
    pattern = policy["pattern"].replace(r"\z", r"\Z")  # as Python has it
    meant = {queue for queue in topology.queues(LADDER) if re.search(pattern, queue)}
    assert meant == set(map(dead_letters_of, LANES))
    assert (policy["apply-to"], policy["definition"]) == ("queues", topology.POLICIES["dead-letters"]["definition"])


async def test_a_service_that_starts_before_its_queue_waits_for_it_and_says_so(
    rabbit: RabbitNode, vhost: str, tmp_path: Any
) -> None:
    async with await aio_pika.connect(vhost) as connection:
        empty = Broker(vhost, await connection.channel())
        async with _starting("stock", empty, f"sqlite:///{tmp_path}/stock.db") as stock:
            checks = await until(lambda: _missing(stock), "the lane to be missed")
            assert checks["lane stock"] == "queue 'lane.stock' is not consumed"
            assert checks["database"] is None
            await topology.declare(vhost, LADDER)
            await until(lambda: _well(stock), "the lane to be found")


@asynccontextmanager
async def _starting(name: str, broker: Broker, database_url: str) -> AsyncIterator[Any]:
    """A service that may not get ready yet."""
    await asyncio.to_thread(migrate, name, database_url)
    handlers = importlib.import_module(f"services.{name}.handlers")
    service = Service(settings_for(name, broker.url, database_url), handlers, APIRouter())
    async with service.running():
        yield service


async def _missing(service: Any) -> dict[str, str | None] | None:
    checks: dict[str, str | None] = await service.checks()
    return checks if checks["lane stock"] and not checks["broker"] else None


async def _well(service: Any) -> bool:
    return not any((await service.checks()).values())
