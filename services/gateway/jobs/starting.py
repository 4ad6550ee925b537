"""How a route starts a job: once for an idempotency key, and waiting for its end if the client wants that."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel

from contracts.base import Command, JobState
from contracts.http.jobs import JobAccepted, JobFinished
from services.gateway import domain
from services.gateway.domain import Key
from services.gateway.jobs import views
from services.gateway.limits import Limits
from services.gateway.store import jobs, keys
from services.gateway.store.intake import Intake
from services.gateway.store.keys import Receipt
from shared.http.auth import Caller, CallerOf
from shared.http.problems import Problem
from shared.http.protocol import KeyHeader, idempotency_key, with_ids
from shared.messaging.outbox import OutboxFull
from shared.service import Service

Preference = Annotated[
    str | None,
    Header(description="`wait=N`: wait up to N seconds (at most 30) for the job to end.", examples=["wait=1"]),
]
STARTED: dict[int | str, dict[str, Any]] = {
    200: {"model": JobFinished, "description": "It ended while you waited; see `error` for how."},
    202: {"model": JobAccepted, "description": "Accepted; look at `Location` for what becomes of it."},
}
Endpoint = Callable[..., Awaitable[Response]]


def starting(
    router: APIRouter, command: type[Command], made: str | None = None, **more: Any
) -> Callable[[Endpoint], Endpoint]:
    """Decorates a route that starts a job with a command, at the path of its kind. `made` is the description of a 201
    in the documents."""
    answers = STARTED | ({201: {"model": JobFinished, "description": made}} if made else {})
    path = with_ids(domain.kind_of(command).path)
    return router.post(path, status_code=202, responses=answers, **more)


class Start:
    """Starts a job for the caller of a request.

    The idempotency key is looked at before the state of the resource: a request that is sent again gets its first
    answer, even if the first one has made the second impossible. So `start` awaits what depends on a state.
    """

    def __init__(self, request: Request, who: Caller, key: str | None) -> None:
        self._request, self._who, self._key = request, who, idempotency_key(key)
        self._service: Service = request.app.state.service
        self._intake: Intake = request.state.intake
        self._traceparent: str = request.scope["traceparent"]

    async def start(
        self,
        starts: type[Command],
        command: Command | Awaitable[Command],
        resource_id: UUID | None = None,
        body: BaseModel | None = None,
    ) -> Response:
        """Send a command of the class `starts`, or the command that an awaitable makes of the present state; the
        awaitable may raise `Problem`. `body` is the client's; the same key demands the same body."""
        key, kind = self._scoped(body), domain.kind_of(starts)
        try:
            made = command if isinstance(command, Command) else await command
            receipt = await self._intake.start(made, kind, self._who, resource_id, self._traceparent, key)
        except (Problem, OutboxFull):
            earlier = await keys.earlier(self._service.database, key) if key else None
            if earlier is None:
                raise
            receipt = earlier
        await self._demand_own(receipt)
        return await self._answer(receipt, kind.name)

    async def count_recipient(self, email: str, body: BaseModel) -> None:
        """Count a mail to an address that no token says to be the caller's own, if the request starts a new job: a
        refused or repeated request causes no mail. Raises `Problem` 429."""
        key = self._scoped(body)
        if key and await keys.earlier(self._service.database, key):
            return
        self._service.outbox.demand_room()
        limits: Limits = self._request.state.limits
        await limits.count_recipient(email)

    async def _demand_own(self, receipt: Receipt) -> None:
        """Raises `Problem` 422 for a customer whose key came from an operator of the same name before."""
        if not receipt.is_replay or self._who.is_operator:
            return
        async with self._service.database.reading() as session:
            job = await jobs.job(session, receipt.job_id)
        if job and not self._who.may_see(job.owner, job.role):
            raise keys.reused()

    def _scoped(self, body: BaseModel | None) -> Key | None:
        if self._key is None:
            return None
        path = self._request.url.path.lower()  # an id may be written in capitals
        route, payload = f"POST {path}", body.model_dump_json() if body else ""
        return Key.of(self._key, subject=self._who.subject, route=route, payload=payload)

    async def _answer(self, receipt: Receipt, kind: str) -> Response:
        """The job as it is now, or as it is after the time that the client waits."""
        headers = {"Idempotent-Replayed": "true"} if receipt.is_replay else {}
        status = JobState.PENDING
        wait = domain.preferred_wait(",".join(self._request.headers.getlist("prefer")))
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait}"
            job = await jobs.ended(self._service.database, receipt.job_id, wait, self._service.stopping)
            status = JobState(job.status) if job else status
            if job and status.is_final:
                return views.finished(job, headers)
        return views.accepted(receipt, kind, status, headers)


async def _job_start(request: Request, who: CallerOf, prefer: Preference = None, key: KeyHeader = None) -> Start:
    return Start(request, who, key)  # `prefer` is named for the documents: the header may come several times


JobStart = Annotated[Start, Depends(_job_start)]
