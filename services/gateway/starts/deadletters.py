"""What becomes of wishes about dead letters. Operators only."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from contracts.deadletters import EditLetter, PurgeLetters, ReplayLetters, Selection
from contracts.http import EditWish, PurgeWish, ReplayWish
from contracts.lanes import complaints
from services.gateway.jobs.starting import JobStart, starting
from services.gateway.proxy import upstream
from shared.http.auth import Caller, OperatorOf
from shared.http.body import Route
from shared.http.problems import FieldProblem, Problem
from shared.http.protocol import IdOf

router = APIRouter(tags=["dead letters"], route_class=Route)


@starting(router, ReplayLetters)
async def replay_letters(wish: ReplayWish, who: OperatorOf, job: JobStart) -> Response:
    """Send dead letters again, each to the lane that failed and to no other: first one, and when that went well, the
    rest. None is sent twice. Cancelling the job stops it. With the state SENT: what was sent before by a replay that
    has ended, and had no outcome, such as after the broker was lost."""
    command = ReplayLetters(selection=_selection(wish), rate=wish.rate, by=who.subject)
    return await job.start(ReplayLetters, command, asked=wish)


@starting(router, PurgeLetters)
async def purge_letters(wish: PurgeWish, who: OperatorOf, job: JobStart) -> Response:
    """Remove dead letters for good, but for those that are on their way."""
    command = PurgeLetters(selection=_selection(wish), by=who.subject)
    return await job.start(PurgeLetters, command, asked=wish)


def _selection(wish: Selection) -> Selection:
    return Selection(ids=wish.ids, filter=wish.filter, all=wish.all)


@starting(router, EditLetter)
async def edit_letter(letter_id: IdOf, wish: EditWish, request: Request, who: OperatorOf, job: JobStart) -> Response:
    """Send another message in a dead letter's place: with an id of its own, and naming the old one."""
    return await job.start(EditLetter, _edit(letter_id, wish, request, who), asked=wish)


async def _edit(letter_id: UUID, wish: EditWish, request: Request, who: Caller) -> EditLetter:
    answer = await upstream(request, "deadletters").ask(request, who, f"/v1/dead-letters/{letter_id}")
    letter = answer.json()
    if not answer.is_success:
        raise Problem(answer.status_code, letter["code"], letter["detail"])
    if letter["state"] != "WAITING":
        raise Problem(409, "letter_ended", f"The letter does not wait any more: {letter['state']}.")
    message = wish.message or letter["message"]
    if problems := complaints(letter["lane"], message, wish.body):
        where = "; ".join(f"{pointer}: {detail}" for pointer, _, detail in problems[:3])
        errors = [FieldProblem(pointer=pointer, code=code, detail=detail) for pointer, code, detail in problems]
        raise Problem(422, "invalid_request", f"The lane {letter['lane']} cannot read it: {where}", errors=errors)
    return EditLetter(letter_id=letter_id, message=message, body=wish.body, by=who.subject)
