"""What `malote doctor` finds about this machine, apart from what runs on it."""

import shutil
import sys
from typing import Any

from deploy.local import install
from deploy.local.environment import Environment, Unusable
from deploy.local.finding import Finding

LEAST_DISK = 1_000_000_000
FULL_DISK = 50_000_000
"""Bytes. With less free space, the broker accepts no more messages, and a database may fail to write."""
_NO_PANGO = (
    "missing, so there are no reports as pdf (Debian, Ubuntu: apt-get install libpango-1.0-0 libpangoft2-1.0-0"
    " libharfbuzz-subset0; macOS: brew install pango)"
)


def _pango() -> str:
    if not install.find_pango():
        return _NO_PANGO
    missing = " ".join(install.missing_fonts())
    boxes = f"; names in some scripts are boxes in them (Debian, Ubuntu: apt-get install {missing})"
    return "there, for reports as pdf" + (boxes if missing else "")


def look(here: Environment, state: dict[str, Any]) -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    taken = here.taken_ports(_our_pids(state))
    return [
        Finding("python", version, "" if (3, 11) <= sys.version_info[:2] <= (3, 13) else "python"),
        *_data(here),
        _rabbitmq(here),
        Finding("postgresql", str(install.find_postgres() or "not installed; only tests and large shops use it")),
        Finding("pango", _pango()),
        Finding("ports", "; ".join(taken), "ports") if taken else Finding("ports", "all ours or free"),
    ]


def _data(here: Environment) -> list[Finding]:
    """Findings about the data folder: whether it can be used, and its free space."""
    found = []
    try:
        here.make_folders()
    except Unusable as error:
        found = [unusable(error)]
    try:
        with here.using_data():
            free = shutil.disk_usage(here.data).free
    except Unusable as error:
        return found or [unusable(error)]
    if free > LEAST_DISK:
        return [*found, Finding("disk", f"{free / 1e9:.1f} GB free")]
    kind = "disk" if free > FULL_DISK else "disk_full"
    return [*found, Finding("disk", f"{free / 1e6:,.0f} MB free at {here.data}", kind)]


def unusable(error: Unusable) -> Finding:
    """The finding about an error that prevents further checks."""
    return Finding("data folder", error.detail, error.kind)


def _rabbitmq(here: Environment) -> Finding:
    if not here.has_own_broker:
        return Finding("rabbitmq", "another broker, by AMQP_URL")
    found = install.find_rabbitmq() or ("in Docker" if install.docker() else None)
    return Finding("rabbitmq", str(found)) if found else Finding("rabbitmq", "", "rabbitmq")


def _our_pids(state: dict[str, Any]) -> set[int]:
    entries = [*state.get("services", []), *filter(None, [state.get("mail")])]
    return {state.get("broker") or 0, *(entry["pid"] for entry in entries)} if state else set()
