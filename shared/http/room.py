"""Room for connections: a share for each address that shows no token, and who makes way when a process is full."""

import ipaddress
from collections.abc import Iterable
from typing import Protocol

SHARES = 4
"""One address without a token has a fourth of a process' connections."""


class Guest(Protocol):
    """A connection, as far as its place is concerned."""

    def is_waiting(self, *, strictly: bool) -> bool:
        """Whether nothing is done for it now. Not `strictly`: also while its request is still coming."""
        ...

    def give_way(self) -> None:
        """Close it for another."""
        ...


class Room:
    """The connections of one process, at most `most`. `proxies` are addresses of many clients: they have no share."""

    def __init__(self, most: int, proxies: Iterable[str] = ()) -> None:
        self._most, self._share = most, max(1, most // SHARES)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._address: dict[Guest, str] = {}  # of each, in the order in which they came
        self._strangers: dict[str, dict[Guest, None]] = {}  # by address, the oldest first
        self._known: dict[Guest, None] = {}  # who showed a token, the longest ago first

    def enter(self, guest: Guest, host: str) -> None:
        """Take a new connection in. Where there is no room, one that waits makes way."""
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
        """A connection has shown a good token."""
        if guest in self._address:
            self._forget_as_stranger(guest)
            self._known.pop(guest, None)
            self._known[guest] = None  # the last in the row

    def leave(self, guest: Guest) -> None:
        """A connection is gone, or closed for another."""
        if guest in self._address:
            self._forget_as_stranger(guest)
            self._known.pop(guest, None)
            del self._address[guest]

    def has_no_place_for(self, guest: Guest, *, shows_token: bool) -> bool:
        """Whether a request is one too many: nobody could make way for the connection that it came over."""
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
    """An IPv6 client has a whole network of addresses to come from: it is counted as one."""
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
