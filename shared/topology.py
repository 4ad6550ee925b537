"""The broker's exchanges, queues, bindings, users and permissions, derived from `contracts.flow`.

No service may declare any of it: `malote topology apply` does, before a service starts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aio_pika
import httpx
from aio_pika import ExchangeType
from faststream.rabbit import ExchangeType as FastStreamExchangeType
from faststream.rabbit import QueueType, RabbitExchange, RabbitQueue

from contracts.base import Message
from contracts.flow import COLLECTOR, FLOW, LANES, MONITOR, SENDERS, SERVICES, SHOP, service_of
from shared.settings import seconds
from shared.tls import Tls

DELIVERY_LIMIT = 100
"""Last resort, far above what the kernel needs to find a killer: every message near a killed process counts one."""

POLICIES: dict[str, dict[str, Any]] = {
    "dead-letters": {
        "pattern": r"\.dlq$",
        "apply-to": "queues",
        "definition": {"delivery-limit": 1_000_000},
        "priority": 10,
    }
}
"""RabbitMQ 4 drops what was delivered 20 times unless told otherwise: in outages of the collector's, dead letters."""

DEFAULT_LADDER = ("1s", "5s", "30s", "2m", "10m")
_KEPT: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
_SAFE: dict[str, Any] = {"x-dead-letter-strategy": "at-least-once"}


def dead_letters_of(lane: str) -> str:
    """The queue that a lane's dead letters come into."""
    return f"{lane}.dlq"


def lane_queue(lane: str) -> RabbitQueue:
    """A lane as FastStream knows it. Found, not declared: a service has no permission to."""
    arguments: Any = _lane_arguments(lane)
    return RabbitQueue(lane, QueueType.QUORUM, durable=True, declare=False, arguments=arguments, timeout=10)


def message_exchange(message: type[Message]) -> RabbitExchange:
    """The exchange that a message is published to, as FastStream knows it."""
    return RabbitExchange(message.exchange, type=FastStreamExchangeType.TOPIC, durable=True, declare=False)


def _lane_arguments(lane: str) -> dict[str, Any]:
    dead = {"x-dead-letter-exchange": "dead-letters", "x-dead-letter-routing-key": lane}
    return {**_KEPT, **_SAFE, **dead, "x-delivery-limit": DELIVERY_LIMIT}


def exchanges(ladder: Sequence[str] = DEFAULT_LADDER) -> list[str]:
    """All topic exchanges: the owners', the commands', the retry queues' and the dead letters'."""
    owners = {message.exchange for message in FLOW}
    return [*sorted(owners), *(f"retry.{step}" for step in ladder), "dead-letters"]


def queues(ladder: Sequence[str] = DEFAULT_LADDER) -> dict[str, dict[str, Any]]:
    """All queues and their arguments.

    What waits in `retry.5s` leaves it after 5 s through the default exchange, under the routing key that it was
    published with: its lane's name.
    """
    waiting = {
        f"retry.{step}": {
            **_KEPT,
            **_SAFE,
            "x-dead-letter-exchange": "",
            "x-message-ttl": int(seconds(step) * 1000),
        }
        for step in ladder
    }
    lanes = {lane: _lane_arguments(lane) for lane in LANES}
    dead = {dead_letters_of(lane): dict(_KEPT) for lane in LANES}
    return {**lanes, **dead, **waiting}


def bindings(ladder: Sequence[str] = DEFAULT_LADDER) -> list[tuple[str, str, str]]:
    """All bindings as (exchange, routing key, queue)."""
    flow = [(message.exchange, message.key, lane) for message, lanes in FLOW.items() for lane in lanes]
    waiting = [(f"retry.{step}", "#", f"retry.{step}") for step in ladder]
    dead = [("dead-letters", lane, dead_letters_of(lane)) for lane in LANES]
    return [*flow, *waiting, *dead]


def permissions(user: str) -> dict[str, str]:
    """What a user may configure, write and read: exact names, as RabbitMQ's regular expressions."""
    read = [lane for lane in LANES if service_of(lane) == user]
    if user == COLLECTOR:
        read += [dead_letters_of(lane) for lane in LANES]
    commands = ["commands"] if any(user in senders for senders in SENDERS.values()) else []
    if user == SHOP:
        return {"configure": "^$", "write": _any(commands), "read": "^$"}
    own_exchanges = {m.exchange for m in FLOW if m.exchange == user}
    write = [*sorted(own_exchanges), *commands, "jobs", "dead-letters"]
    return {"configure": "^$", "write": f"^({'|'.join(map(re.escape, write))}|retry\\..+)$", "read": _any(read)}


