"""The public routes. What starts a job is in `starts`; what another service answers is passed on by `proxy`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI

from services.gateway import proxy
from services.gateway.api import jobs, pages, tokens
from services.gateway.limits import Limits
from services.gateway.settings import GatewaySettings
from services.gateway.starts import deadletters, email, orders, reports
from services.gateway.store.intake import Intake
from services.gateway.store.revocations import Revoked
from services.gateway.store.unfinished import Unfinished
from shared.docs.openapi import PublicRouter
from shared.http.body import Route
from shared.http.proxy import Upstream
from shared.service import Service

ABOUT = """\
A token goes into each request as `Authorization: Bearer …`, here by **Authorize**. On one machine `malote token --role
operator --subject me` makes one; elsewhere it comes from whoever signs with `MALOTE_JWT_SECRET` or its key set.

What goes over the broker is documented at [/asyncapi](/asyncapi).
"""
GROUPS = {
    "orders": "Placed, looked at, cancelled.",
    "jobs": "What became of a request that was accepted.",
    "products": "The catalogue, and what is left of each product.",
    "reports": "Files of orders, lines and movements; summaries of sales.",
    "notifications": "What you were told, and how you want to be told.",
    "mails": "What was written to whom.",
    "dead letters": "Messages that were given up.",
    "tokens": "Which tokens are believed no more.",
    "documents": "What goes over the broker.",
    "health": "Whether this process works.",
}
"""In the order in which /docs shows them."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """What the routes find in `request.state`, and what goes on in the background."""
    service: Service = app.state.service
    settings = cast(GatewaySettings, service.settings)
    urls = {name: getattr(settings, f"{name}_url") for name in proxy.owners()}
    upstreams = {name: Upstream(name, str(url), settings.tls) for name, url in urls.items()}
    unfinished = Unfinished()
    service.concerns["jobs"] = unfinished.concern
    revoked = app.state.revoked = Revoked()
    parts = {"measure": unfinished.measure, "revoked": revoked.look}
    await revoked.look_once(service.database)
    limits = app.state.limits = Limits(settings)
    try:
        async with service.background(**{name: work(service.database) for name, work in parts.items()}):
            yield {"intake": Intake(service.outbox, settings.running_reports), "limits": limits, "upstreams": upstreams}
    finally:
        await limits.close()
        for upstream in upstreams.values():
            await upstream.close()


router = PublicRouter(about=ABOUT, groups=GROUPS, lifespan=lifespan, route_class=Route)
for part in (pages, orders, jobs, reports, email, deadletters, tokens):
    router.include_router(part.router)
router.include_router(proxy.routes())
