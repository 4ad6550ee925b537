"""The broker's exchanges, queues, bindings, users and permissions, derived from `contracts.flow`.

No service may declare any of it: `malote topology apply` does, before a service starts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from aio_pika import ExchangeType
from faststream.rabbit import ExchangeType as FastStreamExchangeType
from faststream.rabbit import QueueType, RabbitExchange, RabbitQueue

from contracts.base import Message
from contracts.broker import (
    COMMANDS,
    CONTROL,
    DEAD_LETTERS,
    RETURNS,
    control_queue,
    dead_letters_of,
    gate_of,
    gated,
    queue_of,
    retry_exchange,
    waiting_queue,
)
from contracts.flow import COLLECTOR, FLOW, LANES, MONITOR, SERVICES, SHOP, service_of
from shared.config.settings import seconds
from shared.config.tls import Tls
from shared.config.urls import brokers, vhost_in
from shared.messaging.amqp.connections import connect
from shared.messaging.old_queues import OldQueues

DELIVERY_LIMIT = 100
"""Last resort, far above what the kernel needs to find a killer: every message near a killed process counts one."""

LONGEST = 1_000_000
"""Messages that may wait in a queue, and their bytes. A full one refuses what is published (`x-overflow`), so it waits
in the outbox, or in the lane that cannot bury it: nothing is lost. An alert comes at four fifths."""
LONGEST_BYTES = 4 * 1024**3
_LIMITS = {"max-length": LONGEST, "max-length-bytes": LONGEST_BYTES}
POLICIES: dict[str, dict[str, Any]] = {
    "lanes": {"pattern": r"^(lane|wait)\.", "apply-to": "queues", "definition": _LIMITS, "priority": 5},
    "dead-letters": {
        "pattern": r"^lane\..+\.dlq\z",
        "apply-to": "queues",
        "definition": {**_LIMITS, "delivery-limit": 1_000_000},
        "priority": 10,
    },
}
"""Of a queue's policies the one of the highest priority counts. RabbitMQ 4 drops what was delivered 20 times unless
told otherwise: in outages of the collector's, dead letters."""

DEFAULT_LADDER = ("1s", "5s", "30s", "2m", "10m")
NOTHING = r"^\z"
"""A permission for no name. A pattern ends with backslash z: `$` would also let a line feed follow."""
_KEPT: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
_SAFE: dict[str, Any] = {"x-dead-letter-strategy": "at-least-once"}


def lane_queue(lane: str) -> RabbitQueue:
    """A lane as FastStream knows it. Found, not declared: a service has no permission to."""
    arguments: Any = _lane_arguments(lane)
    return RabbitQueue(queue_of(lane), QueueType.QUORUM, durable=True, declare=False, arguments=arguments, timeout=10)


def message_exchange(message: type[Message]) -> RabbitExchange:
    """The exchange that a message is read from, as FastStream knows it."""
    return RabbitExchange(message.exchange, type=FastStreamExchangeType.TOPIC, durable=True, declare=False)


def _lane_arguments(lane: str) -> dict[str, Any]:
    dead = {"x-dead-letter-exchange": DEAD_LETTERS, "x-dead-letter-routing-key": lane}
    return {**_KEPT, **_SAFE, **dead, "x-delivery-limit": DELIVERY_LIMIT}


def exchanges(ladder: Sequence[str] = DEFAULT_LADDER) -> list[str]:
    """All topic exchanges: the owners' with their gates, the commands', the retry queues' and the dead letters'."""
    owners = {message.exchange for message in FLOW}
    return [
        *sorted(owners),
        *map(gate_of, sorted(gated())),
        *map(retry_exchange, ladder),
        RETURNS,
        DEAD_LETTERS,
        CONTROL,
    ]


def queues(ladder: Sequence[str] = DEFAULT_LADDER) -> dict[str, dict[str, Any]]:
    """All queues and their arguments.

    What waits in `wait.5s` leaves it after 5 s through the exchange `RETURNS`, under the routing key that it was
    published with: its lane's name.
    """
    waiting = {
        waiting_queue(step): {
            **_KEPT,
            **_SAFE,
            "x-dead-letter-exchange": RETURNS,
            "x-message-ttl": int(seconds(step) * 1000),
        }
        for step in ladder
    }
    lanes = {queue_of(lane): _lane_arguments(lane) for lane in LANES}
    dead = {dead_letters_of(lane): dict(_KEPT) for lane in LANES}
    return {**lanes, **dead, **waiting}


def bindings(ladder: Sequence[str] = DEFAULT_LADDER) -> list[tuple[str, str, str]]:
    """All bindings of queues as (exchange, routing key, queue)."""
    flow = [(message.exchange, message.key, queue_of(lane)) for message, route in FLOW.items() for lane in route.lanes]
    waiting = [(retry_exchange(step), "#", waiting_queue(step)) for step in ladder]
    back = [(RETURNS, lane, queue_of(lane)) for lane in LANES]
    dead = [(DEAD_LETTERS, lane, dead_letters_of(lane)) for lane in LANES]
    return [*flow, *waiting, *back, *dead]


def gates() -> list[tuple[str, str, str]]:
    """The bindings of gates as (gate, routing key, exchange): made last, when all queues are bound."""
    return [(gate_of(exchange), "#", exchange) for exchange in sorted(gated())]


