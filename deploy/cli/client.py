"""The gateway from Python: where it is, who we are, and a method per route that the command line needs.

Answers are plain dictionaries, exactly what the gateway said: `--json` passes them on, and a newer one may say more.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

import httpx

from deploy.cli.errors import Failed, NotRunning, Refused
from deploy.local.environment import Environment, Misconfigured
from shared.config.tls import Tls
from shared.http.tokens import issue_token

LONGEST_WAIT = 30
"""Seconds that the gateway lets one request wait for a job."""

PAGE = 100
_TIMEOUT = 20.0
_SILENCE = 45.0  # server-sent events carry a comment every 15 s
_CONNECTIONS = 5
_LETTERS = "/v1/dead-letters"
_TOKEN_SECONDS = 3600
T = TypeVar("T")
Body = dict[str, Any]


class Gateway:
    """A connection to the gateway. Raises `NotRunning`, `Refused` (4xx) or `Failed`, each with what to do next."""

    def __init__(self, url: str, token: str, tls: Tls | None = None) -> None:
        self.url = url.rstrip("/")
        self._is_named = False  # by MALOTE_GATEWAY_URL: then nothing that we start would answer there
        if not url.startswith(("http://", "https://")):
            raise Misconfigured(f"MALOTE_GATEWAY_URL={url!r} is not an address, such as http://127.0.0.1:8000")
        login = {"Authorization": f"Bearer {token}"}
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=login, verify=(tls or Tls()).context, timeout=_TIMEOUT, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise Misconfigured(f"MALOTE_GATEWAY_URL={url!r} is not an address: {error}") from error

    @classmethod
    def here(cls) -> Self:
        """As `MALOTE_GATEWAY_URL` and `MALOTE_TOKEN` say; else this machine's own, as an operator."""
        here = Environment()
        named = here.variables.get("MALOTE_GATEWAY_URL")
        url = named or here.state().get("gateway_url") or here.url_of("gateway")
        gateway = cls(url, here.variables.get("MALOTE_TOKEN") or _operator(here), here.tls_of())
        gateway._is_named = bool(named)
        return gateway

    @classmethod
    def local(cls, here: Environment, service: str = "gateway") -> Self:
        """A service of this machine's own fleet, as an operator, whatever gateway is used otherwise."""
        return cls(here.address_of(service), _operator(here))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

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
        return await self.ask(
            "POST", f"/v1/jobs/{job_id}/wait", params={"timeout": timeout}, timeout=_TIMEOUT + timeout
        )

    async def jobs(self, limit: int, status: str | None = None) -> Body:
        """The newest jobs."""
        return await self._newest("/v1/jobs", limit, status)

    async def watch(self, job_id: object) -> AsyncIterator[Body]:
        """The job as it stands, and again after every change until it ended; a lost connection is taken up again."""
        seen, job = "", Body()
        for _ in range(_CONNECTIONS):
            async for event, event_id, data in self._events(f"/v1/jobs/{job_id}/events", seen):
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

    async def create_report(self, wish: Body, *, key: str | None = None, wait: int = 0) -> Body:
        """Ask for a report. The job, as with `place`."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._start("/v1/reports", wait, headers, wish)

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
        """Write a report's file to `target`, whole or not at all. `seen` is told how many bytes there are.

        What a broken connection (or an earlier call) left is beside it, and is gone on with. A symbolic link stays
        one.
        """
        target, part = _target_and_part(target, report)
        with part.open("ab") as file:
            for _ in range(_CONNECTIONS):
                seen(file.tell())
                if file.tell() < report["bytes"]:
                    await self._fetch(report, file, seen)
                if file.tell() >= report["bytes"]:
                    break
            else:
                raise Failed(
                    f"the connection breaks again and again; the same command goes on from {file.tell()} bytes"
                )
        if _sha256(part) != report["sha256"]:
            part.unlink()
            raise Failed("what came is not the report's file; the same command fetches it anew")
        part.replace(target)

    async def _fetch(self, report: Body, file: BinaryIO, seen: Callable[[int], None]) -> None:
        """As much of a report's file as comes, from where `file` ends."""
        path, etag = f"/v1/reports/{report['id']}/download", f'"{report["sha256"]}"'
        headers = {"Accept-Encoding": "identity"}
        if file.tell():
            headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
        try:
            async with self._http.stream("GET", path, headers=headers, timeout=_SILENCE) as answer:
                if not answer.is_success:
                    await answer.aread()
                    self._read(answer)
                if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                    file.seek(0)
                    file.truncate()
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)
                    seen(file.tell())
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError:
            return

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
        while failures < _CONNECTIONS:
            failures += 1
            async for event, event_id, data in self._events("/v1/notifications/events", seen):
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

    async def replay(self, wish: Body) -> Body:
        """Send dead letters again. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/replay", 0, {}, wish)

    async def edit_letter(self, letter_id: object, wish: Body, *, wait: int = 0) -> Body:
        """Send another message in a dead letter's place. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/{letter_id}/edit", wait, {}, wish)

    async def purge(self, wish: Body) -> Body:
        """Remove dead letters. The job, as with `place`."""
        return await self._start(f"{_LETTERS}/purge", 0, {}, wish)

    async def export_letters(self, wanted: Body) -> AsyncIterator[str]:
        """Dead letters that fit with what they carry, a line each. Raises `Failed` if they did not all come."""
        try:
            path = f"{_LETTERS}/export"
            async with self._http.stream("GET", path, params=wanted, timeout=_SILENCE) as answer:
                if not answer.is_success:
                    await answer.aread()
                    self._read(answer)
                async for line in _lines(answer.aiter_text()):
                    yield line
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error
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

    # -- how ----------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> Body:
        """One request; the answer's body."""
        try:
            answer = await self._http.request(method, path, json=body, params=params, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._read(answer)

    # -- mails --------------------------------------------------------------------------------------------------------

    async def mails(self, limit: int, status: str | None = None) -> Body:
        """The newest mails that were written."""
        return await self._newest("/v1/mails", limit, status)

    async def resend(self, wish: Body, *, wait: int = 0) -> Body:
        """Send failed mails again. The job, as with `place`."""
        return await self._start("/v1/mails/resend", wait, {}, wish)

    async def _start(self, path: str, wait: int, headers: dict[str, str], body: Body | None = None) -> Body:
        """Start a job, and wait for its end as long as was asked for, in turns that the gateway allows."""
        first = min(wait, LONGEST_WAIT)
        if first:
            headers = {**headers, "Prefer": f"wait={first}"}
        job = await self.ask("POST", path, body, headers=headers, timeout=_TIMEOUT + first)
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

    async def _events(self, path: str, last: str) -> AsyncIterator[tuple[str, str, Any]]:
        """Server-sent events: name, id and data of each, from the one after `last`; ends when the connection does."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        try:
            async with self._http.stream("GET", path, headers=headers, timeout=_SILENCE) as answer:
                if not answer.is_success:
                    await answer.aread()
                    self._read(answer)
                async for event in server_sent(answer.aiter_text()):
                    yield event
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError:
            return

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


def _operator(here: Environment) -> str:
    return issue_token(here.jwt_secret, subject="operator", role="operator", ttl=_TOKEN_SECONDS)


def has_ended(job: Body) -> bool:
    """Whether a job's status is final."""
    return job["status"] in ("SUCCESS", "FAILURE", "CANCELLED")


def _target_and_part(target: Path, report: Body) -> tuple[Path, Path]:
    real = target.resolve()
    return real, real.with_name(f".{real.name}.{str(report['id'])[-12:]}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def server_sent(chunks: AsyncIterator[str]) -> AsyncIterator[tuple[str, str, Any]]:
    """Each event's name, id and data (read as JSON), as https://html.spec.whatwg.org/#server-sent-events has it."""
    event, last, data = "message", "", list[str]()
    async for line in _lines(chunks):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "id":
            last = value
        elif name == "data":
            data.append(value)
        elif not line:
            if data:
                yield event, last, json.loads("\n".join(data))
            event, data = "message", []


async def _lines(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Whole lines. Only a line feed ends one: a customer's name may have what Unicode calls a line separator."""
    begun = ""
    async for chunk in chunks:
        *whole, begun = (begun + chunk).split("\n")
        for line in whole:
            yield line.removesuffix("\r")


def ask(question: Callable[[Gateway], Awaitable[T]]) -> T:
    """Answer one question with a gateway at hand."""

    async def go() -> T:
        async with Gateway.here() as gateway:
            return await question(gateway)

    return asyncio.run(go())


async def gathered(entries: AsyncIterator[Body]) -> list[Body]:
    """All of a list that comes page by page."""
    return [entry async for entry in entries]
