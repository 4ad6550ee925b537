"""What is wrong, causes before those who suffer from them: what `malote doctor` shows and `malote watch` mails."""

import errno
import os
import shutil
import smtplib
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import httpx

from contracts.base import Locale
from contracts.broker import queue_of
from deploy.local import fleet, install, processes
from deploy.local.advice import advice
from deploy.local.environment import Environment, Unusable
from deploy.local.management import Management
from deploy.local.readiness import LOOK_SECONDS, Readiness, readiness
from shared import old_queues, topology
from shared.tokens import issue_token

LEAST_DISK = 1_000_000_000
WARNINGS = frozenset({"service_warning", "dead_letters", "broker_tracing", "broker_unmanaged", "old_queues"})
"""Kinds of findings with which everything works all the same."""
CONSEQUENCES = frozenset({"service_waits"})
RESTARTS, RESTARTS_WITHIN = 3, 600.0
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


_MEGABYTE = 1e6
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at. `detail` is what was seen there; `kind` says which advice fits, empty for none."""

    what: str
    detail: str
    kind: str = ""
    lacking: frozenset[str] = frozenset()
    """Queues that are missing, or that a binding is missing to."""

    @property
    def level(self) -> Literal["ok", "warning", "problem"]:
        if not self.kind:
            return "ok"
        return "warning" if self.kind in WARNINGS else "problem"

    def said(self, locale: Locale = "en") -> str:
        """What it means, what was seen, and what to do next."""
        if not self.kind:
            return self.detail
        means, following = advice(self.kind, self.what, locale)
        return f"{means}: {self.detail.rstrip('.')}. {following}" if self.detail else f"{means}. {following}"


def gather(here: Environment) -> list[Finding]:
    """Look at everything. Takes as long as the slowest answer, at most some seconds."""
    try:
        return _gathered(here)
    except Unusable as error:  # the passwords are in the data folder: without them nothing can be asked
        return [_unusable(error)]


def _gathered(here: Environment) -> list[Finding]:
    state = here.state()
    has_lost_its_keeper = bool(state) and not fleet.running(here)
    with ThreadPoolExecutor(max_workers=32) as pool:
        machine = None if here.is_elsewhere else pool.submit(_machine, here, state)
        if not (state or here.is_elsewhere):
            found = machine.result() if machine else []
            if any(finding.kind == "data_folder" for finding in found):  # what runs is written down in there
                return [finding for finding in found if finding.what != "ports"]
            return [*found, Finding("fleet", "not running; `malote up` starts it")]
        broker = pool.submit(_broker, here, state)
        files = {service: pool.submit(_file_problem, here, service) for service in here.services}
        mail = pool.submit(_mail_server, here, state)
        said = {service: pool.submit(readiness, here.health_of(service)) for service in here.services}
        made, letters = pool.submit(_topology, here), pool.submit(_dead_letters, here)
        found = [*(machine.result() if machine else []), broker.result(), *made.result()]
        if has_lost_its_keeper:
            found.insert(0, Finding("fleet", "", "fleet_unkept"))
        answers = {service: answer.result() for service, answer in said.items()}
        databases = [
            problem
            for service, answer in answers.items()
            if (problem := _database(here, service, files[service].result(), answer))
        ]
        found += databases or [Finding("databases", "all can be used")]
        found += [mail.result()]
        causes = [finding for finding in found if finding.level == "problem"]
        found += [_service(service, answer, state, causes) for service, answer in answers.items()]
        found += letters.result()
    return found


# -- the machine ------------------------------------------------------------------------------------------------------


def _machine(here: Environment, state: dict[str, Any]) -> list[Finding]:
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
    """Whether the data folder can be used, and the room that is left for it."""
    found = []
    try:
        here.make_folders()
    except Unusable as error:
        found = [_unusable(error)]
    try:
        with here.using_data():
            free = shutil.disk_usage(here.data).free
    except Unusable as error:
        return found or [_unusable(error)]
    disk = f"{free / 1e9:.1f} GB free"
    return [*found, Finding("disk", disk) if free > LEAST_DISK else Finding("disk", f"{disk} at {here.data}", "disk")]


def _unusable(error: Unusable) -> Finding:
    return Finding("data folder", error.detail, "data_folder")


def _rabbitmq(here: Environment) -> Finding:
    if not here.has_own_broker:
        return Finding("rabbitmq", "another broker, by AMQP_URL")
    found = install.find_rabbitmq() or ("in Docker" if install.docker() else None)
    return Finding("rabbitmq", str(found)) if found else Finding("rabbitmq", "", "rabbitmq")


def _our_pids(state: dict[str, Any]) -> set[int]:
    entries = [*state.get("services", []), *filter(None, [state.get("mail")])]
    return {state.get("broker") or 0, *(entry["pid"] for entry in entries)} if state else set()


# -- what services stand on -------------------------------------------------------------------------------------------


def _broker(here: Environment, state: dict[str, Any]) -> Finding:
    pid = state.get("broker") or 0
    where = here.amqp_url.rpartition("@")[2]
    if processes.is_stopped(pid):
        return Finding("broker", f"pid {pid}", "broker_stopped")
    if silence := _amqp_silence(here):
        return Finding("broker", f"{where}: {silence}", "broker_down")
    try:
        with Management(here) as api:
            nodes, is_tracing = api.nodes(), api.is_tracing()
    except httpx.HTTPError as error:  # its text has the password in the address
        return Finding("broker", f"{type(error).__name__}", "broker_unmanaged")
    return _alarm(nodes) or Finding("broker", f"answers at {where}", "broker_tracing" if is_tracing else "")


def _alarm(nodes: Sequence[dict[str, Any]]) -> Finding | None:
    for node in nodes:
        name = node.get("name", "a node")
        if not node.get("running", True):
            return Finding("broker", f"{name} does not run", "broker_down")
        if node.get("disk_free_alarm"):
            free, limit = node.get("disk_free", 0) / _MEGABYTE, node.get("disk_free_limit", 0) / _MEGABYTE
            return Finding("broker", f"{name} has {free:,.0f} MB free, the limit is {limit:,.0f} MB", "broker_disk")
        if node.get("mem_alarm"):
            used, limit = node.get("mem_used", 0) / _MEGABYTE, node.get("mem_limit", 0) / _MEGABYTE
            return Finding("broker", f"{name} uses {used:,.0f} MB, the limit is {limit:,.0f} MB", "broker_memory")
        if 0 < node.get("fd_total", 0) <= node.get("fd_used", 0):
            return Finding("broker", f"{name} has {node['fd_used']} open", "broker_files")
    return None


def _amqp_silence(here: Environment) -> str:
    """Why the broker does not speak AMQP; empty if it does."""
    url = urlsplit(here.amqp_url)
    is_secure = url.scheme == "amqps"
    try:
        with socket.create_connection((url.hostname, url.port or (5671 if is_secure else 5672)), LOOK_SECONDS) as plain:
            door = here.tls_of().context.wrap_socket(plain, server_hostname=url.hostname) if is_secure else plain
            door.sendall(b"AMQP\x00\x00\x09\x01")
            return "" if door.recv(1) == b"\x01" else "it does not speak AMQP 0-9-1"
    except TimeoutError:
        return f"no answer within {LOOK_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)


def _file_problem(here: Environment, service: str) -> str:
    """Why a service's file cannot be written, as far as its folder tells; empty if it can, or is none.

    It is not opened: whoever closes a database last, as far as SQLite can tell, removes the log of what was written.
    """
    path = _file(here, service)
    if path is None:
        return ""
    try:
        mounted = os.statvfs(path)
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if mounted.f_flag & os.ST_RDONLY:
        return "its disk is mounted read-only"
    for place in (path, path.parent):
        if not os.access(place, os.W_OK):
            return f"{place} is read-only for this user"
    return ""


def _file(here: Environment, service: str) -> Path | None:
    url = here.database_url_of(service)
    is_here = url.startswith("sqlite") and not here.is_elsewhere
    return Path(unquote(urlsplit(url).path.removeprefix("/"))) if is_here else None


def _database(here: Environment, service: str, problem: str, answer: Readiness) -> Finding | None:
    why = problem or answer.problems.get("database", "")
    if not why:
        return None
    url = urlsplit(here.database_url_of(service))
    place = str(_file(here, service) or (f"{url.hostname}{url.path}" if url.hostname else ""))
    detail = why if place in why else f"{place}: {why}"
    is_closed = problem.endswith(os.strerror(errno.EACCES))
    is_read_only = any(word in why.lower() for word in ("readonly database", "read-only", "read only"))
    return Finding(service, detail, "database_read_only" if is_closed or is_read_only else "database")


def _mail_server(here: Environment, state: dict[str, Any]) -> Finding:
    told = here.environment_of("email")
    host, port = told.get("EMAIL_SMTP_HOST", ""), int(told.get("EMAIL_SMTP_PORT", "25"))
    pid = (state.get("mail") or {}).get("pid", 0)
    if not here.variables.get("EMAIL_SMTP_HOST") and processes.is_stopped(pid):
        return Finding("mail", f"pid {pid}", "mail_stopped")
    try:
        if told.get("EMAIL_SMTP_TLS") == "tls":
            context = here.tls_of("email").context
            client: smtplib.SMTP = smtplib.SMTP_SSL(host, port, "localhost", timeout=LOOK_SECONDS, context=context)
        else:
            client = smtplib.SMTP(host, port, "localhost", timeout=LOOK_SECONDS)
        with closing(client):
            client.noop()
    except TimeoutError:
        return Finding("mail", f"{host}:{port}: no answer within {LOOK_SECONDS:g} s", "mail_server")
    except (OSError, smtplib.SMTPException) as error:
        return Finding("mail", f"{host}:{port}: {getattr(error, 'strerror', '') or error}", "mail_server")
    return Finding("mail", f"answers at {host}:{port}")


# -- services ---------------------------------------------------------------------------------------------------------


def _service(name: str, answer: Readiness, state: dict[str, Any], causes: Sequence[Finding]) -> Finding:
    entry: dict[str, Any] = next((entry for entry in state.get("services", []) if entry["name"] == name), {})
    if processes.is_stopped(entry.get("pid", 0)):
        return Finding(name, f"pid {entry['pid']}", "service_stopped")
    if answer.silence:
        return Finding(name, _restarts(entry) or answer.silence, "service_down")
    if answer.problems:
        said = "; ".join(f"{part}: {why}" for part, why in answer.problems.items())
        is_explained = all(_is_explained(name, part, causes) for part in answer.problems)
        return Finding(name, "" if is_explained else said, "service_waits" if is_explained else "service_not_ready")
    if restarts := _restarts(entry):
        return Finding(name, restarts, "service_restarting")
    if answer.warnings:
        said = "; ".join(f"{part}: {why}" for part, why in answer.warnings.items())
        return Finding(name, said, "service_warning")
    return Finding(name, f"ready: {', '.join(answer.checked)}")


def _is_explained(service: str, part: str, causes: Sequence[Finding]) -> bool:
    """Whether a part of a service does not work because something does not that is named already."""
    has_no_database = any(cause.what == service and cause.kind.startswith("database") for cause in causes)
    has_no_broker = any(cause.what == "broker" for cause in causes)
    if part == "database":
        return has_no_database
    lane = part.removeprefix("lane ")
    is_lacking = lane != part and any(queue_of(lane) in cause.lacking for cause in causes)
    return has_no_database or is_lacking or (has_no_broker and (part == "broker" or lane != part))


def _restarts(entry: dict[str, Any]) -> str:
    lately = entry.get("restarts_lately", 0)
    if (
        lately < RESTARTS
        or (datetime.now(UTC) - datetime.fromisoformat(entry["since"])).total_seconds() > RESTARTS_WITHIN
    ):
        return ""
    return f"ended {lately} times within {RESTARTS_WITHIN / 60:g} minutes"


# -- what passes between them -----------------------------------------------------------------------------------------


def _topology(here: Environment) -> list[Finding]:
    """Every queue and binding that the flow asks for is there, and no queue of a version before."""
    ladder = here.retry_ladder
    try:
        with Management(here) as api:
            queues, bindings = api.queues(), api.bindings()
    except httpx.HTTPError:
        return []  # the broker's finding says so
    missing = sorted(set(topology.queues(ladder)) - set(queues))
    wanted = {*topology.bindings(ladder), *topology.gates()}
    unbound = [binding for binding in sorted(wanted - bindings) if binding[-1] not in missing]
    lacking = frozenset([*missing, *(to for _, _, to in unbound)])
    missing += [f"{exchange} → {to} ({key})" for exchange, key, to in unbound]
    if not missing:
        left = ", ".join(old.name for old in old_queues.among(queues.values(), ladder))
        return [Finding("topology", left, "old_queues") if left else Finding("topology", "complete")]
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [Finding("topology", ", ".join(missing[:_NAMED]) + more, "topology", lacking)]


def _dead_letters(here: Environment) -> list[Finding]:
    """How many wait for a decision; nothing where the service that knows does not answer."""
    token = here.variables.get("MALOTE_TOKEN") or issue_token(
        here.jwt_secret, subject="doctor", role="operator", ttl=60
    )
    url = f"{here.address_of('deadletters')}/v1/dead-letters/groups"
    login = {"Authorization": f"Bearer {token}"}
    try:
        said = httpx.get(url, headers=login, timeout=LOOK_SECONDS, trust_env=False).raise_for_status().json()
        groups, total = said["data"], int(said["total"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []
    if not total:
        return [Finding("dead letters", "none")]
    largest = f"{groups[0]['count']:,} in {groups[0]['lane']}: {groups[0]['reason']}" if groups else ""
    return [Finding("dead letters", f"{total:,} wait, such as {largest}", "dead_letters")]
