"""The ports of a process: one for clients and, if it is set, another for operators."""

import socket
import sys

import structlog
from starlette.types import Scope

from shared.config.settings import COMMON_PREFIX, ServiceSettings
from shared.observability.tracing import QUIET

log = structlog.get_logger(__name__)
METRICS = "/metrics"
BACKLOG = 2048
"""Connections that may wait to be accepted: uvicorn's default."""


class Ports:
    """The ports of one process, and the paths of each. Without a health port, one port has all paths."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    def listen(self) -> list[socket.socket]:
        """The listening sockets, the health port's last. Raises SystemExit 78 (EX_CONFIG) if a port cannot be
        opened."""
        found = self._listen("port", self._settings.port)
        log.info("listening", host=self._settings.host, port=found[0].getsockname()[1])
        if self._settings.health_port:
            found += self._listen("health_port", self._settings.health_port)
            log.info("listening for health", host=self._settings.host, port=self._settings.health_port)
        return found

    def _listen(self, field: str, port: int) -> list[socket.socket]:
        host = self._settings.host
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            return [_listening(family, protocol, to) for family, _, protocol, _, to in dict.fromkeys(addresses)]
        except OSError as error:
            own = f"{self._settings.name}_{field}".upper()
            where = f"{own} (or {COMMON_PREFIX}{field.upper()})"
            print(f"{where}: cannot listen at {host} port {port}: {error.strerror}", file=sys.stderr)
            raise SystemExit(78) from None

    def is_for_everybody(self, scope: Scope) -> bool:
        """Whether a request came to the port for clients, which answers no details."""
        return self._settings.health_port is not None and not self._is_for_health(scope)

    def hides(self, scope: Scope) -> bool:
        """Whether a request's port does not have its path."""
        if self._settings.health_port is None:
            return False
        return scope["path"] not in QUIET if self._is_for_health(scope) else scope["path"] == METRICS

    def _is_for_health(self, scope: Scope) -> bool:
        """Whether a request came to the health port, by the address of the socket, which no header can change."""
        _, port = scope.get("server") or ("", None)
        return port is not None and port == self._settings.health_port


def _listening(family: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    # TCP is named because asyncio sets TCP_NODELAY only then; without it, answers wait 40 ms for an acknowledgement.
    found = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    return found
