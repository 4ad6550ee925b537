"""The public routes. What changes something becomes a job; what asks something is passed to whoever owns the answer."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path as FilePath
from string import Template
from typing import Annotated, Any, cast
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, Field, ValidationError
from uuid_utils.compat import uuid7

from contracts.base import Command, Contract, JobState
from contracts.deadletters import CancelReplay, EditLetter, PurgeLetters, ReplayLetters, Selection
from contracts.email import ResendMails
from contracts.http import (
    EditWish,
    JobAccepted,
    JobFinished,
    JobLinks,
    JobView,
    NoticeChoice,
    OrderIn,
    PurgeWish,
    ReplayWish,
    ResendWish,
    RevocationIn,
    Revocations,
    RevocationView,
)
from contracts.orders import CancelOrder, Customer, PlaceOrder
from contracts.reports import (
    COLUMNS,
    CancelReport,
    CreateReport,
    RebuildReadModel,
    ReportWish,
)
from services.gateway import domain, proxy, store
from services.gateway.adapters import Limits
from services.gateway.domain import Key, Seen
from services.gateway.proxy import OneStream, upstream
from services.gateway.settings import GatewaySettings
from services.gateway.store import Intake, Job, Receipt, Revocation, Revoked
from shared.docs import asyncapi
from shared.docs.openapi import PublicRouter
from shared.http.auth import Caller, CallerOf, OperatorOf, operator
from shared.http.body import Route
from shared.http.events import EVENTS, Events, change_or_pause
from shared.http.pages import CursorOf, Page, paginate
from shared.http.problems import FieldProblem, Problem
from shared.http.protocol import IdOf, KeyHeader, idempotency_key
from shared.http.proxy import Upstream
from shared.messaging.outbox import OutboxFull
from shared.messaging.periodic import Periodic, again_and_again
from shared.persistence.changes import POLL_SECONDS
from shared.persistence.clock import moment
from shared.persistence.database import Database
from shared.service import VERSION, Running, Service

log = structlog.get_logger(__name__)

STATIC = FilePath(__file__).parent / "static"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
ASYNCAPI_FILES = ("page.js", "schema.js", "page.css")
ASYNCAPI_MAY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
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
DOCS_STYLE = """\
<style>
.swagger-ui .opblock .opblock-summary-method { color: #111; text-shadow: none; }
@media (max-width: 640px) { .swagger-ui .download-contents { position: static; } }
@media (prefers-color-scheme: dark) {
  html { background: #14181f; color-scheme: dark; }
  .swagger-ui { filter: invert(0.94) hue-rotate(180deg); color-scheme: light; }
  .swagger-ui .scheme-container { background: none; box-shadow: none; }
  .swagger-ui .dialog-ux .backdrop-ux { background: rgba(255, 255, 255, 0.8); }
  .swagger-ui .highlight-code, .swagger-ui :not(.highlight-code) > .microlight { filter: invert(1) hue-rotate(180deg); }
  .swagger-ui .json-schema-2020-12-head button { background: none; color: #3b4151; }
}
</style>
"""
SOON = {"Retry-After": "1"}
LONGEST_CUSTOMER_ID = 64


async def _poll(database: Database) -> None:
    look = Periodic("poll", partial(store.changes.look, database), POLL_SECONDS)
    await again_and_again(look)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """What the routes find in `request.state`, and what goes on in the background."""
    service: Service = app.state.service
    settings = cast(GatewaySettings, service.settings)
    urls = {name: getattr(settings, f"{name}_url") for name in proxy.owners()}
    upstreams = {name: Upstream(name, str(url), settings.tls) for name, url in urls.items()}
    unfinished = store.Unfinished()
    service.concerns["jobs"] = unfinished.concern
    revoked = app.state.revoked = Revoked()
    parts = {"poll": _poll, "forget": store.tidy, "measure": unfinished.measure, "revoked": revoked.look}
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
v1 = APIRouter(prefix="/v1", route_class=Route)

Preference = Annotated[
    str | None,
    Header(description="`wait=N`: wait up to N seconds (at most 30) for the job to end.", examples=["wait=1"]),
]
STARTED: dict[int | str, dict[str, Any]] = {
    200: {"model": JobFinished, "description": "It ended while you waited; see `error` for how."},
    202: {"model": JobAccepted, "description": "Accepted; look at `Location` for what becomes of it."},
}
PLACED: dict[int | str, dict[str, Any]] = {
    **STARTED,
    201: {"model": JobFinished, "description": "The order was confirmed while you waited; it is at `Location`."},
}


class Start:
    """How a route starts a job: as who asks, once for an idempotency key, and waiting for its end if that is wished.

    A key comes before the state of what it is about: a request that comes again gets its first answer, also where the
    first has made it impossible since. So what depends on a state is decided in here.
    """

    def __init__(self, request: Request, who: Caller, key: str | None) -> None:
        self._request, self._who, self._key = request, who, idempotency_key(key)
        self._service: Service = request.app.state.service
        self._intake: Intake = request.state.intake

    async def start(
        self,
        command: Command | Awaitable[Command],
        kind: str,
        resource_id: UUID | None = None,
        asked: BaseModel | None = None,
    ) -> Response:
        """Send a command, or what an awaitable makes of the present state, which may raise `Problem`. `asked` is the
        body that the client sent: with the same key it has to be the same."""
        key = self._scoped(asked)
        try:
            receipt = await self._intake.start(
                command if isinstance(command, Command) else await command,
                kind=kind,
                owner=self._who.subject,
                role=self._who.role,
                resource_id=resource_id,
                traceparent=self._request.scope["traceparent"],
                key=key,
            )
        except (Problem, OutboxFull):
            earlier = await store.earlier(self._service.database, key) if key else None
            if earlier is None:
                raise
            receipt = earlier
        await self._demand_own(receipt)
        return await self._answer(receipt, kind)

    async def count_recipient(self, email: str, asked: BaseModel) -> None:
        """Count a mail to an address that nobody says to be the caller's own, if a job can begin and has not begun:
        what is asked for in vain, or again, sends none. Raises `Problem` 429."""
        key = self._scoped(asked)
        if key and await store.earlier(self._service.database, key):
            return
        self._service.outbox.demand_room()
        limits: Limits = self._request.state.limits
        await limits.count_recipient(email)

    async def _demand_own(self, receipt: Receipt) -> None:
        """Raises `Problem` 422 for a customer whose key came from an operator of the same name before."""
        if not receipt.is_replay or self._who.is_operator:
            return
        async with self._service.database.reading() as session:
            job = await store.job(session, receipt.job_id)
        if job and not self._who.may_see(job.owner, job.role):
            raise Problem(422, "idempotency_key_reused", "This Idempotency-Key came with another request before.")

    def _scoped(self, asked: BaseModel | None) -> Key | None:
        if self._key is None:
            return None
        path = self._request.url.path.lower()  # an id may be written in capitals
        route, payload = f"POST {path}", asked.model_dump_json() if asked else ""
        return Key.of(self._key, subject=self._who.subject, route=route, payload=payload)

    async def _answer(self, receipt: Receipt, kind: str) -> Response:
        """What the job became by now, or in the time that the client waits."""
        headers = {"Idempotent-Replayed": "true"} if receipt.is_replay else {}
        status = JobState.PENDING
        wait = domain.preferred_wait(",".join(self._request.headers.getlist("prefer")))
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait}"
            job = await store.ended(self._service.database, receipt.job_id, wait, self._service.stopping)
            if job:
                status = JobState(job.status)
                if status.is_final:
                    return _finished(job, headers)
        return _accepted(receipt, kind, status, headers)


async def _job_start(request: Request, who: CallerOf, prefer: Preference = None, key: KeyHeader = None) -> Start:
    return Start(request, who, key)  # `prefer` is named for the documents: the header may come several times


JobStart = Annotated[Start, Depends(_job_start)]
OPERATOR = Depends(operator)


# -- orders -----------------------------------------------------------------------------------------------------------


@v1.post("/orders", status_code=202, responses=PLACED, tags=["orders"])
async def place_order(wish: OrderIn, request: Request, who: CallerOf, job: JobStart) -> Response:
    """Place an order. A customer orders for itself, an operator for anyone. Mail about a customer's order goes to the
    address that its token says to be its own, if it says one."""
    command = PlaceOrder(order_id=uuid7(), customer=wish.customer, currency=wish.currency, lines=wish.lines)
    return await job.start(_order(command, wish, who, job), "order.place", command.order_id, wish)


async def _order(command: PlaceOrder, wish: OrderIn, who: Caller, job: Start) -> PlaceOrder:
    """The command, if it is not one for a stranger. Raises `Problem` 403 or 429."""
    if not who.is_operator:
        _demand_own(command.customer, who)
        if not who.is_email_verified:
            await job.count_recipient(command.customer.email, wish)
    return command


def _demand_own(customer: Customer, who: Caller) -> None:
    """Raises `Problem` 403 for an order as somebody else, or whose mail would go to somebody else."""
    if customer.id != who.subject:
        raise Problem(403, "not_your_order", "A customer places orders for itself: customer.id must be your own.")
    if who.is_email_verified and not who.owns(customer.email):
        detail = "Mail about your orders goes to the address in your token: put it into customer.email."
        raise Problem(403, "not_your_address", detail)


@v1.post("/orders/{order_id}/cancel", status_code=202, responses=STARTED, tags=["orders"])
async def cancel_order(order_id: IdOf, request: Request, service: Running, who: CallerOf, job: JobStart) -> Response:
    """Cancel an order: a job of its own, which fails if it came too late."""
    return await job.start(_order_cancellation(order_id, request, service, who), "order.cancel", order_id)


async def _order_cancellation(order_id: UUID, request: Request, service: Service, who: Caller) -> CancelOrder:
    async with service.database.reading() as session:
        placing = await store.job_that_placed(session, order_id)
    if (
        placing is None
        or not who.may_see(placing.owner, placing.role)
        or placing.status in (JobState.FAILURE, JobState.CANCELLED)
    ):
        await _demand_cancellable(request, who, order_id)
    return CancelOrder(order_id=order_id)


async def _demand_cancellable(request: Request, who: Caller, order_id: UUID) -> None:
    """Raises `Problem` with the status of orders' own answer, or 409 if the order has ended."""
    answer = await upstream(request, "orders").ask(request, who, f"/v1/orders/{order_id}")
    found = answer.json()
    if not answer.is_success:
        raise Problem(answer.status_code, found["code"], found["detail"])
    if found["status"] in ("REJECTED", "CANCELLED"):
        raise Problem(409, "order_ended", f"The order has ended: {found['status']}.")


# -- jobs -------------------------------------------------------------------------------------------------------------


async def _visible(job_id: IdOf, service: Running, who: CallerOf) -> Job:
    async with service.database.reading() as session:
        found = await store.job(session, job_id)
    if found is None or not who.may_see(found.owner, found.role):
        raise Problem(404, "job_not_found", f"There is no job {job_id}.")
    return found


JobOf = Annotated[Job, Depends(_visible)]


@v1.get("/jobs", tags=["jobs"])
async def list_jobs(
    service: Running, who: CallerOf, cursor: CursorOf, status: Annotated[JobState | None, Query()] = None
) -> Page[JobView]:
    """Your jobs, newest first; an operator sees everyone's."""
    async with service.database.reading() as session:
        query = store.owned(None if who.is_operator else who.subject, status)
        rows, has_more = await paginate(session, query, Job.id, cursor)
    return Page(data=[_view(row) for row in rows], has_more=has_more)


@v1.get("/jobs/{job_id}", tags=["jobs"])
async def show_job(job: JobOf) -> JobView:
    """One job."""
    return _view(job)


class WaitQuery(BaseModel):
    """How long to wait."""

    timeout: float = Field(
        default=domain.LONGEST_WAIT, ge=0, le=domain.LONGEST_WAIT, allow_inf_nan=False, description="Seconds."
    )


@v1.post(
    "/jobs/{job_id}/wait",
    responses={202: {"model": JobView, "description": "It has not ended yet: ask again."}},
    tags=["jobs"],
)
async def wait_for_job(
    job: JobOf, service: Running, response: Response, query: Annotated[WaitQuery, Query()]
) -> JobView:
    """One job, as soon as it has ended; after `timeout` as it is then."""
    found = await store.ended(service.database, job.id, query.timeout, service.stopping) or job
    if not JobState(found.status).is_final:
        response.status_code = 202
        response.headers.update(SOON)
    return _view(found)


HISTORY = {**EVENTS, 204: {"description": "The job has ended, and you have all of it: do not come again."}}


@v1.get("/jobs/{job_id}/events", response_class=Response, responses=HISTORY, dependencies=[OneStream], tags=["jobs"])
async def follow_job(
    job: JobOf, request: Request, service: Running, who: CallerOf, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """A job as it goes on: `timeline` for each message that moved it, then `state` with the whole job; `progress` where
    it only got further. The stream ends when the job has; `Last-Event-ID` goes on after an event."""
    seen = Seen.read(last_event_id)
    if JobState(job.status).is_final and seen == _all_of(job):
        return Response(status_code=204)  # a browser comes again whenever a stream ends, but not after this
    may_go_on = partial(request.app.state.revoked.is_good, who)
    return Events(_events(service, job, seen), who.expires_at, may_go_on)


async def _events(service: Service, job: Job, seen: Seen) -> AsyncIterator[ServerSentEvent | None]:
    with store.changes.of(job.id) as changed:
        while True:
            async with service.database.reading() as session:
                found = await store.job(session, job.id) or job
            is_final = JobState(found.status).is_final
            if seen.revision > found.revision:
                seen = Seen.read(None)  # an id that this job never gave
            if found.revision > seen.revision or is_final:
                for happened in _news(found, seen):
                    yield happened
                seen = _all_of(found)
            if is_final:
                return
            while not await change_or_pause(changed):
                yield None
            changed.clear()


def _news(job: Job, seen: Seen) -> list[ServerSentEvent]:
    view = _view(job)
    news = [
        ServerSentEvent(event="timeline", data=line, id=str(Seen(seen.revision, number)))
        for number, line in enumerate(view.timeline[seen.lines :], seen.lines + 1)
    ]
    only_progress = seen.revision and not news and view.progress and not view.status.is_final
    last = ("progress", view.progress) if only_progress else ("state", view)
    return [*news, ServerSentEvent(event=last[0], data=last[1], id=str(_all_of(job)))]


def _all_of(job: Job) -> Seen:
    return Seen(job.revision, len(job.timeline))


@v1.post("/jobs/{job_id}/cancel", status_code=202, responses=STARTED, tags=["jobs"])
async def cancel_job(job: JobOf, who: CallerOf, cancellation: JobStart) -> Response:
    """Cancel what a job is about, if it has not ended: by a job of its own."""
    kind = f"{job.kind.partition('.')[0]}.cancel"
    return await cancellation.start(_cancellation(job, who), kind, job.resource_id)


async def _cancellation(job: Job, who: Caller) -> Command:
    refusal = domain.refusal_to_cancel(job.kind, JobState(job.status))
    if refusal:
        raise Problem(409, "not_cancellable", refusal)
    if job.resource_id is None:
        return CancelReplay(replay_id=job.id, by=who.subject)
    if domain.resource(job.kind) == "report":
        return CancelReport(report_id=job.resource_id)
    return CancelOrder(order_id=job.resource_id)


# -- products ---------------------------------------------------------------------------------------------------------


# -- reports ----------------------------------------------------------------------------------------------------------


def _columns() -> str:
    """The columns of each kind, in Markdown, for the document."""
    tables = []
    for kind, columns in COLUMNS.items():
        rows = "\n".join(f"| `{column.name}` | {column.type} | {column.about} |" for column in columns)
        tables.append(f"**{kind}**\n\n| column | type | what it is |\n|---|---|---|\n{rows}")
    return "\n\n".join(tables)


ASK_FOR_REPORT = f"""Ask for a report: orders, their lines, movements of stock, or sales per day and product.

A report shows what is known when its making begins. An operator may ask for anything; a customer has reports of kind
`orders` and `order-lines` about its own orders. With too many reports in the making, a 429 says when to come again.

Each kind has these columns, in this order, in every format; `money` is in major units (`69.90`).

{_columns()}"""
REPORTED: dict[int | str, dict[str, Any]] = {
    **STARTED,
    201: {"model": JobFinished, "description": "The report was made while you waited; it is at `Location`."},
}
CHOICE = "/v1/me/notifications"
OWN_KINDS = ("orders", "order-lines")
"""What a customer may ask for."""


@v1.post("/reports", status_code=202, responses=REPORTED, tags=["reports"], description=ASK_FOR_REPORT)
async def create_report(wish: ReportWish, request: Request, who: CallerOf, job: JobStart) -> Response:
    """Ask for a report."""
    if not who.is_operator:
        wish = _about_oneself(wish, who)
    command = CreateReport(report_id=uuid7(), owner=who.subject, role=who.role, email=who.email, wish=wish)
    return await job.start(_report(command, request, who, job), store.REPORT, command.report_id, wish)


async def _report(command: CreateReport, request: Request, who: Caller, job: Start) -> CreateReport:
    """The command, with the address that a customer's mail goes to, whatever it chooses later. Raises `Problem` 429."""
    if who.is_operator:
        return command
    address = await _address(request, who)
    if address and not who.owns(address):
        intake: Intake = request.state.intake
        await intake.demand_room_for_report(who.subject)
        await job.count_recipient(address, command.wish)
    return command.model_copy(update={"email": address})


async def _address(request: Request, who: Caller) -> str | None:
    """Where its owner wants mail about a report, if anywhere. Wishes are taken while reports is away: then it is the
    token's address."""
    try:
        answer = await upstream(request, "reports").ask(request, who, CHOICE)
    except Problem:
        return who.email
    try:
        choice = NoticeChoice.model_validate_json(answer.content)
    except ValidationError:  # a refusal, or the answer of another version
        return who.email
    return (choice.email or who.email) if choice.mail else None


def _about_oneself(wish: ReportWish, who: Caller) -> ReportWish:
    """A customer's report, about its own orders. Raises `Problem` 403 if it is about anything else."""
    if wish.kind not in OWN_KINDS:
        raise Problem(403, "operators_only", f"Only an operator may have a report of kind {wish.kind}.")
    if wish.filters.customer_id not in (None, who.subject):
        raise Problem(403, "not_your_orders", "A customer has reports of its own orders: leave customer_id out.")
    if len(who.subject) > LONGEST_CUSTOMER_ID:
        raise Problem(403, "no_customer", "Your token's subject is too long to be a customer's id: you have no orders.")
    return wish.model_copy(update={"filters": wish.filters.model_copy(update={"customer_id": who.subject})})


@v1.post("/reports/rebuild", status_code=202, responses=STARTED, dependencies=[OPERATOR], tags=["reports"])
async def rebuild_reports(job: JobStart) -> Response:
    """Fill what reports are made from again, from the services that own it. Operators only."""
    return await job.start(RebuildReadModel(), "reports.rebuild")


# -- notifications ----------------------------------------------------------------------------------------------------


# -- mails ------------------------------------------------------------------------------------------------------------


@v1.post("/mails/resend", status_code=202, responses=STARTED, tags=["mails"])
async def resend_mails(wish: ResendWish, who: OperatorOf, job: JobStart) -> Response:
    """Send mails again that their server refused for good, once what it minded is mended. Operators only."""
    command = ResendMails(ids=wish.ids, failed_since=wish.failed_since, by=who.subject)
    return await job.start(command, "mails.resend", asked=wish)


# -- dead letters -----------------------------------------------------------------------------------------------------


LETTERS = "/v1/dead-letters"


@v1.post("/dead-letters/replay", status_code=202, responses=STARTED, tags=["dead letters"])
async def replay_letters(wish: ReplayWish, who: OperatorOf, job: JobStart) -> Response:
    """Send dead letters again, each to the lane that failed and to no other: first one, and when that went well, the
    rest. None is sent twice. Cancelling the job stops it. With the state SENT: what was sent before by a replay that
    has ended, and had no outcome, such as after the broker was lost."""
    command = ReplayLetters(selection=_selection(wish), rate=wish.rate, by=who.subject)
    return await job.start(command, "dead_letters.replay", asked=wish)


@v1.post("/dead-letters/purge", status_code=202, responses=STARTED, tags=["dead letters"])
async def purge_letters(wish: PurgeWish, who: OperatorOf, job: JobStart) -> Response:
    """Remove dead letters for good, but for those that are on their way."""
    command = PurgeLetters(selection=_selection(wish), by=who.subject)
    return await job.start(command, "dead_letters.purge", asked=wish)


def _selection(wish: Selection) -> Selection:
    return Selection(ids=wish.ids, filter=wish.filter, all=wish.all)


@v1.post("/dead-letters/{letter_id:id}/edit", status_code=202, responses=STARTED, tags=["dead letters"])
async def edit_letter(letter_id: IdOf, wish: EditWish, request: Request, who: OperatorOf, job: JobStart) -> Response:
    """Send another message in a dead letter's place: with an id of its own, and naming the old one."""
    return await job.start(_edit(letter_id, wish, request, who), "dead_letters.edit", asked=wish)


async def _edit(letter_id: UUID, wish: EditWish, request: Request, who: Caller) -> EditLetter:
    answer = await upstream(request, "deadletters").ask(request, who, f"{LETTERS}/{letter_id}")
    letter = answer.json()
    if not answer.is_success:
        raise Problem(answer.status_code, letter["code"], letter["detail"])
    if letter["state"] != "WAITING":
        raise Problem(409, "letter_ended", f"The letter does not wait any more: {letter['state']}.")
    message = wish.message or letter["message"]
    if problems := domain.problems(letter["lane"], message, wish.body):
        where = "; ".join(f"{pointer}: {detail}" for pointer, _, detail in problems[:3])
        errors = [FieldProblem(pointer=pointer, code=code, detail=detail) for pointer, code, detail in problems]
        raise Problem(422, "invalid_request", f"The lane {letter['lane']} cannot read it: {where}", errors=errors)
    return EditLetter(letter_id=letter_id, message=message, body=wish.body, by=who.subject)


# -- what is here -----------------------------------------------------------------------------------------------------

HOME = Template((STATIC / "home.html").read_text(encoding="utf-8")).substitute(version=VERSION)
_STYLE = HOME.partition("<style>")[2].partition("</style>")[0]
HOME_MAY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}';"
    " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LINKS = {
    "openapi": "/openapi.json",
    "docs": "/docs",
    "asyncapi": "/asyncapi",
    "live": "/livez",
    "ready": "/readyz",
}


@router.get("/", include_in_schema=False)
async def home(accept: Annotated[str, Header()] = "") -> Response:
    """What is here: a page for people, links for programs."""
    if "text/html" in accept:
        return HTMLResponse(HOME, headers={"Vary": "Accept", "Content-Security-Policy": HOME_MAY})
    return JSONResponse({"service": "malote", "version": VERSION, "links": LINKS}, headers={"Vary": "Accept"})


# -- tokens -----------------------------------------------------------------------------------------------------------


@v1.post("/revocations", status_code=201, tags=["tokens"])
async def revoke(wish: RevocationIn, service: Running, who: OperatorOf) -> RevocationView:
    """Believe a token, or all tokens that a subject has, no more: at once here, within seconds at other gateways, where
    event streams that are open end, too. Once more is as good as once. Operators only."""
    id_ = f"token {wish.token_id}" if wish.token_id else f"subject {wish.subject}"
    before = round(wish.before.timestamp() * 1000) if wish.before else None
    async with service.database.transaction() as session:
        revocation = await store.revoke(session, id_, who.subject, before, service.settings.jwt_max_days)
    revoked: Revoked = service.app.state.revoked
    async with service.database.reading() as session:
        await revoked.read(session)
    log.warning("tokens revoked", what=id_.partition(" ")[0], by=who.subject)
    return _revocation(revocation)


@v1.get("/revocations", tags=["tokens"])
async def list_revocations(service: Running, who: OperatorOf) -> Revocations:
    """What is believed no more. Operators only."""
    async with service.database.reading() as session:
        rows = await store.revocations(session)
    return Revocations(data=tuple(map(_revocation, rows)))


def _revocation(row: Revocation) -> RevocationView:
    kind, _, name = row.id.partition(" ")
    about = {"token_id": name} if kind == "token" else {"subject": name, "before": moment(row.before)}
    return RevocationView(**about, by=row.by, at=moment(row.at))


# -- documents --------------------------------------------------------------------------------------------------------


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Swagger UI, with scripts of our own, so that it works without internet."""
    script, style, icon = (f"/docs/{name}" for name in SWAGGER_FILES)
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Malote",
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
        swagger_ui_parameters={"persistAuthorization": False},  # or the token would stay in the browser
    )
    text = bytes(page.body).decode().replace("</head>", f"{DOCS_STYLE}</head>")
    return HTMLResponse(text, headers={"Content-Security-Policy": _only_what_is_in(text)})


def _only_what_is_in(page: str) -> str:
    """What a page of documents may do: run our files, and the script that is written into it, and ask us."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
    return (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str) -> FileResponse:
    """One of the page's own files."""
    if name not in SWAGGER_FILES:
        raise Problem(404, "not_found", "Not Found")
    return FileResponse(STATIC / name, headers={"Cache-Control": "public, max-age=86400"})


MESSAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An AsyncAPI 3.0 document; a page that shows it to who accepts `text/html`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


@router.get("/asyncapi", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages(accept: Annotated[str, Header()] = "") -> Response:
    """What goes over the broker: the messages of all services."""
    return _page(asyncapi.ALL) if "text/html" in accept else _messages(asyncapi.ALL)


@router.get("/asyncapi.json", include_in_schema=False)
async def messages_json() -> Response:
    """The same, whatever is accepted."""
    return _messages(asyncapi.ALL)


@router.get("/asyncapi/static/{name}", include_in_schema=False)
async def messages_file(name: str) -> FileResponse:
    """One of the page's own files."""
    if name not in ASYNCAPI_FILES:
        raise Problem(404, "not_found", "Not Found")
    return FileResponse(STATIC / "asyncapi" / name, headers={"Cache-Control": "public, max-age=86400"})


@router.get("/asyncapi/{service}", response_class=Response, responses=MESSAGES, tags=["documents"])
async def messages_of(service: str, accept: Annotated[str, Header()] = "") -> Response:
    """The messages of one service."""
    name = service.removesuffix(".json")
    if name not in asyncapi.names():
        raise Problem(404, "no_such_service", f"There is no service {name!r}: {', '.join(asyncapi.names())} are there.")
    return _page(name) if "text/html" in accept and name == service else _messages(name)


def _messages(name: str) -> Response:
    return Response(asyncapi.text(name), media_type="application/json", headers={"Vary": "Accept"})


def _page(name: str) -> HTMLResponse:
    links = " ".join(
        f'<a href="{path}"{" aria-current=page" if one == name else ""}>{"all" if one == asyncapi.ALL else one}</a>'
        for one, path in ((one, asyncapi.path(one)) for one in asyncapi.names())
    )
    template = Template((STATIC / "asyncapi" / "page.html").read_text(encoding="utf-8"))
    title = "Malote's messages" if name == asyncapi.ALL else f"Messages of {name}"
    page = template.substitute(title=title, links=links, document=f"{asyncapi.path(name)}.json")
    return HTMLResponse(page, headers={"Vary": "Accept", "Content-Security-Policy": ASYNCAPI_MAY})


router.include_router(v1)
router.include_router(proxy.routes())


# -- below the routes -------------------------------------------------------------------------------------------------


def _accepted(receipt: Receipt, kind: str, status: JobState, headers: dict[str, str]) -> Response:
    about = _about(kind, receipt.resource_id)
    links = _links(receipt.job_id, **about)
    body = JobAccepted(job_id=receipt.job_id, **about, status=status, links=links)
    return _json(body, 202, headers | SOON | {"Location": links.job})


def _finished(job: Job, headers: dict[str, str]) -> Response:
    about = _about(job.kind, job.resource_id)
    links = _links(job.id, **about)
    body = JobFinished(
        job_id=job.id,
        **about,
        status=JobState(job.status),
        links=links,
        result=job.result,
        error=job.error,
    )
    made = {"order.place": links.order, "report.create": links.report}.get(job.kind)
    if made and body.status is JobState.SUCCESS:
        return _json(body, 201, headers | {"Location": made})
    return _json(body, 200, headers | {"Content-Location": links.job})


def _json(body: Contract, status: int, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(), status, headers, "application/json")


def _view(job: Job) -> JobView:
    about = _about(job.kind, job.resource_id)
    return JobView(
        id=job.id,
        kind=job.kind,
        status=JobState(job.status),
        **about,
        progress=cast(Any, job.progress),
        result=job.result,
        error=job.error,
        timeline=cast(Any, job.timeline),
        created_at=moment(job.created_at),
        updated_at=moment(job.updated_at),
        ended_at=moment(job.ended_at) if job.ended_at else None,
        links=_links(job.id, **about),
    )


def _about(kind: str, resource_id: UUID | None) -> dict[str, UUID | None]:
    resource = domain.resource(kind)
    return {name: resource_id if name == f"{resource}_id" else None for name in ("order_id", "report_id")}


def _links(job_id: UUID, order_id: UUID | None, report_id: UUID | None) -> JobLinks:
    job = f"/v1/jobs/{job_id}"
    return JobLinks(
        job=job,
        order=f"/v1/orders/{order_id}" if order_id else None,
        report=f"/v1/reports/{report_id}" if report_id else None,
        events=f"{job}/events",
    )
