"""Messages in AsyncAPI documents: envelope, body, example, senders and readers."""

import inspect
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from contracts import schema
from contracts.base import Command, Envelope, Message
from contracts.flow import FLOW, SERVICES, SHOP
from contracts.jobs import JobFailed
from shared.messaging.publisher import properties

Document = dict[str, Any]

_ID, _CAUSE = "01985b3e-7c1a-7d2e-9b4f-3a5c6d7e8f90", "01985b3e-7b02-7f11-8a61-0c9d4e2b7a35"
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

_PROPERTIES = {
    "message_id": "AMQP property. Its id (UUIDv7): a copy has the same one.",
    "correlation_id": "AMQP property. The job that it belongs to: the id of the command that started all this.",
    "type": "AMQP property. Its name and version, the same as the routing key.",
    "app_id": "AMQP property. The service that sent it.",
    "timestamp": "AMQP property. When it was sent, in epoch seconds.",
    "content_type": "AMQP property.",
    "delivery_mode": "AMQP property. 2: it survives the broker's restart.",
}
_HEADERS = {
    "causation_id": "The `message_id` of what it follows from; empty if it is the first of its job.",
    "traceparent": "The trace that it belongs to (W3C Trace Context).",
    "cloudEvents_specversion": "These are CloudEvents 1.0's attributes, as its AMQP binding names them.",
    "cloudEvents_id": "The same as `message_id`.",
    "cloudEvents_source": "The sender's name after a slash.",
    "cloudEvents_type": "The same as `type`.",
    "cloudEvents_time": "When it was sent, exactly (RFC 3339).",
}
FAILURE_HEADERS = {
    "failure_reason": "Why it is here, in a sentence.",
    "failure_exception": "The exception's type; empty if there was none.",
    "failure_message": "What the exception said.",
    "failure_traceback": "The last lines of its traceback.",
    "failure_attempts": "How often it was tried.",
    "failure_first_at": "When it failed for the first time (RFC 3339).",
    "failure_last_at": "When it failed for the last time (RFC 3339).",
    "failure_service": "The service that gave it up.",
    "failure_version": "That service's version.",
    "failure_host": "The machine that it ran on.",
}
_NUMBERS = ("timestamp", "delivery_mode", "failure_attempts")


def message_components(messages: Sequence[type[Message]]) -> Document:
    """The messages and all schemas that they refer to."""
    schemas: Document = {
        "Envelope": _envelope("What every service sets.", required=True),
        "EnvelopeFromOutside": _envelope("All may be left out but a `message_id`.", required=False),
        "FailureEnvelope": _envelope("Those that it came with, and what failed.", required=False, **FAILURE_HEADERS),
    }
    for message in messages:
        join(schemas, _lifted(message))
    return {"messages": {"dead-letter": _dead_letter()} | {m.key: _message(m) for m in messages}, "schemas": schemas}


def _message(message: type[Message]) -> Document:
    from_outside = SHOP in _senders(message)
    example = {"name": "example", "headers": _example_headers(message), "payload": example_of(message)}
    return {
        "name": message.key,
        "title": message.__name__,
        "summary": paragraph(message.__doc__),
        "description": _about(message),
        "contentType": "application/json",
        "tags": [{"name": "command" if issubclass(message, Command) else "event"}],
        "headers": ref("components", "schemas", "EnvelopeFromOutside" if from_outside else "Envelope"),
        "correlationId": {"location": "$message.header#/correlation_id", "description": "The job's id."},
        "payload": ref("components", "schemas", message.__name__),
        "bindings": {"amqp": {"messageType": message.key, "bindingVersion": "0.3.0"}},
        "examples": [example],
    }


def _about(message: type[Message]) -> str:
    """The description of a message in Markdown, from its class and the flow."""
    senders = [f"a shop's own system, as the user `{SHOP}`" if name == SHOP else name for name in _senders(message)]
    lines = [
        *filter(None, [inspect.cleandoc(message.__doc__ or "").partition("\n\n")[2]]),
        f"**Sent by** {' or '.join(senders)}, to the exchange `{message.exchange}` under the key `{message.key}`.",
        f"**Read by** {', '.join(lanes)}." if (lanes := FLOW[message].lanes) else "**Read by** none of our services.",
    ]
    if message.job:
        lines.append(f"**Its job** becomes {message.job.value}.")
    if message.transient:
        lines.append("**Not kept** if its sender dies before it is sent: only the latest one matters.")
    return "\n\n".join(lines)


