"""From a request to its answer: jobs on a real broker and both databases, with the test in the place of orders."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from contracts.base import Message, Money
from contracts.jobs import JobFailed, JobProgressed, JobRetrying
from contracts.orders import OrderCancelled, OrderConfirmed, OrderRejected
from tests.running import Broker, an_order, until
from tests.servers import ON_SQLITE
from tests.serving import Served, serving

COMMANDS = (("commands", "order.place.v1"), ("commands", "order.cancel.v1"))
ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}
ORDER = {"customer": ANA, "currency": "BRL", "lines": [{"sku": "COFFEE-1KG", "quantity": 2}]}
Job = dict[str, Any]


@pytest.fixture
async def gateway(broker: Broker, database_url: str) -> AsyncIterator[Served]:
    async with serving("gateway", broker.url, database_url) as served:
        yield served


@pytest.fixture
async def ana(gateway: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client("ana") as client:
        yield client


async def placed(client: httpx.AsyncClient) -> Job:
    answer = await client.post("/v1/orders", json=ORDER)
    assert answer.status_code == 202, answer.text
    accepted: Job = answer.json()
    return accepted


def confirmation(job: Job) -> OrderConfirmed:
    order = an_order(order_id=job["order_id"])
    return OrderConfirmed(**order.model_dump(), confirmed_at="2026-01-01T00:00:01Z")


async def say(broker: Broker, message: Message, job: Job) -> None:
    await broker.publish(message, correlation_id=job["job_id"], app_id=message.exchange)


async def ended(client: httpx.AsyncClient, job: Job) -> Job:
    answer = await client.post(f"/v1/jobs/{job['job_id']}/wait?timeout=20")
    assert answer.status_code == 200, answer.text
    found: Job = answer.json()
    return found


@ON_SQLITE
async def test_an_order_becomes_a_command_whose_id_is_the_jobs(broker: Broker, ana: httpx.AsyncClient) -> None:
    spy = await broker.spy(*COMMANDS)
    job = await placed(ana)
    [command] = await spy.collect(1)
    assert command == {"order_id": job["order_id"], **ORDER}
    [sent] = spy.seen
    assert sent.message_id == sent.correlation_id == job["job_id"]
    assert sent.app_id == "gateway"


@ON_SQLITE
async def test_a_job_is_accepted_with_links_to_what_comes_of_it(ana: httpx.AsyncClient) -> None:
    answer = await ana.post("/v1/orders", json=ORDER)
    job = answer.json()
    assert job == {
        "job_id": job["job_id"],
        "order_id": job["order_id"],
        "report_id": None,
        "status": "PENDING",
        "links": {
            "job": f"/v1/jobs/{job['job_id']}",
            "order": f"/v1/orders/{job['order_id']}",
            "report": None,
            "events": f"/v1/jobs/{job['job_id']}/events",
        },
    }
    assert answer.headers["location"] == job["links"]["job"]
    assert answer.headers["retry-after"] == "1"


@ON_SQLITE
async def test_a_confirmed_order_ends_its_job_well(broker: Broker, ana: httpx.AsyncClient) -> None:
    job = await placed(ana)
    await say(broker, confirmation(job), job)
    found = await ended(ana, job)
    assert found["status"] == "SUCCESS"
    assert found["result"]["order_id"] == job["order_id"]
    assert found["ended_at"]
    assert [(line["message"], line["service"]) for line in found["timeline"]] == [
        ("order.place.v1", "gateway"),
        ("order.confirmed.v1", "orders"),
    ]


@ON_SQLITE
async def test_a_rejected_order_ends_its_job_badly_and_says_why(broker: Broker, ana: httpx.AsyncClient) -> None:
    job = await placed(ana)
    lines = [{"sku": "COFFEE-1KG", "quantity": 2, "available": 1}]
    rejected = OrderRejected(
        **an_order(order_id=job["order_id"]).model_dump(),
        currency="BRL",
        reason="out_of_stock",
        rejected_lines=lines,
        rejected_at="2026-01-01T00:00:00Z",
    )
    await say(broker, rejected, job)
    found = await ended(ana, job)
    assert found["status"] == "FAILURE"
    assert found["error"]["code"] == "out_of_stock"
    assert found["error"]["rejected_lines"] == lines
    assert found["result"] is None


async def test_retries_and_progress_show_and_of_the_final_states_only_being_given_up_is_left(
    broker: Broker, ana: httpx.AsyncClient
) -> None:
    job = await placed(ana)

    async def status() -> Any:
        return (await ana.get(job["links"]["job"])).json()

    await say(broker, JobRetrying(attempt=1, retry_in=5), job)
    await until(lambda: _is(status, "RETRY"))
    await say(broker, JobProgressed(done=1, total=4, unit="rows"), job)
    await say(broker, JobProgressed(done=2, total=4, unit="rows"), job)
    await until(lambda: _is(status, "STARTED"))
    await say(broker, JobFailed(reason="dead_lettered", detail="given up"), job)
    failed = await ended(ana, job)
    assert failed["progress"] == JobProgressed(done=2, total=4, unit="rows").model_dump()
    assert failed["error"] == {"code": "dead_lettered", "detail": "given up"}
    assert [line["message"] for line in failed["timeline"]] == ["order.place.v1", "job.retrying.v1", "job.failed.v1"]
    await say(broker, JobRetrying(attempt=2, retry_in=5), job)
    await say(broker, JobProgressed(done=3, total=4, unit="rows"), job)
    await _until_all_is_handled(broker, ana)
    assert await status() == failed
    await say(broker, confirmation(job), job)
    await until(lambda: _is(status, "SUCCESS"))
    succeeded = await status()
    await say(broker, JobFailed(reason="dead_lettered", detail="given up"), job)
    await _until_all_is_handled(broker, ana)
    assert await status() == succeeded


async def _until_all_is_handled(broker: Broker, ana: httpx.AsyncClient) -> None:
    other = await placed(ana)
    await say(broker, confirmation(other), other)
    await ended(ana, other)


async def _is(status: Any, wanted: str) -> bool:
    return bool((await status())["status"] == wanted)


async def test_one_key_is_one_cancellation_however_the_orders_id_is_written(ana: httpx.AsyncClient) -> None:
    order_id, key = (await placed(ana))["order_id"], {"Idempotency-Key": "once"}
    first = await ana.post(f"/v1/orders/{order_id}/cancel", headers=key)
    again = await ana.post(f"/v1/orders/{order_id.upper()}/cancel", headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["job_id"] == first.json()["job_id"]


@ON_SQLITE
async def test_cancelling_ends_two_jobs(broker: Broker, ana: httpx.AsyncClient) -> None:
    job = await placed(ana)
    answer = await ana.post(f"/v1/jobs/{job['job_id']}/cancel")
    assert answer.status_code == 202
    wish = answer.json()
    assert wish["order_id"] == job["order_id"]
    known = confirmation(job).model_dump(exclude={"confirmed_at"})
    cancelled = OrderCancelled(**known, cancelled_at="2026-01-01T00:00:01Z", order_job_id=job["job_id"])
    await say(broker, cancelled, wish)
    assert (await ended(ana, wish))["status"] == "SUCCESS"
    assert (await ended(ana, job))["status"] == "CANCELLED"
    assert (await ana.post(f"/v1/jobs/{job['job_id']}/cancel")).status_code == 409
    assert (await ana.post(f"/v1/jobs/{wish['job_id']}/cancel")).status_code == 409


@ON_SQLITE
async def test_the_same_key_gets_its_first_answer_after_the_cancellation_took_effect(
    broker: Broker, ana: httpx.AsyncClient
) -> None:
    job, key = await placed(ana), {"Idempotency-Key": "once"}
    paths = [f"/v1/jobs/{job['job_id']}/cancel", f"/v1/orders/{job['order_id']}/cancel"]
    first = [(await ana.post(path, headers=key)).json() for path in paths]
    known = confirmation(job).model_dump(exclude={"confirmed_at"})
    cancelled = OrderCancelled(**known, cancelled_at="2026-01-01T00:00:01Z", order_job_id=job["job_id"])
    await say(broker, cancelled, first[0])
    assert (await ended(ana, job))["status"] == "CANCELLED"
    for path, answer in zip(paths, first, strict=True):
        again = await ana.post(path, headers=key)
        assert (again.status_code, again.json()) == (202, answer)
        assert again.headers["idempotent-replayed"] == "true"
        assert (await ana.post(path, headers={"Idempotency-Key": "another"})).status_code in (409, 503)


async def test_messages_of_jobs_that_are_not_ours_are_passed_over(broker: Broker, ana: httpx.AsyncClient) -> None:
    job = await placed(ana)
    for stranger in (str(uuid7()), "order-4711", "x" * 255):
        await say(broker, confirmation(job), {"job_id": stranger})
    await say(broker, confirmation(job), job)
    assert (await ended(ana, job))["status"] == "SUCCESS"
    assert await broker.depth("gateway.dlq") == 0


@ON_SQLITE
async def test_a_client_that_prefers_to_wait_gets_the_result(broker: Broker, ana: httpx.AsyncClient) -> None:
    spy = await broker.spy(*COMMANDS)
    waiting = asyncio.create_task(ana.post("/v1/orders", json=ORDER, headers={"Prefer": "wait=20"}))
    [command] = await spy.collect(1)
    [sent] = spy.seen
    job = {"job_id": sent.message_id, "order_id": command["order_id"]}
    await say(broker, confirmation(job), job)
    answer = await waiting
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["location"] == f"/v1/orders/{command['order_id']}"
    assert answer.json()["status"] == "SUCCESS"
    assert answer.json()["result"]["total"] == Money(amount=100, currency="BRL").model_dump()


@ON_SQLITE
async def test_a_wait_that_runs_out_is_a_202(ana: httpx.AsyncClient) -> None:
    answer = await ana.post("/v1/orders", json=ORDER, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0"
    answer = await ana.post(f"{answer.json()['links']['job']}/wait?timeout=0")
    assert answer.status_code == 202
    assert answer.json()["status"] == "PENDING"


async def test_a_change_by_another_process_is_noticed(
    broker: Broker, gateway: Served, ana: httpx.AsyncClient, database_url: str
) -> None:
    job = await placed(ana)
    waiting = asyncio.create_task(ended(ana, job))
    for subscriber in gateway.service._subscriptions:
        await subscriber.stop()
    async with serving("gateway", broker.url, database_url):
        await say(broker, confirmation(job), job)
        assert (await waiting)["status"] == "SUCCESS"


async def events(client: httpx.AsyncClient, job: Job, last: str | None = None) -> AsyncIterator[dict[str, str]]:
    headers = {"Last-Event-ID": last} if last else {}
    async with client.stream("GET", f"/v1/jobs/{job['job_id']}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif event:
                yield event
                event = {}


@ON_SQLITE
async def test_events_tell_a_job_as_it_goes_on_and_end_with_it(broker: Broker, ana: httpx.AsyncClient) -> None:
    job = await placed(ana)
    seen = []
    async for happened in events(ana, job):
        seen.append(happened)
        if len(seen) == 2:
            await say(broker, JobProgressed(done=1, total=2, unit="rows"), job)
        if happened["event"] == "progress":
            assert json.loads(happened["data"]) == JobProgressed(done=1, total=2, unit="rows").model_dump()
            await say(broker, confirmation(job), job)
    assert [happened["event"] for happened in seen] == ["timeline", "state", "progress", "timeline", "state"]
    assert json.loads(seen[-1]["data"])["status"] == "SUCCESS"
    again = [happened async for happened in events(ana, job, last=seen[2]["id"])]
    assert again == seen[3:]


@ON_SQLITE
async def test_who_has_all_of_a_job_that_has_ended_is_told_to_come_no_more(
    broker: Broker, ana: httpx.AsyncClient
) -> None:
    job = await placed(ana)
    await say(broker, confirmation(job), job)
    await ended(ana, job)
    seen = [happened async for happened in events(ana, job)]
    again = await ana.get(job["links"]["events"], headers={"Last-Event-ID": seen[-1]["id"]})
    assert (again.status_code, again.content) == (204, b"")
    assert [happened async for happened in events(ana, job, last=seen[-2]["id"])] == seen[-1:]


@ON_SQLITE
async def test_a_repeat_that_waits_says_how_far_its_job_is(broker: Broker, ana: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "once"}
    job = (await ana.post("/v1/orders", json=ORDER, headers=key)).json()
    await say(broker, JobProgressed(done=1, total=4, unit="rows"), job)

    async def status() -> Any:
        return (await ana.get(job["links"]["job"])).json()

    await until(lambda: _is(status, "STARTED"))
    again = await ana.post("/v1/orders", json=ORDER, headers=key | {"Prefer": "wait=0"})
    assert again.status_code == 202
    assert again.json() == job | {"status": "STARTED"}


async def test_what_many_gateways_and_copies_do_at_once_happens_once(
    broker: Broker, gateway: Served, database_url: str
) -> None:
    spy = await broker.spy(*COMMANDS)
    async with (
        serving("gateway", broker.url, database_url) as second,
        gateway.client() as here,
        second.client() as there,
    ):
        sends = [c.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "k"}) for c in [here, there] * 25]
        answers = await asyncio.gather(*sends)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.text for answer in answers}) == 1
        other = await here.post("/v1/orders", json=ORDER)
        assert other.status_code == 202
    await spy.collect(2)
    assert {sent.message_id for sent in spy.seen} == {answers[0].json()["job_id"], other.json()["job_id"]}
    assert len(spy.seen) == 2
