"""Streams of server-sent events. A stream ends with its client, its token or its process."""

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
"""Seconds. A stream whose token is valid for longer ends at its first event after the token's end."""
EVENTS: dict[int | str, dict[str, Any]] = {200: {"description": "The stream.", "content": {"text/event-stream": {}}}}
"""The answers of a route whose answer is `Events`, for OpenAPI."""


class Events(Response):
    """A stream of server-sent events. It ends with `events`, its client, its token or this process; the client then
    goes on at another process, after its last event. `events` yields None after a while without an event, and the
    stream sends a comment that keeps the connection alive.

    FastAPI's own class has three tasks and two queues for each stream, and takes twice the memory.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent | None],
        ends_at: float = math.inf,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`ends_at` is the end of the client's token in epoch seconds. `may_go_on` is called before each event and
        comment, and returns False once the token is revoked."""
        # Proxies must not buffer the stream.
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
    """Wait for a change, at most as long as a stream may be silent. Return whether there was one."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PAUSE_SECONDS):
            await changed.wait()
    return changed.is_set()
