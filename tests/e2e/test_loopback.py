"""What runs on one machine is for this machine: nothing of it listens to the network."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any

import psutil
import pytest

from deploy.local.rabbitmq import RabbitNode
from tests.e2e.conftest import PORTS, Fleet
from tests.postgres import PostgresCluster


def is_open_to_all(socket: Any) -> bool:
    """Whether it is a datagram socket that anyone may send to. With a port that the system chose it is no door: Erlang
    asks the name server through such ones."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    is_datagram = socket.type == SOCK_DGRAM and socket.laddr and not socket.raddr
    return bool(is_datagram and not low <= socket.laddr.port <= high)


def listening(folder: str) -> Iterator[tuple[str, int, str]]:
    """The sockets of all processes that were started for a folder: address, port, and whose it is."""
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                if any(folder in value for value in (*process.environ().values(), *process.cmdline())):
                    found = process.net_connections("inet")
                    yield from (
                        (socket.laddr.ip, socket.laddr.port, process.name())
                        for socket in found
                        if socket.status == psutil.CONN_LISTEN or is_open_to_all(socket)
                    )
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # not ours: ours are asked for by their ports below
            continue


def of_the_network(sockets: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    return [found for found in sockets if not ipaddress.ip_address(found[0]).is_loopback]


def test_a_whole_fleet_listens_to_this_machine_alone(fleet: Fleet) -> None:
    sockets = list(listening(fleet.environment["MALOTE_DATA"]))
    ports = {int(fleet.environment[name]) for name in PORTS}
    assert {port for _, port, _ in sockets} >= ports, "all of it was looked at: services, broker, mail"
    assert "epmd" in {name for _, _, name in sockets}
    assert of_the_network(sockets) == []


def test_servers_of_tests_and_benchmarks_do_so_too(rabbit: RabbitNode, postgres: PostgresCluster, fleet: Fleet) -> None:
    broker = list(listening(str(rabbit.folder)))
    assert {port for _, port, _ in broker} >= {rabbit.amqp_port, rabbit.management_port, rabbit.dist_port}
    database = list(listening(str(postgres.folder)))
    assert postgres.port in {port for _, port, _ in database}
    assert of_the_network(broker + database) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_what_listens_to_the_network_would_be_seen(host: str) -> None:
    assert of_the_network([(host, 1, "leak"), ("127.0.0.1", 2, "fine"), ("::1", 3, "fine")]) == [(host, 1, "leak")]
