"""The outbox: what a transaction decided to say is committed with it, published after it, then deleted.

Each process publishes what it committed, in order, from memory. Rows carry their process's id, and processes leave a
heartbeat: what a dead process left behind is adopted by a living one. Nothing is judged by the age of a row, so a slow
process is not mistaken for a dead one.
"""

import asyncio
import itertools
import math
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from shared.messaging import inbox
from shared.messaging.causes import cause_of
from shared.messaging.publisher import Outgoing, Publisher
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics
from shared.persistence.database import Backoff, Database, among, is_outage, kernel_metadata

log = structlog.get_logger(__name__)

PUBLISH_AT_ONCE = 500
IN_HAND_LIMIT = 5_000
HEARTBEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 8.0
PURGE_STEP = 500
MEASURE_EVERY = 5  # heartbeats
FORGET_EVERY = 15  # heartbeats
LONGEST_PATIENCE = 8  # heartbeats


class OutboxFull(Exception):
    """As many messages wait for the broker as may; the text is for whoever asked. The HTTP edge answers 503."""


outbox = Table(
    "outbox",
    kernel_metadata,
    Column("message_id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("exchange", String(64), nullable=False),
    Column("key", String(128), nullable=False),
    Column("correlation_id", String(inbox.ID_LENGTH), nullable=False),
    Column("causation_id", String(inbox.ID_LENGTH)),
    Column("traceparent", String(64)),
    Column("sent_at", Float, nullable=False),
    Column("mandatory", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("lane", String(64)),
    Column("properties", JSON(none_as_null=True)),
    Index("ix_outbox_owner", "owner", "message_id"),
)
processes = Table(
    "processes",
    kernel_metadata,
    Column("id", String(36), primary_key=True),
    Column("host", Text, nullable=False),
    Column("seen_at", Float, nullable=False),
)


class Outbox:
    """A process's side of the outbox table: writes with each transaction, publishes after it, tidies up."""

    def __init__(
        self, service: str, database: Database, publisher: Publisher, inbox_keep_days: int = 14, limit: int = 500_000
    ) -> None:
        self.service, self.owner = service, str(uuid7())
        self._database, self._publisher, self._keep_days = database, publisher, inbox_keep_days
        self._hand: deque[Outgoing] = deque()
        self._behind = False  # the table holds rows of ours that are not in hand: they come first
        self._skipped = False  # some of them may have been committed after the table was last read
        self._committing: set[str] = set()  # a read of the table may find them: the unit that commits them sees to them
        self._strays: set[str] = set()  # rows of ours that were not in hand when we last looked
        self._read_to = ""  # where the reading goes on: what the broker refuses must not keep it from the rest
        self._watched: dict[str, tuple[float, float]] = {}  # other processes' heartbeats, and when we saw them change
        self._looked_at = 0.0
        self.paused: str | None = None
        """Why nothing can be published; None while it can."""
        self._refused = False  # the table holds rows of ours that are to be looked for with the next heartbeat
        self._is_taken = True  # False: the broker has refused some of our rows
        self._offer_at, self._patience = 0.0, 1  # when these may be offered next, and how many heartbeats after that
        self._stopping = False
        self._measuring = asyncio.Lock()
        self._limit, self._rows = limit, 0  # of the whole table: as last counted, and what we did to it since
        self._confirmed: list[str] = []  # published, to be deleted by the next transaction
        self._published: set[str] = set()  # published, not known to be deleted
        self._beaten_at = -math.inf  # when the last heartbeat was written that others can have seen
        self._lapsed = False  # the one before it was so long ago that others may have taken what we have in hand
        self._wake = asyncio.Event()

    def demand_room(self) -> None:
        """Raises `OutboxFull` while as many messages wait for the broker as may. Only requests over HTTP ask: a lane
        has nothing to do while the broker is away."""
        if self._rows >= self._limit:
            raise OutboxFull(
                f"{self._limit:,} messages wait for the broker, and no more are accepted until it takes some."
            )

    def request(self, traceparent: str) -> AbstractAsyncContextManager[UnitOfWork]:
        """The transaction of a request over HTTP. Raises `OutboxFull`, see `demand_room`."""
        self.demand_room()
        return self.unit(traceparent)

    @asynccontextmanager
    async def unit(self, traceparent: str | None = None) -> AsyncIterator[UnitOfWork]:
        """One transaction with its messages: committed together, or neither."""
        settled, self._confirmed = self._confirmed[:PUBLISH_AT_ONCE], self._confirmed[PUBLISH_AT_ONCE:]
        own: set[str] = set()
        try:
            async with self._database.transaction() as session:
                unit = UnitOfWork(session, self.service, traceparent)
                yield unit
                await session.flush()
                beaten_at = await self._beat(session)
                written = await self._write(session, unit.outgoing, settled)
                own = {message.envelope.message_id for message in unit.outgoing}
                self._committing |= own
        except BaseException:
            self._confirmed += settled
            self._refused |= bool(own)  # the commit failed, or only its answer was lost
            raise
        finally:
            self._committing -= own
        self._beaten_at = max(self._beaten_at, beaten_at)
        self._rows += written - len(settled)
        self._published.difference_update(settled)
        if self._behind or len(self._hand) + len(unit.outgoing) > IN_HAND_LIMIT:
            self._behind = self._skipped = True  # read back from the table in its turn, so that the order stays
        else:
            self._hand.extend(unit.outgoing)
        self._wake.set()

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that only reads, in no transaction of the outbox's."""
        return self._database.reading()

    async def _write(self, session: AsyncSession, messages: Sequence[Outgoing], settled: list[str]) -> int:
        """Return how many rows were added."""
        rows = [_to_row(message, self.owner) for message in messages if not message.transient]
        if rows:
            await session.execute(insert(outbox), rows)
        if settled:
            await session.execute(delete(outbox).where(among(session, outbox.c.message_id, settled)))
        return len(rows)

    async def _beat(self, session: AsyncSession) -> float:
        """Show that we live, if it is time; return when that was done last.

        With our first rows, and with the first after we were away, or another process would adopt them.
        """
        now = time.monotonic()
        if now - self._beaten_at < HEARTBEAT_SECONDS / 2:
            return self._beaten_at
        self._lapsed |= self._may_be_dead()
        values = {"host": socket.gethostname(), "seen_at": time.time()}
        beat = inbox.INSERTS[session.get_bind().dialect.name](processes).values(id=self.owner, **values)
        await session.execute(beat.on_conflict_do_update(index_elements=["id"], set_=values))
        return now

    def _may_be_dead(self) -> bool:
        """Whether others may soon take us for dead, or have done so."""
        return -math.inf < self._beaten_at < time.monotonic() - DEAD_AFTER_SECONDS / 2

    async def publish(self) -> None:
        """Publish what is committed, until stopped. While the broker is gone nothing is lost, it waits."""
        metrics.of(metrics.OUTBOX_IN_HAND, self.service).set_function(lambda: len(self._hand))
        backoff = Backoff()
        while self._hand or not self._stopping:
            await self._wake.wait()
            try:
                if self._hand and (self._lapsed or self._may_be_dead()):
                    self._hand.clear()
                    self._read_to = ""  # or what was in hand would come after what follows it
                    self._behind, self._skipped, self._lapsed = True, True, False
                if not self._hand and self._behind:
                    await self._read_back()
                if not self._hand:
                    self._wake.clear()
                    continue
                await self._publish_some()
                backoff.reset()
                self.paused = None
            except Exception as error:
                if not is_outage(error):
                    log.exception("outbox: publishing failed")
                elif self.paused is None:
                    log.warning("outbox: paused", why=cause_of(error))
                self.paused = cause_of(error)
                if self._stopping:
                    return
                await backoff.wait()

    async def _publish_some(self) -> None:
        some = [self._hand[i] for i in range(min(len(self._hand), PUBLISH_AT_ONCE))]
        confirmed = await self._publisher.publish(some)
        for message, is_confirmed in zip(some, confirmed, strict=True):
            self._hand.popleft()
            if message.transient:
                continue
            if is_confirmed:
                self._confirmed.append(message.envelope.message_id)
                self._published.add(message.envelope.message_id)
            else:
                self._is_taken = False

    async def _read_back(self) -> None:
        """Fill the empty hand. What is committed meanwhile is left for the next time: it comes after these."""
        # What is published already would be most of what is read, and what is read must be ours for a while.
        while self._confirmed or self._may_be_dead():
            async with self.unit():
                pass
        if not self._read_to:
            self._skipped = False
        published = set(self._published)  # those that are deleted while we read, too
        async with self._database.reading() as session:
            mine = select(outbox).where(outbox.c.owner == self.owner, outbox.c.message_id > self._read_to)
            rows = (await session.execute(mine.order_by(outbox.c.message_id).limit(IN_HAND_LIMIT))).all()
        known = published | self._committing
        self._hand.extend(_from_row(row, self.service) for row in rows if row.message_id not in known)
        self._read_to = rows[-1].message_id if len(rows) == IN_HAND_LIMIT else ""
        self._behind = self._skipped or bool(self._read_to)

    async def tidy(self) -> None:
        """Every two seconds, for ever: show that we live, delete what is confirmed, adopt, forget old ids."""
        for beat in itertools.count():
            try:
                await self._tidy_once()
                if beat % MEASURE_EVERY == 0:
                    await self._measure()
                    await self._look_for_strays()
                if beat % FORGET_EVERY == 0:
                    await self._forget()
            except Exception as error:
                if not is_outage(error):
                    log.exception("outbox: tidying failed")
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _tidy_once(self) -> None:
        async with self.unit():
            pass
        async with self._database.reading() as session:
            dead = await self._dead(session)
            orphan = select(outbox.c.message_id).where(outbox.c.owner.not_in(select(processes.c.id))).limit(1)
            is_left = dead or (await session.execute(orphan)).first()
        if is_left and (adopted := await self._adopt(dead)):
            log.info("outbox: adopted what another process left unpublished", messages=adopted)
            self._refused = True
        if not self._is_taken and self._may_offer():
            self._is_taken, self._refused = True, True
        if self._refused:  # what is adopted is in the table as ours, too
            self._behind, self._skipped, self._refused = True, True, False
            self._wake.set()

    def _may_offer(self) -> bool:
        """Whether it is time to offer what the broker refused. The longer it refuses, the less often: an event for
        several lanes, one of which is full, comes to the others with each offer."""
        now = time.monotonic()
        if now < self._offer_at:
            return False
        if now > self._offer_at + LONGEST_PATIENCE * HEARTBEAT_SECONDS:  # the last offer was taken
            self._patience = 1
        self._offer_at = now + self._patience * HEARTBEAT_SECONDS
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return True

    async def _adopt(self, dead: Sequence[tuple[str, float]]) -> int:
        """Take over some of what nobody living owns; return how much."""
        living = select(processes.c.id)
        orphans = select(outbox.c.message_id).where(outbox.c.owner.not_in(living)).order_by(outbox.c.message_id)
        async with self._database.transaction() as session:
            for owner, seen_at in sorted(dead):
                gone = (processes.c.id == owner, processes.c.seen_at == seen_at)
                await session.execute(delete(processes).where(*gone))
            ids = (await session.scalars(orphans.limit(IN_HAND_LIMIT).with_for_update(skip_locked=True))).all()
            # Asked again now that they are locked: before that, a process that has just begun may have adopted them.
            ours = (among(session, outbox.c.message_id, ids), outbox.c.owner.not_in(living))
            adopt = update(outbox).where(*ours).values(owner=self.owner)
            return int((await session.execute(adopt)).rowcount)  # type: ignore[attr-defined]

    async def _measure(self) -> None:
        """Say how much the whole table holds, whoever's it is: also what no living process has in hand."""
        async with self._measuring:  # two at a time would both add what is missing
            before = self._rows
            async with self._database.reading() as session:
                rows = await session.scalar(select(func.count()).select_from(outbox)) or 0
                # Ids grow with time, and their index is there.
                oldest = await session.scalar(select(outbox.c.sent_at).order_by(outbox.c.message_id).limit(1))
            # What was committed meanwhile may count twice, and that only until the next time.
            self._rows += rows - before
        metrics.of(metrics.OUTBOX_MESSAGES, self.service).set(rows)
        age = max(0.0, time.time() - oldest) if oldest else 0.0
        metrics.of(metrics.OUTBOX_OLDEST_SECONDS, self.service).set(age)

    async def _look_for_strays(self) -> None:
        """Find rows of ours that nobody has in hand: deleted once, and back since an asynchronous standby took over.

        They are older than what is in hand. What was met twice is no row that is being committed, published or deleted
        at this moment. Their readers may have them already: the inbox knows.
        """
        if self._behind:  # all of ours is going to be read
            return
        mine = select(outbox.c.message_id).where(outbox.c.owner == self.owner)
        async with self._database.reading() as session:
            oldest = set((await session.scalars(mine.order_by(outbox.c.message_id).limit(PUBLISH_AT_ONCE))).all())
        known = {message.envelope.message_id for message in self._hand} | self._published | self._committing
        before, self._strays = self._strays, oldest - known
        if before & self._strays:
            log.warning("outbox: rows that were deleted are back, publishing them again", some=len(self._strays))
            self._refused = True

    async def _dead(self, session: AsyncSession) -> list[tuple[str, float]]:
        """The processes whose heartbeat we have not seen change for too long, by our own clock.

        After a time in which we could not look ourselves, such as an outage, everybody is alive at first.
        """
        now = time.monotonic()
        if self._was_away(now):
            self._watched.clear()
        before, self._watched, self._looked_at = self._watched, {}, now
        for row in (await session.execute(select(processes.c.id, processes.c.seen_at))).all():
            seen_at, since = before.get(row.id, (row.seen_at, now))
            self._watched[row.id] = (row.seen_at, since if seen_at == row.seen_at else now)
        return [(owner, seen) for owner, (seen, since) in self._watched.items() if now - since > DEAD_AFTER_SECONDS]

    def _was_away(self, now: float) -> bool:
        return now - self._looked_at > DEAD_AFTER_SECONDS / 2

    async def is_living(self, session: AsyncSession, owner: str) -> bool:
        """Whether a process lives, as far as we know: one that has left or was found dead is in the table no more."""
        now = time.monotonic()
        if owner in self._watched and not self._was_away(now):
            return now - self._watched[owner][1] <= DEAD_AFTER_SECONDS
        return (await session.execute(select(processes.c.id).where(processes.c.id == owner))).first() is not None

    async def _forget(self) -> None:
        """Forget the ids of messages done long ago, in small steps."""
        async with self._database.reading() as session:
            before = await inbox.old_enough(session, self._keep_days, FORGET_EVERY * HEARTBEAT_SECONDS)
        forgotten = PURGE_STEP
        while forgotten == PURGE_STEP:
            async with self.unit() as unit:
                forgotten = await inbox.forget_old(unit.session, before, PURGE_STEP)

    def stop(self) -> None:
        """Let `publish` return once all that is in hand is published, or at once if the broker is gone."""
        self._stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Delete what is published; leave the rest to be adopted at once."""
        if self._hand:
            log.warning("outbox: stopped with messages unpublished; another process will send them")
        try:
            while self._confirmed:
                async with self.unit():
                    pass
            async with self._database.transaction() as session:
                await session.execute(delete(processes).where(processes.c.id == self.owner))
        except Exception as error:
            log.warning("outbox: cannot tidy up at the end; another process will", why=cause_of(error))


def _to_row(message: Outgoing, owner: str) -> dict[str, object]:
    envelope = message.envelope
    return {
        "message_id": envelope.message_id,
        "owner": owner,
        "exchange": message.exchange,
        "key": envelope.key,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "traceparent": envelope.traceparent,
        "sent_at": envelope.sent_at.timestamp(),
        "mandatory": message.mandatory,
        "body": message.body,
        "lane": message.lane,
        "properties": message.properties,
    }


def _from_row(row: Row[Any], sender: str) -> Outgoing:
    envelope = Envelope(
        message_id=row.message_id,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        key=row.key,
        sender=sender,
        sent_at=datetime.fromtimestamp(row.sent_at, UTC),
        traceparent=row.traceparent,
    )
    return Outgoing(envelope, row.exchange, row.body, row.mandatory, lane=row.lane, properties=row.properties)
