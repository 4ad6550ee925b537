"""The command line's client, against a gateway made of canned answers."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from deploy.cli.client.events import server_sent
from deploy.cli.client.gateway import Gateway
from deploy.cli.errors import Failed, NotRunning, Refused
from deploy.local.environment import Misconfigured

Answer = Callable[[httpx.Request], httpx.Response]
ENDED = {"id": "j", "job_id": "j", "status": "SUCCESS", "result": {}, "error": None, "ended_at": "2026-11-02T14:30:00Z"}
BEGUN = ENDED | {"status": "PENDING", "result": None, "ended_at": None}


def gateway(answer: Answer) -> Gateway:
    made = Gateway("http://gateway", "token")
    made._connection._http = httpx.AsyncClient(base_url=made.url, transport=httpx.MockTransport(answer))
    return made


def event(name: str, event_id: str, data: str) -> str:
    return f"event: {name}\nid: {event_id}\ndata: {data}\n\n"


async def test_a_refusal_is_said_in_the_gateways_words() -> None:
    problem = {"detail": "There is no order 1.", "code": "order_not_found"}
    with pytest.raises(Refused, match=r"There is no order 1\. \(404 order_not_found\)"):
        await gateway(lambda _: httpx.Response(404, json=problem)).order("1")


async def test_an_outage_behind_the_gateway_is_no_refusal() -> None:
    problem = {"detail": "orders does not answer.", "code": "unavailable"}
    with pytest.raises(Failed, match="malote doctor") as raised:
        await gateway(lambda _: httpx.Response(503, json=problem)).order("1")
    assert raised.value.status == 1


async def test_a_bad_token_is_met_with_where_to_put_a_good_one() -> None:
    problem = {"detail": "The token has expired.", "code": "token_expired"}
    with pytest.raises(Refused, match="MALOTE_TOKEN"):
        await gateway(lambda _: httpx.Response(401, json=problem)).order("1")


@pytest.mark.parametrize("foreign", [httpx.Response(200, text="hello"), httpx.Response(404, json={"error": "x"})])
async def test_another_program_at_the_address_is_not_taken_for_a_gateway(foreign: httpx.Response) -> None:
    with pytest.raises(Failed, match="not Malote's gateway"):
        await gateway(lambda _: foreign).order("1")


async def test_nobody_at_the_address_is_not_running() -> None:
    with pytest.raises(NotRunning, match="malote up"):
        await Gateway("http://127.0.0.1:1", "token").order("1")


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://a:b", "ftp://a"])
def test_an_address_that_is_none_names_the_variable(address: str) -> None:
    with pytest.raises(Misconfigured, match="MALOTE_GATEWAY_URL"):
        Gateway(address, "token")


async def test_lists_are_read_to_their_last_page() -> None:
    pages = {None: ("A", "B"), "B": ("C",)}

    def answer(request: httpx.Request) -> httpx.Response:
        skus = pages[request.url.params.get("starting_after")]
        return httpx.Response(200, json={"data": [{"sku": sku} for sku in skus], "has_more": "A" in skus})

    assert [product["sku"] async for product in gateway(answer).products()] == ["A", "B", "C"]


async def test_a_long_wait_is_taken_in_turns_that_the_gateway_allows() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("prefer") or request.url.params["timeout"])
        return httpx.Response(200, json=ENDED if len(asked) == 3 else BEGUN)

    job = await gateway(answer).place({}, wait=100)
    assert (job["status"], asked) == ("SUCCESS", ["wait=30", "30", "30"])


async def test_a_wait_ends_with_the_last_turn() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("prefer") or request.url.params["timeout"])
        return httpx.Response(202, json=BEGUN)

    job = await gateway(answer).place({}, wait=45)
    assert (job["status"], asked) == ("PENDING", ["wait=30", "15"])


async def test_a_broken_stream_is_taken_up_after_the_last_event() -> None:
    resumed: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        resumed.append(request.headers.get("last-event-id"))
        first = event("timeline", "0.1", "{}") + event("state", "1.1", json.dumps(BEGUN)) + "event: state\nid: 2.2\nda"
        return httpx.Response(200, text=first if len(resumed) == 1 else event("state", "2.2", json.dumps(ENDED)))

    seen = [job["status"] async for job in gateway(answer).watch("j")]
    assert (seen, resumed) == (["PENDING", "SUCCESS"], [None, "1.1"])


async def test_progress_is_seen_between_states() -> None:
    begun, ended = json.dumps(BEGUN), json.dumps(ENDED)
    text = event("state", "1.0", begun) + event("progress", "2.0", '{"done": 3}') + event("state", "3.0", ended)
    jobs = [job async for job in gateway(lambda _: httpx.Response(200, text=text)).watch("j")]
    assert [job.get("progress") for job in jobs] == [None, {"done": 3}, None]


async def test_a_stream_that_never_says_anything_is_given_up() -> None:
    with pytest.raises(Failed, match="malote jobs show"):
        _ = [job async for job in gateway(lambda _: httpx.Response(200, text="")).watch("j")]


async def test_a_stream_that_is_refused_says_why() -> None:
    problem = {"detail": "There is no job j.", "code": "job_not_found"}
    with pytest.raises(Refused, match="There is no job j"):
        _ = [job async for job in gateway(lambda _: httpx.Response(404, json=problem)).watch("j")]


async def test_events_are_read_whatever_pieces_they_come_in() -> None:
    text = ': ping\r\n\r\nevent: state\r\nid: 7\r\ndata: {"name":\r\ndata: "Ana\u2028Souza\x85"}\r\n\r\n'

    async def pieces() -> AsyncIterator[str]:
        for letter in text:
            yield letter

    found: list[Any] = [event async for event in server_sent(pieces())]
    assert found == [("state", "7", {"name": "Ana\u2028Souza\x85"})]
