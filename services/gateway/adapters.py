"""The services that the gateway asks on a caller's behalf."""

import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shared import tracing
from shared.http import Problem
from shared.security import Caller
from shared.tls import Tls

log = structlog.get_logger(__name__)

PASSED_ON = ("retry-after", "location", "www-authenticate")
ASKED = (b"range", b"if-range", b"if-none-match", b"last-event-id")
"""What a client's request for a stream says about it."""
STREAMED = (
    *PASSED_ON,
    "content-type",
    "content-length",
    "content-range",
    "content-disposition",
    "content-security-policy",
    "accept-ranges",
    "etag",
    "last-modified",
    "cache-control",
    "x-content-type-options",
    "x-accel-buffering",
)
SILENCE_SECONDS = 60.0
"""How long a stream may say nothing: server-sent events have a comment every 15 seconds, a file comes as fast as it is
read."""


class Upstream:
    """A service behind the gateway. It is asked with the caller's token, so it decides what the caller may see."""

    def __init__(self, name: str, url: str, tls: Tls) -> None:
        self._name = name
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=50),
            trust_env=False,
        )
        # Apart, and as many as there are clients: streams last, and short requests must not wait for them.
        self._streams = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0, read=SILENCE_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
            trust_env=False,
        )

    async def ask(
        self,
        request: Request,
        who: Caller,
        path: str,
        *,
        method: str = "GET",
        params: dict[str, Any] | None = None,
        body: str | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        """Its answer, whatever it is below 500. Raises `Problem` 503 if it has none."""
        try:
            with self._step(method):
                headers = _headers(request, who)
                if body is not None:
                    headers["content-type"] = "application/json"
                if idempotency_key is not None:
                    headers["idempotency-key"] = f'"{idempotency_key}"'
                answer = await self._client.request(method, path, params=params, content=body, headers=headers)
        except httpx.HTTPError as error:
            log.warning("upstream: no answer", upstream=self._name, why=repr(error))
            raise self._unavailable() from error
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._failed(answer)
        return answer

    async def stream(
        self, request: Request, who: Caller | None, path: str, *, params: dict[str, Any] | None = None
    ) -> Response:
        """Its answer as ours, handed through as it comes. Raises `Problem` 503 if it has none."""
        ours = _headers(request, who) | {"accept-encoding": "identity"}  # in the trace, but no step: it may last long
        headers = [(name.encode(), value.encode()) for name, value in ours.items()]
        headers += [(name, value) for name, value in request.headers.raw if name in ASKED]  # bytes: any may be in them
        asked = self._streams.build_request(request.method, path, params=params, headers=headers)
        try:
            answer = await self._streams.send(asked, stream=True)
        except httpx.HTTPError as error:
            log.warning("upstream: no answer", upstream=self._name, why=repr(error))
            raise self._unavailable() from error
        # A 503 says itself what is not available.
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.status_code != 503:
            await answer.aclose()
            raise self._failed(answer)
        return _HandedThrough(answer)

    def _step(self, method: str) -> contextlib.AbstractContextManager[Any]:
        url = self._client.base_url
        about = {"http.request.method": method, "server.address": url.host, "peer.service": self._name}
        return tracing.step(method, about)

    async def close(self) -> None:
        await self._client.aclose()
        await self._streams.aclose()

    def _failed(self, answer: httpx.Response) -> Problem:
        log.warning("upstream: failed", upstream=self._name, status=answer.status_code)
        return self._unavailable()

    def _unavailable(self) -> Problem:
        return Problem(503, "upstream_unavailable", f"The service {self._name} does not answer now; try again.")


class _HandedThrough(StreamingResponse):
    """A stream that is closed with its client's: whoever goes away leaves nothing running behind the gateway."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        headers = {name: value for name in STREAMED if (value := answer.headers.get(name))}
        super().__init__(self._chunks(), answer.status_code, headers)

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            log.warning("upstream: stopped in the middle", why=repr(error))
            raise  # ends the connection: the client must not take what it has for all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


def _headers(request: Request, who: Caller | None) -> dict[str, str]:
    traceparent = tracing.current(request.scope["traceparent"])
    headers = {"x-request-id": request.scope["request_id"], "traceparent": traceparent}
    return headers | ({"authorization": f"Bearer {who.token}"} if who else {})


def passed_on(answer: httpx.Response) -> Response:
    """An upstream's answer as ours."""
    headers = {name: value for name in PASSED_ON if (value := answer.headers.get(name))}
    return Response(answer.content, answer.status_code, headers, answer.headers.get("content-type"))
