"""Connections of clients, with bounds that uvicorn lacks: on bytes, on time and on number.

A request that can be parsed goes on to `shared.http.edge.Edge`, if necessary with its refusal. A request that cannot,
such as one that never ends, is answered here, and its connection is closed.
"""

import asyncio
import re
from functools import partial
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.http.edge import BODY_LIMIT
from shared.http.problems import Problem, details_of
from shared.http.protection import ALWAYS, Identities
from shared.http.room import Room
from shared.http.stopping import Stopping
from shared.observability import metrics
from shared.observability.tracing import QUIET

log = structlog.get_logger(__name__)

HEAD_LIMIT = 32 * 1024
"""Bytes of a request's first line and headers."""
REQUEST_LIMIT = 2 * (HEAD_LIMIT + BODY_LIMIT)
"""Bytes of a whole request on the wire, including the sizes of its chunks and its trailers."""
REQUEST_SECONDS = 15.0
"""How long a request may take to arrive, from its connection or from its first byte."""
STALLED_SECONDS = 60.0
"""How long a client may read nothing of an answer. 48 kB are buffered, so the slowest client reads 0.8 kB/s."""
KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection. If the server closed it first, a client's next request could be lost."""
PIPELINED = 8
RESERVED = 100
"""Connections beyond the limit, which can still read the health of a process or get a 503."""

