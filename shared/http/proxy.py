"""Forwards requests to the service that owns the answer, with the caller's token, and returns that answer."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from shared.config.tls import Tls
from shared.http.auth import Caller
from shared.http.events import Events
from shared.http.problems import PROBLEM, Problem, ProblemDetails
from shared.http.stopping import Stopping
from shared.messaging.causes import cause_of
from shared.observability import tracing

log = structlog.get_logger(__name__)

FORWARDED_REQUEST_HEADERS = (
    *(b"accept", b"accept-language", b"content-type", b"prefer", b"idempotency-key", b"last-event-id"),
    *(b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
)
"""Request headers that are forwarded to the owner. `Authorization` is set anew from the caller's token."""
FORWARDED_RESPONSE_HEADERS = (
    *("retry-after", "location", "www-authenticate", "content-type", "content-length", "content-range"),
    *("content-disposition", "content-security-policy", "accept-ranges", "etag", "last-modified", "cache-control"),
    *("x-content-type-options", "x-accel-buffering"),
)
"""Headers of the owner's answer that the client gets."""
IN_PATHS = "/:@!$&'()*+,;="
"""Characters that a path has unescaped (RFC 3986, 3.3)."""
SILENCE_SECONDS = 60.0
"""How long a stream may be silent. Server-sent events have a comment every 15 seconds; a file comes as fast as its
client reads it."""


class Upstream:
    """A service behind this one, the owner of some answers. It gets the caller's token, and decides what the caller may
    see."""

    def __init__(self, name: str, url: str, tls: Tls) -> None:
        self._name = name
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=50),
            trust_env=False,
        )
        # A pool without limit, apart from the other: streams last, and short requests must not wait for them.
        self._streams = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0, read=SILENCE_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
            trust_env=False,
        )

    async def read(self, request: Request, who: Caller, path: str) -> dict[str, Any]:
        """The JSON object at a path of the owner, as the caller may see it. Raises the owner's refusal as `Problem`,
        and `Problem` 503 if the owner does not answer."""
        answer = await self._answer(
            "GET", lambda: self._client.build_request("GET", path, headers=_request_headers(request, who))
        )
        if not answer.is_success:
            refusal = ProblemDetails.model_validate_json(answer.content)
            raise Problem(answer.status_code, refusal.code, refusal.detail)
        found: dict[str, Any] = answer.json()
        return found

    async def pass_on(self, request: Request, who: Caller | None) -> Response:
        """The owner's answer to a client's request. Raises `Problem` 503 if the owner does not answer."""
        try:
            body = await request.body()
        except ClientDisconnect as error:
            raise HTTPException(400, "The body did not come as a whole.") from error
        return _whole(await self._answer(request.method, lambda: _same(self._client, request, who, body)), request)

    async def stream(self, request: Request, who: Caller | None) -> Response:
        """The owner's answer to a client's request, as it comes. Raises `Problem` 503 if the owner does not answer."""
        # The trace has no step for it: a stream may last long.
        asked = _same(self._streams, request, who)
        try:
            answer = await self._streams.send(asked, stream=True)
            if answer.is_error:
                await answer.aread()
        except httpx.HTTPError as error:
            raise self._unanswered(error) from error
        if answer.is_client_error or answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            return _whole(answer, request)  # a 503 says itself what is not available
        if answer.is_server_error:
            raise self._failed(answer)
        may_go_on = partial(request.app.state.revoked.is_good, who) if who else lambda: True
        return HandedThrough(answer, request.app.state.service.stopping, may_go_on)

    async def _answer(self, method: str, make: Callable[[], httpx.Request]) -> httpx.Response:
        about = {
            "http.request.method": method,
            "server.address": self._client.base_url.host,
            "peer.service": self._name,
        }
        try:
            with tracing.step(method, about):  # begins before the request is built, whose `traceparent` names this step
                answer = await self._client.send(make())
        except httpx.HTTPError as error:
            raise self._unanswered(error) from error
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._failed(answer)
        return answer

    async def close(self) -> None:
        await self._client.aclose()
        await self._streams.aclose()

    def _unanswered(self, error: httpx.HTTPError) -> Problem:
        log.warning("upstream: no answer", upstream=self._name, why=cause_of(error))
        return self._unavailable()

    def _failed(self, answer: httpx.Response) -> Problem:
        log.warning("upstream: failed", upstream=self._name, status=answer.status_code)
        return self._unavailable()

    def _unavailable(self) -> Problem:
        return Problem(503, "upstream_unavailable", f"The service {self._name} does not answer now; try again.")


def _same(client: httpx.AsyncClient, request: Request, who: Caller | None, body: bytes = b"") -> httpx.Request:
    """A client's request as a request to the owner: method, path, query, body, and the forwarded headers.

    The path is the one that a route has matched, encoded anew. Raises `Problem` 404 for a path with `.` or `..`, which
    the owner would resolve to another path.
    """
    path = request.scope["path"]
    if {".", ".."} & set(path.split("/")):
        raise Problem(404, "not_found", HTTPStatus.NOT_FOUND.phrase)
    query = request.scope["query_string"].decode("latin-1")
    url = quote(path, safe=IN_PATHS) + (f"?{query}" if query else "")
    headers = [(name.encode(), value.encode()) for name, value in _request_headers(request, who).items()]
    headers += [(name, value) for name, value in request.headers.raw if name in FORWARDED_REQUEST_HEADERS]
    return client.build_request(request.method, url, headers=headers, content=body or None)


def _request_headers(request: Request, who: Caller | None) -> dict[str, str]:
    ours = {
        "x-request-id": request.scope["request_id"],
        "traceparent": tracing.current(request.scope["traceparent"]),
        "accept-encoding": "identity",
    }
    return ours | ({"authorization": f"Bearer {who.token}"} if who else {})


def _whole(answer: httpx.Response, request: Request) -> Response:
    """The owner's answer as the gateway's. The gateway logs a refusal's code: it alone knows the client's address."""
    if answer.headers.get("content-type") == PROBLEM:
        request.scope["reason"] = ProblemDetails.model_validate_json(answer.content).code
    return Response(answer.content, answer.status_code, _forwarded_headers(answer))


def _forwarded_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name in FORWARDED_RESPONSE_HEADERS if (value := answer.headers.get(name))}


class HandedThrough(StreamingResponse):
    """A stream of the owner. It is closed as soon as the client goes away, so that nothing is left running.

    While the process stops, a file goes on to its end. A stream of events has no end: it stops with the process, and
    before the first event for which `may_go_on` returns False.
    """

    def __init__(self, answer: httpx.Response, stopping: Stopping, may_go_on: Callable[[], bool]) -> None:
        self._answer, self._stopping, self._may_go_on = answer, stopping, may_go_on
        super().__init__(self._chunks(), answer.status_code, _forwarded_headers(answer))

    async def _chunks(self) -> AsyncIterator[bytes]:
        chunks = self._answer.aiter_raw()
        try:
            async for chunk in _until(self._stopping, chunks) if self._has_no_end else chunks:
                if self._has_no_end and not self._may_go_on():
                    return
                yield chunk
        except httpx.HTTPError as error:
            log.warning("upstream: stopped in the middle", why=cause_of(error))
            raise  # cuts the connection, so that the client knows that the file is not complete

    @property
    def _has_no_end(self) -> bool:
        return bool(self._answer.headers.get("content-type", "").startswith(Events.media_type))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def _until(stopping: Stopping, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            async with stopping.wait():
                chunk = await anext(chunks, None)
        except TimeoutError:
            return
        if chunk is None:
            return
        yield chunk
