"""The services that own the orders and levels of which the read model is a copy."""

from typing import Any

import httpx

from contracts.reports import Source
from services.reports.settings import ReportsSettings
from shared.http.tokens import issue_token
from shared.messaging.handler import Poison
from shared.observability import tracing

PAGE_ENTRIES = 100
TOKEN_SECONDS = 60


class Owners:
    """Asks the owning services over HTTP, with an operator's token."""

    def __init__(self, settings: ReportsSettings) -> None:
        self._settings = settings
        timeout, trusted = httpx.Timeout(10.0, connect=2.0), settings.tls.context
        self._client = httpx.AsyncClient(timeout=timeout, verify=trusted, trust_env=False)

    async def page(self, source: Source, after: str | None) -> tuple[list[dict[str, Any]], bool]:
        """The page of a source that follows the entry `after`, and whether more pages follow. Raises `httpx.HTTPError`
        if the service does not answer or refuses, and `Poison` without a token."""
        owner = self._settings.orders_url if source == "orders" else self._settings.stock_url
        address = f"{str(owner).rstrip('/')}/v1/{source}"
        params = {"limit": PAGE_ENTRIES} | ({"starting_after": after} if after else {})
        headers = {"authorization": f"Bearer {self._token()}"}
        cause = tracing.in_hand.get()
        with tracing.step("GET", {"http.request.method": "GET", "server.address": owner.host}):
            headers["traceparent"] = tracing.current(cause.traceparent if cause else None)
            answer = await self._client.get(address, params=params, headers=headers)
        found = answer.raise_for_status().json()
        return found["data"], found["has_more"]

    def _token(self) -> str:
        if self._settings.token:
            return self._settings.token.get_secret_value()
        if self._settings.jwt_secret:
            secret = self._settings.jwt_secret.get_secret_value()
            return issue_token(secret, subject="reports", role="operator", ttl=TOKEN_SECONDS, read_only=True)
        raise Poison("reports has no token to read from orders and stock with: set REPORTS_TOKEN")
