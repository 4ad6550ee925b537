"""Notifications about reports, and how their readers want to be told."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from fastapi.sse import ServerSentEvent

from contracts.http.reports import NoticeChoice, NotificationPage, NotificationView
from services.reports import domain
from services.reports.store import notifications
from services.reports.store.choices import Choice, save_choice
from services.reports.store.notifications import Notification, Seen
from shared.http.auth import Caller, CallerOf
from shared.http.body import Route
from shared.http.events import EVENTS, Events, change_or_pause
from shared.http.pages import CursorOf, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment, now
from shared.service import Service
from shared.service.http import Running

router = APIRouter(tags=["notifications"], route_class=Route)


@router.get("/notifications")
async def list_notifications(service: Running, who: CallerOf, cursor: CursorOf) -> NotificationPage:
    """What you were told, newest first, and how much of it is unread."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(
            session, notifications.select_notifications(_reader(who)), Notification.id, cursor
        )
        unread = await notifications.count_unread(session, _reader(who))
    return NotificationPage(data=tuple(map(_notice, rows)), has_more=has_more, unread=unread)


@router.post("/notifications/read", status_code=204)
async def read_all_notifications(service: Running, who: CallerOf) -> None:
    """Mark all as read."""
    async with service.database.transaction() as session:
        await notifications.mark_all_read(session, _reader(who))


@router.post("/notifications/{notification_id}/read")
async def read_notification(notification_id: IdOf, service: Running, who: CallerOf) -> NotificationView:
    """Mark one as read."""
    async with service.database.transaction() as session:
        row = await session.get(Notification, notification_id)
        if row is None or row.reader != _reader(who):
            raise Problem(404, "notification_not_found", f"There is no notification {notification_id}.")
        row.read_at = row.read_at or now()
    return _notice(row)


async def _seen(service: Running, who: CallerOf, last_event_id: Annotated[str | None, Header()] = None) -> Seen:
    """What the client has received. It is read before the stream begins, so that no later notification is missed."""
    async with service.database.reading() as session:
        return await notifications.seen_by(session, _reader(who), last_event_id)


@router.get("/notifications/events", response_class=Response, responses=EVENTS)
async def follow_notifications(service: Running, who: CallerOf, seen: Annotated[Seen, Depends(_seen)]) -> Response:
    """What you are told from now on: `notification` for each. `Last-Event-ID` goes on after one."""
    return Events(_events(service, who, seen), who.expires_at)


async def _events(service: Service, who: Caller, seen: Seen) -> AsyncIterator[ServerSentEvent | None]:
    with notifications.news.of(_reader(who)) as changed:
        while True:
            changed.clear()
            async with service.database.reading() as session:
                news, seen = await notifications.unseen(session, _reader(who), seen)
            for row in news:
                yield ServerSentEvent(event="notification", data=_notice(row), id=str(row.id))
            while not news and not await change_or_pause(changed):
                yield None


@router.get("/me/notifications")
async def show_choice(service: Running, who: CallerOf) -> NoticeChoice:
    """How you want to be told."""
    async with service.database.reading() as session:
        row = await session.get(Choice, _reader(who))
    if row is None:
        return NoticeChoice(mail=bool(who.email))
    return NoticeChoice.model_validate(row.model_dump(exclude={"reader"}))


@router.put("/me/notifications")
async def choose(choice: NoticeChoice, service: Running, who: CallerOf) -> NoticeChoice:
    """Choose how you want to be told when a report ends: by mail, in the application, or both."""
    if choice.mail and not (choice.email or who.email):
        raise Problem(422, "no_address", "Mail needs an address: give `email`, or a token with one.")
    async with service.database.transaction() as session:
        await save_choice(session, _reader(who), choice)
    return choice


def _reader(who: Caller) -> str:
    return domain.reader(who.subject, who.role)


def _notice(row: Notification) -> NotificationView:
    times = {"created_at": moment(row.created_at), "read_at": moment(row.read_at) if row.read_at else None}
    return NotificationView(id=row.id, **row.content, **times)
