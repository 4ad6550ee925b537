"""A load generator that costs little itself: HTTP/1.1 over plain sockets, one request in flight per connection."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds; when the request went, on `time.perf_counter`'s clock."""

    status: int
    body: bytes
    seconds: float
    sent: float


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, request: bytes) -> Answer:
        """Send one request and read its whole answer."""
        started = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        body = await self._reader.readexactly(length)
        return Answer(int(head[9:12]), body, time.perf_counter() - started, started)


def post(path: str, token: str, body: object, **headers: str) -> bytes:
    """A POST request's bytes."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def all_at_once(host: str, port: int, requests: Iterable[bytes], connections: int) -> list[Answer]:
    """As fast as so many connections go."""
    waiting, answers = iter(requests), []

    async def work() -> None:
        async with Connection(host, port) as connection:
            for request in waiting:
                answers.append(await connection.send(request))

    await asyncio.gather(*(work() for _ in range(connections)))
    return answers


async def at_a_rate(
    host: str, port: int, requests: Iterable[bytes], per_second: float, came: Callable[[Answer], object]
) -> None:
    """Each at its time, however long the others take; `came` is told of each answer at once."""
    started = asyncio.get_running_loop().time()

    async def one(number: int, request: bytes) -> None:
        await asyncio.sleep(max(0.0, started + number / per_second - asyncio.get_running_loop().time()))
        async with Connection(host, port) as connection:
            came(await connection.send(request))

    await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))


def percentile(seconds: Sequence[float], part: float) -> float:
    """Milliseconds within which this part (0 to 1) of the times is."""
    times = sorted(seconds)
    return times[min(int(len(times) * part), len(times) - 1)] * 1000
