"""Addresses of brokers and databases: read and refused before anybody connects to them."""

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from shared.config.tls import Tls

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def demand_port(port: int | None) -> None:
    """Raises ValueError where an address names a port that does not exist."""
    if port is not None and not 0 < port <= 65_535:
        raise ValueError(f"{port} is not a port (1 to 65535)")


def port_in(address: str) -> int | None:
    """The port in an address, if it names one. Raises ValueError."""
    try:
        port = urlsplit(address).port
    except ValueError as error:
        raise ValueError("its port is none (1 to 65535)") from error  # the reason has the whole address in it
    demand_port(port)
    return port


def brokers(text: str) -> tuple[str, ...]:
    """The addresses of a broker: one, or those of a cluster's nodes with commas between them.

    Raises ValueError, without the addresses, which have a password in them, unless each is one that a broker can have,
    and all name the same vhost as the same user.
    """
    addresses = tuple(address.strip() for address in re.split(r",(?=\s*amqps?://)", text))
    for address in addresses:
        _demand_broker(address)
    for what in ("scheme", "username", "password", "query"):
        _demand_one(what, {getattr(urlsplit(address), what) for address in addresses})
    _demand_one("vhost", set(map(vhost_in, addresses)))
    return addresses


def _demand_one(what: str, values: set[str | None]) -> None:
    if len(values) > 1:
        raise ValueError(f"its addresses differ in the {what}: all nodes of a cluster have the same")


def _demand_broker(address: str) -> None:
    url = urlsplit(address)
    if address.count("://") > 1 or "," in url.netloc.rpartition("@")[2] + url.path or ";" in address:
        raise ValueError("write each address whole, with a comma between them: amqp://user:password@one/,amqp://…@two/")
    if url.scheme not in ("amqp", "amqps") or not url.hostname or any(map(str.isspace, url.netloc)):
        raise ValueError("write amqp://user:password@host/, or amqps:// for TLS")
    port_in(address)
    heartbeat = parse_qs(url.query).get("heartbeat", ["0"])[-1]
    if not (heartbeat.isascii() and heartbeat.isdecimal()):
        raise ValueError("its heartbeat is not a whole number of seconds")


def vhost_in(address: str) -> str:
    """The vhost that a broker's address names."""
    return unquote(urlsplit(address).path.removeprefix("/")) or "/"


def places_in(text: str) -> str:
    """A broker's addresses without user and password, for people. Raises ValueError."""
    return ", ".join(address.rpartition("@")[2].rpartition("://")[2].rstrip("/") for address in brokers(text))


def is_loopback(host: str | None) -> bool:
    """Whether an address is of this machine, and what is sent to it does not leave it."""
    try:
        return ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def with_driver(url: str) -> "URL":
    """`postgresql://…` -> `postgresql+asyncpg://…`, `sqlite:///…` -> `sqlite+aiosqlite:///…`. Raises ValueError."""
    from sqlalchemy.engine import make_url  # not at the top: most of the command line needs no database
    from sqlalchemy.exc import ArgumentError

    drivers = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their texts may have the password in them
        raise ValueError("write sqlite:///PATH or postgresql://user:password@host/database (@ in it as %40)") from None
    backend = parsed.drivername.partition("+")[0]
    if backend not in drivers:
        raise ValueError(f"a database URL starts with sqlite:// or postgresql://, not {parsed.drivername}://")
    return parsed.set(drivername=drivers[backend])


def database_address(url: str, tls: Tls | None = None) -> tuple["URL", dict[str, Any]]:
    """A database's URL, and what the driver is to be told beside it: libpq's `sslmode`, with our certificates.

    Raises ValueError.
    """
    parsed = with_driver(url)
    if parsed.get_backend_name() == "sqlite":
        return parsed, {}
    if ours := sorted({"sslrootcert", "sslcert", "sslkey"} & set(parsed.query)):
        raise ValueError(f"certificates are set as TLS_CA_FILE, TLS_CERT_FILE and TLS_KEY_FILE, not as {ours[0]}")
    mode = parsed.query.get("sslmode")
    if mode is None:
        return parsed, {}
    secure = (tls or Tls()).for_database(mode if isinstance(mode, str) else mode[-1])
    return parsed.difference_update_query(["sslmode"]), {"ssl": secure}
