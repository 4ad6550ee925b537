"""The published keys (JWKS) of an issuer: cached, renewed in time, and with a limit of requests to the issuer."""

import asyncio
import contextlib
import json
import time
from collections import deque

import httpx
import jwt
import structlog

from shared.config.tls import Tls
from shared.http.problems import Problem

log = structlog.get_logger(__name__)

FRESH_SECONDS = 60.0
"""How long keys are used without reading them again. A withdrawn key is trusted for that time."""
OUTAGE_SECONDS = 300.0
"""How long keys are used while the issuer gives no readable answer."""
ASKS, WITHIN_SECONDS = 5, 30.0
"""The most requests to the issuer in that time, whatever tokens arrive."""
ANSWER_SECONDS = 5.0
LARGEST_ANSWER = 256 * 1024


class Unreadable(Exception):
    """The issuer's answer is no set of keys."""


class Keys:
    """The keys of one issuer. An unknown `kid` is looked up at once, because an issuer signs with a new key
    immediately."""

    def __init__(self, url: str, tls: Tls) -> None:
        self._url, self._tls = url, tls
        self._keys: dict[str, list[jwt.PyJWK]] = {}
        self._read_at: float | None = None
        self._asked: deque[float] = deque(maxlen=ASKS)
        self._asking = asyncio.Lock()

    @property
    def fresh_for(self) -> float:
        """Seconds for which the result of a verification stays valid."""
        return 0.0 if self._read_at is None else max(0.0, self._read_at + FRESH_SECONDS - time.monotonic())

    async def named(self, kid: str | None) -> list[jwt.PyJWK]:
        """The keys of that name; an empty list if the issuer has none. Raises `Problem` 503 if no keys can be read."""
        is_being_renewed = (
            self._asking.locked() and kid in self._keys
        )  # reading may take long: use the known key meanwhile
        if kid not in self._keys or not (self.fresh_for or is_being_renewed):
            await self._ask(self._read_at)
        return self._known(kid)

    async def renewed(self, kid: str | None) -> list[jwt.PyJWK]:
        """The keys of that name, read again: the issuer may have replaced a key under its name."""
        await self._ask(self._read_at)
        return self._known(kid)

    def _known(self, kid: str | None) -> list[jwt.PyJWK]:
        if self._read_at is None or time.monotonic() > self._read_at + OUTAGE_SECONDS or not self._keys:
            raise Problem(503, "keys_unavailable", "The issuer's keys cannot be read now; try again.")
        return self._keys.get(kid or "", [])

    async def _ask(self, known_since: float | None) -> None:
        """Read the keys, unless another request has read them meanwhile, or the limit of requests is reached."""
        async with self._asking:
            at = time.monotonic()
            was_read = self._read_at != known_since
            asked_enough = len(self._asked) == ASKS and self._asked[0] > at - WITHIN_SECONDS
            if was_read or asked_enough:
                return
            self._asked.append(at)
            try:
                self._keys = _keys_in(await self._answer())
                self._read_at = at
            except (httpx.HTTPError, TimeoutError, Unreadable) as error:
                log.warning("the issuer's keys cannot be read", why=str(error) or type(error).__name__)

    async def _answer(self) -> bytes:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            httpx.AsyncClient(verify=self._tls.context, timeout=ANSWER_SECONDS) as client,
            client.stream("GET", self._url, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise Unreadable(f"the answer is a {answer.status_code}")
            taken = b""
            async for some in answer.aiter_bytes():
                taken += some
                if len(taken) > LARGEST_ANSWER:
                    raise Unreadable(f"the answer has more than {LARGEST_ANSWER} bytes")
            return taken


def _keys_in(answer: bytes) -> dict[str, list[jwt.PyJWK]]:
    """The public keys for signatures, by name, without all other keys. Raises `Unreadable`."""
    try:
        listed = json.loads(answer)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Unreadable("the answer is no set of keys") from error
    if not isinstance(listed, list):
        raise Unreadable("the answer is no set of keys")
    found: dict[str, list[jwt.PyJWK]] = {}
    for each in listed:
        is_public = isinstance(each, dict) and each.get("use", "sig") == "sig" and each.get("kty") != "oct"
        if is_public and isinstance(each.get("kid"), str):
            with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError):
                key = jwt.PyJWK(each)
                found.setdefault(each["kid"], []).append(key)
    return found
