"""The AsyncAPI 3.0 documents, from what a service declares to its broker.

FastStream documents the queues that a service consumes, the exchanges that it publishes to, and their types. This
module adds the envelope, the committed schemas, examples, senders and readers, the arguments of queues, and dead
letters.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from faststream.rabbit import RabbitBroker
from faststream.specification import AsyncAPI

from contracts import schema
from contracts.base import Message
from contracts.broker import dead_letters_of, queue_of
from contracts.flow import COLLECTOR, FLOW, LANES, SHOP
from shared.config.version import VERSION
from shared.docs.messages import Document, join, message_components, paragraph, ref, refs
from shared.messaging import topology
from shared.messaging.handler import Handler

FOLDER = Path(schema.__file__).parent / "asyncapi"
"""The committed documents, one for each service and one for all, which are served and printed."""
ALL = "malote"

_TEAM = topology.team_permissions("newsletter", "orders")
_ABOUT = f"""\
### Reading an event

An event goes to the topic exchange named after its owner, under a routing key that is its name and version, such as
`order.confirmed.v1`. To read it, bind a queue of your own to that exchange and key: nothing has to change here, and
whoever else reads it does not notice. Let it be durable and named after your team, and ask whoever runs the broker for
a user that may do just that, and can reach no other queue:

    rabbitmqctl add_user newsletter "$PASSWORD"
    rabbitmqctl set_permissions newsletter {" ".join(f"'{pattern}'" for pattern in _TEAM.values())}

A message comes at least once, so remember each `message_id` until you are done with it; after a failure it can come
late and out of order. Fields that you do not know have to be passed over: a version can get further ones.

### Sending a command

A command goes to the exchange `commands`, persistent, as JSON. From outside, the user `{SHOP}` may send those that say
so below: set the body and a `message_id` (sent again under the same one, it is still one command), wait for the
broker's confirm, and read events as above to hear what becomes of it.

### When a message fails

A lane tries it again, through retry queues that all lanes share: after {", ".join(topology.DEFAULT_LADDER)}, unless
`MALOTE_RETRY_LADDER` says otherwise. After the last it goes to its lane's dead letters, the queue `lane.<lane>.dlq`,
with what failed in its headers; what can never be read goes there at once.

### Versions

What is published stays: no field goes away, becomes required or changes its meaning. What would break somebody is the
next version (`order.placed.v2`), sent beside the old one until nobody reads that any more.
"""


def names() -> list[str]:
    """The names of the documents: that of all services first, then each service's."""
    return sorted((path.stem for path in FOLDER.glob("*.json")), key=lambda name: (name != ALL, name))


