"""What clients do to a connection: too long, too slow, too many, none of it well meant. Others are served meanwhile."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from shared.http import connection
from shared.http.connection import HEAD_LIMIT, PIPELINED, REQUEST_LIMIT, RESERVED
from shared.http.room import SHARES
from shared.observability import metrics
from tests.running import until
from tests.serving import NO_BROKER, Served, serving, token

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
LARGE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n"
MOST = 20
ORDER = {
    "customer": {"id": "ana", "name": "Ana", "email": "ana@example.com"},
    "currency": "BRL",
    "lines": [{"sku": "A", "quantity": 1}],
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", connections=MOST) as served:
        yield served


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second in place of a quarter and of a whole minute."""
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.5)


class Client:
    """A connection that may be used as no library would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # closed already: the answer says why
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()

    async def answers(self) -> bytes:
        """All that comes until the server closes."""
        taken = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                while some := await self.reader.read(65_536):
                    taken += some
        return taken


@contextlib.asynccontextmanager
async def connected(gateway: Served) -> AsyncIterator[Client]:
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def check(answer: bytes, status: int, code: str) -> dict[str, Any]:
    """One answer, and it is a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    problem: dict[str, Any] = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    return problem


async def test_headers_that_are_too_large_are_refused_as_a_problem(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"Cookie: " + b"x" * HEAD_LIMIT + b"\r\n\r\n")
        problem = check(await client.answers(), 431, "headers_too_large")
        assert problem["detail"].endswith(f"at most {HEAD_LIMIT} bytes.")


@pytest.mark.parametrize("part", [b"x" * 1024, b"A: b\r\n" * 200], ids=["one header", "many headers"])
async def test_headers_without_an_end_are_cut_off(gateway: Served, part: bytes) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"Cookie: ", *(part for _ in range(100)))
        check(await client.answers(), 431, "headers_too_large")


