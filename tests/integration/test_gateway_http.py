"""The gateway's manners: whom it lets do what, what it refuses, and how. Both databases; no broker is there."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from uuid_utils.compat import uuid7

from contracts.base import JobState
from services.gateway.store import jobs, keys
from services.gateway.store.jobs import Job
from shared.docs import asyncapi
from shared.http.edge import BODY_LIMIT
from tests.running import SECRET
from tests.servers import ON_SQLITE
from tests.serving import NO_BROKER, Served, serving, token

ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}
LINE = {"sku": "COFFEE-1KG", "quantity": 2}
ORDER: dict[str, Any] = {"customer": ANA, "currency": "BRL", "lines": [LINE]}
NOBODY = "http://127.0.0.1:9"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Served]:
    told = {"orders_url": NOBODY, "stock_url": NOBODY, "failure_limit": "1000/second"}
    async with serving("gateway", NO_BROKER, database_url, **told) as served:
        yield served


@pytest.fixture
async def ana(gateway: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client("ana") as client:
        yield client


@pytest.fixture
async def bia(gateway: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client("bia") as client:
        yield client


@pytest.fixture
async def operator(gateway: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client("olga", "operator") as client:
        yield client


def check(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """It is a problem, well told."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert code in (None, problem["code"])
    return problem


# -- who may ---------------------------------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/v1/orders"),
    ("GET", "/v1/orders"),
    ("GET", f"/v1/orders/{uuid7()}"),
    ("POST", f"/v1/orders/{uuid7()}/cancel"),
    ("GET", "/v1/jobs"),
    ("GET", f"/v1/jobs/{uuid7()}"),
    ("POST", f"/v1/jobs/{uuid7()}/wait"),
    ("GET", f"/v1/jobs/{uuid7()}/events"),
    ("POST", f"/v1/jobs/{uuid7()}/cancel"),
    ("GET", "/v1/products"),
    ("GET", "/v1/products/A"),
    ("GET", "/v1/mails"),
    ("GET", f"/v1/mails/{uuid7()}"),
    ("POST", "/v1/mails/resend"),
    ("PUT", "/v1/products/A"),
    ("POST", "/v1/products/A/adjustments"),
    ("POST", "/v1/reports"),
    ("GET", "/v1/reports"),
    ("POST", "/v1/reports/rebuild"),
    ("GET", f"/v1/reports/{uuid7()}"),
    ("DELETE", f"/v1/reports/{uuid7()}"),
    ("POST", f"/v1/reports/{uuid7()}/link"),
    ("DELETE", f"/v1/reports/{uuid7()}/link"),
    ("GET", f"/v1/reports/{uuid7()}/download"),
    ("GET", "/v1/notifications"),
    ("GET", "/v1/notifications/events"),
    ("POST", "/v1/notifications/read"),
    ("POST", f"/v1/notifications/{uuid7()}/read"),
    ("GET", "/v1/me/notifications"),
    ("PUT", "/v1/me/notifications"),
]


@ON_SQLITE
async def test_no_route_answers_without_a_good_token(gateway: Served) -> None:
    forged = token()[:-4] + "AAAA"
    bad = {None: "token_missing", forged: "token_invalid", token(ttl=-60): "token_expired", "x": "token_invalid"}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for method, path in ROUTES:
            for given, code in bad.items():
                headers = {"Authorization": f"Bearer {given}"} if given else {}
                answer = await client.request(method, path, headers=headers, **_body(method))
                check(answer, 401, code)
                assert answer.headers["www-authenticate"].startswith("Bearer")


def _body(method: str) -> dict[str, Any]:
    return {"json": ORDER} if method in ("POST", "PUT") else {}


