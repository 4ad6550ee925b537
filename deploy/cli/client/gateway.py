"""The gateway from Python: where it is, who we are, and a method per route that the command line needs.

Answers are plain dictionaries, exactly what the gateway said: `--json` passes them on, and a newer one may say more.
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
        """As `MALOTE_GATEWAY_URL` and `MALOTE_TOKEN` say; else this machine's own, as an operator."""
        here = Environment()
        named = here.variables.get("MALOTE_GATEWAY_URL")
        url = named or here.state().get("gateway_url") or here.url_of("gateway")
        token = here.variables.get("MALOTE_TOKEN") or _operator(here)
        return cls(url, token, here.tls_of(), is_named=bool(named))

    @classmethod
    def local(cls, here: Environment, service: str = "gateway") -> Self:
        """A service of this machine's own fleet, as an operator, whatever gateway is used otherwise."""
        return cls(here.address_of(service), _operator(here))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    # -- orders -------------------------------------------------------------------------------------------------------

    async def place(self, order: Body, *, key: str | None = None, wait: int = 0) -> Body:
        """Place an order; `wait` up to so many seconds for its end. The job, with `result` or `error` if it ended."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._start("/v1/orders", wait, headers, order)

    async def cancel(self, order_id: object, *, wait: int = 0) -> Body:
        """Ask for an order's cancellation. The request's own job, as with `place`."""
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
        """A job as soon as it has ended; after `timeout` seconds (at most `LONGEST_WAIT`) as it is then."""
        return await self.ask("POST", f"/v1/jobs/{job_id}/wait", params={"timeout": timeout}, timeout=TIMEOUT + timeout)

    async def jobs(self, limit: int, status: str | None = None) -> Body:
        """The newest jobs."""
        return await self._newest("/v1/jobs", limit, status)

    async def watch(self, job_id: object) -> AsyncIterator[Body]:
        """The job as it stands, and again after every change until it ended; a lost connection is taken up again."""
        seen, job = "", Body()
        for _ in range(CONNECTIONS):
            async for event, event_id, data in self._connection.events(f"/v1/jobs/{job_id}/events", seen):
                seen = event_id
                if event in ("state", "progress"):  # `timeline` announces what the next state has, too
                    job = data if event == "state" else {**job, "status": "STARTED", "progress": data}
                    yield job
            if job.get("ended_at"):
                return
        raise Failed(f"the connection breaks again and again; `malote jobs show {job_id}` asks once")

    async def cancel_job(self, job_id: object, *, wait: int = 0) -> Body:
        """Ask for the cancellation of what a job is about. The request's own job, as with `place`."""
        return await self._start(f"/v1/jobs/{job_id}/cancel", wait, {})

    # -- reports ------------------------------------------------------------------------------------------------------

    async def create_report(self, body: Body, *, key: str | None = None, wait: int = 0) -> Body:
        """Ask for a report. The job, as with `place`."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._start("/v1/reports", wait, headers, body)

    async def rebuild(self, *, wait: int = 0) -> Body:
        """Have the reports' read model filled again. The job, as with `place`."""
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
        """Each notification as it comes, from now on; a lost connection is taken up again."""
        seen, failures = "", 0
        while failures < CONNECTIONS:
            failures += 1
            async for event, event_id, data in self._connection.events("/v1/notifications/events", seen):
                seen, failures = event_id, 0
                if event == "notification":
                    yield data
        raise Failed("the connection breaks again and again; `malote notifications` asks once")

    async def choice(self) -> Body:
        """How we want to be told."""
        return await self.ask("GET", "/v1/me/notifications")

    async def choose(self, choice: Body) -> Body:
        return await self.ask("PUT", "/v1/me/notifications", choice)

    # -- dead letters -------------------------------------------------------------------------------------------------

    async def letters(self, limit: int, wanted: Body) -> Body:
        """The newest dead letters of those that fit."""
        return await self.ask("GET", _LETTERS, params={**wanted, "limit": min(limit, PAGE)})

    async def letter_groups(self, wanted: Body) -> Body:
        """The same by lane, message and reason."""
        return await self.ask("GET", f"{_LETTERS}/groups", params=wanted)

    async def letter_actions(self, limit: int) -> Body:
        """What was done with dead letters, newest first."""
        return await self._newest(f"{_LETTERS}/actions", limit, None)

    async def letter(self, letter_id: object) -> Body:
        return await self.ask("GET", f"{_LETTERS}/{letter_id}")

    async def replay(self, body: Body) -> Body:
        """Send dead letters again. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/replay", 0, {}, body)

    async def edit_letter(self, letter_id: object, body: Body, *, wait: int = 0) -> Body:
        """Send another message in a dead letter's place. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/{letter_id}/edit", wait, {}, body)

    async def purge(self, body: Body) -> Body:
        """Remove dead letters. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/purge", 0, {}, body)

    async def export_letters(self, wanted: Body) -> AsyncIterator[str]:
        """Dead letters that fit with what they carry, a line each. Raises `Failed` if they did not all come."""
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
        """Add or take pieces; the product as it stands then."""
        return await self.ask("POST", f"/v1/products/{sku}/adjustments", {"delta": delta, "reason": reason})

    # -- mails --------------------------------------------------------------------------------------------------------

    async def mails(self, limit: int, status: str | None = None) -> Body:
        """The newest mails that were written."""
        return await self._newest("/v1/mails", limit, status)

    async def resend(self, body: Body, *, wait: int = 0) -> Body:
        """Send failed mails again. The job, as with `place`."""
        return await self._start("/v1/mails/resend", wait, {}, body)

    async def _start(self, path: str, wait: int, headers: dict[str, str], body: Body | None = None) -> Body:
        """Start a job, and wait for its end as long as was asked for, in turns that the gateway allows."""
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
    """Answer one question with a gateway at hand."""

    async def go() -> T:
        async with Gateway.here() as gateway:
            return await question(gateway)

    return asyncio.run(go())


async def gathered(entries: AsyncIterator[Body]) -> list[Body]:
    """All of a list that comes page by page."""
    return [entry async for entry in entries]
