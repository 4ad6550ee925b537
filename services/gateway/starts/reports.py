"""Jobs about reports. Reports can be asked for while the reports service is away."""

from fastapi import APIRouter, Depends, Request, Response
from uuid_utils.compat import uuid7

from contracts.http.reports import NoticeChoice
from contracts.reports import (
    CreateReport,
    NotForCustomers,
    RebuildReadModel,
    ReportWish,
    about_customer,
    columns_in_markdown,
)
from services.gateway.jobs.starting import JobStart, Start, starting
from services.gateway.proxy import upstream
from services.gateway.store.intake import Intake
from shared.http.auth import Caller, CallerOf, operator
from shared.http.body import Route
from shared.http.problems import Problem

router = APIRouter(tags=["reports"], route_class=Route)
CHOICE = "/v1/me/notifications"


ASK_FOR_REPORT = f"""Ask for a report: orders, their lines, movements of stock, or sales per day and product.

A report shows what is known when its making begins. An operator may ask for anything; a customer has reports of kind
`orders` and `order-lines` about its own orders. With too many reports in the making, a 429 says when to come again.

Each kind has these columns, in this order, in every format; `money` is in major units (`69.90`).

{columns_in_markdown()}"""


@starting(
    router, CreateReport, "The report was made while you waited; it is at `Location`.", description=ASK_FOR_REPORT
)
async def create_report(body: ReportWish, request: Request, who: CallerOf, job: JobStart) -> Response:
    """Ask for a report."""
    try:
        asked = body if who.is_operator else about_customer(body, who.subject)
    except NotForCustomers as refusal:
        raise Problem(403, refusal.code, str(refusal)) from refusal
    command = CreateReport(report_id=uuid7(), owner=who.subject, role=who.role, email=who.email, wish=asked)
    return await job.start(CreateReport, _report(command, request, who, job), command.report_id, asked)


async def _report(command: CreateReport, request: Request, who: Caller, job: Start) -> CreateReport:
    """The command with the address for mail about the report, which no later choice of a customer changes. Raises
    `Problem` 429 for too many reports in the making, or too many mails to one address."""
    if who.is_operator:
        return command
    address = await _address(request, who)
    if address and not who.owns(address):
        intake: Intake = request.state.intake
        await intake.demand_room_for_report(who.subject)
        await job.count_recipient(address, command.wish)
    return command.model_copy(update={"email": address})


async def _address(request: Request, who: Caller) -> str | None:
    """The address that the caller has chosen for mail about reports; None for no mail. The token's address, if the
    reports service is away or answers as another version."""
    try:
        choice = NoticeChoice.model_validate(await upstream(request, "reports").read(request, who, CHOICE))
    except (Problem, ValueError):
        return who.email
    return (choice.email or who.email) if choice.mail else None


@starting(router, RebuildReadModel, dependencies=[Depends(operator)])
async def rebuild_reports(job: JobStart) -> Response:
    """Fill what reports are made from again, from the services that own it. Operators only."""
    return await job.start(RebuildReadModel, RebuildReadModel())