def text(name: str) -> str:
    """A committed document."""
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def written(document: Document) -> str:
    """The text of a document's file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def path(name: str) -> str:
    """The path at which the gateway serves a document as a page; with `.json` appended, as JSON."""
    return "/asyncapi" if name == ALL else f"/asyncapi/{name}"


class Lane(Protocol):
    """A lane, as the documents describe it."""

    @property
    def name(self) -> str: ...

    @property
    def handlers(self) -> Mapping[str, Handler]: ...


def document(service: str, broker: RabbitBroker, lanes: Sequence[Lane]) -> Document:
    """The document of one service."""
    generated = AsyncAPI(broker, title=f"Malote: {service}", version=VERSION, schema_version="3.0.0")
    found = json.loads(generated.to_specification().to_json())
    channels: Document = {}
    operations: Document = {}
    for lane in lanes:
        channels[lane.name] = _lane_channel(lane, found["channels"][lane.name])
        operations |= _receiving(service, lane, found["operations"][lane.name])
    for lane_name in LANES if service == COLLECTOR else [lane.name for lane in lanes]:
        channels[f"{lane_name}.dlq"] = _dead_letters(lane_name)
        if service == COLLECTOR:
            operations |= _collecting(lane_name)
    for message in (message for message in FLOW if message.key in found["channels"]):
        channels[message.key] = _sent_channel(message, found["channels"][message.key])
        operations |= _sending(service, message, found["operations"][message.key])
    keys = {key for channel in channels.values() for key in channel["messages"]}
    messages = [message for message in FLOW if message.key in keys]
    about = f"What {service} reads from and sends to the broker.\n\n{_ABOUT}"
    return _document(found["info"] | {"description": about}, channels, operations, message_components(messages))


def merged(documents: Iterable[Document]) -> Document:
    """The document of all services. Raises ValueError if two services define one name differently."""
    channels: Document = {}
    operations: Document = {}
    components: Document = {"messages": {}, "schemas": {}}
    for found in documents:
        join(channels, found["channels"])
        join(operations, found["operations"])
        for kind, into in components.items():
            join(into, found["components"][kind])
    about = f"What all services read from and send to the broker.\n\n{_ABOUT}"
    info = {"title": "Malote", "version": VERSION, "description": about}
    return _document(info, channels, operations, components)


def _document(info: Document, channels: Document, operations: Document, components: Document) -> Document:
    host = {
        "default": "localhost:5672",
        "description": "Host and port of the broker; `malote status` prints those of a fleet on one machine.",
    }
    broker = {
        "host": "{host}",
        "pathname": "/",
        "protocol": "amqp",
        "protocolVersion": "0.9.1",
        "description": "RabbitMQ. `amqps` where TLS is on.",
        "variables": {"host": host},
        "security": [ref("components", "securitySchemes", "user")],
    }
    user = {
        "type": "userPassword",
        "description": "A user for each service and one for a shop's systems, each with the permissions that it needs.",
    }
    return {
        "asyncapi": "3.0.0",
        "info": {**info, "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}},
        "defaultContentType": "application/json",
        "servers": {"broker": broker},
        "channels": dict(sorted(channels.items())),
        "operations": operations,
        "components": {
            "messages": dict(sorted(components["messages"].items())),
            "schemas": dict(sorted(components["schemas"].items())),
            "securitySchemes": {"user": user},
        },
    }


# -- channels and operations ------------------------------------------------------------------------------------------


def _lane_channel(lane: Lane, generated: Document) -> Document:
    about = "A lane: a durable quorum queue that its service alone reads."
    more = {"title": lane.name, "description": about, "messages": refs(lane.handlers, "components", "messages")}
    return _at_broker(generated, "queue", **{"x-arguments": topology.queues()[queue_of(lane.name)]}) | more


def _sent_channel(message: type[Message], generated: Document) -> Document:
    about = f"Exchange `{message.exchange}`, routing key `{message.key}`."
    more = {"title": message.key, "description": about, "messages": refs([message.key], "components", "messages")}
    return _at_broker(generated, "exchange") | more


def _at_broker(generated: Document, kind: str, **more: Any) -> Document:
    amqp = generated["bindings"]["amqp"]
    amqp = amqp | {kind: amqp[kind] | {"vhost": "/"} | more}
    everywhere = {name: value for name, value in generated.items() if name != "servers"}
    return everywhere | {"bindings": {"amqp": amqp}}


def _dead_letters(lane: str) -> Document:
    name = dead_letters_of(lane)
    queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False, "vhost": "/"}
    queue["x-arguments"] = topology.queues()[name]
    return {
        "address": name,
        "title": f"{lane}.dlq",
        "description": f"The dead letters of the lane `{lane}`; the service `{COLLECTOR}` reads them.",
        "messages": refs(["dead-letter"], "components", "messages"),
        "bindings": {"amqp": {"is": "queue", "queue": queue, "bindingVersion": "0.3.0"}},
    }


def _receiving(service: str, lane: Lane, generated: Document) -> Document:
    lines = [f"- `{key}`: {paragraph(handler.call.__doc__)}" for key, handler in lane.handlers.items()]
    receive = generated | {
        "title": f"{lane.name} reads",
        "summary": f"What {lane.name} does with what it reads.",
        "description": "\n".join(lines),
        "tags": [{"name": service}],
        "bindings": {"amqp": {"ack": True, "bindingVersion": "0.3.0"}},
        "messages": [ref("channels", lane.name, "messages", key) for key in lane.handlers],
    }
    give_up = {
        "action": "send",
        "channel": ref("channels", f"{lane.name}.dlq"),
        "title": f"{lane.name} gives up",
        "summary": "What failed too often, or cannot be read, is kept with the reason.",
        "tags": [{"name": service}],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
        "messages": [ref("channels", f"{lane.name}.dlq", "messages", "dead-letter")],
    }
    return {f"{lane.name}.reads": receive, f"{lane.name}.gives-up": give_up}


def _collecting(lane: str) -> Document:
    name = f"{lane}.dlq"
    collect = {
        "action": "receive",
        "channel": ref("channels", name),
        "title": f"{COLLECTOR} reads {name}",
        "summary": "Each is kept until somebody sends it again or removes it.",
        "tags": [{"name": COLLECTOR}],
        "bindings": {"amqp": {"ack": True, "bindingVersion": "0.3.0"}},
        "messages": [ref("channels", name, "messages", "dead-letter")],
    }
    return {f"{COLLECTOR}.reads.{name}": collect}


def _sending(service: str, message: type[Message], generated: Document) -> Document:
    must_arrive = {"deliveryMode": 2, "mandatory": bool(FLOW[message].lanes), "bindingVersion": "0.3.0"}
    send = generated | {
        "title": f"{service} sends {message.key}",
        "summary": paragraph(message.__doc__),
        "tags": [{"name": service}],
        "bindings": {"amqp": must_arrive},
        "messages": [ref("channels", message.key, "messages", message.key)],
    }
    return {f"{service}.sends.{message.key}": send}
