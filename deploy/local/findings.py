"""What is wrong, causes before those who suffer from them: what `malote doctor` shows and `malote watch` mails."""

import errno
import os
import smtplib
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from contracts.broker import queue_of
from deploy.local import fleet, machine, processes, replicas
from deploy.local.environment import Environment, Unusable
from deploy.local.finding import Finding
from deploy.local.management import Management
from deploy.local.ports import HOST
from deploy.local.readiness import LOOK_SECONDS, Readiness, readiness
from shared.config.tls import Tls
from shared.config.urls import brokers, places_in
from shared.http.tokens import issue_token
from shared.messaging import old_queues, topology
from shared.messaging.decode import is_about_reading

RESTARTS, RESTARTS_WITHIN = 3, 600.0
_OF_A_FULL_DISK = ("", "database", "broker_disk", "service_warning", "service_waits", "service_not_ready")
_MEGABYTE = 1e6
_NAMED = 5


def gather(here: Environment) -> list[Finding]:
    """Look at everything. Takes as long as the slowest answer, at most some seconds."""
    try:
        return _gathered(here)
    except Unusable as error:  # the passwords are in the data folder: without them nothing can be asked
        return [machine.unusable(error)]


def _gathered(here: Environment) -> list[Finding]:
    state = here.state()
    has_lost_its_keeper = bool(state) and not fleet.running(here)
    with ThreadPoolExecutor(max_workers=32) as pool:
        own = None if here.is_elsewhere else pool.submit(machine.look, here, state)
        if not (state or here.is_elsewhere):
            found = own.result() if own else []
            if any(finding.kind == "data_folder" for finding in found):  # what runs is written down in there
                return [finding for finding in found if finding.what != "ports"]
            return [*found, Finding("fleet", "not running; `malote up` starts it")]
        broker = pool.submit(_broker, here, state)
        files = {service: pool.submit(_file_problem, here, service) for service in here.services}
        mail = pool.submit(_mail_server, here, state)
        said = {name: pool.submit(readiness, address) for name, address in _addresses(here, state).items()}
        made, letters = pool.submit(_topology, here), pool.submit(_dead_letters, here)
        found = [*(own.result() if own else []), broker.result(), *made.result()]
        if has_lost_its_keeper:
            found.insert(0, Finding("fleet", "", "fleet_unkept"))
        answers = {service: answer.result() for service, answer in said.items()}
        databases = [
            problem
            for service, file in files.items()
            if (problem := _database(here, service, file.result(), answers[service]))
        ]
        found += databases or [Finding("databases", "all can be used")]
        found += [mail.result()]
        causes = [finding for finding in found if finding.is_trouble]
        found += [_service(name, answer, state, causes) for name, answer in answers.items()]
        found += letters.result()
    return _without_room(here, found)


def _addresses(here: Environment, state: dict[str, Any]) -> dict[str, str]:
    """Where each process of a service says how it is, by its name: `stock`, `stock-1`."""
    found = {service: here.health_of(service) for service in here.services}
    more = {one["name"]: f"http://{HOST}:{one['port']}" for one in state.get("services", [])}
    more = {name: address for name, address in more.items() if name not in found and replicas.split(name)[0] in found}
    return dict(sorted((found | more).items(), key=lambda one: replicas.split(one[0])))


def _without_room(here: Environment, found: list[Finding]) -> list[Finding]:
    """Where the disk is full, what is on it cannot work: nobody has tried to write there, so it may look well."""
    if not any(finding.kind == "disk_full" for finding in found):
        return found
    on_it = {"databases", *(service for service in here.services if _file(here, service))}
    on_it |= {finding.what for finding in found if replicas.split(finding.what)[0] in on_it}
    on_it |= ({"broker"} if here.has_own_broker else set()) | (set() if _has_own_mail_server(here) else {"mail"})
    return [
        Finding(finding.what, finding.detail if finding.kind else "", "needs_disk")
        if finding.what in on_it and finding.kind in _OF_A_FULL_DISK
        else finding
        for finding in found
    ]


def _has_own_mail_server(here: Environment) -> bool:
    """Whether mails go to a server of the operator's, not to this machine's mailbox."""
    return bool(here.variables.get("EMAIL_SMTP_HOST"))


# -- what services stand on -------------------------------------------------------------------------------------------


def _broker(here: Environment, state: dict[str, Any]) -> Finding:
    pid = state.get("broker") or 0
    if processes.is_stopped(pid):
        return Finding("broker", f"pid {pid}", "broker_stopped")
    addresses, tls = brokers(here.amqp_url), here.tls_of()
    silences = [f"{places_in(one)}: {silence}" for one in addresses if (silence := _amqp_silence(one, tls))]
    if len(silences) == len(addresses):
        return Finding("broker", "; ".join(silences), "broker_down")
    try:
        with Management(here) as api:
            nodes, is_tracing = api.nodes(), api.is_tracing()
    except httpx.HTTPError as error:  # its text has the password in the address
        return Finding("broker", f"{type(error).__name__}", "broker_unmanaged")
    if alarm := _alarm(nodes):
        return alarm
    if silences:
        return Finding("broker", "; ".join(silences), "broker_node")
    where = places_in(here.amqp_url)
    return Finding("broker", f"answers at {where}", "broker_tracing" if is_tracing else "")


def _alarm(nodes: Sequence[dict[str, Any]]) -> Finding | None:
    for node in nodes:
        name = node.get("name", "a node")
        if not node.get("running", True):
            return Finding("broker", f"{name} does not run", "broker_node")
        if node.get("disk_free_alarm"):
            free, limit = node.get("disk_free", 0) / _MEGABYTE, node.get("disk_free_limit", 0) / _MEGABYTE
            return Finding("broker", f"{name} has {free:,.0f} MB free, the limit is {limit:,.0f} MB", "broker_disk")
        if node.get("mem_alarm"):
            used, limit = node.get("mem_used", 0) / _MEGABYTE, node.get("mem_limit", 0) / _MEGABYTE
            return Finding("broker", f"{name} uses {used:,.0f} MB, the limit is {limit:,.0f} MB", "broker_memory")
        if 0 < node.get("fd_total", 0) <= node.get("fd_used", 0):
            return Finding("broker", f"{name} has {node['fd_used']} open", "broker_files")
    return None


def _amqp_silence(address: str, tls: Tls) -> str:
    """Why a node of the broker does not speak AMQP; empty if it does."""
    url = urlsplit(address)
    is_secure = url.scheme == "amqps"
    try:
        with socket.create_connection((url.hostname, url.port or (5671 if is_secure else 5672)), LOOK_SECONDS) as plain:
            door = tls.context.wrap_socket(plain, server_hostname=url.hostname) if is_secure else plain
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
    if not _has_own_mail_server(here) and processes.is_stopped(pid):
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
        is_explained = all(_is_explained(replicas.split(name)[0], part, causes) for part in answer.problems)
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
    unreadable = [group for group in groups if is_about_reading(group["reason"])]
    number = sum(group["count"] for group in unreadable)
    rest = [group for group in groups if group not in unreadable]
    kinds = (("dead_letters", total - number, rest), ("unreadable_letters", number, unreadable))
    return [Finding("dead letters", _letters(count, some), kind) for kind, count, some in kinds if count]


def _letters(number: int, groups: Sequence[dict[str, Any]]) -> str:
    such = f", such as {groups[0]['count']:,} in {groups[0]['lane']}: {groups[0]['reason']}" if groups else ""
    return f"{number:,} wait{such}"
