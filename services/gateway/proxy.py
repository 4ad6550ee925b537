"""The routes that the gateway forwards: each public route in the committed document of another service, its owner.

The gateway decides who calls, how often, and whether the token is revoked. The owner decides what the caller may see or
change, and whether the request is valid.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from contracts.published import owners
from services.gateway.limits import Limits
from shared.docs.messages import Document
from shared.http.auth import Caller, CallerOf, caller, caller_or_link
from shared.http.body import Route
from shared.http.events import Events
from shared.http.protocol import with_ids
from shared.http.proxy import Upstream

JSON = "application/json"


def upstream(request: Request, service: str) -> Upstream:
    """The service of that name."""
    found: Upstream = request.state.upstreams[service]
    return found


async def _one_stream(request: Request, who: CallerOf) -> AsyncIterator[None]:
    limits: Limits = request.state.limits
    with limits.stream(who):
        yield


OneStream = Depends(_one_stream)
"""A dependency of routes that answer with a stream of events: a caller may have a limited number of them."""


def routes() -> APIRouter:
    """A route for each public operation of an owner. The owners' documents describe them."""
    router = APIRouter(route_class=Route, include_in_schema=False)
    for service, paths in owners().items():
        for path, operations in paths.items():
            for method, operation in operations.items():
                media = _media(operation)
                router.add_api_route(
                    with_ids(path),
                    _streaming(service, by_link={} in operation["security"]) if media - {JSON} else _asking(service),
                    methods=[method.upper()],
                    dependencies=[OneStream] if Events.media_type in media else [],
                )
    return router


def _media(operation: Document) -> set[str]:
    """The media types of an operation's successful answers."""
    answers = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
    return {media for answer in answers for media in answer.get("content", ())}


Endpoint = Callable[..., Coroutine[Any, Any, Response]]


def _asking(service: str) -> Endpoint:
    async def ask(request: Request, who: CallerOf) -> Response:
        return await upstream(request, service).pass_on(request, who)

    return ask


def _streaming(service: str, *, by_link: bool) -> Endpoint:
    who_calls = Depends(caller_or_link if by_link else caller)

    async def stream(request: Request, who: Annotated[Caller | None, who_calls]) -> Response:
        answer = await upstream(request, service).stream(request, who)
        if who is None and answer.status_code == HTTPStatus.FORBIDDEN:  # so that guessing signatures has a limit
            limits: Limits = request.state.limits
            await limits.count_failure(request.client.host if request.client else "")
        return answer

    return stream
