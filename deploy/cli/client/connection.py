"""One connection to the gateway: requests, streams, and what an error means."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx

from deploy.cli.client.events import server_sent
from deploy.cli.errors import Failed, NotRunning, Refused
from deploy.local.environment import Misconfigured
from shared.config.tls import Tls

CONNECTIONS = 5
"""How many times a stream is opened before it counts as failed."""
TIMEOUT = 20.0
"""Seconds to wait for an answer."""
_SILENCE = 45.0  # server-sent events carry a comment every 15 s
Body = dict[str, Any]


class Connection:
    """A connection to the gateway. Raises `NotRunning`, `Refused` (4xx) or `Failed`, each with what to do next."""

    def __init__(self, url: str, token: str, tls: Tls | None = None, *, is_named: bool = False) -> None:
        """`is_named`: MALOTE_GATEWAY_URL names the gateway, so starting a local fleet would not help."""
        self.url, self._is_named = url.rstrip("/"), is_named
        if not url.startswith(("http://", "https://")):
            raise Misconfigured(f"MALOTE_GATEWAY_URL={url!r} is not an address, such as http://127.0.0.1:8000")
        login = {"Authorization": f"Bearer {token}"}
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=login, verify=(tls or Tls()).context, timeout=TIMEOUT, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise Misconfigured(f"MALOTE_GATEWAY_URL={url!r} is not an address: {error}") from error

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Body:
        """One request; the answer's body."""
        try:
            answer = await self._http.request(method, path, json=body, params=params, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._read(answer)

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str] | None = None, params: Body | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is read inside the block. Reading raises `httpx.HTTPError` if the connection breaks."""
        try:
            async with self._http.stream("GET", path, params=params, headers=headers, timeout=_SILENCE) as answer:
                if not answer.is_success:
                    await answer.aread()
                    self._read(answer)
                yield answer
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error

    async def events(self, path: str, last: str) -> AsyncIterator[tuple[str, str, Any]]:
        """Server-sent events: name, id and data of each, from the one after `last`; ends when the connection does."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        with contextlib.suppress(httpx.HTTPError):
            async with self.stream(path, headers) as answer:
                async for event in server_sent(answer.aiter_text()):
                    yield event

    def _read(self, answer: httpx.Response) -> Body:
        if answer.status_code == httpx.codes.NO_CONTENT:
            return {}
        try:
            body = answer.json()
        except ValueError:
            body = None
        is_ours = isinstance(body, dict) and (answer.is_success or "code" in body)
        if not is_ours:
            raise Failed(f"what answers at {self.url} is not Malote's gateway (status {answer.status_code})")
        if answer.is_success:
            return cast(Body, body)
        said = f"{body['detail']} ({answer.status_code} {body['code']})"
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            said += "; set MALOTE_TOKEN to a token of that gateway"
        if answer.is_client_error:
            raise Refused(said)
        raise Failed(f"{said}; `malote doctor` says what is wrong")

    def _unreachable(self, error: httpx.HTTPError) -> Failed:
        if isinstance(error, httpx.ReadTimeout):
            return Failed(f"{self.url} takes too long to answer; `malote doctor` says what is wrong")
        if "SSL" in str(error):
            return Failed(f"{self.url} is not trusted: {error}; MALOTE_TLS_CA_FILE names who has signed for it")
        advice = "MALOTE_GATEWAY_URL names it; is that right?" if self._is_named else "`malote up --detach` starts one"
        return NotRunning(f"no gateway answers at {self.url}; {advice}")
