"""Errors as clients get them."""

import httpx
from fastapi import FastAPI

from shared.http import problems
from shared.messaging.outbox import OutboxFull


async def answer_to(error: Exception) -> httpx.Response:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get("/")


async def test_an_unknown_error_says_nothing_of_its_cause() -> None:
    answer = await answer_to(RuntimeError("password=4711 at /srv/malote"))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert not any(part in answer.text for part in ("4711", "/srv", "RuntimeError", "Traceback"))


async def test_a_full_outbox_is_a_503_that_says_when_to_come_again() -> None:
    answer = await answer_to(OutboxFull("100 messages wait"))
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "outbox_full", "10")