CROWDED = Problem(
    503, "crowded", "Too many connections; try again.", headers={"Connection": "close", "Retry-After": "5"}
)
LONG_HEAD = Problem(
    431, "headers_too_large", f"A request's headers have at most {HEAD_LIMIT} bytes.", headers={"Connection": "close"}
)
STOPPING = Problem(
    503,
    "stopping",
    "This process is stopping, and has taken nothing of the request; send it again.",
    headers={"Connection": "close", "Retry-After": "1"},
)
LONG = Problem(413, "too_large", f"A body has at most {BODY_LIMIT} bytes.")
SLOW = Problem(408, "too_slow", f"A request has to be there within {REQUEST_SECONDS:g} seconds.")
ONCE = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""Headers that a request may have once. The parser refuses two lengths, and a length beside chunks."""
VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
HEADER_EXTRA = len(b": \r\n")

UPGRADE = Problem(
    400,
    "no_upgrade",
    "Send a body without an Upgrade header: only HTTP/1.1 is spoken.",
    headers={"Connection": "close"},
)
MALFORMED = Problem(
    400,
    "malformed_request",
    "This is not HTTP/1.1 as we know it: a request has one Host, and at most one Authorization, Content-Type and"
    " Idempotency-Key.",
    headers={"Connection": "close"},
)
STALLED = "stalled"
for _why in (CROWDED.code, LONG_HEAD.code, LONG.code, SLOW.code, MALFORMED.code, STALLED):
    metrics.of(metrics.HTTP_REFUSED, _why)  # starts at 0, as in `metrics.expect`


class Connection(HttpToolsProtocol):
    """One connection. `most` is the limit of this process; `room` has its open connections; `stopping` closes them."""

    def __init__(
        self, *args: Any, most: int, room: Room, stopping: Stopping, identities: Identities, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._most, self._room, self._stopping, self._identities = most, room, stopping, identities
        self._taken = 0  # bytes of the request that is arriving
        self._in_head = self._in_body = False
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        metrics.HTTP_CONNECTIONS.inc()
        if len(self.connections) > self._most + RESERVED:
            metrics.of(
                metrics.HTTP_REFUSED, CROWDED.code
            ).inc()  # with a log line for each, a flood would fill the disk
            transport.abort()
        else:
            self._expect_request()
            self._room.enter(self, self.client[0] if self.client else "")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._room.leave(self)
        metrics.HTTP_CONNECTIONS.dec()
        self._expect_nothing()
        if self._stalled:
            self._stalled.cancel()

    # -- what comes -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._taken += len(data)
        super().data_received(data)
        if self._in_head and self._taken > HEAD_LIMIT:
            self._refuse(LONG_HEAD)
        elif self._taken > REQUEST_LIMIT:
            self._refuse(LONG)
        elif self._late is None and (self._in_head or self._in_body or self._is_idle):
            self._expect_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["recognise"] = partial(self._room.recognise, self)  # type: ignore[typeddict-unknown-key]
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser would add trailers to the headers, which have been checked already.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        if sum(len(name) + len(value) + HEADER_EXTRA for name, value in self.headers) + len(self.url) > HEAD_LIMIT:
            self.scope["refusal"] = LONG_HEAD  # type: ignore[typeddict-unknown-key]
        elif self._is_ambiguous():
            self.scope["refusal"] = MALFORMED  # type: ignore[typeddict-unknown-key]
        elif self._stopping.has_begun:
            self.scope["refusal"] = STOPPING  # type: ignore[typeddict-unknown-key]
        elif self._has_no_place():
            self.scope["refusal"] = CROWDED  # type: ignore[typeddict-unknown-key]
        elif self.parser.should_upgrade() and self._has_body():
            # After an upgrade, the parser would take the body for a further request.
            self.scope["refusal"] = UPGRADE  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            raise ValueError("too many requests at once on one connection")  # ends the parsing: malformed

    def _is_ambiguous(self) -> bool:
        """Whether a proxy in front could have understood the request differently (RFC 9112, 3.2)."""
        version = self.parser.get_http_version()
        named = [name for name, _ in self.headers if name in ONCE]
        hosts = [value for name, value in self.headers if name == b"host"]
        return (
            version not in VERSIONS
            or len(named) > len(set(named))
            or (version == "1.1" and not hosts)
            or not all(map(_HOST.fullmatch, hosts))
        )

    def _has_body(self) -> bool:
        return any(
            (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
            for name, value in self.headers
        )

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body, self._taken = False, 0
        self._expect_nothing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(MALFORMED)

    def _expect_request(self) -> None:
        self._late = self.loop.call_later(REQUEST_SECONDS, self._refuse, SLOW)

    def _expect_nothing(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answer with the reason and close. Close without an answer if there was no request, or if it would look like a
        part of the answer that is being sent."""
        if self.transport.is_closing():
            return
        self._count(problem.code)
        answers_this = self._in_body and not self.pipeline and not self._is_idle and not self.cycle.response_started
        if answers_this or (self._is_idle and self._taken):
            self.transport.write(_raw(problem))
        self.transport.close()

    # -- its place ------------------------------------------------------------------------------------------------

    def is_waiting(self, *, strictly: bool) -> bool:
        """Whether no request is being served. Without `strictly`, a request that is still arriving does not count."""
        is_half_open = self._in_body and not self.pipeline and not strictly
        return (self._is_idle or is_half_open) and not self.transport.is_closing()

    def give_way(self) -> None:
        """Close this connection, whose place another one needs."""
        self._refuse(CROWDED)

    def _has_no_place(self) -> bool:
        if self.url.partition(b"?")[0].decode("latin-1") in QUIET:
            return False
        shows_token = any(name == b"authorization" for name, _ in self.headers)
        return self._room.has_no_place_for(self, shows_token=shows_token)

    def shutdown(self) -> None:
        self._stopping.begin()
        super().shutdown()

    # -- what goes ------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _abort(self) -> None:
        self._count(STALLED)
        self.transport.abort()

    def _count(self, reason: str) -> None:
        """Log a refused connection, which has no log line of a request."""
        metrics.of(metrics.HTTP_REFUSED, reason).inc()
        log.info("connection refused", reason=reason, **self._identities.of(self.client[0] if self.client else None))


def _raw(problem: Problem) -> bytes:
    body = details_of(problem).model_dump_json().encode()
    always = b"".join(b"%s: %s\r\n" % header for header in ALWAYS)
    about = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINE[problem.status] + always + about + body
