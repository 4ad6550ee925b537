"""Who may do what on the broker: every operation by every kind of user on every exchange and queue.

What is expected is derived from `contracts/flow.py` alone. A user's attempts share a connection, and what is refused
costs a channel.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
import pytest
from aiormq.exceptions import ChannelAccessRefused

from contracts.base import Command
from contracts.broker import CONTROL, control_queue, dead_letters_of, gate_of, queue_of
from contracts.flow import COLLECTOR, FLOW, LANES, MONITOR, SERVICES, SHOP, service_of
from deploy.local.rabbitmq import RabbitNode
from shared.messaging import topology
from tests.running import LADDER, Broker
from tests.servers import manage

TEAM = "newsletter"
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "messages.md"
PASSWORDS = {user: f"{user}-password" for user in (*SERVICES, SHOP, MONITOR, TEAM)}
PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic")
EXCHANGES = (*topology.exchanges(LADDER), *PREDECLARED)
QUEUES = (*topology.queues(LADDER), TEAM)
EVENTS = {message.exchange for message in FLOW if not issubclass(message, Command)}
SHARED = ("jobs", "processes")
"""The exchanges to which every service publishes."""
KEYS = (*(m.key for m in FLOW if issubclass(m, Command)), *LANES, "order.placed.v1", "order.place.v1\n", "stock\n")
TOLD = (control_queue("orders", "1"), control_queue("stock", "1"))
AT_ONCE = 20

Attempt = tuple[str, str, str, str]
"""An operation, on what, with what, and under which key."""


def attempts() -> Iterator[Attempt]:
    """All that is tried by each user."""
    restricted = ("commands", "dead-letters", *(f"retry.{step}" for step in LADDER))
    for exchange in EXCHANGES:
        for key in KEYS if exchange in restricted else ("order.placed.v1", "lane.orders"):
            yield "publish", exchange, "", key
        yield "declare exchange", exchange, "", ""
        yield "delete exchange", exchange, "", ""
        yield "bind", TEAM, exchange, "#"
        yield "bind", queue_of("orders"), exchange, "#"
        yield "bind exchange", exchange, "orders", "#"
        yield "bind exchange", "gate.orders", exchange, "#"
    for queue in TOLD:
        for exchange in EXCHANGES:
            yield "bind", queue, exchange, "#"
    for queue in (*QUEUES, *TOLD, "orders", "another"):
        yield "declare queue", queue, "", ""
        yield "delete queue", queue, "", ""
    for queue in QUEUES:
        for operation in ("get", "consume", "purge"):
            yield operation, queue, "", ""
        for exchange in ("orders", "stock", "jobs"):
            yield "bind", queue, exchange, "order.placed.v1"
        yield "unbind", queue, "orders", "order.placed.v1"


def is_allowed(user: str, operation: str, on: str, with_: str, key: str) -> bool:
    """What `contracts/flow.py` says of it, and what a process needs to be told what to do."""
    if user in SERVICES and on.startswith(control_queue(user, "")):
        return operation in ("declare queue", "delete queue") or with_ == CONTROL
    if operation == "bind exchange" and with_ == CONTROL:  # what it may hear anyway, to where no lane listens for it
        return on in {name for own in (user, *SHARED) if user in SERVICES for name in (own, gate_of(own))}
    if operation == "publish":
        return _publishes(user, on, key) if user in SERVICES else _sends(user, on, key)
    if operation in ("get", "consume", "purge"):
        own = {queue_of(lane) for lane in LANES if service_of(lane) == user}
        dead = {dead_letters_of(lane) for lane in LANES} if user == COLLECTOR else set()
        return on in own | dead or (user, on) == (TEAM, TEAM)
    if operation in ("bind", "unbind"):
        return (user, on, with_) == (TEAM, TEAM, "orders")
    return user == TEAM and on == TEAM  # declare and delete


def _publishes(service: str, exchange: str, key: str) -> bool:
    own = {name for name in (service, *SHARED) if name in EVENTS}
    if exchange in own | set(map(gate_of, own)):
        return True
    if exchange == f"retry.{LADDER[0]}" and service == COLLECTOR:
        return key in LANES
    if exchange == "dead-letters" or exchange.startswith("retry."):
        return key in LANES and service_of(key) == service
    return _sends(service, exchange, key)


def _sends(user: str, exchange: str, key: str) -> bool:
    return any((m.exchange, m.key) == (exchange, key) and user in route.senders for m, route in FLOW.items())


@pytest.fixture
async def guarded(rabbit: RabbitNode, broker: Broker) -> AsyncIterator[Broker]:
    """The topology with all users, that of another team as the manual tells to make it, and the team's queue."""
    await topology.apply(broker.url, rabbit.management_url + "/", PASSWORDS, LADDER)
    vhost = urlsplit(broker.url).path.removeprefix("/")
    manage(rabbit, "PUT", f"/users/{TEAM}", {"password": PASSWORDS[TEAM], "tags": ""})
    manage(rabbit, "PUT", f"/permissions/{vhost}/{TEAM}", documented())
    await broker.channel.declare_queue(TEAM)
    yield broker
    manage(rabbit, "DELETE", f"/users/{TEAM}")


