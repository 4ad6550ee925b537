"""The insides of the drivers that `shared.messaging.amqp` leans on are as it takes them to be."""

import importlib.metadata
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import aiormq
import pytest
from aiormq.channel import Channel
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.header import ContentHeader
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.messaging.amqp import confirms, incoming

ROOT = Path(__file__).parents[5]


def _bounds() -> Iterator[tuple[str, str]]:
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        if found := re.fullmatch(r"([a-z-]+)>=[\d.]+,<([\d.]+)", requirement):
            yield found[1], found[2]


@pytest.mark.parametrize("package", ["aio-pika", "aiormq", "pamqp", "uvicorn"])
def test_a_package_whose_inside_is_leant_on_is_held_below_its_next_minor_version(package: str) -> None:
    above = dict(_bounds())[package]
    major, minor = map(int, importlib.metadata.version(package).split(".")[:2])
    assert above == f"{major}.{minor + 1}"


def test_a_message_is_taken_off_the_wire_by_ours() -> None:
    assert aiormq.Channel._read_content is incoming._read_bounded
    assert ContentHeader.unmarshal is incoming._unmarshal_anything
    assert list(inspect.signature(incoming._read_content).parameters) == ["self", "frame", "header"]
    assert list(inspect.signature(incoming._unmarshal).parameters) == ["self", "data"]
    assert inspect.iscoroutinefunction(Channel._Channel__get_content_frame)  # type: ignore[attr-defined]


def test_the_state_by_which_answers_are_matched_is_there() -> None:
    """`confirms` writes into a channel's own books: aiormq's publishing does just this."""
    publishing = inspect.getsource(Channel.basic_publish)
    for name in _used(confirms, r"\bchannel\.(\w+)"):
        assert f"self.{name}" in inspect.getsource(Channel) or hasattr(Channel, name), name
    for line in ("self.delivery_tag += 1", "self.confirmations[", "self.message_id_delivery_tag["):
        assert line in publishing, line


def test_a_connection_is_handed_where_to_connect() -> None:
    """`connections` puts its `transport_factory` among what aio-pika hands on to aiormq for each attempt."""
    assert "**self.kwargs" in inspect.getsource(aio_pika.Connection.connect)
    assert "transport_factory" in inspect.signature(aiormq.Connection).parameters
    assert list(inspect.signature(TransportFactory.create).parameters) == ["self", "url", "kwargs"]
    for scheme in (TCPTransportFactory, TLSTransportFactory):
        assert {"host=url.host", "port=url.port"} <= set(re.findall(r"[a-z]+=url\.\w+", inspect.getsource(scheme)))


def test_the_protocol_of_http_has_the_parts_that_a_connection_overrides() -> None:
    from shared.http import connection

    for name in _used(connection, r"super\(\)\.(\w+)\("):
        assert callable(getattr(HttpToolsProtocol, name)), name


def _used(module: object, pattern: str) -> set[str]:
    found = set(re.findall(pattern, inspect.getsource(module)))  # type: ignore[arg-type]
    assert found
    return found
