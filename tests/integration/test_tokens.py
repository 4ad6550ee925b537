"""Tokens at the gateway: revoked before their time; streams that end with them; what is said of who is refused."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from limits import parse
from structlog.testing import capture_logs

from services.gateway.store.revocations import Revocation
from shared.http.tokens import issue_token
from tests.integration import reporting
from tests.integration.reporting import Fleet, check, link_of, stranger
from tests.running import SECRET, until
from tests.serving import NO_BROKER, Served, serving, token

JOBS = "/v1/jobs"
ORDER: dict[str, Any] = {
    "customer": {"id": "ana", "name": "Ana", "email": "ana@example.com"},
    "currency": "BRL",
    "lines": [{"sku": "A", "quantity": 1}],
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db") as served:
        yield served


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with reporting.fleet(tmp_path) as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_what_is_revoked_at_one_gateway_is_believed_at_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    stolen, kept = token(), token()
    async with (
        serving("gateway", NO_BROKER, url) as one,
        serving("gateway", NO_BROKER, url) as other,
        one.client("eva", "operator") as eva,
        httpx.AsyncClient(base_url=other.url, trust_env=False) as there,
    ):
        for each in (stolen, kept):
            assert (await there.get(JOBS, headers=bearer(each))).status_code == 200
        jti = jwt.decode(stolen, options={"verify_signature": False})["jti"]
        assert (await eva.post("/v1/revocations", json={"token_id": jti})).status_code == 201
        check(await eva.get(JOBS, headers=bearer(stolen)), 401, "token_revoked")

        async def is_refused(token: str) -> bool:
            return (await there.get(JOBS, headers=bearer(token))).status_code == 401

        await until(lambda: is_refused(stolen), "the other gateway to know")
        assert (await there.get(JOBS, headers=bearer(kept))).status_code == 200
        await eva.post("/v1/revocations", json={"subject": "ana"})
        await until(lambda: is_refused(kept), "the other gateway to know")
        listed = (await eva.get("/v1/revocations")).json()["data"]
        assert [(each["subject"], each["token_id"], each["by"]) for each in listed] == [
            ("ana", None, "eva"),
            (None, jti, "eva"),
        ]


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"subject": "a\0b"},
        {"token_id": "a", "subject": "b"},
        {"token_id": ""},
        {"token_id": "a", "before": "2026-01-01T00:00:00Z"},
    ],
)
async def test_what_to_revoke_is_said_in_one_way(gateway: Served, wish: dict[str, Any]) -> None:
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        check(await eva.post("/v1/revocations", json=wish), 422, "invalid_request")
        check(await ana.post("/v1/revocations", json={"subject": "eva"}), 403, "operators_only")
        check(await ana.get("/v1/revocations"), 403, "operators_only")


async def test_tokens_from_before_a_time_are_revoked_and_later_ones_are_not(gateway: Served) -> None:
    old = jwt.encode({"sub": "ana", "role": "customer", "iat": 1, "exp": time.time() + 60}, SECRET)
    gateway.service.settings.jwt_max_days = 1e5
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        wish = {"subject": "ana", "before": "2026-01-01T00:00:00Z"}
        assert (await ana.get(JOBS, headers=bearer(old))).status_code == 200
        assert (await eva.post("/v1/revocations", json=wish)).json()["before"] == "2026-01-01T00:00:00Z"
        assert (await ana.get(JOBS)).status_code == 200
        check(await ana.get(JOBS, headers=bearer(old)), 401, "token_revoked")


async def test_what_was_revoked_is_never_taken_back_by_another_revocation(gateway: Served) -> None:
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        first = (await eva.post("/v1/revocations", json={"subject": "ana"})).json()
        for before in ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"):
            again = await eva.post("/v1/revocations", json={"subject": "ana", "before": before})
            assert again.json()["before"] == first["before"]
        check(await ana.get(JOBS), 401, "token_revoked")
        assert len((await eva.get("/v1/revocations")).json()["data"]) == 1


async def test_a_revocation_is_seen_whatever_time_its_process_believes_it_to_be(gateway: Served) -> None:
    """It may change a row that is there, and be committed after a later one."""
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        for subject in ("ana", "bob"):
            wish = {"subject": subject, "before": "2026-01-01T00:00:00Z"}
            await eva.post("/v1/revocations", json=wish)
        async with gateway.service.database.transaction() as session:
            row = await session.get_one(Revocation, "subject ana")
            row.before = row.at  # as another gateway does whose clock is behind

        async def is_refused() -> bool:
            return (await ana.get(JOBS)).status_code == 401

        await until(is_refused, "the revocation to be seen")


async def test_a_token_that_was_issued_by_a_clock_a_little_ahead_is_revoked_with_the_others(gateway: Served) -> None:
    ahead = {"sub": "ana", "role": "customer", "iat": time.time() + 5, "exp": time.time() + 60}
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        await eva.post("/v1/revocations", json={"subject": "ana"})
        check(await ana.get(JOBS, headers=bearer(jwt.encode(ahead, SECRET))), 401, "token_revoked")


async def test_a_token_without_an_id_is_not_meant_by_a_token_of_that_name(gateway: Served) -> None:
    nameless = {"sub": "ana", "role": "customer", "iat": time.time(), "exp": time.time() + 60}
    async with gateway.client("eva", "operator") as eva, gateway.client() as ana:
        await eva.post("/v1/revocations", json={"token_id": "None"})
        assert (await ana.get(JOBS, headers=bearer(jwt.encode(nameless, SECRET)))).status_code == 200


async def test_a_stream_ends_with_its_token_and_cleanly(fleet: Fleet) -> None:
    async with fleet.gateway.client() as ana:
        events = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["events"]
        for path in (events, "/v1/notifications/events"):
            short = issue_token(SECRET, subject="ana", role="customer", ttl=2)
            async with asyncio.timeout(60), ana.stream("GET", path, headers=bearer(short)) as answer:
                assert answer.status_code == 200
                await answer.aread()  # raises, if it is cut in the middle of a chunk


async def test_a_stream_ends_soon_after_its_token_was_revoked(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.http.events.PAUSE_SECONDS", 0.2)
    async with fleet.gateway.client() as ana, fleet.gateway.client("eva", "operator") as eva:
        events = (await ana.post("/v1/orders", json=ORDER)).json()["links"]["events"]
        for path in (events, "/v1/notifications/events"):
            stolen = token()
            jti = jwt.decode(stolen, options={"verify_signature": False})["jti"]
            async with asyncio.timeout(60), ana.stream("GET", path, headers=bearer(stolen)) as answer:
                chunks = answer.aiter_raw()
                assert await anext(chunks), "it goes on while the token is good"
                assert (await eva.post("/v1/revocations", json={"token_id": jti})).status_code == 201
                async for _ in chunks:
                    pass


async def test_who_guesses_signatures_of_links_is_slowed_down(fleet: Fleet) -> None:
    report = await fleet.holds()
    link = link_of(report)
    wrong = f"{link[:-4]}0000"
    fleet.gateway.service.app.state.limits.rates._limits["failure"] = parse("2/hour")
    async with stranger(fleet.gateway) as guessing:
        answers = [await guessing.get(wrong) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [403] * 2 + [429] * 2
        assert (await guessing.get(link)).status_code == 200, "nobody is refused for what others do"


async def test_what_is_personal_is_kept_by_no_cache_and_shown_in_no_frame(fleet: Fleet) -> None:
    report = await fleet.holds()
    async with fleet.gateway.client() as ana, stranger(fleet.gateway) as nobody:
        for answer in (await ana.get(JOBS), await nobody.get(JOBS), await nobody.get(link_of(report))):
            assert "no-store" in answer.headers["cache-control"]
        docs = await nobody.get("/docs")
        for answer in (docs, await ana.get(JOBS), await nobody.get(link_of(report))):
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["x-frame-options"] == "DENY"
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "base-uri 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "strict-transport-security" not in answer.headers
        assert "'unsafe-eval'" not in docs.headers["content-security-policy"]
        assert "script-src 'self' 'sha256-" in docs.headers["content-security-policy"]
        assert '"persistAuthorization": false' in docs.text


async def test_behind_a_proxy_that_encrypts_browsers_are_told_to_always_encrypt(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", proxies="127.0.0.1") as gateway,
        gateway.client() as ana,
    ):
        answer = await ana.get(JOBS, headers={"X-Forwarded-Proto": "https"})
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize("how", ["plain", "hashed"])
async def test_who_is_refused_is_logged_and_why(tmp_path: Path, how: str) -> None:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", log_identities=how) as gateway:
        with capture_logs() as logged:
            async with gateway.client("ana@shop") as ana, stranger(gateway) as nobody:
                await ana.get("/v1/revocations")
                await ana.get("/v1/jobs/01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e70")
                await nobody.get(JOBS)
                await ana.get(JOBS)
        found = {line["status"]: line for line in logged if line["event"] == "http"}
        reasons = {status: line.get("reason") for status, line in found.items()}
        assert reasons == {403: "operators_only", 404: "job_not_found", 401: "token_missing", 200: None}
        assert "address" not in found[200]
        assert "subject" not in found[401]
        assert found[403]["subject"] == found[404]["subject"]
        assert (found[403]["subject"] == "ana@shop", found[401]["address"] == "127.0.0.1") == (how == "plain",) * 2


@pytest.mark.parametrize("how", ["plain", "hashed"])
async def test_who_is_let_in_is_logged_once_a_minute_and_by_the_id_that_revokes_the_token(
    tmp_path: Path, how: str
) -> None:
    async with serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", log_identities=how) as gateway:
        with capture_logs() as logged:
            async with gateway.client("ana@shop") as ana, gateway.client("eva", "operator") as eva:
                for client in (ana, ana, eva, ana):
                    assert (await client.get(JOBS)).status_code == 200
                jti = jwt.decode(
                    ana.headers["authorization"].removeprefix("Bearer "), options={"verify_signature": False}
                )["jti"]
        found = [line for line in logged if line["event"] == "token accepted"]
        assert [line["role"] for line in found] == ["customer", "operator"]
        assert (found[0]["subject"] == "ana@shop", found[0]["address"] == "127.0.0.1") == (how == "plain",) * 2
        assert found[0]["token_id"] == jti
