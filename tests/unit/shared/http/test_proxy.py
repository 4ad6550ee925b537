"""What of a client's request goes on to the service behind."""

import httpx
import pytest
from fastapi import Request

from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.http.proxy import FORWARDED_REQUEST_HEADERS, _same

ANA = Caller("ana", "customer", "her-token")


def asked(path: str, *, method: str = "GET", query: bytes = b"", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": raw}
    return Request(scope | {"request_id": "r-1", "traceparent": None})


def passed(request: Request, body: bytes = b"") -> httpx.Request:
    return _same(httpx.AsyncClient(base_url="http://stock:8000"), request, ANA, body)


def test_method_path_query_and_body_are_the_same() -> None:
    request = asked("/v1/products/A B/adjustments", method="POST", query=b"dry=%2Fyes&text=a+b%26c&text2=%zz")
    found = passed(request, b'{"delta": 1}')
    assert (found.method, found.content) == ("POST", b'{"delta": 1}')
    assert found.url.raw_path.partition(b"?")[0] == b"/v1/products/A%20B/adjustments"
    assert dict(httpx.QueryParams(found.url.query)) == {"dry": "/yes", "text": "a b&c", "text2": "%zz"}


def test_what_a_request_says_of_itself_goes_on() -> None:
    said = {name.decode().replace("-", "_"): f"what {name.decode()} says" for name in FORWARDED_REQUEST_HEADERS}
    found = passed(asked("/v1/products", **said))
    assert {name: found.headers[name.replace("_", "-")] for name in said} == said


def test_the_token_goes_on_as_the_callers_and_nothing_else_does() -> None:
    given = {"authorization": "Bearer another", "cookie": "a=b", "x_forwarded_for": "1.2.3.4", "host": "outside"}
    found = passed(asked("/v1/products", connection="upgrade", forwarded="for=1.2.3.4", **given))
    assert found.headers["authorization"] == "Bearer her-token"
    assert found.headers["host"] == "stock:8000"
    assert found.headers["x-request-id"] == "r-1"
    assert found.headers["accept-encoding"] == "identity", "what is passed on is not packed and unpacked"
    assert not {"cookie", "x-forwarded-for", "forwarded"} & set(found.headers)
    assert found.headers["connection"] == "keep-alive"


@pytest.mark.parametrize("path", ["/v1/products/../adjustments", "/v1/products/.", "/v1/.."])
def test_a_path_that_leads_elsewhere_is_not_found(path: str) -> None:
    with pytest.raises(Problem) as refused:
        passed(asked(path))
    assert refused.value.status == 404
