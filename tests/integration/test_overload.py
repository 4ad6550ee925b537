"""More comes than goes: no broker, no room on the disk, and many who only listen."""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psutil
import pytest
from sqlalchemy import func, select, update

from deploy.local.ports import free_port
from services.gateway.store.jobs import Job
from shared.messaging.outbox import outbox
from shared.persistence.database import Database
from shared.service import Service
from tests.chaos.proxy import link_to
from tests.migrated import migrate
from tests.running import SECRET, Broker, until
from tests.servers import ON_SQLITE
from tests.serving import NO_BROKER, serving, token
from tests.several import Process

ORDER: dict[str, Any] = {
    "customer": {"id": "ana", "name": "Ana Souza", "email": "ana@example.com"},
    "currency": "BRL",
    "lines": [{"sku": "COFFEE-1KG", "quantity": 2}],
}
COFFEE = {"name": "Coffee", "price": {"amount": 6990, "currency": "BRL"}}
STREAMS = int(os.environ.get("STREAMS", "300"))  # each costs both sides some milliseconds to open; 10000 do it, too
KB_A_STREAM = 80


def check(answer: httpx.Response, code: str) -> None:
    """It is a 503 that says when to come again."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert int(answer.headers["retry-after"]) > 0


async def rows(service: Service, table: Any = outbox) -> int:
    async with service.database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


# -- no broker --------------------------------------------------------------------------------------------------------


@ON_SQLITE
async def test_without_a_broker_so_many_are_accepted_and_once_it_is_back_the_rest_are(
    broker: Broker, database_url: str
) -> None:
    port = free_port()
    there = urlsplit(broker.url)
    closed = there._replace(netloc=there.netloc.replace(f":{there.port}", f":{port}")).geturl()
    async with serving("gateway", closed, database_url, outbox_limit=5) as gateway, gateway.client() as ana:
        answers = [await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": str(n)}) for n in range(8)]
        accepted = [answer.json()["job_id"] for answer in answers if answer.status_code == 202]
        assert 1 <= len(accepted) <= 5, (
            "what is committed while the table is counted may count twice until the next time"
        )
        refused = answers[-1]
        check(refused, "outbox_full")
        assert refused.json()["detail"].startswith("5 messages wait for the broker")
        check(await ana.post(f"/v1/jobs/{accepted[0]}/cancel"), "outbox_full")
        again = await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "0"})
        assert (again.status_code, again.json()) == (202, answers[0].json())
        assert await rows(gateway.service) == await rows(gateway.service, Job) == len(accepted)
        assert len((await ana.get("/v1/jobs")).json()["data"]) == len(accepted)
        spy = await broker.spy(("commands", "order.place.v1"))
        async with link_to(there.port, port):  # where the gateway has looked for the broker so far
            await until(lambda: _is_accepted(ana), "orders to be accepted again")
            await spy.collect(len(accepted) + 1)
            assert [found.correlation_id for found in spy.seen[: len(accepted)]] == accepted


async def _is_accepted(client: httpx.AsyncClient) -> bool:
    answer = await client.post("/v1/orders", json=ORDER)
    if answer.status_code != 202:
        check(answer, "outbox_full")
    return answer.status_code == 202


async def test_wishes_at_the_same_time_overrun_the_limit_by_no_more_than_those_on_their_way(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", outbox_limit=20) as gateway,
        gateway.client() as ana,
    ):
        for _ in range(5):
            await asyncio.gather(*(ana.post("/v1/orders", json=ORDER) for _ in range(16)))
        assert 20 <= await rows(gateway.service) < 20 + 16


async def test_what_another_process_accepted_counts_once_it_is_known(tmp_path: Path) -> None:
    told = {"amqp_url": NO_BROKER, "database_url": f"sqlite:///{tmp_path}/g.db", "outbox_limit": 4}
    async with serving("gateway", **told) as one, serving("gateway", **told) as other, one.client() as ana:
        for _ in range(4):
            assert (await ana.post("/v1/orders", json=ORDER)).status_code == 202
        await other.service.outbox.measure()  # every ten seconds, by itself
        async with other.client() as there:
            check(await there.post("/v1/orders", json=ORDER), "outbox_full")


async def test_a_count_that_was_made_while_others_wrote_is_made_good_by_the_next(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", recipient_limit="1000/second") as gateway,
        gateway.client() as ana,
    ):
        measuring = [gateway.service.outbox.measure() for _ in range(20)]
        await asyncio.gather(*measuring, *(ana.post("/v1/orders", json=ORDER) for _ in range(20)))
        await gateway.service.outbox.measure()
        assert gateway.service.outbox._rows == await rows(gateway.service) == 20


async def test_every_service_that_is_asked_over_http_has_the_same_limit(tmp_path: Path) -> None:
    async with (
        serving("stock", NO_BROKER, f"sqlite:///{tmp_path}/s.db", outbox_limit=1) as stock,
        stock.client("olga", "operator") as operator,
    ):
        assert (await operator.put("/v1/products/A", json=COFFEE)).status_code == 200
        check(await operator.put("/v1/products/A", json=COFFEE), "outbox_full")
        check(await operator.post("/v1/products/A/adjustments", json={"delta": 1, "reason": "count"}), "outbox_full")
        level = (await operator.get("/v1/products/A")).json()
        assert (level["on_hand"], level["revision"]) == (0, 1)
        assert (await operator.get("/readyz?only=database")).status_code == 200


# -- no room on the disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB that a test may fill. Only root may mount one: elsewhere the test is passed over."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "malote", str(disk)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("PASSED OVER: a full disk was not tried, as this user may not mount one")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * 512)


async def test_a_full_disk_is_a_503_nothing_is_lost_and_it_goes_on_by_itself(small_disk: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{small_disk}/g.db") as gateway,
        gateway.client() as ana,
    ):
        accepted = [(await ana.post("/v1/orders", json=ORDER)).json()["job_id"] for _ in range(10)]
        fill(small_disk)
        refused = [await ana.post("/v1/orders", json=ORDER) for _ in range(40)]
        accepted += [answer.json()["job_id"] for answer in refused if answer.status_code == 202]  # into what was left
        check(refused[-1], "unavailable")
        assert {answer.status_code for answer in refused} <= {202, 503}
        assert (await ana.get(f"/v1/jobs/{accepted[0]}")).status_code == 200
        assert (await ana.get("/livez")).status_code == 200
        (small_disk / "ballast").unlink()
        await until(lambda: _is_room(ana, accepted), "orders to be accepted again")
        known = [await ana.get(f"/v1/jobs/{job_id}") for job_id in accepted]
        assert {answer.status_code for answer in known} == {200}
        assert await rows(gateway.service) == len(accepted)


async def _is_room(client: httpx.AsyncClient, accepted: list[str]) -> bool:
    answer = await client.post("/v1/orders", json=ORDER)
    if answer.status_code == 202:
        accepted.append(answer.json()["job_id"])
    return answer.status_code == 202


# -- those who only listen --------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Process]:
    """A gateway as it runs, without a broker, for `STREAMS` listeners; started."""
    url = f"sqlite:///{tmp_path}/g.db"
    migrate("gateway", url)
    told = {"database_url": url, "amqp_url": NO_BROKER, "jwt_secret": SECRET, "log_level": "ERROR"}
    told["recipient_limit"] = "1000000/hour"
    told |= {"stream_limit": STREAMS, "connections": STREAMS + 100, "customer_limit": f"{10 * STREAMS}/second"}
    process = Process("gateway", {f"GATEWAY_{name.upper()}": str(told[name]) for name in told}, tmp_path / "log")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], STREAMS + 500), max(before[1], STREAMS + 500)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
async def test_idle_streams_take_little_each_and_all_are_told_while_others_are_served(
    alone: Process, tmp_path: Path
) -> None:
    gateway, headers = psutil.Process(alone.pid), {"Authorization": f"Bearer {token()}"}
    async with httpx.AsyncClient(base_url=alone.url, headers=headers, trust_env=False, timeout=30) as ana:
        await until(lambda: _is_alive(ana), "the gateway to listen", 60)
        job = (await ana.post("/v1/orders", json=ORDER)).json()
        before = gateway.memory_full_info().uss
        streams = [await _follow(alone.url, job["links"]["events"]) for _ in range(STREAMS)]
        assert (gateway.memory_full_info().uss - before) / 1024 / STREAMS < KB_A_STREAM
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert (await ana.post("/v1/orders", json=ORDER)).status_code == 202
            assert (await ana.get("/livez")).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2, "generous: other tests run beside this one"
        await _end(Database(f"sqlite:///{tmp_path}/g.db"), UUID(job["job_id"]))
        async with asyncio.timeout(60):
            for reader, writer in streams:
                assert b'"status":"SUCCESS"' in await reader.read()
                writer.close()


async def _is_alive(client: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return (await client.get("/livez")).status_code == 200
    return False


async def _follow(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An event stream whose first event has come."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    asked = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token()}\r\n\r\n"
    writer.write(asked.encode())
    begun = await reader.readuntil(b"event: state")
    assert re.match(rb"HTTP/1.1 200 ", begun), begun
    return reader, writer


async def _end(database: Database, job_id: UUID) -> None:
    """As another process would."""
    at = round(time.time() * 1000)
    jobs: Any = Job
    async with database.transaction() as session:
        ended = {"status": "SUCCESS", "revision": 2, "ended_at": at, "updated_at": at}
        await session.execute(update(Job).where(jobs.id == job_id).values(**ended))
    await database.dispose()
