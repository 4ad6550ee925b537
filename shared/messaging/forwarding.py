"""Sends messages out of their lane that cannot be handled now: a copy goes to a retry queue or to the dead letters, and
the broker confirms it before the original is acknowledged."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from shared.messaging import inbox
from shared.messaging.amqp.confirms import Publish
from shared.messaging.causes import cause_of
from shared.messaging.copies import Copy
from shared.messaging.intake import Intake
from shared.messaging.outbox import Outbox
from shared.messaging.pause import Pause
from shared.messaging.publisher import Publisher, gone_is_outage
from shared.messaging.retry import Failures
from shared.persistence.database import Backoff

log = structlog.get_logger(__name__)

CUT_SECONDS = 2.0
"""How long a cancelled lane may take to finish a step."""
BYTES_AT_ONCE = 4 * 1024 * 1024


class Forwarding:
    """Publishes a lane's copies, records the end of their attempts, and acknowledges the originals."""

    def __init__(
        self, lane: str, outbox: Outbox, publisher: Publisher, failures: Failures, intake: Intake, pause: Pause
    ) -> None:
        self._lane, self._outbox, self._publisher = lane, outbox, publisher
        self._failures, self._intake, self._pause = failures, intake, pause

    async def forward(self, copies: Sequence[Copy]) -> None:
        """Publish copies in place of their messages, all at once. A cancelled lane finishes this first."""
        if copies:
            await _whole(self._forward(copies))

    async def _forward(self, copies: Sequence[Copy]) -> None:
        once: dict[tuple[object, ...], Copy] = {}  # a message that was delivered several times returns once
        for copy in copies:
            once.setdefault(copy.fate(), copy)
        waiting = list(once.values())
        try:
            await self._pause.wait_out(copies[0].raw, self.publish, waiting)
        finally:
            left = {copy.fate() for copy in waiting}
            if sent := [copy for copy in copies if copy.fate() not in left]:
                await self._record_steadily([copy for copy in sent if once[copy.fate()] is copy])
                await self._intake.acknowledge([copy.raw for copy in sent])

    async def publish(self, copies: list[Copy]) -> None:
        """Publish copies with few waits for the broker; remove the confirmed ones from the list.

        Raises `Outage` while some are left. Recording their outcome is another step, because repeating both together
        would publish the copies twice.
        """
        while copies:
            some = _first(copies)
            sends = [Publish(copy.raw.body, copy.exchange, self._lane, copy.properties(), True) for copy in some]
            errors = await self._publisher.forward(sends)
            confirmed = [copy for copy, error in zip(some, errors, strict=True) if error is None]
            copies[: len(some)] = [copy for copy, error in zip(some, errors, strict=True) if error]
            for copy in confirmed:
                self._failures.sent_on(copy)
            if error := next(filter(None, errors), None):
                with gone_is_outage(f"publishing to {some[0].exchange!r} failed"):
                    raise error

    async def _record_steadily(self, sent: Sequence[Copy]) -> None:
        """Record the outcome of published copies. After an error, only this is done again."""
        backoff = Backoff()
        while True:
            try:
                return await self._pause.wait_out(None, self._record, sent)
            except Exception as error:
                log.exception("lane: cannot record what was sent on, trying again", lane=self._lane)
                self._pause.begin(f"cannot record what was sent on: {cause_of(error)}")
                await backoff.wait()

    async def _record(self, copies: Sequence[Copy]) -> None:
        """Delete the attempts of these messages, and report their outcome to the jobs that depend on them."""
        ended = {copy.envelope.message_id for copy in copies if copy.envelope and copy.outcome}
        reported = [copy for copy in copies if copy.cause and copy.report]
        if not ended and not reported:
            return
        async with self._outbox.unit() as unit:
            await inbox.end_attempts(unit.session, self._lane, ended, self._outbox.owner)
            for copy in reported:
                unit.cause = copy.cause
                unit.send(*filter(None, [copy.report]))


def _first(copies: Sequence[Copy]) -> Sequence[Copy]:
    """The copies that go into one write to the broker."""
    size = 0
    for number, copy in enumerate(copies):
        size += len(copy.raw.body)
        if number and size > BYTES_AT_ONCE:
            return copies[:number]
    return copies[:]


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do a step that must be completed: if this task is cancelled, the step may still finish, within seconds."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # a cancelled step still records its copies, and the database may be away
            await asyncio.wait({task}, timeout=CUT_SECONDS)
            task.cancel()
        raise
