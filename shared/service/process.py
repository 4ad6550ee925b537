"""A process: one service, or several that share an interpreter and nothing else."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from types import FrameType

import structlog
import uvicorn

from shared.observability import logging
from shared.observability.metrics import OfService
from shared.service import Service


def run(*services: Service) -> None:
    """Serve until SIGTERM or SIGINT, then end all together. How to log is the first one's setting.

    Raises SystemExit with status 78 if one cannot listen.
    """
    first = services[0]
    logging.configure(first.settings)
    sockets = [service.ports.listen() for service in services]
    for service in services:  # what is counted for the whole process is the first one's to tell
        service.metrics = OfService(service.name, whole=service is first)
    gc.collect()
    gc.freeze()  # or each full collection goes through all that was imported: tenths of a second, all work waiting
    gc.set_threshold(20_000)  # what a batch leaves is freed without it
    first.watchdog.start()  # they have one event loop
    servers = [_Server(service.server().config) for service in services]
    heard: list[int] = []
    with contextlib.suppress(KeyboardInterrupt):
        with asyncio.Runner(loop_factory=servers[0].config.get_loop_factory()) as runner, _signals(servers, heard):
            runner.run(_serve(services, servers, sockets))
        for number in heard:  # end as whoever sent it expects
            signal.raise_signal(number)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for all servers of the process."""
        yield


async def _serve(
    services: Sequence[Service], servers: Sequence[uvicorn.Server], sockets: Sequence[list[socket.socket]]
) -> None:
    tasks = []
    for service, server, own in zip(services, servers, sockets, strict=True):
        context = copy_context()
        context.run(structlog.contextvars.bind_contextvars, service=service.name)
        tasks.append(asyncio.create_task(server.serve(own), name=service.name, context=context))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


@contextlib.contextmanager
def _signals(servers: Sequence[uvicorn.Server], heard: list[int]) -> Iterator[None]:
    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        for server in servers:
            server.handle_exit(number, frame)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
