"""Who listens where."""

import os
import socket
from collections.abc import Iterator

import pytest

from deploy.local import ports


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.create_server((ports.HOST, 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_is_free_and_in_range() -> None:
    port = ports.free_port()
    assert 1024 <= port < 65536
    assert not ports.accepts(port)
    assert ports.holder(port) == 0


def test_a_port_that_is_somebodys_though_nobody_listens_there_now_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    somebodys, free = ports.free_port(), ports.free_port()
    offered = iter((somebodys, free))
    monkeypatch.setattr(ports.secrets, "choice", lambda _: next(offered))
    assert ports.free_port(besides={somebodys}) == free


def test_a_taken_port_says_by_whom(taken: int) -> None:
    assert ports.accepts(taken)
    assert ports.holder(taken) == os.getpid()
    assert f"(pid {os.getpid()})" in ports.describe(ports.holder(taken))


def test_a_port_that_is_only_connected_from_is_nobodys(taken: int) -> None:
    with socket.create_connection((ports.HOST, taken)) as client:
        assert ports.holder(client.getsockname()[1]) == 0


def test_of_an_unknown_holder_nothing_is_said() -> None:
    assert ports.describe(0) == ""
