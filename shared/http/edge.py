"""Around each request: an id, a trace, a limit on the body, one log line and metrics."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from urllib.parse import parse_qsl

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from shared.http import problems, protection
from shared.http.ports import Ports
from shared.http.problems import FieldProblem, Problem, pointer, problem_response, unfit
from shared.http.protection import Identities
from shared.http.stopping import Stopping
from shared.observability import metrics
from shared.observability.tracing import QUIET, Tracing

log = structlog.get_logger(__name__)

BODY_LIMIT = 256 * 1024
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_asked_to_wait: ContextVar[float] = ContextVar("asked_to_wait", default=0.0)


@contextmanager
def asked_to_wait() -> Iterator[None]:
    """Around a wait that the client asked for, which does not count as time of the service."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _asked_to_wait.set(_asked_to_wait.get() + time.perf_counter() - began)


def install(
    app: FastAPI, service: str, tracing: Tracing, stopping: Stopping, identities: Identities, ports: Ports
) -> None:
    """Give an application problem details as errors, and the `Edge` around it."""
    problems.install(app)
    app.add_middleware(Edge, service=service, tracing=tracing, stopping=stopping, identities=identities, ports=ports)


class Edge:
    """Around every request: its id, its trace, a bound on its body, one log line and its metrics."""

    def __init__(
        self, app: ASGIApp, service: str, tracing: Tracing, stopping: Stopping, identities: Identities, ports: Ports
    ) -> None:
        self._app, self._service, self._tracing, self._stopping = app, service, tracing, stopping
        self._identities, self._ports = identities, ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, answered, status = time.perf_counter(), 0.0, 500
        _asked_to_wait.set(0.0)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        scope["request_id"] = request_id
        scope["traceparent"] = self._tracing.of_request(headers.get(b"traceparent"), scope["query_string"])
        method = scope["method"]
        is_head = method == "HEAD"
        if is_head:  # answered as GET; the server drops the body by its own copy of the method (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        outside = structlog.contextvars.get_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)

        async def answer(message: Message) -> None:
            nonlocal answered, status
            if is_head and message["type"] == "http.response.body":
                return
            if message["type"] == "http.response.start":
                answered, status = time.perf_counter() - started, message["status"]
                added = protection.headers_for(scope, message["headers"])
                message["headers"] = [*message["headers"], *added, (b"x-request-id", request_id.encode())]
            await send(message)
            if is_head:
                await send({"type": "http.response.body"})  # now, because a stream may be silent for a while

        try:
            refusal = scope.get("refusal") or _refusal(method, headers) or _repeated(scope["query_string"])
            if self._ports.hides(scope):
                refusal = refusal or _nothing_here()
            if refusal:
                await problem_response(Request(scope), refusal)(scope, receive, answer)
            else:
                await self._app(scope, _bounded(receive), answer)
        except asyncio.CancelledError:
            if not self._stopping.has_begun:
                raise
            log.warning("cut short: this process is stopping", method=method, path=scope["path"])
            if not answered:
                await problem_response(Request(scope), _cut_short(method))(scope, receive, answer)
        finally:
            took = time.perf_counter() - started
            route = getattr(scope.get("route"), "path_format", "unknown")
            known = method if method in METHODS else "other"
            seconds = (answered or took) - _asked_to_wait.get()
            metrics.of(metrics.HTTP_SECONDS, self._service, known, route, str(status)).observe(seconds)
            if route not in QUIET:
                about = {"method": method, "path": scope["path"], "status": status}
                about |= self._identities.of_refused(scope, status)
                log.info("http", **about, ms=round(took * 1000, 1), **_ids(scope))
            structlog.contextvars.clear_contextvars()  # the next request of the connection may run in this context
            structlog.contextvars.bind_contextvars(**outside)


def _ids(scope: Scope) -> dict[str, str]:
    """The ids in a request's path, under the names that they have in all log lines."""
    found = {name: str(value) for name, value in scope.get("path_params", {}).items() if name.endswith("_id")}
    if "job_id" in found:  # a request that starts a job, such as a cancellation, is logged with the id of that job
        found["correlation_id"] = found["job_id"]
    bound = structlog.contextvars.get_contextvars()
    return {name: value for name, value in found.items() if name not in bound}


def _refusal(method: str, headers: dict[bytes, str]) -> Problem | None:
    length = headers.get(b"content-length", "0")
    if not (length.isascii() and length.isdecimal()) or int(length) > BODY_LIMIT:
        return _too_large()
    has_body = int(length) > 0 or b"transfer-encoding" in headers
    media = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if method in ("POST", "PUT", "PATCH") and has_body and media != "application/json":
        return Problem(415, "unsupported_media_type", "Send the body as application/json.")
    return None


def _repeated(query: bytes) -> Problem | None:
    """The refusal of a query with a repeated parameter, of which no route has any."""
    times = Counter(name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    found = [
        FieldProblem(pointer=pointer(("query", name)), code="repeated", detail="is given more than once")
        for name, count in times.most_common(20)
        if count > 1
    ]
    return unfit(found) if found else None


def _cut_short(method: str) -> Problem:
    known = "it may have been accepted, and is done once if you send it again with the same Idempotency-Key"
    what = "ask again" if method in ("GET", "HEAD") else known
    return Problem(503, "stopping", f"This process is stopping and could not finish your request: {what}.")


def _nothing_here() -> Problem:
    return Problem(404, "not_found", HTTPStatus.NOT_FOUND.phrase)


def _too_large() -> Problem:
    return Problem(413, "too_large", f"A body has at most {BODY_LIMIT} bytes.")


def _bounded(receive: Receive) -> Receive:
    """Count the bytes of a body without a length while they arrive."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_LIMIT:
            raise HTTPException(413, _too_large().detail)  # FastAPI answers any other exception as a malformed body
        return message

    return counted
