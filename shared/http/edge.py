"""HTTP the same way in every service: problem details, request ids, bounded bodies, pages."""

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import structlog
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from fastapi.sse import KEEPALIVE_COMMENT, ServerSentEvent, format_sse_event
from pydantic import BaseModel, BeforeValidator, Field
from sqlalchemy import literal, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from contracts.base import complaint
from shared.docs.openapi import ref
from shared.http import protection
from shared.http.ports import Ports
from shared.http.protection import Identities
from shared.http.stopping import Stopping
from shared.messaging.outbox import OutboxFull
from shared.observability import metrics
from shared.observability.tracing import QUIET, Tracing
from shared.persistence.database import is_outage

log = structlog.get_logger(__name__)

BODY_LIMIT = 256 * 1024
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
RETRY_AFTER = "2"
FULL_RETRY_AFTER = "10"
PAUSE_SECONDS = 15.0
LONGEST_TIMER = 10 * 86_400.0
"""Seconds. A stream whose token is good for longer ends at its first event after that."""
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "The stream.", "content": {"text/event-stream": {}}}}
"""The answers of a route whose answer is `Events`, for OpenAPI."""
LONGEST_KEY = 255
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
T = TypeVar("T")
_asked_to_wait: ContextVar[float] = ContextVar("asked_to_wait", default=0.0)


@contextmanager
def asked_to_wait() -> Iterator[None]:
    """Around what a client asked to wait for: that time is not the service's, and is not counted as such."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _asked_to_wait.set(_asked_to_wait.get() + time.perf_counter() - began)


class FieldProblem(BaseModel):
    """What is wrong with one part of a request. `pointer` is a JSON Pointer (RFC 6901) into it."""

    pointer: str
    code: str
    detail: str


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it; `code` is for programs, `detail` for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem] = []


class Problem(Exception):
    """Raised anywhere below a route: becomes an `application/problem+json` answer."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = list(errors), dict(headers or {})
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers.setdefault("WWW-Authenticate", "Bearer")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", RETRY_AFTER)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "What is wrong with the request.",
        "content": {"application/problem+json": {"schema": ref(ProblemDetails)}},
    },
    "503": {
        "description": "A part is not available; `Retry-After` says when to try again.",
        "content": {"application/problem+json": {"schema": ref(ProblemDetails)}},
    },
}
"""The answers that every route can give, for OpenAPI."""


