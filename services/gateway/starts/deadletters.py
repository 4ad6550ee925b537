"""Jobs about dead letters. Operators only."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from contracts.deadletters import EditLetter, PurgeLetters, ReplayLetters, Selection
from contracts.http.deadletters import EditWish, PurgeWish, ReplayWish
from contracts.lanes import complaints
from services.gateway.jobs.starting import JobStart, starting
from services.gateway.proxy import upstream
from shared.http.auth import Caller, OperatorOf
from shared.http.body import Route
from shared.http.problems import FieldProblem, Problem, unfit
from shared.http.protocol import IdOf

router = APIRouter(tags=["dead letters"], route_class=Route)


@starting(router, ReplayLetters)
async def replay_letters(body: ReplayWish, who: OperatorOf, job: JobStart) -> Response:
    """Send dead letters again, each to the lane that failed and to no other: first one, and when that went well, the
    rest. None is sent twice. Cancelling the job stops it. With the state SENT: what was sent before by a replay that
    has ended, and had no outcome, such as after the broker was lost."""
    command = ReplayLetters(selection=_selection(body), rate=body.rate, by=who.subject)
    return await job.start(ReplayLetters, command, body=body)


@starting(router, PurgeLetters)
async def purge_letters(body: PurgeWish, who: OperatorOf, job: JobStart) -> Response:
    """Remove dead letters for good, but for those that are on their way."""
    return await job.start(PurgeLetters, PurgeLetters(selection=_selection(body), by=who.subject), body=body)


def _selection(body: Selection) -> Selection:
    return Selection(ids=body.ids, filter=body.filter, all=body.all)


@starting(router, EditLetter)
async def edit_letter(letter_id: IdOf, body: EditWish, request: Request, who: OperatorOf, job: JobStart) -> Response:
    """Send another message in a dead letter's place: with an id of its own, and naming the old one."""
    return await job.start(EditLetter, _edit(letter_id, body, request, who), body=body)


async def _edit(letter_id: UUID, edit: EditWish, request: Request, who: Caller) -> EditLetter:
    """The command, if the letter waits and its lane can read the new message. Raises `Problem` 404, 409 or 422."""
    letter = await upstream(request, "deadletters").read(request, who, f"/v1/dead-letters/{letter_id}")
    if letter["state"] != "WAITING":
        raise Problem(409, "letter_ended", f"The letter does not wait any more: {letter['state']}.")
    message = edit.message or letter["message"]
    if found := complaints(letter["lane"], message, edit.body):
        errors = [FieldProblem(pointer=pointer, code=code, detail=detail) for pointer, code, detail in found]
        raise unfit(errors, f"The lane {letter['lane']} cannot read it")
    return EditLetter(letter_id=letter_id, message=message, body=edit.body, by=who.subject)
