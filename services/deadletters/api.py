"""Dead letters over HTTP, for reading only."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from contracts.deadletters import LetterFilter
from contracts.http.deadletters import ActionView, LetterGroup, LetterGroups, LetterSummary, LetterView
from services.deadletters import adapters
from services.deadletters.store import actions, letters
from services.deadletters.store.actions import Action
from services.deadletters.store.letters import Content, Letter
from shared.http.auth import OperatorOf
from shared.http.body import Route
from shared.http.pages import Cursor, CursorOf, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment
from shared.service import Service
from shared.service.http import Running

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"], route_class=Route)


class LettersWanted(Cursor, LetterFilter):
    """Which letters, and which part of them. Without a `state`: those that wait."""


Filter = Annotated[LetterFilter, Query()]
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, one letter to a line.", "content": {"application/jsonl": {}}}
}


@router.get("")
async def list_letters(
    service: Running, who: OperatorOf, wanted: Annotated[LettersWanted, Query()]
) -> Page[LetterSummary]:
    """Messages that were given up, newest first. Operators only, as all that follows."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, letters.select_letters(wanted), Letter.id, wanted)
    return Page(data=[LetterSummary(**_summary(row)) for row in rows], has_more=has_more)


@router.get("/groups")
async def list_letter_groups(service: Running, who: OperatorOf, wanted: Filter) -> LetterGroups:
    """The same by lane, message and reason, largest group first."""
    async with service.database.reading() as session:
        found, has_more, total = await letters.groups(session, wanted)
    return LetterGroups(data=tuple(map(_group, found)), has_more=has_more, total=total)


@router.get("/actions")
async def list_letter_actions(service: Running, who: OperatorOf, cursor: CursorOf) -> Page[ActionView]:
    """What was done with dead letters, by whom and when, newest first."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, actions.select_actions(), Action.id, cursor)
    return Page(data=[_action(row) for row in rows], has_more=has_more)


@router.get("/export", response_class=StreamingResponse, responses=LINES)
async def export_letters(service: Running, who: OperatorOf, wanted: Filter) -> StreamingResponse:
    """Dead letters with what they carry, oldest first."""
    headers = {"Content-Disposition": 'attachment; filename="dead-letters.jsonl"'}
    return StreamingResponse(_lines(service, wanted), media_type="application/jsonl", headers=headers)


async def _lines(service: Service, wanted: LetterFilter) -> AsyncIterator[str]:
    async for letter, content in letters.each(service.database, wanted):
        yield _line(letter, content) + "\n"


def _line(letter: Letter, content: Content) -> str:
    """A letter that cannot be shown must not keep the others from coming."""
    try:
        return _view(letter, content).model_dump_json()
    except Exception as error:
        log.exception("dead letters: one cannot be shown", letter_id=str(letter.id))
        return orjson.dumps({"id": str(letter.id), "problem": f"it cannot be shown: {type(error).__name__}"}).decode()


@router.get("/{letter_id}")
async def show_letter(letter_id: IdOf, service: Running, who: OperatorOf) -> LetterView:
    """One dead letter: what it carries, why it failed, what was done with it."""
    async with service.database.reading() as session:
        found = await letters.letter(session, letter_id)
    if found is None:
        raise Problem(404, "not_found", f"There is no dead letter {letter_id}.")
    return _view(*found)


def _summary(letter: Letter) -> dict[str, Any]:
    known = {name: getattr(letter, name) for name in LetterSummary.model_fields if hasattr(letter, name)}
    times = {"first_at": moment(letter.first_at), "last_at": moment(letter.last_at)}
    return known | times | {"group": letter.group_id, "job_id": letter.correlation_id}


def _view(letter: Letter, content: Content) -> LetterView:
    body, encoding = adapters.shown(content.body)
    carried = {"properties": content.properties, "headers": content.headers, "traceback": content.traceback}
    return LetterView(**_summary(letter), **carried, body=body, encoding=encoding, history=tuple(letter.history))


def _group(entry: dict[str, Any]) -> LetterGroup:
    times = {"first_at": moment(entry["first_at"]), "last_at": moment(entry["last_at"])}
    return LetterGroup(**entry["group"].model_dump(), count=entry["count"], **times)


def _action(action: Action) -> ActionView:
    known = {name: getattr(action, name) for name in ActionView.model_fields}
    ended_at = moment(action.ended_at) if action.ended_at else None
    wish = {name: said for name, said in action.wish.items() if name != "body"}
    return ActionView(**known | {"at": moment(action.at), "ended_at": ended_at, "wish": wish})