def topic_permissions(user: str, ladder: Sequence[str] = DEFAULT_LADDER) -> dict[str, str]:
    """Which routing keys a user may publish with, by exchange. RabbitMQ allows any on an exchange not named here."""
    own_lanes = [lane for lane in LANES if service_of(lane) == user]
    commands = [command.key for command, senders in SENDERS.items() if user in senders]
    found = {"commands": _any(commands)}
    if user != SHOP:
        found |= {name: _any(own_lanes) for name in ("dead-letters", *(f"retry.{step}" for step in ladder))}
    if user == COLLECTOR:
        found[f"retry.{ladder[0]}"] = _any(LANES)
    return found


def _any(names: Sequence[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$" if names else "^$"


def definitions(ladder: Sequence[str] = DEFAULT_LADDER, vhost: str = "/") -> dict[str, Any]:
    """The same as a RabbitMQ definitions file. Users have no password in it, so nobody can log in with them yet."""
    users = [*SERVICES, SHOP]
    return {
        "vhosts": [{"name": vhost}],
        "users": [{"name": user, "password_hash": "", "tags": []} for user in users],
        "permissions": [{"user": user, "vhost": vhost, **permissions(user)} for user in users],
        "topic_permissions": [
            {"user": user, "vhost": vhost, "exchange": exchange, "write": write, "read": ".*"}
            for user in users
            for exchange, write in topic_permissions(user, ladder).items()
        ],
        "exchanges": [
            {"name": name, "vhost": vhost, "type": "topic", "durable": True, "auto_delete": False, "arguments": {}}
            for name in exchanges(ladder)
        ],
        "queues": [
            {"name": name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": arguments}
            for name, arguments in queues(ladder).items()
        ],
        "bindings": [
            {
                "source": exchange,
                "vhost": vhost,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for exchange, key, queue in bindings(ladder)
        ],
        "policies": [{"vhost": vhost, "name": name, **policy} for name, policy in POLICIES.items()],
    }


async def declare(amqp_url: str, ladder: Sequence[str] = DEFAULT_LADDER, tls: Tls | None = None) -> None:
    """Declare exchanges, queues and bindings. Idempotent; raises if one exists with other arguments."""
    async with await aio_pika.connect(amqp_url, ssl_context=(tls or Tls()).context, timeout=10) as connection:
        channel = await connection.channel()
        declared = {
            name: await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True) for name in exchanges(ladder)
        }
        found = {
            name: await channel.declare_queue(name, durable=True, arguments=arguments, timeout=30)
            for name, arguments in queues(ladder).items()
        }
        for exchange, key, queue in bindings(ladder):
            await found[queue].bind(declared[exchange], key)


async def apply(
    amqp_url: str,
    management_url: str,
    passwords: Mapping[str, str],
    ladder: Sequence[str] = DEFAULT_LADDER,
    tls: Tls | None = None,
) -> None:
    """Declare the topology, make a user for each service and the shop, and give each its permissions.

    `amqp_url` and `management_url` carry an administrator's name and password. Users without a password in
    `passwords` are left as they are.
    """
    tls = tls or Tls()
    await declare(amqp_url, ladder, tls)
    vhost = _vhost(amqp_url)
    async with httpx.AsyncClient(base_url=management_url, verify=tls.context, timeout=30, trust_env=False) as api:
        for user in (*SERVICES, SHOP):
            if user in passwords:
                await _put(api, f"/api/users/{user}", {"password": passwords[user], "tags": ""})
            await _put(api, f"/api/permissions/{quote(vhost, safe='')}/{user}", permissions(user))
            for exchange, write in topic_permissions(user, ladder).items():
                topic = {"exchange": exchange, "write": write, "read": ".*"}
                await _put(api, f"/api/topic-permissions/{quote(vhost, safe='')}/{user}", topic)
        for name, policy in POLICIES.items():
            await _put(api, f"/api/policies/{quote(vhost, safe='')}/{name}", policy)
        if MONITOR in passwords:
            await _put(api, f"/api/users/{MONITOR}", {"password": passwords[MONITOR], "tags": "management"})
            nothing = {"configure": "^$", "write": "^$", "read": "^$"}  # without an entry it would not see them either
            await _put(api, f"/api/permissions/{quote(vhost, safe='')}/{MONITOR}", nothing)


async def _put(api: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    (await api.put(path, json=body)).raise_for_status()


def _vhost(amqp_url: str) -> str:
    path = httpx.URL(amqp_url).raw_path.decode()
    return "/" if path in ("", "/", "//") else httpx.URL(amqp_url).path.removeprefix("/")
