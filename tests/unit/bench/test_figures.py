"""What `make bench` says of a figure, and the servers and clients of its own that it measures with."""

import asyncio
import smtplib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.local import processes
from deploy.local.ports import HOST, accepts, free_port
from tests.bench import __main__ as bench
from tests.bench.common import Figure, beside, wait_for
from tests.bench.load import Answer, all_at_once, at_a_rate, percentile, post
from tests.bench.sink import Count


@pytest.mark.parametrize(
    ("value", "rival_value", "target", "reached"),
    [
        (300, 100, ">= 3 x, >= 300", True),
        (299, 90, ">= 3 x, >= 300", False),
        (300, 101, ">= 3 x, >= 300", False),
        (99, 300, "<= 0.333 x, <= 100", True),
        (101, 400, "<= 0.333 x, <= 100", False),
        (5, 5, None, None),
    ],
)
def test_a_target_is_reached_when_all_of_it_is(
    value: float, rival_value: float, target: str | None, reached: bool | None
) -> None:
    assert beside("a figure", value, "orders/s", "a rival", rival_value, target).reached is reached


def test_a_ratio_is_not_reached_without_a_rival() -> None:
    assert Figure("a figure", 5.0, "orders/s", target=">= 3 x").reached is False


def test_a_target_that_nobody_can_read_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="not a target: 'much more'"):
        _ = Figure("a figure", 5.0, "orders/s", target="much more").reached


def test_a_part_that_is_none_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "everything"])
    monkeypatch.setattr(bench, "RIVALS", ())
    with pytest.raises(SystemExit):
        bench.main()
    assert "--only everything: the parts are whole, latency, lane" in capsys.readouterr().err


def test_rivals_that_are_not_installed_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(bench, "RIVALS", ("json", "no_such_rival"))
    with pytest.raises(SystemExit):
        bench.main()
    assert "the rivals are missing (no_such_rival)" in capsys.readouterr().err


def test_percentiles_are_in_milliseconds() -> None:
    seconds = [n / 1000 for n in range(1, 101)]
    assert percentile(seconds, 0.5) == pytest.approx(51)
    assert percentile(seconds, 0.99) == pytest.approx(100)
    assert percentile([0.25], 0.99) == 250


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[tuple[int, Count]]:
    """The mail server that only counts: its port, and its count."""
    port, count = free_port(), Count(tmp_path / "mails")
    command = [sys.executable, "-m", "tests.bench.sink", str(port), str(tmp_path / "mails")]
    child = subprocess.Popen(command)
    try:
        assert processes.until(lambda: accepts(port), 20), "the sink does not listen"
        yield port, count
    finally:
        child.terminate()
        child.wait(10)


def test_the_sink_counts_each_mail_once(sink: tuple[int, Count]) -> None:
    port, count = sink
    with smtplib.SMTP(HOST, port, local_hostname="shop.example", timeout=10) as smtp:
        for number in range(1, 4):
            smtp.sendmail("shop@malote.example", ["ana@example.com"], f"Subject: {number}\n\n.\n..\nhello\n")
            assert count.value == number


def test_the_sink_takes_what_comes_all_at_once_and_what_comes_in_pieces(sink: tuple[int, Count]) -> None:
    port, count = sink
    mail = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
    whole = b"EHLO shop.example\r\n" + 2 * mail + b"QUIT\r\n"

    async def say(pieces: list[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()

    for pieces in ([whole], [whole[n : n + 1] for n in range(len(whole))]):
        before = count.value
        answers = asyncio.run(say(pieces)).split(b"\r\n")
        assert [line[:3] for line in answers if line[3:4] == b" "] == [
            b"220", b"250", *2 * [b"250", b"250", b"354", b"250"], b"221",
        ]  # fmt: skip
        assert count.value == before + 2


@asynccontextmanager
async def _listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    """An HTTP server that answers each POST with what was posted; its port, and the heads that came."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            heads.append(head)
            body = await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
            writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def test_the_load_generator_sends_each_request_once_and_reads_its_answer() -> None:
    async with _listening() as (port, heads):
        requests = [post("/v1/orders", "a-token", {"number": n}, Prefer="wait=1") for n in range(50)]
        answers = await all_at_once(HOST, port, requests, connections=4)
    assert sorted(answer.body for answer in answers) == sorted(b'{"number": %d}' % n for n in range(50))
    assert {answer.status for answer in answers} == {202}
    assert all(b"Authorization: Bearer a-token\r\n" in head and b"Prefer: wait=1\r\n" in head for head in heads)


async def test_the_load_generator_keeps_to_a_rate() -> None:
    came: list[Answer] = []
    async with _listening() as (port, _):
        await at_a_rate(HOST, port, [post("/", "", n) for n in range(10)], 100, came.append)
    sent = sorted(answer.sent for answer in came)
    assert len(sent) == 10
    assert sent[-1] - sent[0] >= 0.08  # nine times 10 ms, as exactly as a timer is


async def test_whoever_is_slow_is_named_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    async def look() -> bool:
        return "the last message" in capsys.readouterr().err

    await wait_for(look, "the last message", slow_seconds=0.01)
    with pytest.raises(TimeoutError, match="waited 0 s for what never comes"):
        await wait_for(look, "what never comes", seconds=0)
