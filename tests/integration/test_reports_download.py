"""Files: to whom they are given, in which pieces, and that nobody else comes near one."""

import asyncio
import hashlib
import http.client
import random
import string
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from contracts.reports import MEDIA_TYPES
from services.reports import domain
from services.reports.adapters.storage import NotStored
from services.reports.domain import Unsatisfiable
from shared.persistence.clock import now
from tests.integration.reporting import Fleet, a_report, check, fleet, link_of, stranger
from tests.serving import token

CONTENT = b"order_id,status\r\n" + bytes(range(256)) * 8
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path) as found:
        yield found


# -- who gets it ------------------------------------------------------------------------------------------------------


async def test_a_file_is_given_to_its_owner_to_operators_and_to_whom_the_link_was_given(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    async with (
        served.gateway.client() as ana,
        served.gateway.client("olga", "operator") as operator,
        stranger(served.gateway) as anyone,
    ):
        for client, path in ((ana, None), (operator, None), (anyone, link_of(report)), (ana, link_of(report))):
            answer = await client.get(path or f"/v1/reports/{report.id}/download")
            assert (answer.status_code, answer.content) == (200, CONTENT)
            assert answer.headers["content-type"] == MEDIA_TYPES["csv"]
            assert answer.headers["content-disposition"] == 'attachment; filename="orders-2026-11-02-4d5e6f.csv"'
            assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
            assert answer.headers["last-modified"] == formatdate((report.ended_at or 0) / 1000, usegmt=True)
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-length"] == str(len(CONTENT))
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_without_token_and_link_nobody_gets_anything(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    path = f"/v1/reports/{report.id}/download"
    async with stranger(served.gateway) as anyone:
        expires = link_of(report).partition("?")[2].partition("&")[0]
        for asked in (path, f"{path}?{expires}"):
            check(await anyone.get(asked), 401, "token_missing")
        check(await anyone.get(path, headers={"Authorization": f"Bearer {token(ttl=-60)}"}), 401, "token_expired")
    async with served.gateway.client("bia") as bia:
        check(await bia.get(path), 404, "report_not_found")


async def test_a_link_with_a_changed_character_opens_nothing(served: Fleet) -> None:
    report, other = await served.holds(CONTENT), await served.holds(b"another's", owner="bia")
    link = link_of(report)
    query = link.index("?expires=") + len("?expires=")
    chance = random.Random(7)
    async with stranger(served.gateway) as anyone:
        assert (await anyone.get(link)).status_code == 200
        for place in range(query, len(link)):
            if link[place] in "&=" or "signature" in link[place : place + 9] or link[place - 1 : place] == "&":
                continue
            for changed in chance.sample([c for c in string.hexdigits + "é٣+ " if c != link[place]], 2):
                answer = await anyone.get(f"{link[:place]}{changed}{link[place + 1 :]}")
                assert answer.status_code in (401, 403), (place, changed)  # 401: the signature's name is gone
                assert CONTENT not in answer.content
        for wrong in (
            link.replace(str(report.id), str(other.id)),
            link.replace(str(report.id), str(uuid7())),
            link[:-1],
            link + "0",
            link[: link.index("&signature=")] + "&signature=",
            link.replace("expires=", "expires=0"),
            link.replace("?expires=", "?expires=-"),
            link.partition("?")[0] + "?" + link.partition("&")[2],
            link.replace("signature=", "signature=" + "é" * 64),
        ):
            check(await anyone.get(wrong), 403, "link_invalid")


async def test_a_link_ends_with_its_time_and_a_report_with_its_own(served: Fleet) -> None:
    over = await served.holds(CONTENT, expires_at=now() - 1)
    gone = await served.holds(CONTENT, status="EXPIRED")
    async with stranger(served.gateway) as anyone, served.gateway.client() as ana:
        check(await anyone.get(link_of(over)), 410, "link_expired")
        check(await anyone.get(link_of(gone)), 410, "report_expired")
        for report in (over, gone):
            check(await ana.get(f"/v1/reports/{report.id}/download"), 410, "report_expired")
            check(await ana.post(f"/v1/reports/{report.id}/link"), 410, "report_expired")


async def test_a_new_link_ends_the_old_ones_and_a_revoked_one_opens_nothing(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    old, path = link_of(report), f"/v1/reports/{report.id}"
    async with stranger(served.gateway) as anyone, served.gateway.client() as ana:
        new = (await ana.post(f"{path}/link")).json()["url"].removeprefix("https://malote.example")
        check(await anyone.get(old), 403, "link_invalid")
        assert (await anyone.get(new)).content == CONTENT
        assert (await ana.get(path)).json()["link"]["url"].endswith(new)
        assert (await ana.delete(f"{path}/link")).status_code == 204
        check(await anyone.get(new), 403, "link_invalid")
        assert (await ana.get(path)).json()["link"] is None
        assert (await ana.get(f"{path}/download")).content == CONTENT


@pytest.mark.parametrize(("status", "code"), [("RUNNING", "running"), ("FAILED", "failed"), ("CANCELLED", "cancelled")])
async def test_a_report_that_is_not_ready_says_what_it_is(served: Fleet, status: str, code: str) -> None:
    report = await served.holds(CONTENT, status=status, detail="It has too many rows.")
    async with served.gateway.client() as ana, stranger(served.gateway) as anyone:
        for answer in (
            await ana.get(f"/v1/reports/{report.id}/download"),
            await anyone.get(link_of(report)),
            await ana.post(f"/v1/reports/{report.id}/link"),
        ):
            assert "too many rows" in check(answer, 409, f"report_{code}")["detail"]


NO_IDS = [
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "{}%2f..%2f{}",
    "{}%2fparts%2f000000",
    "{}%2fresult",
    "{}%00",
    "{}%0a",
    "{}.csv",
    "%7b{}%7d",
    "urn:uuid:{}",
    "..%5c{}",
    "{}%252f..",
    "4711",
    "-",
    "%D9%A0" * 32,
]


async def test_no_trick_in_an_id_leads_to_a_file(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    plain = str(report.id).replace("-", "")
    bearer = {"Authorization": f"Bearer {token('olga', 'operator')}"}
    for server in (served.gateway, served.reports):
        for trick in [*(id_.replace("{}", str(report.id)) for id_ in NO_IDS), plain]:
            for rest in ("/download", "", "/link", "/../download", "/download/..%2f..%2fresult"):
                status, body = await asyncio.to_thread(raw, server.url, f"/v1/reports/{trick}{rest}", bearer)
                assert status in (404, 405), (trick, rest, status)
                assert CONTENT not in body


def raw(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Ask for just this path: httpx would tidy it up first."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_neither_tokens_nor_signatures_are_logged(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    changed, bearer = link_of(report)[:-1] + "é", token()
    with structlog.testing.capture_logs() as lines:
        async with stranger(served.gateway) as anyone:
            for path in (link_of(report), changed):
                await anyone.get(path)
            await anyone.get(f"/v1/reports/{report.id}", headers={"Authorization": f"Bearer {bearer}"})
    assert sum(line["event"] == "http" for line in lines) == 6
    written = str(lines)
    assert str(report.id) in written
    for secret in (bearer, link_of(report).rpartition("=")[2][:32], "signature", "expires="):
        assert secret not in written


# -- in which pieces --------------------------------------------------------------------------------------------------


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=50), st.integers(0, 60) | st.none(), st.integers(0, 60) | st.none())
def test_a_range_is_a_slice(content: bytes, first: int | None, last: int | None) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        expected = None if last is None else content[-last:] if last else b""
    elif last is not None and last < first:
        expected = None
    else:
        expected = content[first : None if last is None else last + 1]
    if expected == b"":
        with pytest.raises(Unsatisfiable):
            domain.byte_range(header, len(content))
        return
    found = domain.byte_range(header, len(content))
    assert (found and content[found[0] : found[1] + 1]) == expected


NO_RANGES = [
    "bytes=1-2,4-5",
    "rows=0-1",
    "bytes=a-b",
    "bytes=2-1",
    "bytes=-",
    "bytes 0-1",
    "bytes=\N{ARABIC-INDIC DIGIT ZERO}-",
    "",
]


async def test_a_range_of_a_file_is_sent_as_the_slice_that_it_is(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    path, size = f"/v1/reports/{report.id}/download", len(CONTENT)
    async with served.gateway.client() as ana:
        for header, expected in {
            "bytes=0-0": slice(0, 1),
            "bytes=10-99": slice(10, 100),
            "bytes=2000-": slice(2000, None),
            "bytes=-5": slice(-5, None),
            "bytes=0-999999": slice(0, None),
        }.items():
            answer = await ana.get(path, headers={"Range": header})
            assert (answer.status_code, answer.content) == (206, CONTENT[expected])
            first, last, _ = expected.indices(size)
            assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
        for header in NO_RANGES:
            answer = await ana.get(path, headers=[(b"Range", header.encode())])
            assert (answer.status_code, answer.content) == (200, CONTENT), header
        for header in (f"bytes={size}-", "bytes=-0"):
            refused = await ana.get(path, headers={"Range": header})
            check(refused, 416, "range_not_satisfiable")
            assert refused.headers["content-range"] == f"bytes */{size}"


async def test_a_download_goes_on_only_if_the_file_is_still_the_same(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    path, etag = f"/v1/reports/{report.id}/download", f'"{report.sha256}"'
    async with served.gateway.client() as ana:
        modified = (await ana.head(path)).headers["last-modified"]
        for condition, status in ((etag, 206), (modified, 206), ('"0f"', 200), (f"W/{etag}", 200), ("x", 200)):
            answer = await ana.get(path, headers={"Range": "bytes=0-9", "If-Range": condition})
            assert answer.status_code == status, condition
            assert answer.content == CONTENT[: 10 if status == 206 else None]


async def test_a_file_that_the_client_has_is_not_sent_again(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    path, etag = f"/v1/reports/{report.id}/download", f'"{report.sha256}"'
    async with served.gateway.client() as ana:
        for known in (etag, f"W/{etag}", f'"0f", {etag}', "*"):
            answer = await ana.get(path, headers={"If-None-Match": known})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
        for unknown in ('"0f"', report.sha256 or "", ""):
            assert (await ana.get(path, headers={"If-None-Match": unknown})).status_code == 200


async def test_its_head_says_all_but_the_file(served: Fleet) -> None:
    report = await served.holds(CONTENT)
    async with served.gateway.client() as ana, stranger(served.gateway) as anyone:
        for client, path in ((ana, f"/v1/reports/{report.id}/download"), (anyone, link_of(report))):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            ours = {"date", "x-request-id"}
            assert {k: v for k, v in head.headers.items() if k not in ours} == {
                k: v for k, v in whole.headers.items() if k not in ours
            }


async def test_an_empty_file_is_a_file(served: Fleet) -> None:
    report = await served.holds(b"")
    async with served.gateway.client() as ana:
        answer = await ana.get(f"/v1/reports/{report.id}/download")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


async def test_a_page_may_do_nothing_but_be_looked_at(served: Fleet) -> None:
    report = await served.holds(b"<script>alert(1)</script>", format="html")
    async with served.gateway.client() as ana:
        headers = (await ana.get(f"/v1/reports/{report.id}/download")).headers
    policy = headers["content-security-policy"].split("; ")
    nothing = [f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")]
    assert policy == ["sandbox", "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", *nothing]
    assert headers["content-disposition"].startswith("attachment;")


# -- what can go wrong ------------------------------------------------------------------------------------------------


async def test_a_file_that_is_missing_or_not_whole_is_a_503_and_logged(served: Fleet) -> None:
    missing = a_report(CONTENT)
    await served.knows(missing)
    shorter = await served.holds(CONTENT)
    await served.storage.put(domain.result_name(shorter.id), CONTENT[:-1])
    async with served.gateway.client() as ana:
        for report in (missing, shorter):
            with structlog.testing.capture_logs() as lines:
                answer = await ana.get(f"/v1/reports/{report.id}/download")
            check(answer, 503, "file_missing")
            assert int(answer.headers["retry-after"]) > 0
            errors = [line for line in lines if line["log_level"] == "error"]
            assert [line["report_id"] for line in errors] == [str(report.id)]


async def test_a_storage_that_does_not_answer_is_a_503(served: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def size(name: str) -> int:
        raise NotStored("reading failed in the reports' storage")

    report = await served.holds(CONTENT)
    monkeypatch.setattr(served.storage, "size", size)
    async with served.gateway.client() as ana:
        check(await ana.get(f"/v1/reports/{report.id}/download"), 503, "storage_unavailable")


async def test_a_file_that_breaks_off_is_never_taken_for_whole(served: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(name: str, first: int, last: int) -> AsyncIterator[bytes]:
        yield CONTENT[:100]
        raise NotStored("reading failed in the reports' storage")

    report = await served.holds(CONTENT)
    monkeypatch.setattr(served.storage, "read", read)
    async with served.gateway.client() as ana:
        with pytest.raises(httpx.RemoteProtocolError):
            await ana.get(f"/v1/reports/{report.id}/download")


async def test_a_large_file_passes_through_both_services_in_flat_memory(served: Fleet) -> None:
    chunk, chunks = random.Random(1).randbytes(MEBIBYTE), 192
    digest = hashlib.sha256()

    async def content() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            digest.update(chunk)
            yield chunk

    report = a_report()
    await served.storage.put(domain.result_name(report.id), content())
    report.bytes, report.sha256 = chunks * MEBIBYTE, digest.hexdigest()
    await served.knows(report)
    got, before = hashlib.sha256(), peak(reset=True)
    async with served.gateway.client() as ana, ana.stream("GET", f"/v1/reports/{report.id}/download") as answer:
        async for some in answer.aiter_bytes():
            got.update(some)
    assert got.hexdigest() == report.sha256
    assert peak() - before < 48 * MEBIBYTE


def peak(*, reset: bool = False) -> int:
    """The most memory that this process had since it was last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status: Any = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    return int(status) * 1024