def install(
    app: FastAPI, service: str, tracing: Tracing, stopping: Stopping, identities: Identities, ports: Ports
) -> None:
    """Give an application our errors and the `Edge` around it."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(OutboxFull, _on_full)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_error)
    app.add_middleware(Edge, service=service, tracing=tracing, stopping=stopping, identities=identities, ports=ports)


def details_of(problem: Problem, instance: str = "", request_id: str = "") -> ProblemDetails:
    """A problem as it is answered."""
    return ProblemDetails(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        instance=instance,
        code=problem.code,
        request_id=request_id,
        errors=problem.errors,
    )


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    request.scope["reason"] = problem.code
    details = details_of(problem, request.url.path, request.scope.get("request_id", ""))
    return JSONResponse(
        details.model_dump(), problem.status, headers=problem.headers, media_type="application/problem+json"
    )


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _on_full(request: Request, error: Exception) -> JSONResponse:
    headers = {"Retry-After": FULL_RETRY_AFTER}
    return problem_response(request, Problem(503, "outbox_full", str(error), headers=headers))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [FieldProblem(pointer=_pointer(p["loc"]), code=p["type"], detail=complaint(p)) for p in error.errors()[:20]]
    # A list that is "too short" because its only item is wrong is no second mistake.
    found = [p for p in found if not any(other.pointer.startswith(f"{p.pointer}/") for other in found)]
    if any(problem.code == "json_invalid" for problem in found):
        problem = Problem(
            400, "malformed_json", f"The body cannot be read as JSON: {error.errors()[0].get('ctx', {}).get('error')}"
        )
    else:
        problem = _unfit(found)
    return problem_response(request, problem)


def _unfit(found: list[FieldProblem]) -> Problem:
    where = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in found[:3])
    return Problem(422, "invalid_request", f"The request does not fit: {where}", errors=found)


def _pointer(location: Sequence[str | int]) -> str:
    """`("body", "lines", 0)` -> `/lines/0`; what is not in the body keeps its place: `/query/limit`."""
    parts = location[1:] if location[:1] == ("body",) else location
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    code = codes.get(error.status_code, f"http_{error.status_code}")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND and request.url.path.endswith("/"):
        detail = "There is nothing here: no address ends in a slash."
    return problem_response(request, Problem(error.status_code, code, detail, headers=headers))


def _methods(request: Request) -> list[str]:
    """All that a path answers to: the router itself names only those of the first route that has the path, and `Edge`
    answers HEAD wherever GET is."""
    routes = [route for route in iter_route_contexts(request.app.routes) if route.path]
    found = [route for route in routes if compile_path(route.path or "")[0].match(request.scope["path"])]
    methods = {method for route in found for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    if is_outage(error):
        log.warning("a part is not available", why=str(error).splitlines()[0])
        return problem_response(request, Problem(503, "unavailable", "The database is not available now; try again."))
    log.error("request failed", exc_info=error)
    return problem_response(request, Problem(500, "internal_error", "Something went wrong here; it has been logged."))


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
        if (
            is_head
        ):  # what is answered to GET, but for the body (RFC 9110, 9.3.2); the copy keeps the server's word for it
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
                await send({"type": "http.response.body"})  # now: a stream may say nothing for a while

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
            structlog.contextvars.clear_contextvars()  # a connection's next request may go on in this context
            structlog.contextvars.bind_contextvars(**outside)


def _ids(scope: Scope) -> dict[str, str]:
    """What a request is about, from its path, under the names that it has in all log lines."""
    found = {name: str(value) for name, value in scope.get("path_params", {}).items() if name.endswith("_id")}
    if "job_id" in found:  # a request that starts a job of its own, such as a cancellation, is bound to that one
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
    """No parameter is a list, and of two values for one name nobody can say which was meant."""
    times = Counter(name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    found = [
        FieldProblem(pointer=_pointer(("query", name)), code="repeated", detail="is given more than once")
        for name, count in times.most_common(20)
        if count > 1
    ]
    return _unfit(found) if found else None


def _cut_short(method: str) -> Problem:
    known = "it may have been accepted, and is done once if you send it again with the same Idempotency-Key"
    what = "ask again" if method in ("GET", "HEAD") else known
    return Problem(503, "stopping", f"This process is stopping and could not finish your request: {what}.")


def _nothing_here() -> Problem:
    return Problem(404, "not_found", HTTPStatus.NOT_FOUND.phrase)


def _too_large() -> Problem:
    return Problem(413, "too_large", f"A body has at most {BODY_LIMIT} bytes.")


def _bounded(receive: Receive) -> Receive:
    """Bodies without a length are counted as they come."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_LIMIT:
            raise HTTPException(413, _too_large().detail)  # FastAPI takes anything else for a malformed body
        return message

    return counted


