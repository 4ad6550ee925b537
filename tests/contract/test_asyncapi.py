"""The committed AsyncAPI documents against the code, the schemas, the broker and AsyncAPI's own parser."""

import json
import subprocess
from typing import Any

import jsonschema
import pytest

from contracts import schema
from contracts.base import Command
from contracts.broker import dead_letters_of, queue_of
from contracts.flow import BY_KEY, FLOW, LANES, SERVICES, SHOP, service_of
from deploy.cli.asyncapi import documents
from shared.docs import asyncapi
from shared.messaging import topology
from shared.messaging.copies import failure_headers
from shared.messaging.publisher import outgoing, properties
from tests.nodejs import program
from tests.running import an_order

DOCUMENTS = {name: json.loads(asyncapi.text(name)) for name in asyncapi.names()}
WHOLE = DOCUMENTS[asyncapi.ALL]
MESSAGES = sorted(message.key for message in FLOW)


def test_the_committed_documents_are_what_the_services_declare() -> None:
    found = documents()
    assert asyncapi.names() == [asyncapi.ALL, *SERVICES]
    for name, document in found.items():
        assert DOCUMENTS[name] == document, f"{name}: run `make docs`"


def test_asyncapis_own_parser_finds_nothing_wrong() -> None:
    files = [str(asyncapi.FOLDER / f"{name}.json") for name in asyncapi.names()]
    done = subprocess.run(program("asyncapi.mjs", *files), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_every_service_sends_and_every_lane_reads_what_the_flow_says() -> None:
    sent, read = set(), set()
    for operation in WHOLE["operations"].values():
        (service,) = (tag["name"] for tag in operation["tags"])
        channel = operation["channel"]["$ref"].removeprefix("#/channels/")
        keys = {message["$ref"].rpartition("/")[2] for message in operation["messages"]} - {"dead-letter"}
        if operation["action"] == "send":
            sent |= {(service, key) for key in keys}
        else:
            assert not keys or service == service_of(channel)
            read |= {(channel, key) for key in keys}
    assert read == {(lane, message.key) for message, route in FLOW.items() for lane in route.lanes}
    wanted = {(sender, message.key) for message, route in FLOW.items() for sender in route.senders}
    assert sent == {(sender, key) for sender, key in wanted if sender != SHOP}


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_and_its_dead_letters_are_declared_as_they_are_on_the_broker(lane: str) -> None:
    for channel, name in ((lane, queue_of(lane)), (f"{lane}.dlq", dead_letters_of(lane))):
        queue = WHOLE["channels"][channel]["bindings"]["amqp"]["queue"]
        assert (queue["name"], queue["durable"], queue["x-arguments"]) == (name, True, topology.queues()[name])


@pytest.mark.parametrize("key", MESSAGES)
def test_a_payload_is_the_committed_schema(key: str) -> None:
    committed = json.loads((schema.FOLDER / f"{key}.json").read_text())
    del committed["$schema"]
    payload = WHOLE["components"]["messages"][key]["payload"]
    assert _followed(payload, WHOLE) == _followed(committed, committed)


def _followed(part: Any, root: Any) -> Any:
    """A schema with all references replaced by what they refer to."""
    if isinstance(part, list):
        return [_followed(inner, root) for inner in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        target = root
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = {**target, **{name: value for name, value in part.items() if name != "$ref"}}
    return {name: _followed(inner, root) for name, inner in part.items() if name != "$defs"}


@pytest.mark.parametrize("key", MESSAGES)
def test_an_example_fits_its_schema_and_can_be_read(key: str) -> None:
    message = WHOLE["components"]["messages"][key]
    (example,) = message["examples"]
    committed = json.loads((schema.FOLDER / f"{key}.json").read_text())
    check = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(example["payload"], committed, format_checker=check)
    BY_KEY[key].read(json.dumps(example["payload"]).encode())
    headers = _followed(message["headers"], WHOLE)
    jsonschema.validate(example["headers"], headers)
    assert example["headers"].keys() == headers["properties"].keys()


def test_the_envelope_is_the_one_that_is_sent() -> None:
    sent = properties(outgoing(an_order(), "orders", None).envelope)
    set_ = {name for name in ("message_id", "correlation_id", "app_id", "timestamp") if getattr(sent, name)}
    set_ |= {name for name in ("content_type", "delivery_mode") if getattr(sent, name)}
    assert sent.message_type
    assert {*set_, "type", *(sent.headers or {})} == set(WHOLE["components"]["schemas"]["Envelope"]["required"])


def test_the_headers_of_dead_letters_are_those_that_are_set() -> None:
    described = set(WHOLE["components"]["schemas"]["FailureEnvelope"]["properties"])
    assert set(failure_headers({}, "why", None, 1, "orders", "1")) <= described


def test_a_shop_may_leave_out_what_a_service_may_not() -> None:
    for command in (message for message in FLOW if issubclass(message, Command)):
        headers = WHOLE["components"]["messages"][command.key]["headers"]["$ref"].rpartition("/")[2]
        assert headers == ("EnvelopeFromOutside" if SHOP in FLOW[command].senders else "Envelope")


def test_what_must_arrive_is_declared_so() -> None:
    for operation in WHOLE["operations"].values():
        key = operation["channel"]["$ref"].removeprefix("#/channels/")
        if operation["action"] == "send" and key in BY_KEY:
            amqp = operation["bindings"]["amqp"]
            assert (amqp["mandatory"], amqp["deliveryMode"]) == (bool(FLOW[BY_KEY[key]].lanes), 2)
            assert issubclass(BY_KEY[key], Command) == (
                WHOLE["channels"][key]["bindings"]["amqp"]["exchange"]["name"] == "commands"
            )


def test_two_services_cannot_say_different_things_of_one_name() -> None:
    other = json.loads(json.dumps(DOCUMENTS["orders"]))
    other["components"]["schemas"]["Money"]["description"] = "something else"
    with pytest.raises(ValueError, match="'Money'"):
        asyncapi.merged([DOCUMENTS["orders"], other])