def _senders(message: type[Message]) -> Sequence[str]:
    senders = FLOW[message].senders
    return ("every service",) if senders == SERVICES else senders


def _dead_letter() -> Document:
    return {
        "name": "dead-letter",
        "title": "A dead letter",
        "summary": "A message that was given up: its body as it came, and what failed in its headers.",
        "tags": [{"name": "dead letter"}],
        "headers": ref("components", "schemas", "FailureEnvelope"),
        "payload": {"description": "The body as it came, which may be anything."},
    }


def _envelope(about: str, *, required: bool, **more: str) -> Document:
    described = _PROPERTIES | _HEADERS | more
    types = {name: "integer" if name in _NUMBERS else "string" for name in described}
    parts = {name: {"type": types[name], "description": text} for name, text in described.items()}
    return {
        "type": "object",
        "description": about,
        "properties": parts,
        **({"required": [*_PROPERTIES, *_HEADERS]} if required else {}),
    }


def _lifted(message: type[Message]) -> Document:
    """A message's committed schema and the schemas that it refers to, by name."""
    whole = json.loads(json.dumps(_schemas()[f"{message.key}.json"]).replace("#/$defs/", "#/components/schemas/"))
    del whole["$schema"]
    return {**whole.pop("$defs", {}), message.__name__: whole}


@cache
def _schemas() -> Document:
    return schema.schemas()


def join(into: Document, more: Document) -> None:
    """Add the missing entries. Raises ValueError if an existing entry of the same name differs."""
    for name, value in more.items():
        if into.setdefault(name, value) != value:
            raise ValueError(f"two different things are called {name!r}")


def paragraph(text: str | None) -> str:
    """The first paragraph in one line, without Markdown."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split()).replace("`", "")


def ref(*path: str) -> Document:
    return {"$ref": f"#/{'/'.join(path)}"}


def refs(names: Iterable[str], *path: str) -> Document:
    return {name: ref(*path, name) for name in names}


# -- examples ---------------------------------------------------------------------------------------------------------


def example_of(message: type[Message]) -> Any:
    """A valid body, made of the examples in the message's schema."""
    schemas = _lifted(message)
    return _example(schemas[message.__name__], schemas)


def _example(part: Document, schemas: Document) -> Any:
    if name := part.get("$ref", "").rpartition("/")[2]:
        part = schemas[name]
    for given in (part.get("examples"), [part["const"]] if "const" in part else None, part.get("enum")):
        if given:
            return given[0]
    if part.get("default") is not None:
        return part["default"]
    if "anyOf" in part:
        first = next(one for one in part["anyOf"] if one != {"type": "null"})
        return _example(first, schemas) if "default" not in part or "examples" in first else None
    made = {"object": _example_object, "array": _example_array}.get(part.get("type", ""))
    return made(part, schemas) if made else _example_value(part)


def _example_object(part: Document, schemas: Document) -> Any:
    return {name: _example(inner, schemas) for name, inner in part.get("properties", {}).items()}


def _example_array(part: Document, schemas: Document) -> Any:
    return [_example(part["items"], schemas)] * max(1, part.get("minItems", 1))


def _example_value(part: Document) -> Any:
    if part.get("type") in ("integer", "number"):
        return part.get("minimum", 1)
    if part.get("type") == "boolean":
        return True
    formats = {"uuid": _ID, "date-time": _NOON.isoformat()}
    return formats.get(part.get("format", ""), part.get("title", "text").lower())


def _example_headers(message: type[Message]) -> Document:
    """The headers of a message as the publisher sends them."""
    cause = None if issubclass(message, Command) else _CAUSE
    sender = "orders" if message.exchange == JobFailed.exchange else _senders(message)[0]
    sent = properties(Envelope(_ID, cause or _ID, message.key, sender, _NOON, cause, _TRACE))
    return {
        "message_id": sent.message_id,
        "correlation_id": sent.correlation_id,
        "type": sent.message_type,
        "app_id": sent.app_id,
        "timestamp": int(_NOON.timestamp()),
        "content_type": sent.content_type,
        "delivery_mode": sent.delivery_mode,
        **(sent.headers or {}),
    }
