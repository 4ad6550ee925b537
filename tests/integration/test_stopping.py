"""A process that is told to end while it is busy: whoever waits is answered, and who has no answer knows what to do."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from shared.http.stopping import Stopping
from tests.integration.test_gateway_jobs import ORDER
from tests.running import Broker, until
from tests.serving import NO_BROKER, serving, token
from tests.several import Processes, processes

LOGIN = {"Authorization": f"Bearer {token()}"}
AT_ONCE = 30


@pytest.fixture
async def fleet(broker: Broker, tmp_path: Path) -> AsyncIterator[Processes]:
    async with processes(broker.url, tmp_path) as started:
        yield started


class Clients:
    """What many clients ask of a gateway at once, and what they are answered."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(
            base_url=url, headers=LOGIN, timeout=40, trust_env=False, limits=httpx.Limits(max_connections=None)
        )
        self.answers: list[httpx.Response] = []
        self.unanswered = 0
        self.asked = 0
        self.streams = 0
        self.is_open = True

    async def place(self) -> None:
        while self.is_open:
            try:
                key = {"Idempotency-Key": str(uuid7())}
                self.answers.append(await self.http.post("/v1/orders", json=ORDER, headers=key))
            except httpx.ConnectError:
                return  # it listens no more
            except httpx.TransportError:
                self.unanswered += 1  # on a kept connection that was being closed

    async def wait(self, path: str, **more: Any) -> httpx.Response:
        return await self.http.post(path, **more, extensions={"trace": self._note})

    async def _note(self, event: str, _: Any) -> None:
        self.asked += event == "http11.send_request_body.complete"

    async def follow(self, path: str) -> str:
        """A stream of events from its beginning to its end. Raises `httpx.RemoteProtocolError` if it has no end."""
        taken = ""
        async with self.http.stream("GET", path) as answer:
            assert answer.status_code == 200
            self.streams += 1
            async for part in answer.aiter_text():
                taken += part
        return taken


@pytest.mark.timeout(180)
async def test_a_busy_gateway_that_is_told_to_end_answers_whoever_waits(fleet: Processes, tmp_path: Path) -> None:
    [reports] = await fleet.add("reports", f"sqlite:///{tmp_path}/reports.db", storage_url=tmp_path / "files")
    [gateway] = await fleet.add(
        "gateway",
        f"sqlite:///{tmp_path}/gateway.db",
        reports_url=reports.url,
        customer_limit="100000/second",
        recipient_limit="100000/second",
    )
    clients = Clients(gateway.url)
    job = (await clients.http.post("/v1/orders", json=ORDER)).json()["links"]["job"]
    placing = [asyncio.create_task(clients.place()) for _ in range(AT_ONCE)]
    prefers = [clients.wait("/v1/orders", json=ORDER, headers={"Prefer": "wait=30"}) for _ in range(5)]
    waits = [clients.wait(f"{job}/wait", params={"timeout": 30}) for _ in range(5)]
    began = asyncio.get_running_loop().time()
    waiting = [asyncio.create_task(wait) for wait in prefers + waits]
    paths = [f"{job}/events", "/v1/notifications/events"]
    following = [asyncio.create_task(clients.follow(path)) for path in paths for _ in range(3)]
    await until(lambda: _are(clients.asked == len(waiting) and clients.streams == len(following)), "all to wait")
    await until(lambda: _are(len(clients.answers) > AT_ONCE), "orders to be taken meanwhile")
    stopping = asyncio.create_task(gateway.stop())
    waited = await asyncio.gather(*waiting)
    streams = await asyncio.gather(*following)
    took = asyncio.get_running_loop().time() - began
    await asyncio.gather(stopping, *placing)
    await clients.http.aclose()
    assert took < 30, "nobody waits to the end of its time"
    assert [answer.status_code for answer in waited] == [202] * len(waited)
    assert all(answer.json()["status"] == "PENDING" for answer in waited)
    assert all(taken.endswith("\n\n") for taken in streams if taken)
    refused = [answer for answer in clients.answers if answer.status_code != 202]
    assert all(_is_told(answer) for answer in refused), [answer.text for answer in refused]
    assert clients.unanswered <= AT_ONCE
    assert "Traceback" not in gateway.log()


async def _are(all_of_it: bool) -> bool:
    return all_of_it


def _is_told(answer: httpx.Response) -> bool:
    return bool(answer.status_code == 503 and answer.json()["code"] == "stopping")


async def test_what_cannot_be_finished_in_time_is_a_problem_that_names_the_idempotency_key(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with serving("gateway", NO_BROKER, f"sqlite:///{path}") as gateway, gateway.client() as client:
        lock = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        await asyncio.to_thread(lock.execute, "BEGIN IMMEDIATE")
        asking = asyncio.create_task(client.post("/v1/orders", json=ORDER))
        await until(lambda: _are(bool(gateway.server.server_state.tasks)), "the request to be in hand")
        gateway.server.should_exit = True
        answer = await asking
        lock.execute("ROLLBACK")
        lock.close()
    assert answer.status_code == 503
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["retry-after"]) > 0
    problem: dict[str, Any] = json.loads(answer.text)
    assert problem["code"] == "stopping"
    assert "Idempotency-Key" in problem["detail"]


async def test_a_wait_ends_when_the_process_is_about_to_stop_and_none_begins_after() -> None:
    stopping = Stopping()

    async def wait() -> None:
        async with stopping.wait(60):
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    stopping.begin()
    outcomes = await asyncio.gather(*waiting, wait(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 4
