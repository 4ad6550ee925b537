"""Connections to a broker that may have several nodes: each attempt is made at the next of its addresses."""

import asyncio
import itertools
import random
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import structlog
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from shared.config.tls import Tls
from shared.config.urls import brokers
from shared.messaging.causes import cause_of
from shared.persistence.database import Backoff

log = structlog.get_logger(__name__)

ATTEMPT_SECONDS = 10.0
BEGIN_SECONDS = 15.0
"""A node that has taken the connection and answers nothing on it is left after so long for the next one."""
CLOSE_SECONDS = 2.0
MOST_CANCELS = 5
REACHED_SECONDS = 4.0
"""A node that is cut off is given up after so long: the next one may answer."""
HEARTBEAT_SECONDS = 5
"""A broker that has stopped without a word is found after 20 s, and we by the broker after 15: aiormq waits for three
and a half heartbeats, and the 60 s that it proposes would be more than three minutes."""
RECEIPT_SECONDS = 10
"""A node that is cut off is found after so long: its machine sends no receipt for what we send, such as heartbeats.
However busy we are, the system measures it. Connections that publish do without: a broker that reads nothing of them,
such as in a memory alarm, would look the same, and would be written the same messages again on each new connection."""
_RECEIPT = getattr(socket, "TCP_USER_TIMEOUT", None)  # of Linux


class Endpoints(TransportFactory):
    """A broker's addresses. aiormq asks here for a socket each time that it connects, and gets one to the next of them.

    The first is a random one, so that processes spread over the nodes.
    """

    def __init__(self, urls: tuple[str, ...], *, receipts: bool = True) -> None:
        self.number, self._receipts = len(urls), receipts
        self._urls = itertools.cycle(random.sample(list(map(URL, urls)), len(urls)))
        self.node = ""
        """Host and port that were asked last: where the connection is made, or tried."""

    async def create(self, url: URL, **kwargs: Any) -> tuple[StreamReader, StreamWriter]:
        """Raises OSError if the node cannot be reached."""
        # Only the place is the endpoint's: `url` says what else there is to know.
        here = next(self._urls)
        secure = here.scheme == "amqps"
        here = here.with_port(here.explicit_port or (5671 if secure else 5672))
        self.node = f"{here.host}:{here.port}"
        factory = TLSTransportFactory() if secure else TCPTransportFactory()
        try:
            async with asyncio.timeout(REACHED_SECONDS):
                reader, writer = await factory.create(here, **kwargs)
        except TimeoutError:
            raise ConnectionError(f"{self.node} cannot be reached within {REACHED_SECONDS:g} s") from None
        if _RECEIPT is not None and self._receipts:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _RECEIPT, RECEIPT_SECONDS * 1000)
        return reader, writer


async def connect(amqp_url: str, tls: Tls | None = None, name: str = "") -> aio_pika.Connection:
    """A connection to one of a broker's nodes, which calls it by `name`. It ends with that node.

    Raises OSError or `AMQPError` if none of them takes it.
    """
    endpoints = Endpoints(brokers(amqp_url))
    for left in reversed(range(endpoints.number)):
        try:
            return await _attempt(address(amqp_url, name), tls or Tls(), endpoints)
        except (aio_pika.exceptions.AMQPError, OSError):
            if not left:
                raise
    raise AssertionError("a broker has an address at least")


class KeptConnection:
    """A connection that is made again whenever it is lost, at the broker's node that answers next.

    `begin` does on each new connection what it is for: opens channels, consumes. Whoever uses these meanwhile is told
    by an error that they are closed.
    """

    def __init__(
        self,
        amqp_url: str,
        tls: Tls | None,
        name: str,
        begin: Callable[[aio_pika.Connection], Awaitable[None]],
        *,
        publishes: bool = False,
    ) -> None:
        self._url, self._tls, self._name, self._begin = address(amqp_url, name), tls or Tls(), name, begin
        self._endpoints = Endpoints(brokers(amqp_url), receipts=not publishes)
        self.missed: str | None = "no connection yet"
        """Why it is not there, and which node is tried; None while it is there, and begun."""

    @property
    def node(self) -> str:
        """Host and port of the node that it is to, or that is tried; empty before the first attempt."""
        return self._endpoints.node

    async def run(self) -> None:
        """Keep it, for ever."""
        backoff = Backoff()
        while True:
            try:
                await self._once(backoff)
            except (Exception, asyncio.CancelledError) as error:
                _end_if_cancelled()
                missed, self.missed = self.missed, f"no connection to {self.node}: {cause_of(error)}"
                if missed != self.missed:
                    log.warning("waiting for the broker", connection=self._name, why=self.missed)
            await backoff.wait()

    async def _once(self, backoff: Backoff) -> None:
        connection = await _attempt(self._url, self._tls, self._endpoints)
        try:
            _end_if_cancelled()
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._begin(connection)
            _end_if_cancelled()
            backoff.reset()
            self.missed = None
            log.info("broker: connected", connection=self._name, node=self.node)
            await lost(connection)
            self.missed = f"the connection to {self.node} was lost"
            log.warning("broker: connection lost", connection=self._name, node=self.node)
        finally:
            await close(connection)


def _end_if_cancelled() -> None:
    """Raise CancelledError if this task was told to end. Python 3.11's `wait_for`, by which aio-pika waits, forgets it
    if what it waits for ends at the same moment."""
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError


async def lost(connection: aio_pika.Connection) -> None:
    """Wait until a connection is lost."""
    assert connection.transport, "it was made"
    closing = connection.transport.connection.closing
    try:
        await asyncio.wait([closing])
    finally:
        closing.cancel()


async def close(connection: aio_pika.Connection) -> None:
    """Close a connection; one that does not answer is left to itself."""
    closing = asyncio.create_task(connection.close())
    await asyncio.wait([closing], timeout=CLOSE_SECONDS)
    for _ in range(MOST_CANCELS):  # aio-pika answers a cancellation by waiting for what may never come
        if not closing.done():
            closing.cancel()
            await asyncio.wait([closing], timeout=0.1)
    if closing.done() and not closing.cancelled():
        closing.exception()  # or asyncio would say that nobody has asked for it


async def _attempt(url: str, tls: Tls, endpoints: Endpoints) -> aio_pika.Connection:
    connection = aio_pika.Connection(URL(url), ssl_context=tls.context)
    connection.kwargs["transport_factory"] = endpoints  # aio-pika hands all of these on to aiormq
    try:
        await connection.connect(timeout=ATTEMPT_SECONDS)
    except BaseException as error:
        await close(connection)
        if isinstance(error, TimeoutError):
            raise ConnectionError(f"{endpoints.node} gives no answer within {ATTEMPT_SECONDS:g} s") from error
        if isinstance(error, StopAsyncIteration):  # aiormq's reader says so of a connection that was closed at once
            raise ConnectionError(f"{endpoints.node} has closed the connection") from error
        raise
    return connection


def address(amqp_url: str, name: str = "") -> str:
    """What our connections know of a broker besides its nodes' places. A heartbeat that an operator wrote into the
    address stays."""
    broker = URL(brokers(amqp_url)[0])
    more = {"name": name} if name else {}
    return str(broker.with_query({"heartbeat": HEARTBEAT_SECONDS, **broker.query, **more}))