async def test_an_address_without_an_end_is_cut_off(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(b"GET /", *(b"x" * 1024 for _ in range(100)))
        check(await client.answers(), 431, "headers_too_large")


async def test_headers_below_the_limit_are_taken(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        assert (await client.get("/livez", headers={"Cookie": "x" * (HEAD_LIMIT - 500)})).status_code == 200


@pytest.mark.parametrize(
    "what", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", GET + b"bad header\r\n\r\n"]
)
async def test_what_is_not_http_is_answered_as_a_problem(gateway: Served, what: bytes) -> None:
    async with connected(gateway) as client:
        await client.send(what)
        check(await client.answers(), 400, "malformed_request")


async def test_a_body_that_goes_wrong_on_the_way_is_answered_as_a_problem(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"not a size\r\n")
        check(await client.answers(), 400, "malformed_request")


async def test_a_body_beside_an_upgrade_is_refused_and_not_taken_for_another_request(gateway: Served) -> None:
    hidden = GET + b"\r\n"
    async with connected(gateway) as client:
        await client.send(POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(hidden))
        await client.send(hidden)
        check(await client.answers(), 400, "no_upgrade")


async def test_an_upgrade_without_a_body_is_passed_over(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answers()).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "chunk", [b"0\r\n" + b"T: " + b"x" * 60_000, b"1;" + b"e" * 1000 + b"\r\n \r\n"], ids=["trailers", "extensions"]
)
async def test_what_surrounds_a_body_has_an_end_too(gateway: Served, chunk: bytes) -> None:
    async with connected(gateway) as client:
        head = POST + f"Authorization: Bearer {token()}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        await client.send(
            head + chunk, *(chunk[-1000:] if chunk[:1] == b"0" else chunk for _ in range(REQUEST_LIMIT // 900))
        )
        check(await client.answers(), 413, "too_large")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "begun",
    [GET, GET + b"X", b"G", POST + b"Content-Length: 100\r\n\r\n", POST + b"Content-Length: 100\r\n\r\n{"],
)
async def test_a_request_that_does_not_come_to_its_end_is_given_up(gateway: Served, begun: bytes) -> None:
    async with connected(gateway) as client:
        await client.send(begun)
        said = await client.answers()
        check(said, 408, "too_slow")
        assert b"x-content-type-options: nosniff\r\n" in said


@pytest.mark.usefixtures("impatient")
async def test_who_is_closed_without_a_word_is_logged_all_the_same(gateway: Served) -> None:
    with capture_logs() as logged:
        async with connected(gateway) as client:
            assert await client.answers() == b""
    assert [(line["reason"], line["address"]) for line in logged if line["event"] == "connection refused"] == [
        ("too_slow", "127.0.0.1")
    ]


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_drips_is_given_up_as_one_that_says_nothing(gateway: Served) -> None:
    async with connected(gateway) as client:
        dripping = asyncio.create_task(_drip(client))
        check(await client.answers(), 408, "too_slow")
        dripping.cancel()


async def _drip(client: Client) -> None:
    await client.send(GET)
    while True:
        await client.send(b"X-More: 1\r\n")
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("impatient")
async def test_a_connection_over_which_nothing_comes_is_closed(gateway: Served) -> None:
    async with connected(gateway) as client:
        assert await client.answers() == b""


@pytest.mark.usefixtures("impatient")
async def test_a_connection_that_was_used_is_not_kept_by_empty_lines(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"\r\n")
        await client.reader.readuntil(b'{"status":"ok"}')
        await client.send(b"\r\n")
        check(await client.answers(), 408, "too_slow")


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_does_not_take_its_answer_is_given_up(gateway: Served) -> None:
    url = httpx.URL(gateway.url)
    stalled = metrics.of(metrics.HTTP_REFUSED, "stalled")
    before = stalled._value.get()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(deaf.connect, (url.host, url.port))
        await asyncio.to_thread(deaf.sendall, LARGE * 3)
        await until(lambda: _is(stalled._value.get() > before), "the connection to be given up")


async def _is(found: bool) -> bool:
    return found


async def test_requests_in_a_row_are_answered_in_their_order(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"X-Request-ID: 1\r\n\r\n" + GET + b"X-Request-ID: 2\r\nConnection: close\r\n\r\n")
        answers = await client.answers()
        assert answers.count(b"HTTP/1.1 200 OK") == 2
        assert answers.index(b"x-request-id: 1") < answers.index(b"x-request-id: 2")


async def test_more_requests_in_a_row_than_can_be_meant_are_cut_off(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send((GET + b"\r\n") * 2000)
        assert (await client.answers()).count(b"HTTP/1.1 200 OK") <= PIPELINED


async def test_too_many_connections_are_told_so_and_health_is_still_seen(gateway: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(following(gateway)) for _ in range(MOST)]
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
            refused = await client.get("/v1/jobs")
            assert (refused.status_code, refused.json()["code"]) == (503, "crowded")
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
            assert refused.headers["retry-after"] == "5"
            assert (await client.get("/livez")).status_code == 200
            busy[0].writer.close()
            await busy[0].writer.wait_closed()
            answer = await until(lambda: _unless_crowded(client), "room again")
            assert answer.status_code == 401


@contextlib.asynccontextmanager
async def following(gateway: Served) -> AsyncIterator[Client]:
    """A client with a token who listens to a job that goes on: nobody may be put in its place."""
    async with gateway.client() as ana:
        job = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["events"]
    async with connected(gateway) as client:
        await client.send(f"GET {job} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token()}\r\n\r\n".encode())
        await client.reader.readuntil(b"event: ")
        yield client


async def _unless_crowded(client: httpx.AsyncClient) -> httpx.Response | None:
    answer = await client.get("/v1/jobs")
    return None if answer.status_code == 503 else answer


async def test_a_flood_of_connections_is_closed_at_the_door(gateway: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        flood = [await stack.enter_async_context(connected(gateway)) for _ in range(MOST + RESERVED + 20)]
        open_ = metrics.HTTP_CONNECTIONS._value.get
        await until(lambda: _is(open_() <= MOST + RESERVED), "the rest to be closed")
        assert await flood[0].answers() == b"", "the oldest makes way"


async def test_others_are_served_while_connections_are_held_half_open(gateway: Served) -> None:
    async with contextlib.AsyncExitStack() as stack, gateway.client() as ana:
        for _ in range(MOST - 2):
            await (await stack.enter_async_context(connected(gateway))).send(GET)
        assert (await ana.get("/v1/jobs")).status_code == 200


# -- who makes way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun", [b"", GET, POST + b"Content-Length: 9\r\n\r\n"], ids=["idle", "half a head", "no body"]
)
async def test_one_address_that_only_holds_connections_keeps_nobody_out(gateway: Served, begun: bytes) -> None:
    async with contextlib.AsyncExitStack() as stack:
        kept = await stack.enter_async_context(gateway.client("bia"))
        assert (await kept.get("/v1/jobs")).status_code == 200
        for _ in range(3 * MOST):
            await (await stack.enter_async_context(connected(gateway))).send(begun)
        async with gateway.client("ana") as ana, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as nobody:
            assert (await ana.get("/v1/jobs")).status_code == 200
            assert (await nobody.get("/docs")).status_code == 200
        open_ = metrics.HTTP_CONNECTIONS._value.get
        await until(lambda: _is(open_() <= MOST // SHARES + 3), "those beyond the share to be closed")
        port = kept._transport._pool.connections[0]  # type: ignore[attr-defined]
        assert port.is_idle(), "who has shown a token keeps its connection"
        assert (await kept.get("/v1/jobs")).status_code == 200


async def test_who_waits_with_a_token_makes_way_last(gateway: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(following(gateway)) for _ in range(MOST - 1)]
        idle = await stack.enter_async_context(connected(gateway))
        await idle.send(GET.replace(b"/livez", b"/v1/jobs") + f"Authorization: Bearer {token()}\r\n\r\n".encode())
        await idle.reader.readuntil(b'"has_more":false}')
        async with gateway.client("bia") as bia:
            assert (await bia.get("/v1/jobs")).status_code == 200
            assert await idle.answers() == b""
        assert not any(client.reader.at_eof() for client in busy)


async def test_behind_a_proxy_all_clients_have_one_address_so_there_is_no_share(tmp_path: Path) -> None:
    told: dict[str, Any] = {"connections": MOST, "proxies": "127.0.0.1"}
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", **told) as gateway,
        contextlib.AsyncExitStack() as stack,
    ):
        idle = [await stack.enter_async_context(connected(gateway)) for _ in range(MOST - 1)]
        async with gateway.client() as ana:
            assert (await ana.get("/v1/jobs")).status_code == 200
        assert not any(client.reader.at_eof() for client in idle)


# -- what a request is made of ----------------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"


async def test_a_token_in_a_trailer_is_none(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(POST + CHUNKED + f"Authorization: Bearer {token()}\r\n\r\n".encode())
        check(await client.answers(), 401, "token_missing")


async def test_trailers_change_nothing_that_a_header_said(gateway: Served) -> None:
    said = POST + b"X-Request-ID: header\r\n" + CHUNKED
    async with connected(gateway) as client:
        await client.send(said + b"X-Request-ID: trailer\r\nHost: b\r\nContent-Type: text/plain\r\n\r\n")
        problem = check(await client.answers(), 401, "token_missing")
        assert problem["request_id"] == "header"


AMBIGUOUS = (
    b"GET /livez HTTP/1.1\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a/v1?b\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a b\r\n",
    b"GET /livez HTTP/0.9\r\nHost: a\r\n",
    b"GET /livez HTTP/2.0\r\nHost: a\r\n",
    b"GET /livez\r\n",
    GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    GET + b"Content-Type: application/json\r\nContent-Type: text/plain\r\n",
    GET + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
    POST + b"Content-Length: 2\r\nContent-Length: 3\r\n",
    POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
)
PLAIN = (
    b"GET /livez HTTP/1.0\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a.example:8000\r\nConnection: close\r\n",
    b"GET /livez HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n",
    b"GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n",
)


async def test_a_request_that_can_be_read_in_two_ways_is_malformed(gateway: Served) -> None:
    for head in AMBIGUOUS:
        async with connected(gateway) as client:
            await client.send(head + b"\r\n")
            assert check(await client.answers(), 400, "malformed_request"), head


async def test_a_request_that_names_its_host_once_is_taken(gateway: Served) -> None:
    for head in PLAIN:
        async with connected(gateway) as client:
            await client.send(head + b"\r\n")
            assert (await client.answers()).startswith(b"HTTP/1.1 200 OK"), head


async def test_many_small_headers_count_with_all_their_bytes(gateway: Served) -> None:
    async with connected(gateway) as client:
        await client.send(GET + b"A:\r\n" * (HEAD_LIMIT // 4) + b"Connection: close\r\n\r\n")
        check(await client.answers(), 431, "headers_too_large")
