"""A service over HTTP: its application with the routes that every service has, and how uvicorn serves it."""

import resource
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.config.version import VERSION
from shared.docs.openapi import Application
from shared.http import edge, problems
from shared.http.auth import Tokens
from shared.http.connection import KEEP_ALIVE_SECONDS, RESERVED, Connection
from shared.http.room import Room

if TYPE_CHECKING:
    from shared.service import Service

log = structlog.get_logger(__name__)
OTHER_FILES = 300
"""Files that a process has open beside its clients' connections: databases, the broker, other services, reports."""


def application(service: "Service", router: APIRouter) -> FastAPI:
    """Its own routes, and those of health and documents. The service runs as long as the application does."""
    app = Application(
        service=service.name,
        router=router,
        referred=(problems.ProblemDetails,),
        title=f"Malote {service.name}",
        version=VERSION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "Where this document comes from."}],
        redirect_slashes=False,  # it would name the scheme and the host as a proxy left them
        lifespan=service.running,
        telemetry=service.tracing.fastapi,
        responses=problems.PROBLEMS,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service, app.state.tokens = service, Tokens(service.settings)
    app.state.identities = service.identities
    app.state.revoked = None  # the gateway's lifespan sets what knows revoked tokens
    app.state.limits = None  # a router's lifespan may set some: see shared.http.auth.Limits
    edge.install(app, service.name, service.tracing, service.stopping, service.identities, service.ports)
    app.include_router(_health)
    app.include_router(router)
    app.include_router(_documents)  # last: the gateway has the document of all services there
    return app


def listening(service: "Service") -> dict[str, Any]:
    """The options of uvicorn for a service."""
    most = _connections(service.settings.connections)
    proxies = service.settings.proxies
    return {
        "loop": "uvloop",
        "http": partial(
            Connection,
            most=most,
            room=Room(most, proxies),
            stopping=service.stopping,
            identities=service.identities,
        ),
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": list(proxies),
        "ws": "none",
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": 3,
        "server_header": False,
    }


def _connections(wanted: int) -> int:
    """How many connections there may be: the number that is set, if the system gives us so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED + OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        log.warning("fewer connections than were set", connections=soft - RESERVED - OTHER_FILES, files=soft)
    return min(wanted, max(1, soft - RESERVED - OTHER_FILES))


async def _running(request: Request) -> "Service":  # a plain function would run in a thread
    service: Service = request.app.state.service
    return service


Running = Annotated["Service", Depends(_running)]
"""How a route names the service that it runs in."""

_health = APIRouter(tags=["health"])


@_health.get("/livez")
async def livez() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@_health.get("/readyz", responses={503: {"description": "A part is missing; `checks` says which."}})
async def readyz(
    service: Running, request: Request, response: Response, only: Literal["database"] | None = None
) -> dict[str, Any]:
    """Whether database, broker and each lane work, or `only` what requests need: orders are taken without a broker.

    `checks` decide it; `warnings` say what works and should be looked at all the same. Where health has a port of its
    own, the other port answers `ready` alone.
    """
    checks = {name: problem for name, problem in (await service.checks()).items() if only in (None, name)}
    ready = not any(checks.values())
    response.status_code = 200 if ready else 503
    if service.ports.is_for_everybody(request.scope):
        return {"ready": ready}
    details = {name: {"ok": problem is None, "detail": problem} for name, problem in checks.items()}
    warnings = {name: why for name, why in service.warnings().items() if only in (None, name)}
    about = {"service": service.name, "version": VERSION, "ready": ready, "nodes": service.nodes()}
    return about | {"checks": details, "warnings": warnings}


@_health.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Running) -> Response:
    """Prometheus' text format. Where health has a port of its own, only that port has it."""
    return Response(generate_latest(service.metrics), media_type=CONTENT_TYPE_LATEST)


_documents = APIRouter()


@_documents.get("/asyncapi.json", include_in_schema=False)
async def asyncapi_json(service: Running) -> dict[str, Any]:
    """What this service reads from and sends to the broker."""
    return service.asyncapi()
