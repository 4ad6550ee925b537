"""`contracts/flow.py` against the handlers that exist, and the committed schemas against the code."""

import importlib
import json
from pathlib import Path

import pytest

from contracts import schema
from contracts.base import Command, Message
from contracts.flow import BY_KEY, FLOW, LANES, SERVICES, read
from contracts.orders import PlaceOrder
from shared.messaging import topology
from shared.messaging.handler import lanes_of

ROOT = Path(__file__).resolve().parents[2]


def test_every_message_is_handled_where_the_flow_says_and_nowhere_else() -> None:
    handled = {
        (key, lane)
        for service in SERVICES
        for lane, handlers in lanes_of(service, importlib.import_module(f"services.{service}.handlers")).items()
        for key in handlers
    }
    assert handled == {(message.key, lane) for message, route in FLOW.items() for lane in route.lanes}


def test_every_message_is_in_the_flow() -> None:
    def below(kind: type[Message]) -> set[type[Message]]:
        return {kind, *(found for child in kind.__subclasses__() for found in below(child))}

    declared = {message for message in below(Message) if "key" in vars(message)}
    assert {m for m in declared if m.__module__.startswith("contracts.")} == set(FLOW)


def test_keys_are_unique_and_end_in_a_version() -> None:
    assert len(BY_KEY) == len(FLOW)
    for key in BY_KEY:
        noun, verb, version = key.split(".")
        assert noun
        assert verb
        assert version[0] == "v"
        assert version[1:].isdigit()


def test_events_go_to_their_owners_exchange_and_commands_to_the_one_for_commands() -> None:
    for message in FLOW:
        owner = message.__module__.removeprefix("contracts.")
        assert message.exchange == ("commands" if issubclass(message, Command) else owner)


def test_a_command_has_one_consumer_and_an_event_is_sent_by_its_owner() -> None:
    for message, route in FLOW.items():
        if issubclass(message, Command):
            assert len(route.lanes) == 1
        else:
            assert route.senders == (SERVICES if message.exchange in ("jobs", "processes") else (message.exchange,))


@pytest.mark.parametrize("row", ["gateway, orders", "-> orders", ""])
def test_a_row_that_lacks_its_sender_or_its_arrow_is_named(row: str) -> None:
    with pytest.raises(ValueError, match=r"flow\.py: PlaceOrder: write 'sender … -> lane …'"):
        read({PlaceOrder: row})


def test_the_gateway_consumes_exactly_what_moves_a_job() -> None:
    assert {m for m, route in FLOW.items() if "gateway" in route.lanes} == {m for m in FLOW if m.job}


def test_every_service_that_the_flow_names_exists() -> None:
    existing = {path.parent.name for path in (ROOT / "services").glob("*/handlers.py")}
    assert set(SERVICES) <= existing
    assert {lane.partition(".")[0] for lane in LANES} == set(SERVICES)


@pytest.mark.parametrize("name", sorted(schema.schemas()))
def test_the_committed_schema_equals_the_code(name: str) -> None:
    committed = (schema.FOLDER / name).read_text(encoding="utf-8")
    assert json.loads(committed) == json.loads(schema.text(schema.schemas()[name])), "run `make schemas`"


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in schema.FOLDER.glob("*.json")} == set(schema.schemas())


def test_the_committed_broker_definitions_equal_the_flow() -> None:
    committed = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text(encoding="utf-8"))
    assert committed == topology.definitions(), "run `malote topology export`"
