"""The limit of connections: a share for each address without a token, and which connection makes way in a full
process."""

import ipaddress
from collections.abc import Iterable
from typing import Protocol

SHARES = 4
"""An address without a token may have one of so many shares of a process's connections."""


class Guest(Protocol):
    """A connection, as `Room` sees it."""

    def is_waiting(self, *, strictly: bool) -> bool:
        """Whether no request is being served. Without `strictly`, a request that is still arriving does not count."""
        ...

    def give_way(self) -> None:
        """Close this connection, whose place another one needs."""
        ...


class Room:
    """The connections of one process, at most `most`. `proxies` are addresses that stand for many clients: they have no
    limit of their own."""

    def __init__(self, most: int, proxies: Iterable[str] = ()) -> None:
        self._most, self._share = most, max(1, most // SHARES)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._address: dict[Guest, str] = {}  # the address of each guest, oldest first
        self._strangers: dict[str, dict[Guest, None]] = {}  # by address, oldest first
        self._known: dict[Guest, None] = {}  # guests that have shown a token, the least recent first

    def enter(self, guest: Guest, host: str) -> None:
        """Add a new connection. In a full process, a waiting connection makes way."""
        address = self._address[guest] = network(host)
        neighbours = self._strangers.setdefault(address, {})
        neighbours[guest] = None
        if self._is_over_share(address):
            self._make_way(neighbours, guest)
        if self._is_full:
            for strangers in sorted(self._strangers.values(), key=len, reverse=True):
                if self._make_way(strangers, guest):
                    return
            self._make_way(self._known, guest, strictly=True)

    def recognise(self, guest: Guest) -> None:
        """Note that a connection has shown a valid token."""
        if guest in self._address:
            self._forget_as_stranger(guest)
            self._known.pop(guest, None)
            self._known[guest] = None  # now the most recent

    def leave(self, guest: Guest) -> None:
        """Remove a connection that is closed."""
        if guest in self._address:
            self._forget_as_stranger(guest)
            self._known.pop(guest, None)
            del self._address[guest]

    def has_no_place_for(self, guest: Guest, *, shows_token: bool) -> bool:
        """Whether a request is refused: no connection could make way for the one that it came over."""
        if guest in self._known or guest not in self._address:
            return False
        return self._is_full or (not shows_token and self._is_over_share(self._address[guest]))

    @property
    def _is_full(self) -> bool:
        return len(self._address) > self._most

    def _is_over_share(self, address: str) -> bool:
        return len(self._strangers.get(address, ())) > self._share and not self._is_proxy(address)

    def _is_proxy(self, address: str) -> bool:
        return any(_is_in(address, proxy) for proxy in self._proxies)

    def _make_way(self, guests: dict[Guest, None], newest: Guest, *, strictly: bool = False) -> bool:
        leaving = next((guest for guest in guests if guest is not newest and guest.is_waiting(strictly=strictly)), None)
        if leaving is None:
            return False
        self.leave(leaving)
        leaving.give_way()
        return True

    def _forget_as_stranger(self, guest: Guest) -> None:
        neighbours = self._strangers.get(self._address[guest], {})
        neighbours.pop(guest, None)
        if not neighbours:
            self._strangers.pop(self._address[guest], None)


def network(host: str) -> str:
    """The address by which a client is counted. An IPv6 client has a whole network (/64), which counts as one
    address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


def _is_in(address: str, proxy: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        found = ipaddress.ip_network(address)
    except ValueError:
        return False
    return found.version == proxy.version and found.overlaps(proxy)
