"""Jobs about mails."""

from fastapi import APIRouter, Response

from contracts.email import ResendMails
from contracts.http.email import ResendWish
from services.gateway.jobs.starting import JobStart, starting
from shared.http.auth import OperatorOf
from shared.http.body import Route

router = APIRouter(tags=["mails"], route_class=Route)


@starting(router, ResendMails)
async def resend_mails(body: ResendWish, who: OperatorOf, job: JobStart) -> Response:
    """Send mails again that their server refused for good, once what it minded is mended. Operators only."""
    command = ResendMails(ids=body.ids, failed_since=body.failed_since, by=who.subject)
    return await job.start(ResendMails, command, body=body)
