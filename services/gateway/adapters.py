"""The services that the gateway asks on a caller's behalf."""

from http import HTTPStatus
from typing import Any

import httpx
import structlog
from fastapi import Request, Response

from shared.http import Problem
from shared.security import Caller

log = structlog.get_logger(__name__)

PASSED_ON = ("retry-after", "location", "www-authenticate")


class Upstream:
    """A service behind the gateway. It is asked with the caller's token, so it decides what the caller may see."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(5.0, connect=2.0),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=50),
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
        headers = {
            "authorization": f"Bearer {who.token}",
            "x-request-id": request.scope["request_id"],
            "traceparent": request.scope["traceparent"],
        }
        if body is not None:
            headers["content-type"] = "application/json"
        if idempotency_key is not None:
            headers["idempotency-key"] = f'"{idempotency_key}"'
        try:
            answer = await self._client.request(method, path, params=params, content=body, headers=headers)
        except httpx.HTTPError as error:
            log.warning("upstream: no answer", upstream=self._name, why=repr(error))
            raise self._unavailable() from error
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("upstream: failed", upstream=self._name, status=answer.status_code)
            raise self._unavailable()
        return answer

    async def close(self) -> None:
        await self._client.aclose()

    def _unavailable(self) -> Problem:
        return Problem(503, "upstream_unavailable", f"The service {self._name} does not answer now; try again.")


def passed_on(answer: httpx.Response) -> Response:
    """An upstream's answer as ours."""
    headers = {name: value for name in PASSED_ON if (value := answer.headers.get(name))}
    return Response(answer.content, answer.status_code, headers, answer.headers.get("content-type"))
