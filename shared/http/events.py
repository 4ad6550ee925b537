"""Streams of server-sent events, which end with their client, their token or their process."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from fastapi.responses import Response
from fastapi.sse import KEEPALIVE_COMMENT, ServerSentEvent, format_sse_event
from starlette.types import Receive, Scope, Send

from shared.http.stopping import Stopping

PAUSE_SECONDS = 15.0
LONGEST_TIMER = 10 * 86_400.0
"""Seconds. A stream whose token is good for longer ends at its first event after that."""
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "The stream.", "content": {"text/event-stream": {}}}}
"""The answers of a route whose answer is `Events`, for OpenAPI."""


class Events(Response):
    """A stream of server-sent events that ends with `events`, with its client, its token or this process: a client then
    goes on at another, after the last event that it had. Where `events` are None, nothing has happened for a while: a
    comment says that the connection lives.

    FastAPI's own has three tasks and two queues a stream, and takes twice the memory.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent | None],
        ends_at: float = math.inf,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ends_at`: when the token ends by which its client may listen, in epoch seconds. `may_go_on` is asked before
        each event and comment whether the token is still believed."""
        # What is between us and the client must not keep anything back.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._ends_at, self._may_go_on = events, ends_at, may_go_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        stopping: Stopping = scope["app"].state.service.stopping
        leaving = asyncio.create_task(_gone(receive))
        try:
            async with stopping.wait() as until_gone:
                leaving.add_done_callback(end := lambda _: until_gone.reschedule(0))
                loop, ending = asyncio.get_running_loop(), None
                if (seconds := self._ends_at - time.time()) < LONGEST_TIMER:
                    ending = loop.call_later(max(0.0, seconds), end, None)
                try:
                    async for event in self._events:
                        if time.time() > self._ends_at or not self._may_go_on():
                            break
                        await send({"type": "http.response.body", "body": _event(event), "more_body": True})
                finally:
                    leaving.remove_done_callback(end)
                    if ending:
                        ending.cancel()
        except TimeoutError:
            if not until_gone.expired():
                raise
        finally:
            leaving.cancel()
        await send({"type": "http.response.body"})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(event: ServerSentEvent | None) -> bytes:
    if event is None:
        return KEEPALIVE_COMMENT
    return format_sse_event(data_str=event.data.model_dump_json(), event=event.event, id=event.id)


async def change_or_pause(changed: asyncio.Event) -> bool:
    """Wait for a change, but no longer than a stream of events may say nothing. Whether there was one."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_SECONDS):
            await changed.wait()
    return changed.is_set()
