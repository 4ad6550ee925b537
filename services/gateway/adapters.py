"""The services that the gateway asks on a caller's behalf, and how often a caller may ask."""

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import httpx
import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from limits import parse
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.types import Receive, Scope, Send

from services.gateway import domain
from services.gateway.settings import GatewaySettings
from shared.config.tls import Tls
from shared.http.auth import Caller
from shared.http.events import Events
from shared.http.problems import Problem
from shared.http.room import network
from shared.http.stopping import Stopping
from shared.messaging.causes import cause_of
from shared.observability import metrics, tracing

log = structlog.get_logger(__name__)

PASSED_ON = ("retry-after", "location", "www-authenticate")
ASKED = (b"range", b"if-range", b"if-none-match", b"last-event-id")
"""What a client's request for a stream says about it."""
STREAMED = (
    *PASSED_ON,
    "content-type",
    "content-length",
    "content-range",
    "content-disposition",
    "content-security-policy",
    "accept-ranges",
    "etag",
    "last-modified",
    "cache-control",
    "x-content-type-options",
    "x-accel-buffering",
)
SILENCE_SECONDS = 60.0
"""How long a stream may say nothing: server-sent events have a comment every 15 seconds, a file comes as fast as it is
read."""
COUNTED_AT_ONCE = 100_000
"""Callers that one process counts for one limit, 35 MB of them. Beyond that, the one counted longest is forgotten."""
REDIS_SECONDS = 0.25
REDIS_AGAIN_SECONDS = 5.0


