"""What becomes of wishes for reports. They are accepted while reports is away."""

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from contracts.http import NoticeChoice
from contracts.reports import COLUMNS, CreateReport, NotForCustomers, RebuildReadModel, ReportWish, about_customer
from services.gateway.jobs.starting import JobStart, Start, starting
from services.gateway.proxy import upstream
from services.gateway.store.intake import Intake
from shared.http.auth import Caller, CallerOf, operator
from shared.http.body import Route
from shared.http.problems import Problem

router = APIRouter(tags=["reports"], route_class=Route)
CHOICE = "/v1/me/notifications"


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


@starting(
    router, CreateReport, "The report was made while you waited; it is at `Location`.", description=ASK_FOR_REPORT
)
async def create_report(wish: ReportWish, request: Request, who: CallerOf, job: JobStart) -> Response:
    """Ask for a report."""
    if not who.is_operator:
        try:
            wish = about_customer(wish, who.subject)
        except NotForCustomers as refusal:
            raise Problem(403, refusal.code, str(refusal)) from refusal
    command = CreateReport(report_id=uuid7(), owner=who.subject, role=who.role, email=who.email, wish=wish)
    return await job.start(CreateReport, _report(command, request, who, job), command.report_id, wish)


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


@starting(router, RebuildReadModel, dependencies=[Depends(operator)])
async def rebuild_reports(job: JobStart) -> Response:
    """Fill what reports are made from again, from the services that own it. Operators only."""
    return await job.start(RebuildReadModel, RebuildReadModel())
