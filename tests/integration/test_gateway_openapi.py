"""The OpenAPI document keeps its word: schemathesis asks what it allows and what it does not, and checks answers."""

import asyncio
import itertools
import re
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings
from pydantic import BaseModel, ValidationError
from schemathesis import Case
from uuid_utils.compat import uuid7

from contracts import published
from contracts.http.deadletters import PurgeWish, ReplayWish
from contracts.http.email import ResendWish
from contracts.http.tokens import RevocationIn
from contracts.reports import ReportWish
from shared.http.tokens import issue_token
from tests.running import SECRET, until
from tests.serving import NO_BROKER, Served, serving

EXAMPLES = 10
WISHES: dict[str, type[BaseModel]] = {
    "/v1/reports": ReportWish,
    "/v1/dead-letters/replay": ReplayWish,
    "/v1/dead-letters/purge": PurgeWish,
    "/v1/mails/resend": ResendWish,
    "/v1/revocations": RevocationIn,
}
OLGA = issue_token(SECRET, subject="olga", role="operator", ttl=3600, email="olga@example.com")
OPERATOR = {"Authorization": f"Bearer {OLGA}"}
ANA = issue_token(SECRET, subject="ana", role="customer", ttl=3600, email="ana@example.com")
ROLES = {"operator": OPERATOR, "customer": {"Authorization": f"Bearer {ANA}"}}


@asynccontextmanager
async def _fleet(folder: str) -> AsyncIterator[Served]:
    """The gateway with orders, stock and reports behind it. No broker: what is asked is answered without one."""
    async with (
        serving("orders", NO_BROKER, f"sqlite:///{folder}/orders.db") as orders,
        serving("stock", NO_BROKER, f"sqlite:///{folder}/stock.db") as stock,
        serving("reports", NO_BROKER, f"sqlite:///{folder}/reports.db", storage_url=f"{folder}/files") as reports,
        serving("email", NO_BROKER, f"sqlite:///{folder}/email.db") as email,
        serving("deadletters", NO_BROKER, f"sqlite:///{folder}/deadletters.db") as deadletters,
        serving(
            "gateway",
            NO_BROKER,
            f"sqlite:///{folder}/gateway.db",
            orders_url=orders.url,
            stock_url=stock.url,
            reports_url=reports.url,
            email_url=email.url,
            deadletters_url=deadletters.url,
            running_reports=1_000_000,
            failure_limit="1000000/second",
            customer_limit="1000000/second",
            recipient_limit="1000000/second",
            operator_limit="1000000/second",
        ) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fleet in a thread of its own, because schemathesis waits for its answers."""
    folder, found, done = tmp_path_factory.mktemp("openapi"), list[str](), threading.Event()

    async def serve() -> None:
        async with _fleet(str(folder)) as gateway:
            found.append(gateway.url)
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        asyncio.run(until(lambda: _first(found, thread), "the fleet to listen"))
        _stock(found[0])
        yield found[0]
    finally:
        done.set()
        thread.join()


def _stock(url: str) -> None:
    product = {"name": "Coffee, 1 kg", "price": {"amount": 6990, "currency": "BRL"}}
    answer = httpx.put(f"{url}/v1/products/COFFEE-1KG", json=product, headers=OPERATOR, trust_env=False)
    assert answer.status_code == 200


async def _first(found: list[str], thread: threading.Thread) -> str | None:
    assert thread.is_alive()
    return found[0] if found else None


DOCUMENT = published.committed()["gateway"]
schema = schemathesis.openapi.from_dict(DOCUMENT)


# Without a broker, readiness truthfully answers 503; and the stream of notifications never ends.
@schema.exclude(path="/readyz").exclude(path="/v1/notifications/events").parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_every_answer_is_as_documented(case: Case[Any], url: str) -> None:
    assume(set(case.query) <= {parameter.name for parameter in case.operation.query})  # passed over, by HTTP's custom
    assume(not _contradicts_itself(case))
    for headers in _roles(case):
        answer = case.call(base_url=url, headers=headers, timeout=40)
        if answer.status_code == 422 and answer.json()["code"] == "idempotency_key_reused":
            continue  # the document cannot know which keys were used
        case.validate_response(answer, headers=headers)


def _roles(case: Case[Any]) -> list[dict[str, str]]:
    """Both for a wish, and for a request that says nothing but its path; else one, which the content decides."""
    both = list(ROLES.values())
    if case.path in WISHES or (not case.query and not isinstance(case.body, dict)):
        return both
    return [both[zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()) % 2]]


def _contradicts_itself(case: Case[Any]) -> bool:
    """A wish that fits the schema and asks for what does not go together: OpenAPI has no words for that either."""
    wish = WISHES.get(case.path)
    if not wish or case.method != "POST" or not case.meta or case.meta.generation.mode.is_negative:
        return False
    try:
        wish.model_validate(case.body)
    except ValidationError:
        return True
    return False


def test_every_body_has_an_example() -> None:
    bodies = [
        operation["requestBody"]["content"]["application/json"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
    ]
    assert bodies
    for body in bodies:
        name = body["schema"]["$ref"].rpartition("/")[2]
        assert DOCUMENT["components"]["schemas"][name]["examples"]


def test_a_path_with_what_is_no_id_is_not_found(url: str) -> None:
    """`undefined` is what a browser's program writes where it has no id: there is nothing to mend in the request."""
    about_one = {path: of for path, of in DOCUMENT["paths"].items() if "_id}" in path}
    paths = [(path, method) for path, methods in about_one.items() for method in methods]
    assert len(paths) > 10
    for (path, method), none in itertools.product(paths, ("undefined", "4711", uuid7().hex)):
        answer = httpx.request(method, url + re.sub("{.*?}", none, path), headers=OPERATOR, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path)
