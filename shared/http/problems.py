"""Errors as every service answers them: problem details (RFC 9457), for people and for programs."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from contracts.base import complaint
from shared.docs.openapi import ref
from shared.messaging.outbox import OutboxFull
from shared.persistence.database import is_outage

log = structlog.get_logger(__name__)

PROBLEM = "application/problem+json"
"""The media type of all errors."""
RETRY_AFTER = "2"
FULL_RETRY_AFTER = "10"


class FieldProblem(BaseModel):
    """The fault of one part of a request. `pointer` is a JSON Pointer (RFC 6901) into the request."""

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
    """An error that becomes an `application/problem+json` answer, wherever below a route it is raised."""

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
        "content": {PROBLEM: {"schema": ref(ProblemDetails)}},
    },
    "503": {
        "description": "A part is not available; `Retry-After` says when to try again.",
        "content": {PROBLEM: {"schema": ref(ProblemDetails)}},
    },
}
"""The answers that every route can give, for OpenAPI."""


def install(app: FastAPI) -> None:
    """Let an application answer all errors with problem details."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(OutboxFull, _on_full)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_error)


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
    """The answer to a request. The request's log line gets the code."""
    request.scope["reason"] = problem.code
    details = details_of(problem, request.url.path, request.scope.get("request_id", ""))
    return JSONResponse(details.model_dump(), problem.status, headers=problem.headers, media_type=PROBLEM)


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _on_full(request: Request, error: Exception) -> JSONResponse:
    headers = {"Retry-After": FULL_RETRY_AFTER}
    return problem_response(request, Problem(503, "outbox_full", str(error), headers=headers))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [FieldProblem(pointer=pointer(p["loc"]), code=p["type"], detail=complaint(p)) for p in error.errors()[:20]]
    # A list is also "too short" if its only item is wrong: name the item only.
    found = [p for p in found if not any(other.pointer.startswith(f"{p.pointer}/") for other in found)]
    if any(problem.code == "json_invalid" for problem in found):
        problem = Problem(
            400, "malformed_json", f"The body cannot be read as JSON: {error.errors()[0].get('ctx', {}).get('error')}"
        )
    else:
        problem = unfit(found)
    return problem_response(request, problem)


def unfit(found: list[FieldProblem], what: str = "The request does not fit") -> Problem:
    """The refusal of a request of which these parts are wrong."""
    where = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in found[:3])
    return Problem(422, "invalid_request", f"{what}: {where}", errors=found)


def pointer(location: Sequence[str | int]) -> str:
    """`("body", "lines", 0)` -> `/lines/0`; a parameter keeps its place: `/query/limit`."""
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
    """All methods of a path. The router knows only those of the first route with that path; `Edge` answers HEAD for
    each GET."""
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
