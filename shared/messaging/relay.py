"""The relay publishes what the outbox has committed, reads back what is not in hand, and adopts what the dead left."""

import time
from collections.abc import Sequence

import structlog
from sqlalchemy import select, update

from shared.messaging import membership
from shared.messaging.causes import cause_of
from shared.messaging.membership import Beat, processes
from shared.messaging.outbox import Outbox, from_row, outbox
from shared.messaging.publisher import Publisher
from shared.observability import metrics
from shared.persistence.database import Backoff, Database, among, is_outage

log = structlog.get_logger(__name__)

MEASURE_EVERY = 5  # heartbeats
LONGEST_PATIENCE = 8  # heartbeats


class Relay:
    """Publishes for one process, and for those that have died."""

    def __init__(self, outbox: Outbox, database: Database, publisher: Publisher) -> None:
        self.outbox, self._database, self._publisher = outbox, database, publisher
        self._hand, self._membership = outbox.hand, outbox.membership
        self.paused: str | None = None
        """Why nothing can be published; None while it can."""
        self._read_to = ""  # where the reading goes on: what the broker refuses must not keep it from the rest
        self._strays: set[str] = set()  # rows of ours that were not in hand when we last looked
        self._is_taken = True  # False: the broker has refused some of our rows
        self._offer_at, self._patience = 0.0, 1  # when these may be offered next, and how many heartbeats after that
        self._stopping = False
        self._beats = 0

    async def publish(self) -> None:
        """Publish what is committed, until stopped. While the broker is gone nothing is lost, it waits."""
        metrics.of(metrics.OUTBOX_IN_HAND, self.outbox.service).set_function(lambda: len(self._hand.waiting))
        backoff = Backoff()
        while self._hand.waiting or not self._stopping:
            await self._hand.wake.wait()
            try:
                if self._hand.waiting and self._membership.has_lapsed():
                    self._drop_hand()
                if not self._hand.waiting and self._hand.is_behind:
                    await self._read_back()
                if not self._hand.waiting:
                    self._hand.wake.clear()
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

    def _drop_hand(self) -> None:
        """Others may have adopted what we have in hand: the table says what is still ours."""
        self._hand.waiting.clear()
        self._read_to = ""  # or what was in hand would come after what follows it
        self._hand.is_behind = self._hand.has_skipped = True
        self._membership.begin_anew()

    async def _publish_some(self) -> None:
        waiting = self._hand.waiting
        some = [waiting[i] for i in range(min(len(waiting), self._hand.at_once))]
        confirmed = await self._publisher.publish(some)
        for message, is_confirmed in zip(some, confirmed, strict=True):
            waiting.popleft()
            if message.transient:
                continue
            if is_confirmed:
                self._hand.confirm(message)
            else:
                self._is_taken = False

    async def _read_back(self) -> None:
        """Fill the empty hand. What is committed meanwhile is left for the next time: it comes after these."""
        # Delete what is published first: it would fill most of the page. What is read must be ours for a while.
        while self._hand.has_confirmed or self._membership.may_be_dead():
            await self.outbox.delete_published()
        if not self._read_to:
            self._hand.has_skipped = False
        published = self._hand.published()  # those that are deleted while we read, too
        async with self._database.reading() as session:
            mine = select(outbox).where(outbox.c.owner == self.outbox.owner, outbox.c.message_id > self._read_to)
            rows = (await session.execute(mine.order_by(outbox.c.message_id).limit(self._hand.limit))).all()
        known = published | self._hand.committing()
        service = self.outbox.service
        self._hand.waiting.extend(from_row(row, service) for row in rows if row.message_id not in known)
        self._read_to = rows[-1].message_id if len(rows) == self._hand.limit else ""
        self._hand.is_behind = self._hand.has_skipped or bool(self._read_to)

    async def tidy(self) -> None:
        """With each heartbeat: show that we live, delete what is published, adopt what the dead left."""
        await self._tidy_once()
        beats, self._beats = self._beats, self._beats + 1
        if beats % MEASURE_EVERY == 0:
            await self.outbox.measure()
            await self._look_for_strays()

    async def _tidy_once(self) -> None:
        await self.outbox.delete_published()
        async with self._database.reading() as session:
            dead = await self._membership.dead(session)
            orphan = select(outbox.c.message_id).where(outbox.c.owner.not_in(select(processes.c.id))).limit(1)
            is_left = dead or (await session.execute(orphan)).first()
        if is_left and (adopted := await self._adopt(dead)):
            log.info("outbox: adopted what another process left unpublished", messages=adopted)
            self._hand.is_unsure = True
        if not self._is_taken and self._may_offer():
            self._is_taken, self._hand.is_unsure = True, True
        if self._hand.is_unsure:  # what is adopted is in the table as ours, too
            self._hand.look_again()

    def _may_offer(self) -> bool:
        """Whether it is time to offer what the broker refused. The longer it refuses, the less often: an event for
        several lanes, one of which is full, comes to the others with each offer."""
        now = time.monotonic()
        if now < self._offer_at:
            return False
        if now > self._offer_at + LONGEST_PATIENCE * membership.HEARTBEAT_SECONDS:  # the last offer was taken
            self._patience = 1
        self._offer_at = now + self._patience * membership.HEARTBEAT_SECONDS
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return True

    async def _adopt(self, dead: Sequence[Beat]) -> int:
        """Take over some of what nobody living owns; return how much."""
        living = select(processes.c.id)
        orphans = select(outbox.c.message_id).where(outbox.c.owner.not_in(living)).order_by(outbox.c.message_id)
        async with self._database.transaction() as session:
            await self._membership.bury(session, dead)
            ids = (await session.scalars(orphans.limit(self._hand.limit).with_for_update(skip_locked=True))).all()
            # Asked again now that they are locked: before that, a process that has just begun may have adopted them.
            ours = (among(session, outbox.c.message_id, ids), outbox.c.owner.not_in(living))
            adopt = update(outbox).where(*ours).values(owner=self.outbox.owner)
            return int((await session.execute(adopt)).rowcount)  # type: ignore[attr-defined]

    async def _look_for_strays(self) -> None:
        """Find rows of ours that nobody has in hand: deleted once, and back since an asynchronous standby took over.

        They are older than what is in hand. What was met twice is no row that is being committed, published or deleted
        at this moment. Their readers may have them already: the inbox knows.
        """
        if self._hand.is_behind:  # all of ours is going to be read
            return
        mine = select(outbox.c.message_id).where(outbox.c.owner == self.outbox.owner)
        async with self._database.reading() as session:
            oldest = set((await session.scalars(mine.order_by(outbox.c.message_id).limit(self._hand.at_once))).all())
        before, self._strays = self._strays, oldest - self._hand.all_known()
        if before & self._strays:
            log.warning("outbox: rows that were deleted are back, publishing them again", some=len(self._strays))
            self._hand.is_unsure = True

    def stop(self) -> None:
        """Let `publish` return once all that is in hand is published, or at once if the broker is gone."""
        self._stopping = True
        self._hand.wake.set()

    async def close(self) -> None:
        """Delete what is published; leave the rest to be adopted at once."""
        if self._hand.waiting:
            log.warning("outbox: stopped with messages unpublished; another process will send them")
        try:
            while self._hand.has_confirmed:
                await self.outbox.delete_published()
            async with self._database.transaction() as session:
                await self._membership.leave(session)
        except Exception as error:
            log.warning("outbox: cannot tidy up at the end; another process will", why=cause_of(error))