def documented() -> dict[str, str]:
    """The permissions that the manual's command gives to a team."""
    (found,) = re.findall(rf"set_permissions {TEAM} '(.+)' '(.+)' '(.+)'", MANUAL.read_text())
    return dict(zip(("configure", "write", "read"), found, strict=True))


def test_the_manual_gives_a_team_what_the_topology_says() -> None:
    assert documented() == topology.team_permissions(TEAM, "orders")
    assert f'"read": "{documented()["read"]}"'.replace("\\", "\\\\") in MANUAL.read_text()


async def test_a_user_can_do_what_the_flow_says_and_nothing_else(rabbit: RabbitNode, guarded: Broker) -> None:
    tried = list(dict.fromkeys(attempts()))
    wrong: dict[str, list[Attempt]] = {}
    for user in (*SERVICES, SHOP, TEAM, MONITOR):
        url = rabbit.url_for(user, PASSWORDS[user], urlsplit(guarded.url).path.removeprefix("/"))
        connection = await aiormq.connect(url)
        slots = asyncio.Semaphore(AT_ONCE)

        async def outcome(number: int, attempt: Attempt) -> bool:
            async with slots:  # noqa: B023
                return await _try(connection, number, *attempt)  # noqa: B023

        allowed = await asyncio.gather(*(outcome(number, one) for number, one in enumerate(tried, 1)))
        await connection.close()
        wrong[user] = [one for one, was in zip(tried, allowed, strict=True) if was != is_allowed(user, *one)]
    assert {user: found for user, found in wrong.items() if found} == {}
    assert len(tried) > 400


async def _try(
    connection: aiormq.abc.AbstractConnection, number: int, operation: str, on: str, with_: str, key: str
) -> bool:
    """Whether the broker lets the user do it; that there is no such thing, or that it is used, is no refusal."""
    channel = await connection.channel(channel_number=number)
    try:
        match operation:
            case "publish":
                await channel.basic_publish(b"{}", exchange=on, routing_key=key)
            case "declare exchange":
                await channel.exchange_declare(exchange=on, exchange_type="topic", durable=True)
            case "delete exchange":
                await channel.exchange_delete(exchange=on)
            case "bind exchange":
                await channel.exchange_bind(destination=on, source=with_, routing_key=key)
            case "declare queue":
                await channel.queue_declare(on, durable=True)
            case "delete queue":
                await channel.queue_delete(on)
            case "bind":
                await channel.queue_bind(on, with_, key)
            case "unbind":
                await channel.queue_unbind(on, with_, key)
            case "get":
                await channel.basic_get(on)
            case "consume":
                await channel.basic_consume(on, _ignore)
            case "purge":
                await channel.queue_purge(on)
        await channel.close()
    except ChannelAccessRefused:
        return False
    except aiormq.exceptions.AMQPChannelError:
        pass
    return True


async def _ignore(_: object) -> None:
    pass