def permissions(user: str, ladder: Sequence[str] = DEFAULT_LADDER) -> dict[str, str]:
    """What a user may configure, write and read: exact names, as RabbitMQ's regular expressions.

    To bind a queue takes the right to write to it and to read the exchange. A service has both only for the queues by
    which its own processes are told what to do, and the exchange `control`.
    """
    read = [queue_of(lane) for lane in LANES if service_of(lane) == user]
    if user == COLLECTOR:
        read += [dead_letters_of(lane) for lane in LANES]
    sent_to = {message.exchange for message, route in FLOW.items() if user in route.senders}
    commands, own = [COMMANDS] if COMMANDS in sent_to else [], sent_to - {COMMANDS}
    if user == SHOP:
        return {"configure": NOTHING, "write": _any(commands), "read": NOTHING}
    # Past the gate, too: processes of the version before gates publish there until they are replaced.
    write = [*sorted(own), *map(gate_of, sorted(own)), *commands, DEAD_LETTERS, *map(retry_exchange, ladder)]
    told = re.escape(control_queue(user, ""))
    return {"configure": _any([], told), "write": _any(write, told), "read": _any([*read, CONTROL], told)}


def team_permissions(team: str, *owners: str) -> dict[str, str]:
    """What another team's user may do: declare a queue of its own name, and bind it to these owners' exchanges."""
    return {"configure": _any([team]), "write": _any([team]), "read": _any([team, *owners])}


def topic_permissions(user: str, ladder: Sequence[str] = DEFAULT_LADDER) -> dict[str, str]:
    """Which routing keys a user may publish with, by exchange. RabbitMQ allows any on an exchange not named here."""
    own_lanes = [lane for lane in LANES if service_of(lane) == user]
    commands = [m.key for m, route in FLOW.items() if m.exchange == COMMANDS and user in route.senders]
    found = {COMMANDS: _any(commands)}
    if user != SHOP:
        found |= {name: _any(own_lanes) for name in (DEAD_LETTERS, *map(retry_exchange, ladder))}
    if user == COLLECTOR:
        found[retry_exchange(ladder[0])] = _any(LANES)
    return found


def _any(names: Sequence[str], *prefixes: str) -> str:
    """A pattern for these names, and for all that begin with a prefix, which is a pattern itself."""
    each = [*map(re.escape, names), *(f"{prefix}.+" for prefix in prefixes)]
    return rf"^({'|'.join(each)})\z" if each else NOTHING


def definitions(ladder: Sequence[str] = DEFAULT_LADDER, vhost: str = "/") -> dict[str, Any]:
    """The same as a RabbitMQ definitions file. Users have no password in it, so nobody can log in with them yet."""
    users = [*SERVICES, SHOP]
    return {
        "vhosts": [{"name": vhost}],
        "users": [{"name": user, "password_hash": "", "tags": []} for user in users],
        "permissions": [{"user": user, "vhost": vhost, **permissions(user, ladder)} for user in users],
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
        ]
        + [
            {
                "source": gate,
                "vhost": vhost,
                "destination": exchange,
                "destination_type": "exchange",
                "routing_key": key,
                "arguments": {},
            }
            for gate, key, exchange in gates()
        ],
        "policies": [{"vhost": vhost, "name": name, **policy} for name, policy in POLICIES.items()],
    }


async def declare(amqp_url: str, ladder: Sequence[str] = DEFAULT_LADDER, tls: Tls | None = None) -> None:
    """Declare exchanges, queues and bindings. Idempotent; raises if one exists with other arguments."""
    async with await connect(amqp_url, tls) as connection:
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
        for gate, key, exchange in gates():
            await declared[exchange].bind(declared[gate], key)


async def apply(
    amqp_url: str,
    management_url: str,
    passwords: Mapping[str, str],
    ladder: Sequence[str] = DEFAULT_LADDER,
    tls: Tls | None = None,
) -> None:
    """Declare the topology, make a user for each service and the shop, and give each its permissions.

    `amqp_url` and `management_url` carry an administrator's name and password. Users without a password in
    `passwords` are left as they are. What waits in queues of an older version is moved; raises `old_queues.Left` if
    that takes too long, and `old_queues.TooLarge` once all is done but for what stays there.
    """
    tls = tls or Tls()
    vhost = vhost_in(brokers(amqp_url)[0])
    async with httpx.AsyncClient(base_url=management_url, verify=tls.context, timeout=30, trust_env=False) as api:
        older = OldQueues(amqp_url, api, vhost, ladder, tls)
        old = await older.find()
        # What comes to these would be tried twice if both were bound. If neither is, it is refused and sent again.
        await older.unbind([one for one in old if one.name not in LANES])
        await declare(amqp_url, ladder, tls)
        await older.unbind(old)
        for user in (*SERVICES, SHOP):
            if user in passwords:
                await _put(api, f"/api/users/{user}", {"password": passwords[user], "tags": ""})
            await _put(api, f"/api/permissions/{quote(vhost, safe='')}/{user}", permissions(user, ladder))
            for exchange, write in topic_permissions(user, ladder).items():
                topic = {"exchange": exchange, "write": write, "read": ".*"}
                await _put(api, f"/api/topic-permissions/{quote(vhost, safe='')}/{user}", topic)
        for name, policy in POLICIES.items():
            await _put(api, f"/api/policies/{quote(vhost, safe='')}/{name}", policy)
        if MONITOR in passwords:
            await _put(api, f"/api/users/{MONITOR}", {"password": passwords[MONITOR], "tags": "management"})
            nothing = {
                "configure": NOTHING,
                "write": NOTHING,
                "read": NOTHING,
            }  # without an entry it would not see them either
            await _put(api, f"/api/permissions/{quote(vhost, safe='')}/{MONITOR}", nothing)
        await older.move(old)


async def _put(api: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    (await api.put(path, json=body)).raise_for_status()
