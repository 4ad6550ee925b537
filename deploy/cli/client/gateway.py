"""The gateway from Python: its address, the token, and a method for each route that the command line needs.

Answers are the gateway's JSON as plain dictionaries: `--json` prints them, and a newer gateway may have more fields.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from deploy.cli.client.connection import CONNECTIONS, TIMEOUT, Body, Connection
from deploy.cli.client.download import download
from deploy.cli.client.events import lines
from deploy.cli.errors import Failed
from deploy.local.environment import Environment
from shared.config.tls import Tls
from shared.http.tokens import issue_token

LONGEST_WAIT = 30
"""Seconds that the gateway lets one request wait for a job."""

PAGE = 100
_LETTERS = "/v1/dead-letters"
_TOKEN_SECONDS = 3600
T = TypeVar("T")


class Gateway:
    """A connection to the gateway. Raises `NotRunning`, `Refused` (4xx) or `Failed`, each with what to do next."""

    def __init__(self, url: str, token: str, tls: Tls | None = None, *, is_named: bool = False) -> None:
        self._connection = Connection(url, token, tls, is_named=is_named)
        self.url, self.ask = self._connection.url, self._connection.ask

    @classmethod
    def here(cls) -> Self:
        """The gateway of `MALOTE_GATEWAY_URL` with `MALOTE_TOKEN`; by default this machine's own, as an operator."""
        here = Environment()
        named = here.variables.get("MALOTE_GATEWAY_URL")
        url = named or here.state().get("gateway_url") or here.url_of("gateway")
        token = here.variables.get("MALOTE_TOKEN") or _operator(here)
        return cls(url, token, here.tls_of(), is_named=bool(named))

    @classmethod
    def local(cls, here: Environment, service: str = "gateway") -> Self:
        """A service of this machine's own fleet, as an operator, whatever `MALOTE_GATEWAY_URL` is."""
        return cls(here.address_of(service), _operator(here))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    # -- orders -------------------------------------------------------------------------------------------------------

    async def place(self, order: Body, *, key: str | None = None, wait: int = 0) -> Body:
        """Place an order, and wait up to `wait` seconds for its end. Return the job, with `result` or `error` if it
        ended."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._start("/v1/orders", wait, headers, order)

    async def cancel(self, order_id: object, *, wait: int = 0) -> Body:
        """Ask for an order's cancellation. Return the job of the cancellation, as `place` does."""
        return await self._start(f"/v1/orders/{order_id}/cancel", wait, {})

    async def order(self, order_id: object) -> Body:
        return await self.ask("GET", f"/v1/orders/{order_id}")

    async def orders(self, limit: int, status: str | None = None) -> Body:
        """The newest orders."""
        return await self._newest("/v1/orders", limit, status)

    def each_order(self) -> AsyncIterator[Body]:
        """All orders, newest first, fetched page by page."""
        return self._each("/v1/orders", "id")

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def job(self, job_id: object) -> Body:
        return await self.ask("GET", f"/v1/jobs/{job_id}")

    async def ended(self, job_id: object, timeout: int) -> Body:
        """A job as soon as it has ended; after `timeout` seconds (at most `LONGEST_WAIT`) the job as it is."""
        return await self.ask("POST", f"/v1/jobs/{job_id}/wait", params={"timeout": timeout}, timeout=TIMEOUT + timeout)

    async def jobs(self, limit: int, status: str | None = None) -> Body:
        """The newest jobs."""
        return await self._newest("/v1/jobs", limit, status)

    async def watch(self, job_id: object) -> AsyncIterator[Body]:
        """Yield the job now and after each change until it has ended. A lost connection is opened again."""
        seen, job = "", Body()
        for _ in range(CONNECTIONS):
            async for event, event_id, data in self._connection.events(f"/v1/jobs/{job_id}/events", seen):
                seen = event_id
                if event in ("state", "progress"):  # an event `timeline` is followed by a state with the same lines
                    job = data if event == "state" else {**job, "status": "STARTED", "progress": data}
                    yield job
            if job.get("ended_at"):
                return
        raise Failed(f"the connection breaks again and again; `malote jobs show {job_id}` asks once")

    async def cancel_job(self, job_id: object, *, wait: int = 0) -> Body:
        """Ask for the cancellation of a job's subject. Return the job of the cancellation, as `place` does."""
        return await self._start(f"/v1/jobs/{job_id}/cancel", wait, {})

    # -- reports ------------------------------------------------------------------------------------------------------

    async def create_report(self, body: Body, *, key: str | None = None, wait: int = 0) -> Body:
        """Ask for a report. Return the job, as `place` does."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._start("/v1/reports", wait, headers, body)

    async def rebuild(self, *, wait: int = 0) -> Body:
        """Fill the reports' read model again. Return the job, as `place` does."""
        return await self._start("/v1/reports/rebuild", wait, {})

    async def report(self, report_id: object) -> Body:
        return await self.ask("GET", f"/v1/reports/{report_id}")

    async def reports(self, limit: int, status: str | None = None) -> Body:
        """The newest reports."""
        return await self._newest("/v1/reports", limit, status)

    async def delete_report(self, report_id: object) -> None:
        await self.ask("DELETE", f"/v1/reports/{report_id}")

    async def link(self, report_id: object) -> Body:
        """A new signed link to a report; earlier ones stop."""
        return await self.ask("POST", f"/v1/reports/{report_id}/link")

    async def revoke_link(self, report_id: object) -> None:
        await self.ask("DELETE", f"/v1/reports/{report_id}/link")

    async def download(self, report: Body, target: Path, seen: Callable[[int], None]) -> None:
        """Write a report's file to `target`; see `download`."""
        await download(self._connection, report, target, seen)

    # -- notifications ------------------------------------------------------------------------------------------------

    async def notifications(self, limit: int) -> Body:
        """The newest notifications, and how many are unread."""
        return await self._newest("/v1/notifications", limit, None)

    async def read_all(self) -> None:
        """Mark every notification as read."""
        await self.ask("POST", "/v1/notifications/read")

    async def follow(self) -> AsyncIterator[Body]:
        """Yield each new notification. A lost connection is opened again."""
        seen, failures = "", 0
        while failures < CONNECTIONS:
            failures += 1
            async for event, event_id, data in self._connection.events("/v1/notifications/events", seen):
                seen, failures = event_id, 0
                if event == "notification":
                    yield data
        raise Failed("the connection breaks again and again; `malote notifications` asks once")

    async def choice(self) -> Body:
        """How the caller wants to be notified."""
        return await self.ask("GET", "/v1/me/notifications")

    async def choose(self, choice: Body) -> Body:
        return await self.ask("PUT", "/v1/me/notifications", choice)

    # -- dead letters -------------------------------------------------------------------------------------------------

    async def letters(self, limit: int, wanted: Body) -> Body:
        """The newest dead letters that a filter selects."""
        return await self.ask("GET", _LETTERS, params={**wanted, "limit": min(limit, PAGE)})

    async def letter_groups(self, wanted: Body) -> Body:
        """The groups of those dead letters: by lane, message and reason."""
        return await self.ask("GET", f"{_LETTERS}/groups", params=wanted)

    async def letter_actions(self, limit: int) -> Body:
        """What was done with dead letters, newest first."""
        return await self._newest(f"{_LETTERS}/actions", limit, None)

    async def letter(self, letter_id: object) -> Body:
        return await self.ask("GET", f"{_LETTERS}/{letter_id}")

    async def replay(self, body: Body) -> Body:
        """Send dead letters again. Return the job, as `place` does."""
        return await self._start(f"{_LETTERS}/replay", 0, {}, body)

    async def edit_letter(self, letter_id: object, body: Body, *, wait: int = 0) -> Body:
        """Send another message in a dead letter's place. Return the job, as `place` does."""
        return await self._start(f"{_LETTERS}/{letter_id}/edit", wait, {}, body)

    async def purge(self, body: Body) -> Body:
        """Remove dead letters. Return the job, as `place` does."""
        return await self._start(f"{_LETTERS}/purge", 0, {}, body)

    async def export_letters(self, wanted: Body) -> AsyncIterator[str]:
        """The dead letters that a filter selects, with their content, a line for each. Raises `Failed` if some did not
        arrive."""
        try:
            async with self._connection.stream(f"{_LETTERS}/export", params=wanted) as answer:
                async for line in lines(answer.aiter_text()):
                    yield line
        except httpx.HTTPError as error:
            raise Failed("the connection broke before all letters had come; try again") from error

    # -- products -----------------------------------------------------------------------------------------------------

    def products(self) -> AsyncIterator[Body]:
        """The whole catalogue, in order of the SKU."""
        return self._each("/v1/products", "sku")

    async def set_product(self, sku: str, product: Body) -> Body:
        return await self.ask("PUT", f"/v1/products/{sku}", product)

    async def adjust(self, sku: str, delta: int, reason: str) -> Body:
        """Add or take pieces. Return the product afterwards."""
        return await self.ask("POST", f"/v1/products/{sku}/adjustments", {"delta": delta, "reason": reason})

    # -- mails --------------------------------------------------------------------------------------------------------

    async def mails(self, limit: int, status: str | None = None) -> Body:
        """The newest mails that were written."""
        return await self._newest("/v1/mails", limit, status)

    async def resend(self, body: Body, *, wait: int = 0) -> Body:
        """Send failed mails again. Return the job, as `place` does."""
        return await self._start("/v1/mails/resend", wait, {}, body)

    async def _start(self, path: str, wait: int, headers: dict[str, str], body: Body | None = None) -> Body:
        """Start a job and wait for its end up to `wait` seconds, in several requests if the gateway demands that."""
        first = min(wait, LONGEST_WAIT)
        if first:
            headers = {**headers, "Prefer": f"wait={first}"}
        job = await self.ask("POST", path, body, headers=headers, timeout=TIMEOUT + first)
        for left in range(wait - first, 0, -LONGEST_WAIT):
            if has_ended(job):
                break
            found = await self.ended(job["job_id"], min(left, LONGEST_WAIT))
            job |= {name: found[name] for name in ("status", "result", "error")}
        return job

    async def _newest(self, path: str, limit: int, status: str | None) -> Body:
        params = {"limit": min(limit, PAGE)} | ({"status": status} if status else {})
        return await self.ask("GET", path, params=params)

    async def _each(self, path: str, key: str) -> AsyncIterator[Body]:
        params: dict[str, Any] = {"limit": PAGE}
        while True:
            page = await self.ask("GET", path, params=params)
            for entry in page["data"]:
                yield entry
            if not page["has_more"]:
                return
            params["starting_after"] = page["data"][-1][key]


def _operator(here: Environment) -> str:
    return issue_token(here.jwt_secret, subject="operator", role="operator", ttl=_TOKEN_SECONDS)


def has_ended(job: Body) -> bool:
    """Whether a job's status is final."""
    return job["status"] in ("SUCCESS", "FAILURE", "CANCELLED")


def ask(question: Callable[[Gateway], Awaitable[T]]) -> T:
    """Run a function with an open gateway, and return its result."""

    async def go() -> T:
        async with Gateway.here() as gateway:
            return await question(gateway)

    return asyncio.run(go())


async def gathered(entries: AsyncIterator[Body]) -> list[Body]:
    """All entries of a list, fetched page by page."""
    return [entry async for entry in entries]
