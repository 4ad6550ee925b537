"""How often a caller may ask."""

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import structlog
from limits import parse
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.gateway import domain
from services.gateway.settings import GatewaySettings
from shared.config.tls import Tls
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.http.room import network
from shared.observability import metrics

log = structlog.get_logger(__name__)

COUNTED_AT_ONCE = 100_000
"""Callers that one process counts for one limit, 35 MB of them. Beyond that, the one counted longest is forgotten."""
REDIS_SECONDS = 0.25
REDIS_AGAIN_SECONDS = 5.0


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