class Upstream:
    """A service behind the gateway. It is asked with the caller's token, so it decides what the caller may see."""

    def __init__(self, name: str, url: str, tls: Tls) -> None:
        self._name = name
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=50),
            trust_env=False,
        )
        # Apart, and as many as there are clients: streams last, and short requests must not wait for them.
        self._streams = httpx.AsyncClient(
            base_url=url,
            verify=tls.context,
            timeout=httpx.Timeout(5.0, connect=2.0, read=SILENCE_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
            trust_env=False,
        )

    async def ask(
        self,
        request: Request,
        who: Caller,
        path: str,
        *,
        method: str = "GET",
        params: dict[str, Any] | None = None,
        body: str | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        """Its answer, whatever it is below 500. Raises `Problem` 503 if it has none."""
        try:
            with self._step(method):
                headers = _headers(request, who)
                if body is not None:
                    headers["content-type"] = "application/json"
                if idempotency_key is not None:
                    headers["idempotency-key"] = f'"{idempotency_key}"'
                answer = await self._client.request(method, path, params=params, content=body, headers=headers)
        except httpx.HTTPError as error:
            log.warning("upstream: no answer", upstream=self._name, why=cause_of(error))
            raise self._unavailable() from error
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._failed(answer)
        return answer

    async def stream(
        self, request: Request, who: Caller | None, path: str, *, params: dict[str, Any] | None = None
    ) -> "HandedThrough":
        """Its answer as ours, handed through as it comes. Raises `Problem` 503 if it has none."""
        ours = _headers(request, who) | {"accept-encoding": "identity"}  # in the trace, but no step: it may last long
        headers = [(name.encode(), value.encode()) for name, value in ours.items()]
        headers += [(name, value) for name, value in request.headers.raw if name in ASKED]  # bytes: any may be in them
        asked = self._streams.build_request(request.method, path, params=params, headers=headers)
        try:
            answer = await self._streams.send(asked, stream=True)
        except httpx.HTTPError as error:
            log.warning("upstream: no answer", upstream=self._name, why=cause_of(error))
            raise self._unavailable() from error
        # A 503 says itself what is not available.
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.status_code != 503:
            await answer.aclose()
            raise self._failed(answer)
        may_go_on = partial(request.app.state.revoked.is_good, who) if who else lambda: True
        return HandedThrough(answer, request.app.state.service.stopping, may_go_on)

    def _step(self, method: str) -> contextlib.AbstractContextManager[Any]:
        url = self._client.base_url
        about = {"http.request.method": method, "server.address": url.host, "peer.service": self._name}
        return tracing.step(method, about)

    async def close(self) -> None:
        await self._client.aclose()
        await self._streams.aclose()

    def _failed(self, answer: httpx.Response) -> Problem:
        log.warning("upstream: failed", upstream=self._name, status=answer.status_code)
        return self._unavailable()

    def _unavailable(self) -> Problem:
        return Problem(503, "upstream_unavailable", f"The service {self._name} does not answer now; try again.")


class HandedThrough(StreamingResponse):
    """A stream that is closed with its client's: whoever goes away leaves nothing running behind the gateway.

    A file goes on while the process is stopping; events have no end to wait for, and end there, as they do once
    `may_go_on` says no: it is asked before each of them.
    """

    def __init__(self, answer: httpx.Response, stopping: Stopping, may_go_on: Callable[[], bool]) -> None:
        self._answer, self._stopping, self._may_go_on = answer, stopping, may_go_on
        headers = {name: value for name in STREAMED if (value := answer.headers.get(name))}
        super().__init__(self._chunks(), answer.status_code, headers)

    async def close(self) -> None:
        """Give up what was asked, where something else is answered."""
        await self._answer.aclose()

    async def _chunks(self) -> AsyncIterator[bytes]:
        chunks = self._answer.aiter_raw()
        try:
            async for chunk in _until(self._stopping, chunks) if self._has_no_end else chunks:
                if self._has_no_end and not self._may_go_on():
                    return
                yield chunk
        except httpx.HTTPError as error:
            log.warning("upstream: stopped in the middle", why=cause_of(error))
            raise  # ends the connection: the client must not take what it has for all

    @property
    def _has_no_end(self) -> bool:
        return bool(self._answer.headers.get("content-type", "").startswith(Events.media_type))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def _until(stopping: Stopping, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            async with stopping.wait():
                chunk = await anext(chunks, None)
        except TimeoutError:
            return
        if chunk is None:
            return
        yield chunk


def _headers(request: Request, who: Caller | None) -> dict[str, str]:
    traceparent = tracing.current(request.scope["traceparent"])
    headers = {"x-request-id": request.scope["request_id"], "traceparent": traceparent}
    return headers | ({"authorization": f"Bearer {who.token}"} if who else {})


def passed_on(answer: httpx.Response) -> Response:
    """An upstream's answer as ours."""
    headers = {name: value for name in PASSED_ON if (value := answer.headers.get(name))}
    return Response(answer.content, answer.status_code, headers, answer.headers.get("content-type"))


# -- how often a caller may ask ---------------------------------------------------------------------------------------


class Windows(Storage):
    """Counts in this process, for one limit: its windows are equally long, so the oldest is the first to end.

    The library's own storage looks at all callers with each hit: 16 ms of it at 100,000 callers.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        # When it ends, by the monotonic clock, and what was counted in it.
        self._windows: OrderedDict[str, list[float]] = OrderedDict()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now, window = time.monotonic(), self._windows.get(key)
        if window is None or window[0] <= now:
            self._forget(now)
            window = self._windows[key] = [now + expiry, 0]
            self._windows.move_to_end(key)
        window[1] += amount
        return int(window[1])

    def _forget(self, now: float) -> None:
        while self._windows:
            oldest = next(iter(self._windows.values()))
            if oldest[0] > now and len(self._windows) < COUNTED_AT_ONCE:
                return
            self._windows.popitem(last=False)

    async def get(self, key: str) -> int:
        ends, counted = self._windows.get(key, (0.0, 0))
        return int(counted) if ends > time.monotonic() else 0

    async def get_expiry(self, key: str) -> float:
        ends, _ = self._windows.get(key, (time.monotonic(), 0))
        return time.time() + ends - time.monotonic()  # the library's terms: the time of day

    async def check(self) -> bool:
        return True

    async def reset(self) -> int:
        forgotten = len(self._windows)
        self._windows.clear()
        return forgotten

    async def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def __len__(self) -> int:
        return len(self._windows)


class Limits:
    """How often each caller may ask, and how often an address may fail to say who it is.

    Counted in Redis for all processes together, if there is one; in this process without it, or while it is away.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._limits = {
            "customer": parse(settings.customer_limit),
            "operator": parse(settings.operator_limit),
            "failure": parse(settings.failure_limit),
            "recipient": parse(settings.recipient_limit),
        }
        self._here = {name: FixedWindowRateLimiter(Windows()) for name in self._limits}
        self._pool = _redis(settings.redis_url.get_secret_value(), settings.tls) if settings.redis_url else None
        self._shared = FixedWindowRateLimiter(_counts(self._pool)) if self._pool else None
        self._alone_until = 0.0  # when Redis is to be tried again; 0 while it answers
        self._most_streams = settings.stream_limit
        self._streams: Counter[str] = Counter()

    async def count(self, who: Caller) -> None:
        """Count a request. Raises `Problem` 429 if it is one too many."""
        await self._count(who.role, who.subject)

    async def count_failure(self, host: str) -> None:
        """Count a request without a good token, by the address that it came from. Raises `Problem` 429.

        Nobody is refused for what others do: a good token from the same address is still good.
        """
        await self._count("failure", network(host))

    async def count_recipient(self, email: str) -> None:
        """Count an order or a report whose mail goes to an address that nobody says to be the customer's own. Raises
        `Problem` 429.

        Whoever asks: many customers must not fill one stranger's mailbox together.
        """
        await self._count("recipient", domain.mailbox(email))

    async def _count(self, name: str, caller: str) -> None:
        if self._shared and time.monotonic() >= self._alone_until:
            try:
                refusal = await self._refusal(self._shared, name, caller)
            except StorageError as error:
                if not self._alone_until:
                    log.warning("limits: Redis does not answer, this process counts alone", why=str(error))
                self._alone_until = time.monotonic() + REDIS_AGAIN_SECONDS
                metrics.LIMITS_ALONE.set(1)
            else:
                if self._alone_until:
                    log.info("limits: Redis answers again")
                self._alone_until = 0.0
                metrics.LIMITS_ALONE.set(0)
                if refusal:
                    raise refusal
                return
        if refusal := await self._refusal(self._here[name], name, caller):
            raise refusal

    async def _refusal(self, limiter: FixedWindowRateLimiter, name: str, caller: str) -> Problem | None:
        """Count a request: what to answer if it is one too many."""
        limit = self._limits[name]
        if await limiter.hit(limit, name, caller):
            return None
        ends = (await limiter.get_window_stats(limit, name, caller)).reset_time
        wait = max(1, math.ceil(ends - time.time()))
        what = {"failure": "without a good token", "recipient": "to this address"}.get(name, f"as {name}")
        detail = f"More than {limit} {what}: ask again in {wait} s."
        return Problem(429, "too_many_requests", detail, headers={"Retry-After": str(wait)})

    @contextlib.contextmanager
    def stream(self, who: Caller) -> Iterator[None]:
        """Around a stream of events. Raises `Problem` 429 if its caller has too many open at this process."""
        if self._streams[who.subject] >= self._most_streams:
            detail = f"You have {self._most_streams} event streams open, as many as you may: close one."
            raise Problem(429, "too_many_streams", detail, headers={"Retry-After": "10"})
        self._streams[who.subject] += 1
        try:
            yield
        finally:
            self._streams[who.subject] -= 1
            if not self._streams[who.subject]:
                del self._streams[who.subject]

    async def close(self) -> None:
        if self._pool:
            await self._pool.disconnect()


def _redis(url: str, tls: Tls) -> BlockingConnectionPool:
    trusted = {"ssl_ca_certs": str(tls.ca_file)} if url.startswith("rediss://") and tls.ca_file else {}
    return BlockingConnectionPool.from_url(
        url,
        max_connections=16,
        timeout=REDIS_SECONDS,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **trusted,
    )


def _counts(pool: Any) -> RedisStorage:
    # The pool has the address; this one is only looked at for its scheme.
    return RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", connection_pool=pool)
