"""What this process has committed to publish, and how far it is: the outbox adds to it, the relay takes from it."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.messaging.publisher import Outgoing


class Hand:
    """The messages of one process between their commit and their deletion. Rows of the table that are ours and not
    here are read back in their turn."""

    limit = 5_000
    """Messages, of which there may be more in the table."""
    at_once = 500
    """How many are published, and how many are deleted, in one go."""
    worth_a_statement = 20
    """So many published rows are deleted by the next transaction; fewer wait for the next heartbeat, because a batch of
    one message is as good as done without that round trip."""

    def __init__(self) -> None:
        self.waiting: deque[Outgoing] = deque()
        """Committed, to be published in this order."""
        self.wake = asyncio.Event()
        """Set when there may be something to publish."""
        self.is_behind = False
        """Whether the table holds rows of ours that are not in hand: they come first."""
        self.has_skipped = False
        """Whether some of them may have been committed after the table was last read."""
        self.is_unsure = False
        """Whether a commit failed, or only its answer was lost: rows of ours are to be looked for."""
        self._committing: set[str] = set()  # a read of the table may find them: their own transaction adds them
        self._confirmed: list[str] = []  # published, to be deleted by the next transaction
        self._published: set[str] = set()  # published, not known to be deleted

    @property
    def has_confirmed(self) -> bool:
        """Whether rows wait to be deleted."""
        return bool(self._confirmed)

    @contextmanager
    def confirmed(self, at_least: int) -> Iterator[list[str]]:
        """Some of the rows to be deleted, if there are so many, for a transaction that is committed in the block."""
        number = self.at_once if len(self._confirmed) >= at_least else 0
        confirmed, self._confirmed = self._confirmed[:number], self._confirmed[number:]
        try:
            yield confirmed
        except BaseException:
            self._confirmed += confirmed
            raise
        self._published.difference_update(confirmed)

    @contextmanager
    def adding(self, messages: Sequence[Outgoing]) -> Iterator[None]:
        """Messages that are written in the block and committed at its end."""
        ids = {message.envelope.message_id for message in messages}
        self._committing |= ids
        try:
            yield
        except BaseException:
            self.is_unsure |= bool(ids)
            raise
        finally:
            self._committing -= ids

    def add(self, messages: Sequence[Outgoing]) -> None:
        """Publish what has been committed. What is too much at a time is read back from the table: its order stays."""
        if self.is_behind or len(self.waiting) + len(messages) > self.limit:
            self.is_behind = self.has_skipped = True
        else:
            self.waiting.extend(messages)
        self.wake.set()

    def confirm(self, message: Outgoing) -> None:
        """The broker has this one."""
        self._confirmed.append(message.envelope.message_id)
        self._published.add(message.envelope.message_id)

    def published(self) -> set[str]:
        """A copy: the rows that are published, and deleted soon."""
        return set(self._published)

    def committing(self) -> set[str]:
        """A copy: the rows that a read of the table may find, and that are in hand once they are committed."""
        return set(self._committing)

    def all_known(self) -> set[str]:
        """The rows of ours that are where they should be."""
        return {message.envelope.message_id for message in self.waiting} | self._published | self._committing

    def look_again(self) -> None:
        """Read all of ours from the table."""
        self.is_behind, self.has_skipped, self.is_unsure = True, True, False
        self.wake.set()
