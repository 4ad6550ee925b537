"""A mail server that only counts, as cheaply as can be: neither rival waits for it.

python -m tests.bench.sink PORT FILE: the first eight bytes of FILE are the number of mails taken so far.
"""

import asyncio
import mmap
import struct
import sys
from pathlib import Path
from typing import Any

import uvloop

from deploy.local.ports import HOST

_COUNT = struct.Struct("<Q")
_END = b"\r\n.\r\n"


class Count:
    """A number that one process writes and another reads, without asking it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_COUNT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNT.size)

    @property
    def value(self) -> int:
        return int(_COUNT.unpack_from(self._memory)[0])

    @value.setter
    def value(self, number: int) -> None:
        _COUNT.pack_into(self._memory, 0, number)


class Smtp(asyncio.Protocol):
    """What a client of ours or of the peer's says, and no more (RFC 5321; pipelining: RFC 2920)."""

    def __init__(self, count: Count) -> None:
        self._count, self._came, self._in_mail = count, bytearray(), False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self._came += data
        answers = b""
        while (found := self._next()) is not None:
            answers += found
        if answers:
            self._transport.write(answers)
        if answers.endswith(b"221 bye\r\n"):
            self._transport.close()

    def _next(self) -> bytes | None:
        """The answer to what has come next; None until all of it is there."""
        if self._in_mail:
            _, end, after = self._came.partition(_END)
            if not end:
                return None
            self._came, self._in_mail = after, False
            self._count.value += 1
            return b"250 taken\r\n"
        line, end, after = self._came.partition(b"\r\n")
        if not end:
            return None
        self._came = after
        verb = bytes(line[:4]).upper()
        self._in_mail = verb == b"DATA"
        return {
            b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            b"DATA": b"354 go on\r\n",
            b"QUIT": b"221 bye\r\n",
        }.get(verb, b"250 ok\r\n")


async def serve(port: int, path: Path) -> None:
    """Take mail until the process is ended."""
    count = Count(path)
    server = await asyncio.get_running_loop().create_server(lambda: Smtp(count), HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
