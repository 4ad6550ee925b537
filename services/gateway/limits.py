"""How often a caller may ask."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from services.gateway import domain
from services.gateway.settings import GatewaySettings
from shared.http.auth import Caller
from shared.http.limits import Rates
from shared.http.problems import Problem
from shared.http.room import network


class Limits:
    """How often each caller may ask, how often an address may fail to authenticate, and how many streams are open."""

    def __init__(self, settings: GatewaySettings) -> None:
        limits = {
            "customer": settings.customer_limit,
            "operator": settings.operator_limit,
            "failure": settings.failure_limit,
            "recipient": settings.recipient_limit,
        }
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self.rates = Rates(limits, redis_url, settings.tls)
        self._most_streams = settings.stream_limit
        self._streams: Counter[str] = Counter()

    async def count(self, who: Caller) -> None:
        """Count a request. Raises `Problem` 429."""
        await self.rates.count(who.role, who.subject, f"as {who.role}")

    async def count_failure(self, host: str) -> None:
        """Count a request without a good token, by the address that it came from. Raises `Problem` 429.

        Requests with a good token from the same address are still answered.
        """
        await self.rates.count("failure", network(host), "without a good token")

    async def count_recipient(self, email: str) -> None:
        """Count a mail that an order or a report causes, to an address that no token says to be its customer's own.
        Raises `Problem` 429.

        All callers are counted together: many customers must not fill one stranger's mailbox.
        """
        await self.rates.count("recipient", domain.mailbox(email), "to this address")

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
