"""Limits of requests, counted in fixed windows by the name of the limit and by caller."""

import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog
from limits import parse
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from shared.config.tls import Tls
from shared.http.problems import Problem
from shared.observability import metrics

if TYPE_CHECKING:
    from redis.asyncio import BlockingConnectionPool

log = structlog.get_logger(__name__)

COUNTED_AT_ONCE = 100_000
"""Callers that one process counts for one limit; they take 35 MB. The caller counted longest ago makes room."""
REDIS_SECONDS = 0.25
"""How long an answer of Redis is waited for."""
REDIS_AGAIN_SECONDS = 5.0
"""How long a process counts alone after Redis did not answer."""


class Windows(Storage):
    """The counts of one limit in this process. Its windows are equally long, so the oldest one ends first.

    The library's own storage looks at all callers with each hit, which takes 16 ms at 100,000 callers.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        # By caller: when the window ends, by the monotonic clock, and the requests counted in it.
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
        return time.time() + ends - time.monotonic()  # the library asks for the time of day

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


class Rates:
    """Counts requests under named limits, such as `100/second`. Redis counts for all processes together; without
    Redis, or while it does not answer, this process counts alone."""

    def __init__(self, limits: Mapping[str, str], redis_url: str | None, tls: Tls) -> None:
        self._limits = {name: parse(limit) for name, limit in limits.items()}
        self._here = {name: FixedWindowRateLimiter(Windows()) for name in limits}
        self._pool = _redis(redis_url, tls) if redis_url else None
        self._shared = FixedWindowRateLimiter(_counts(self._pool)) if self._pool else None
        self._alone_until = 0.0  # when Redis is tried again; 0 while it answers

    async def count(self, name: str, caller: str, what: str) -> None:
        """Count a request of a caller under a limit. `what` completes the sentence "More than 3 per minute …".

        Raises `Problem` 429 if there were too many in this window.
        """
        wait = await self._wait(name, caller)
        if wait is not None:
            detail = f"More than {self._limits[name]} {what}: ask again in {wait} s."
            raise Problem(429, "too_many_requests", detail, headers={"Retry-After": str(wait)})

    async def _wait(self, name: str, caller: str) -> int | None:
        """Count a request; return the seconds to wait if there were too many."""
        if self._shared and time.monotonic() >= self._alone_until:
            try:
                wait = await self._hit(self._shared, name, caller)
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
                return wait
        return await self._hit(self._here[name], name, caller)

    async def _hit(self, limiter: FixedWindowRateLimiter, name: str, caller: str) -> int | None:
        limit = self._limits[name]
        if await limiter.hit(limit, name, caller):
            return None
        ends = (await limiter.get_window_stats(limit, name, caller)).reset_time
        return max(1, math.ceil(ends - time.time()))

    async def close(self) -> None:
        if self._pool:
            await self._pool.disconnect()


def _redis(url: str, tls: Tls) -> "BlockingConnectionPool":
    from redis.asyncio import BlockingConnectionPool  # 6 MB, which a service without a Redis does not need
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

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
    # The pool has the address; the library takes only the scheme from this one.
    return RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", connection_pool=pool)
