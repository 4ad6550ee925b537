"""A port of its own for health: details and metrics are there and nowhere else, and both ports end together."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import HOST, free_port
from shared.http.ports import Ports
from tests import forking
from tests.running import SECRET, settings_for, until
from tests.serving import NO_BROKER, Served, serving
from tests.several import Process, lasting_port


@pytest.fixture
async def stock(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving("stock", NO_BROKER, f"sqlite:///{tmp_path}/stock.db", health_port=free_port()) as served:
        yield served


@pytest.fixture
async def health(stock: Served) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://{HOST}:{stock.service.settings.health_port}"
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as client:
        yield client


async def test_details_and_metrics_are_told_at_the_health_port(health: httpx.AsyncClient) -> None:
    ready = await health.get("/readyz")
    assert ready.status_code == 503, "there is no broker"
    assert ready.json()["checks"]["broker"]["ok"] is False
    assert (await health.get("/readyz?only=database")).json()["checks"] == {"database": {"ok": True, "detail": None}}
    assert (await health.get("/livez")).status_code == 200
    assert "malote_lane_retrying" in (await health.get("/metrics")).text


async def test_what_is_answered_goes_out_at_once() -> None:
    """An answer has a head and a body. Without TCP_NODELAY the body waits until the client's system has acknowledged
    the head, which it puts off for 40 ms."""
    connected = asyncio.get_running_loop().create_future()

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connected.set_result(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    (door,) = Ports(settings_for("stock", NO_BROKER, "sqlite://")).listen()
    async with await asyncio.get_running_loop().create_server(Answering, sock=door):
        _, writer = await asyncio.open_connection(*door.getsockname())
        assert await connected
        writer.close()


async def test_everybodys_port_says_only_whether_it_is_ready(stock: Served) -> None:
    async with stock.client() as client:
        assert (await client.get("/livez")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        takes_requests = await client.get("/readyz?only=database")
        assert (takes_requests.status_code, takes_requests.json()) == (200, {"ready": True})
        # a header names no port: the connection itself decides
        named = {"Host": f"{HOST}:{stock.service.settings.health_port}"}
        for headers in ({}, named):
            metrics = await client.get("/metrics", headers=headers)
            assert (metrics.status_code, metrics.json()["code"]) == (404, "not_found")
            assert (await client.head("/metrics", headers=headers)).status_code == 404


async def test_the_health_port_answers_nothing_else(stock: Served, health: httpx.AsyncClient) -> None:
    async with stock.client() as client:
        login = {"Authorization": client.headers["Authorization"]}
        for path in ("/v1/products", "/openapi.json", "/asyncapi.json"):
            assert (await client.get(path)).status_code == 200
            assert (await health.get(path, headers=login)).status_code == 404


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    told = {
        "STOCK_AMQP_URL": NO_BROKER,
        "STOCK_DATABASE_URL": f"sqlite:///{tmp_path}/stock.db",
        "STOCK_HEALTH_PORT": str(lasting_port()),
        "MALOTE_JWT_SECRET": SECRET,
    }
    made = Process("stock", told, tmp_path / "log")
    yield made
    made.kill()


async def test_both_ports_end_together_at_sigterm(process: Process, tmp_path: Path) -> None:
    ports = [process.environment["STOCK_PORT"], process.environment["STOCK_HEALTH_PORT"]]
    process.start()
    for port in ports:
        await until(lambda port=port: _answers(port), f"port {port} to answer: {process.log()}", 60)
    await process.stop()
    assert [await _answers(port) for port in ports] == [False, False]
    assert "Traceback" not in process.log()
    assert "stopped" in process.log()


async def _answers(port: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            return (await http.get(f"http://{HOST}:{port}/livez", timeout=5)).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.mark.parametrize("variable", ["STOCK_PORT", "STOCK_HEALTH_PORT"])
async def test_a_taken_port_ends_the_start_with_the_variables_name(process: Process, variable: str) -> None:
    with socket.create_server((HOST, int(process.environment[variable]))):
        ended = await asyncio.to_thread(forking.run, "shared.service", "stock", env=process.environment)
    assert ended.returncode == 78, ended.stderr
    assert f"{variable} (or MALOTE_{variable.removeprefix('STOCK_')}): cannot listen at {HOST} port " in ended.stderr
    assert "Traceback" not in ended.stderr