class Events(Response):
    """A stream of server-sent events that ends with `events`, with its client, its token or this process: a client then
    goes on at another, after the last event that it had. Where `events` are None, nothing has happened for a while: a
    comment says that the connection lives.

    FastAPI's own has three tasks and two queues a stream, and takes twice the memory.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent | None],
        ends_at: float = math.inf,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ends_at`: when the token ends by which its client may listen, in epoch seconds. `may_go_on` is asked before
        each event and comment whether the token is still believed."""
        # What is between us and the client must not keep anything back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._ends_at, self._may_go_on = events, ends_at, may_go_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        stopping: Stopping = scope["app"].state.service.stopping
        leaving = asyncio.create_task(_gone(receive))
        try:
            async with stopping.wait() as until_gone:
                leaving.add_done_callback(end := lambda _: until_gone.reschedule(0))
                loop, ending = asyncio.get_running_loop(), None
                if (seconds := self._ends_at - time.time()) < LONGEST_TIMER:
                    ending = loop.call_later(max(0.0, seconds), end, None)
                try:
                    async for event in self._events:
                        if time.time() > self._ends_at or not self._may_go_on():
                            break
                        await send({"type": "http.response.body", "body": _event(event), "more_body": True})
                finally:
                    leaving.remove_done_callback(end)
                    if ending:
                        ending.cancel()
        except TimeoutError:
            if not until_gone.expired():
                raise
        finally:
            leaving.cancel()
        await send({"type": "http.response.body"})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(event: ServerSentEvent | None) -> bytes:
    if event is None:
        return KEEPALIVE_COMMENT
    return format_sse_event(data_str=event.data.model_dump_json(), event=event.event, id=event.id)


async def change_or_pause(changed: asyncio.Event) -> bool:
    """Wait for a change, but no longer than a stream of events may say nothing. Whether there was one."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_SECONDS):
            await changed.wait()
    return changed.is_set()


def idempotency_key(given: str | None) -> str | None:
    """An `Idempotency-Key` header's value, quoted (as the IETF draft has it) or not. Raises `Problem` 422."""
    if given is None:
        return None
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= LONGEST_KEY:
        raise Problem(422, "invalid_idempotency_key", f"An Idempotency-Key has 1 to {LONGEST_KEY} characters.")
    return key


class Page(BaseModel, Generic[T]):
    """Part of a list. There is more after (or, with `ending_before`, before) it if `has_more`."""

    data: list[T]
    has_more: bool


class Cursor(BaseModel):
    """Which part of a list: `starting_after` an id, `ending_before` one, or what is between the two."""

    limit: int = Field(default=20, ge=1, le=100)
    starting_after: UUID | None = None
    ending_before: UUID | None = None


async def paginate(
    session: AsyncSession,
    query: Any,
    column: Any,
    cursor: Cursor,
    sorted_by: tuple[Any, Callable[[UUID], Any]] | None = None,
) -> tuple[list[Any], bool]:
    """The newest rows first, by keyset on a column of ids. With both ends, as many as there may be from the first.

    UUIDv7 grow with time. Where others give the ids, `sorted_by` is the column that says when, and what makes of an id
    the time of its row: a page after a row that nobody has is empty.
    """
    columns, key = [column], column
    if sorted_by is not None:
        columns = [sorted_by[0], column]
        key = tuple_(*columns)

    def edge(of: UUID) -> Any:
        return of if sorted_by is None else tuple_(sorted_by[1](of), literal(of, column.type))

    if cursor.ending_before:
        query = query.where(key > edge(cursor.ending_before))
    if cursor.starting_after:
        query = query.where(key < edge(cursor.starting_after))
    is_backwards = cursor.ending_before and not cursor.starting_after
    query = query.order_by(*(columns if is_backwards else (column.desc() for column in columns)))
    rows = list((await session.scalars(query.limit(cursor.limit + 1))).all())
    found = rows[: cursor.limit]
    return (found[::-1] if is_backwards else found), len(rows) > cursor.limit


CursorOf = Annotated[Cursor, Query()]


def _id(given: object) -> object:
    if _UUID.fullmatch(str(given)):
        return given
    raise Problem(404, "not_found", "There is nothing with this id.")


IdOf = Annotated[UUID, Path(json_schema_extra={"pattern": f"^{_UUID.pattern}$"}), BeforeValidator(_id)]
"""An id in a path, with its hyphens. What is none, such as a way to some file, is just not found."""


class _IdConvertor(StringConvertor):
    regex = _UUID.pattern + r"(?!\n)"  # the end of a compiled path lets a line feed follow


register_url_convertor("id", _IdConvertor())
"""`{report_id:id}` in a route leaves a path such as `/v1/reports/rebuild` to its own route, and its methods."""
