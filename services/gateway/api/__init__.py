"""The public routes. `starts` has those that start a job; `proxy` forwards those that another service owns."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from contracts.published import owners
from services.gateway import proxy
from services.gateway.api import jobs, pages, tokens
from services.gateway.limits import Limits
from services.gateway.settings import GatewaySettings
from services.gateway.starts import deadletters, email, orders, reports
from services.gateway.store.intake import Intake
from services.gateway.store.revocations import Revoked
from shared.docs.openapi import PublicRouter
from shared.http.body import Route
from shared.http.proxy import Upstream
from shared.messaging.periodic import once
from shared.service import Service

ABOUT = """\
A token goes into each request as `Authorization: Bearer …`, here by **Authorize**. On one machine `malote token --role
operator --subject me` makes one; elsewhere it comes from whoever signs with `MALOTE_JWT_SECRET` or its key set.

All messages on the broker are documented at [/asyncapi](/asyncapi).
"""
GROUPS = {
    "orders": "Placed, looked at, cancelled.",
    "jobs": "What became of a request that was accepted.",
    "products": "The catalogue, and what is left of each product.",
    "reports": "Files of orders, lines and movements; summaries of sales.",
    "notifications": "What you were told, and how you want to be told.",
    "mails": "What was written to whom.",
    "dead letters": "Messages that were given up.",
    "tokens": "Revoked tokens.",
    "documents": "The messages on the broker.",
    "health": "Whether this process works.",
}
"""In the order in which /docs shows them."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """The objects that routes find in `request.state`."""
    service: Service = app.state.service
    settings = service.resources.get(GatewaySettings)
    urls = {name: str(getattr(settings, f"{name}_url")) for name in owners()}
    upstreams = {name: Upstream(name, url, settings.tls) for name, url in urls.items()}
    revoked = app.state.revoked = service.resources.get(Revoked)
    await once("revoked", revoked.look, service.database)  # before the first request
    limits = app.state.limits = Limits(settings)
    try:
        yield {"intake": Intake(service.outbox, settings.running_reports), "limits": limits, "upstreams": upstreams}
    finally:
        await limits.rates.close()
        for upstream in upstreams.values():
            await upstream.close()


router = PublicRouter(about=ABOUT, groups=GROUPS, lifespan=lifespan, route_class=Route)
for part in (pages, orders, jobs, reports, email, deadletters, tokens):
    router.include_router(part.router)
router.include_router(proxy.routes())