async def test_a_subject_that_cannot_be_stored_is_refused(gateway: Served) -> None:
    good = jwt.decode(token("ana", "operator"), options={"verify_signature": False})
    for subject in ("", "a\x00b", "a\nb", "\ud800", "x" * 256):
        forged = {"Authorization": f"Bearer {jwt.encode(good | {'sub': subject}, SECRET, algorithm='HS256')}"}
        async with gateway.client() as client:
            check(await client.post("/v1/orders", json=ORDER, headers=forged), 401, "token_invalid")


@ON_SQLITE
async def test_a_customer_orders_for_itself_and_an_operator_for_anyone(
    ana: httpx.AsyncClient, bia: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    assert (await ana.post("/v1/orders", json=ORDER)).status_code == 202
    assert (await operator.post("/v1/orders", json=ORDER)).status_code == 202
    check(await bia.post("/v1/orders", json=ORDER), 403, "not_your_order")


@ON_SQLITE
async def test_anothers_job_is_not_found(
    ana: httpx.AsyncClient, bia: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    job = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["job"]
    asks = [("GET", ""), ("POST", "/wait?timeout=0"), ("GET", "/events"), ("POST", "/cancel")]
    for method, rest in asks:
        check(await bia.request(method, job + rest), 404, "job_not_found")
    assert (await bia.get("/v1/jobs")).json() == {"data": [], "has_more": False}
    assert (await operator.get(job)).json() == (await ana.get(job)).json()
    assert len((await operator.get("/v1/jobs")).json()["data"]) == 1


# -- what is refused -------------------------------------------------------------------------------------------------


def changed(**fields: Any) -> dict[str, Any]:
    return {**ORDER, **fields}


NO_ORDERS: list[Any] = [
    {},
    [],
    None,
    "order",
    0,
    changed(lines=[]),
    changed(lines=[LINE] * 201),
    changed(lines={"sku": "A"}),
    changed(lines=[{"sku": "A", "quantity": 0}]),
    changed(lines=[{"sku": "A", "quantity": -1}]),
    changed(lines=[{"sku": "A", "quantity": 10_001}]),
    changed(lines=[{"sku": "A", "quantity": 10**400}]),
    changed(lines=[{"sku": "A", "quantity": 1.5}]),
    changed(lines=[{"sku": "A", "quantity": "1"}]),
    changed(lines=[{"sku": "A", "quantity": True}]),
    changed(lines=[{"sku": "coffee", "quantity": 1}]),
    changed(lines=[{"sku": "A\x00", "quantity": 1}]),
    changed(lines=[{"sku": "A\n", "quantity": 1}]),
    changed(lines=[{"sku": "A" * 41, "quantity": 1}]),
    changed(lines=[{"sku": "A", "quantity": 1, "unit_price": 1}]),
    changed(currency="brl"),
    changed(currency="BRL\n"),
    changed(order_id=str(uuid7())),
    changed(customer={**ANA, "name": "A\x00na"}),
    changed(customer={**ANA, "name": "A\r\nBcc: x@example.com"}),
    changed(customer={**ANA, "name": "\ud800"}),
    changed(customer={**ANA, "name": "x" * 201}),
    changed(customer={**ANA, "name": ""}),
    changed(customer={**ANA, "email": "ana"}),
    changed(customer={**ANA, "email": "ana@example.com\n"}),
    changed(customer={**ANA, "locale": "de"}),
    changed(customer={**ANA, "\ud800": 1}),
    changed(**{"\x00/~": 1}),
]


@ON_SQLITE
async def test_an_order_that_is_none_is_refused_with_a_pointer(ana: httpx.AsyncClient) -> None:
    for body in NO_ORDERS:
        answer = await ana.post("/v1/orders", content=json.dumps(body), headers=JSON)
        assert check(answer, 422, "invalid_request")["errors"], body
    assert (await ana.get("/v1/jobs")).json()["data"] == []


NO_JSON = [
    (b"{", JSON, 400),
    (b"\xff\xfe", JSON, 400),
    (b'{"customer": NaN, "lines": Infinity}', JSON, 422),
    (b"[" * 50_000, JSON, 400),
    (b'{"a":' * 900 + b"1" + b"}" * 900, JSON, 422),
    (b'{"currency": ' + b"9" * 5000 + b"}", JSON, 400),
    (b"", JSON, 422),
    (b" " * (BODY_LIMIT + 1), JSON, 413),
    (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    (b"{}", {}, 415),
    (b"{}", {"Content-Type": "text/plain"}, 415),
]


@ON_SQLITE
async def test_a_whole_number_may_be_written_with_a_point(ana: httpx.AsyncClient) -> None:
    answer = await ana.post("/v1/orders", json=changed(lines=[{"sku": "A", "quantity": 2.0}]))
    assert answer.status_code == 202


@ON_SQLITE
async def test_a_path_that_takes_only_post_says_so(operator: httpx.AsyncClient) -> None:
    for path in ("/v1/reports/rebuild", "/v1/dead-letters/replay", "/v1/dead-letters/purge"):
        for method in ("GET", "DELETE", "PUT"):
            answer = await operator.request(method, path)
            check(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "POST"


@ON_SQLITE
async def test_no_other_origin_reads_an_answer_no_cookie_is_set_and_nothing_is_echoed(ana: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "OPTIONS", "TRACE"):
        answer = await ana.request(method, "/v1/jobs", headers=origin)
        assert answer.status_code == (200 if method == "GET" else 405)
        assert not any(name.startswith(("access-control", "set-cookie")) for name in answer.headers)
        assert "elsewhere" not in answer.text


@ON_SQLITE
async def test_a_body_that_is_no_json_is_refused(ana: httpx.AsyncClient) -> None:
    for content, headers, status in NO_JSON:
        check(await ana.post("/v1/orders", content=content, headers=headers), status)


AMBIGUOUS: list[tuple[bytes, str]] = [
    (json.dumps(ORDER).encode("utf-16"), "it is not UTF-8"),
    (json.dumps(ORDER).encode("utf-16-be"), "Expecting value"),
    (json.dumps(ORDER, ensure_ascii=False).replace("Souza", "São").encode("latin-1"), "it is not UTF-8"),
    (json.dumps(ORDER)[:-1].encode() + b', "currency": "BRL"}', "'currency'"),
    (json.dumps(ORDER).replace('"quantity": 2', '"quantity": 2, "quantit\\u0079": 3').encode(), "'quantity'"),
    (b"[" * 50_000, "too deeply"),
    (b'{"currency": ' + b"9" * 5000 + b"}", "too long"),
]


@ON_SQLITE
async def test_a_body_that_can_be_read_in_two_ways_is_refused_and_a_byte_order_mark_is_passed_over(
    ana: httpx.AsyncClient,
) -> None:
    for content, why in AMBIGUOUS:
        problem = check(await ana.post("/v1/orders", content=content, headers=JSON), 400, "malformed_json")
        assert why in problem["detail"]
    marked = b"\xef\xbb\xbf" + json.dumps(ORDER).encode()
    assert (await ana.post("/v1/orders", content=marked, headers=JSON)).status_code == 202


@ON_SQLITE
async def test_a_body_that_grows_too_long_as_it_comes_is_refused(ana: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 1024 + 2):
            yield b" " * 1024

    check(await ana.post("/v1/orders", content=endless(), headers=JSON), 413, "too_large")


@ON_SQLITE
async def test_an_idempotency_key_that_is_none_is_refused(ana: httpx.AsyncClient) -> None:
    for key in ("", '""', "x" * 256, '"' + "x" * 256 + '"'):
        check(await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": key}), 422)


NOWHERE = [
    ("GET", f"/v1/jobs/{uuid7()}", 404),
    ("GET", f"/v1/jobs/{uuid7()}/events", 404),
    ("POST", f"/v1/jobs/{uuid7()}/wait?timeout=0", 404),
    ("POST", f"/v1/jobs/{uuid7()}/cancel", 404),
    ("GET", "/v1/jobs/4711", 404),
    ("GET", "/v1/jobs?limit=0", 422),
    ("GET", "/v1/jobs?limit=101", 422),
    ("GET", "/v1/jobs?status=DONE", 422),
    ("GET", "/v1/jobs?starting_after=x", 422),
    ("GET", "/v1/products/%2e%2e", 404),
    ("GET", "/v1/nothing", 404),
    ("GET", "/docs/..%2fapi.py", 404),
    ("DELETE", "/v1/orders", 405),
]


@ON_SQLITE
async def test_what_is_not_there_or_makes_no_sense_is_said_so(ana: httpx.AsyncClient) -> None:
    for method, path, status in NOWHERE:
        check(await ana.request(method, path), status)


@ON_SQLITE
async def test_a_timeout_that_makes_no_sense_is_refused(ana: httpx.AsyncClient) -> None:
    job = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["job"]
    for timeout in ("-1", "31", "nan", "inf", "-inf", "x", "", "1e400"):
        check(await ana.post(f"{job}/wait", params={"timeout": timeout}), 422, "invalid_request")


@ON_SQLITE
async def test_a_parameter_that_is_given_twice_is_refused_by_its_name(
    ana: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    """The last one would win without a word, and a filter that was not meant finds what was not looked for."""
    asked = {"/v1/dead-letters/groups?lane=a&lane=": operator, "/v1/jobs?limit=1&status=a&limit=1": ana}
    for path, client in asked.items():
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        name = path.partition("?")[2].partition("=")[0]
        problems = [(problem["pointer"], problem["code"]) for problem in answer.json()["errors"]]
        assert problems == [(f"/query/{name}", "repeated")]


# -- once -----------------------------------------------------------------------------------------------------------


async def test_the_same_key_fifty_times_at_once_is_one_order(ana: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *[ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "k"}) for _ in range(50)]
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 49
    assert len((await ana.get("/v1/jobs")).json()["data"]) == 1


async def test_the_first_answer_comes_again_to_the_same_key_only(
    ana: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    key = {"Idempotency-Key": "k" * 255}
    first = await ana.post("/v1/orders", json=ORDER, headers=key)
    again = await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": f'"{"k" * 255}"'})
    assert (again.status_code, again.text) == (first.status_code, first.text)
    assert again.headers["location"] == first.headers["location"]
    others = await operator.post("/v1/orders", json=ORDER, headers=key)
    assert others.json()["job_id"] != first.json()["job_id"]


async def test_another_payload_under_the_same_key_is_refused_also_at_once(ana: httpx.AsyncClient) -> None:
    bodies = [changed(lines=[{"sku": "A", "quantity": n % 2 + 1}]) for n in range(20)]
    answers = await asyncio.gather(
        *[ana.post("/v1/orders", json=body, headers={"Idempotency-Key": "k"}) for body in bodies]
    )
    assert sorted(answer.status_code for answer in answers) == [202] * 10 + [422] * 10
    refused = next(answer for answer in answers if answer.status_code == 422)
    check(refused, 422, "idempotency_key_reused")
    assert len((await ana.get("/v1/jobs")).json()["data"]) == 1


async def test_old_keys_are_forgotten_and_young_ones_kept(
    gateway: Served, ana: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def job_of_key() -> str:
        return str((await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "k"})).json()["job_id"])

    first = await job_of_key()
    await keys.forget(gateway.service.database)
    assert await job_of_key() == first
    monkeypatch.setattr(keys, "KEEP_KEYS_HOURS", -1)
    await keys.forget(gateway.service.database)
    assert await job_of_key() != first


@pytest.mark.parametrize("days", [3, -3], ids=["ahead", "behind"])
async def test_a_gateway_whose_clock_is_wrong_by_days_forgets_no_key(
    gateway: Served, ana: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Neither another's nor its own, once its clock or another's is right: the same key is the same order."""
    real = time.time_ns
    first = await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "k1"})
    monkeypatch.setattr(time, "time_ns", lambda: real() + days * 86_400 * 10**9)
    second = await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": "k2"})
    await keys.forget(gateway.service.database)
    monkeypatch.setattr(time, "time_ns", real)
    await keys.forget(gateway.service.database)
    for key, before in (("k1", first), ("k2", second)):
        again = await ana.post("/v1/orders", json=ORDER, headers={"Idempotency-Key": key})
        assert again.json()["job_id"] == before.json()["job_id"]


# -- lists, cancelling, and parts that are missing -------------------------------------------------------------------


async def test_jobs_are_listed_newest_first_in_pages(ana: httpx.AsyncClient) -> None:
    ids = [(await ana.post("/v1/orders", json=ORDER)).json()["job_id"] for _ in range(5)][::-1]

    async def page(**params: Any) -> tuple[list[str], bool]:
        found = (await ana.get("/v1/jobs", params=params)).json()
        return [job["id"] for job in found["data"]], found["has_more"]

    assert await page() == (ids, False)
    assert await page(limit=2) == (ids[:2], True)
    assert await page(limit=2, starting_after=ids[1]) == (ids[2:4], True)
    assert await page(limit=2, starting_after=ids[3]) == (ids[4:], False)
    assert await page(limit=2, ending_before=ids[3]) == (ids[1:3], True)
    assert await page(starting_after=ids[0], ending_before=ids[3]) == (ids[1:3], False)
    assert await page(limit=1, starting_after=ids[0], ending_before=ids[3]) == (ids[1:2], True)
    assert await page(status="PENDING", limit=1) == (ids[:1], True)
    assert await page(status="SUCCESS") == ([], False)


async def test_an_order_placed_here_is_cancelled_without_asking_anyone(
    ana: httpx.AsyncClient, bia: httpx.AsyncClient
) -> None:
    order = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["order"]
    accepted = await ana.post(f"{order}/cancel")
    assert accepted.status_code == 202
    job = (await ana.get(accepted.json()["links"]["job"])).json()
    assert (job["kind"], job["status"]) == ("order.cancel", "PENDING")
    check(await bia.post(f"{order}/cancel"), 503, "upstream_unavailable")


@ON_SQLITE
async def test_a_job_that_has_ended_cannot_be_cancelled(gateway: Served, ana: httpx.AsyncClient) -> None:
    job = (await ana.post("/v1/orders", json=ORDER)).json()
    async with gateway.service.database.transaction() as session:
        row = await session.get_one(Job, jobs.as_uuid(job["job_id"]))
        row.status = JobState.SUCCESS
    check(await ana.post(f"{job['links']['job']}/cancel"), 409, "not_cancellable")


@ON_SQLITE
async def test_an_upstream_that_is_down_is_a_503_that_says_when_to_come_again(operator: httpx.AsyncClient) -> None:
    for path in ("/v1/orders", f"/v1/orders/{uuid7()}", "/v1/products", "/v1/products/A"):
        answer = await operator.get(path)
        check(answer, 503, "upstream_unavailable")
        assert int(answer.headers["retry-after"]) > 0


@ON_SQLITE
async def test_without_a_broker_orders_are_taken_and_readiness_says_what_is_missing(ana: httpx.AsyncClient) -> None:
    assert (await ana.post("/v1/orders", json=ORDER)).status_code == 202
    ready = await ana.get("/readyz")
    assert ready.status_code == 503
    assert not ready.json()["checks"]["broker"]["ok"]
    assert ready.json()["checks"]["database"]["ok"]
    assert (await ana.get("/livez")).status_code == 200
    takes_orders = await ana.get("/readyz?only=database")
    assert takes_orders.status_code == 200
    assert set(takes_orders.json()["checks"]) == {"database"}
    assert (await ana.get("/readyz?only=luck")).status_code == 422


@ON_SQLITE
async def test_head_is_answered_as_get_is_but_for_the_body(ana: httpx.AsyncClient, operator: httpx.AsyncClient) -> None:
    job = (await ana.post("/v1/orders", json=ORDER)).json()
    document = (await ana.get("/openapi.json")).json()
    asked = [path for path, operations in document["paths"].items() if "get" in operations]
    about = {"{job_id}": job["job_id"], "{sku}": "A", "{service}": "orders"}
    for path in ["/docs", "/docs/swagger-ui.css", "/openapi.json", *asked]:
        for name, value in about.items():
            path = path.replace(name, value)
        path = re.sub(r"\{\w+\}", str(uuid7()), path)
        head = await operator.head(path)
        assert head.content == b""
        if path != f"/v1/jobs/{job['job_id']}/events":  # which goes on
            get = await operator.get(path)
            assert head.status_code == get.status_code, path
            assert head.headers["content-type"] == get.headers["content-type"]
            if path not in ("/metrics", "/readyz") and get.is_success:
                assert head.headers["content-length"] == str(len(get.content))
    events = await ana.head(f"{job['links']['job']}/events")
    assert events.status_code == 200
    assert events.headers["content-type"].startswith("text/event-stream")
    refused = await ana.delete("/v1/orders")
    assert refused.headers["allow"] == "GET, HEAD, POST"
    assert (await ana.head("/v1/nothing")).status_code == 404
    assert (await ana.head("/v1/jobs/4711/cancel")).status_code == 405


@ON_SQLITE
async def test_an_address_with_a_slash_too_many_is_not_found(gateway: Served, ana: httpx.AsyncClient) -> None:
    for path in ("/v1/orders/", "/v1/jobs/", "/docs/", "/livez/", "/v1/orders//"):
        problem = check(await ana.get(path), 404, "not_found")
        assert "slash" in problem["detail"]
    check(await ana.post("/v1/orders/", json=ORDER), 404, "not_found")


@ON_SQLITE
async def test_the_root_says_what_is_here(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        links = (await client.get("/")).json()["links"]
        page = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "//" not in page.text
        found = set(re.findall(r'href="([^"]+)"', page.text))
        assert set(links.values()) <= found
        for path in found:
            assert (await client.get(path)).status_code == (503 if path == "/readyz" else 200)


@ON_SQLITE
async def test_the_docs_page_needs_no_other_server(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        page = (await client.get("/docs")).text
        assert "https://" not in page
        assert "http://" not in page
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
            assert f"/docs/{name}" in page
            assert (await client.get(f"/docs/{name}")).status_code == 200


@ON_SQLITE
async def test_the_messages_of_all_services_and_of_each_are_documented_without_a_token(gateway: Served) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for path, name in (
            ("/asyncapi", "malote"),
            ("/asyncapi.json", "malote"),
            ("/asyncapi/orders", "orders"),
            ("/asyncapi/orders.json", "orders"),
        ):
            answer = await client.get(path)
            assert answer.headers["content-type"] == "application/json"
            assert answer.text == asyncapi.text(name)
        assert (await client.get("/asyncapi.json", headers={"Accept": "text/html"})).json()["asyncapi"] == "3.0.0"
        for path in ("/asyncapi/nobody", "/asyncapi/..%2forders", "/asyncapi/static/page.html"):
            check(await client.get(path), 404)


@ON_SQLITE
async def test_who_asks_for_html_gets_a_page_with_files_of_our_own(gateway: Served) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=browser, trust_env=False) as client:
        for path in ("/asyncapi", "/asyncapi/orders"):
            answer = await client.get(path)
            assert answer.headers["content-type"].startswith("text/html")
            assert answer.headers["vary"] == "Accept"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert "//" not in answer.text
            for name in re.findall(r'"(/[a-z/.0-9-]+)"', answer.text):
                assert (await client.get(name)).status_code == 200, name
