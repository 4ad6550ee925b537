"""malote up, down, status, doctor: the fleet on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from deploy.local import fleet, install, processes
from deploy.local.environment import ROOT, Environment, Misconfigured

app = typer.Typer()
NOT_RUNNING = 3
_START_TIMEOUT = 300.0  # a first start may install RabbitMQ
_STOP_TIMEOUT = 90.0
_LOOKS_WITHIN = 5.0
_TOKEN_SECONDS = 7 * 24 * 3600
_DISK = 1_000_000_000
_NO_PANGO = (
    "missing, so there are no reports as pdf (Debian, Ubuntu: apt-get install libpango-1.0-0 libpangoft2-1.0-0"
    " libharfbuzz-subset0; macOS: brew install pango)"
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(detach: Annotated[bool, typer.Option(help="Return once everything is ready.")] = False) -> None:
    """Start everything: broker, topology, databases, a mail server, every service, a small catalogue."""
    here = _environment()
    if detach or fleet.running(here):
        ensure(here)
    else:
        from deploy.local import supervisor  # it loads all that the services do, which takes seconds

        raise typer.Exit(supervisor.supervise(here, terminal=True, on_ready=lambda: _welcome(here)))
    _welcome(here)


@app.command()
def down() -> None:
    """Stop everything: the services first, then the broker."""
    here = Environment()  # however wrong a setting is by now, what runs can be stopped
    found = bool(here.state())
    if pid := fleet.running(here):
        os.kill(pid, signal.SIGTERM)
        if not processes.until(lambda: not processes.command_line(pid), _STOP_TIMEOUT):
            os.kill(pid, signal.SIGKILL)
    fleet.end_orphans(here)
    typer.echo("stopped" if pid or found else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """What runs, where, and whether it is ready. Exit status 1: something is not; 3: nothing runs."""
    here = _environment()
    if not fleet.running(here):
        nothing: dict[str, Any] = {
            "gateway_url": None,
            "shop_amqp_url": None,
            "mailbox": str(here.mailbox),
            "services": [],
        }
        typer.echo(json.dumps(nothing) if as_json else "not running; `malote up` starts it")
        raise typer.Exit(NOT_RUNNING)
    found = _status(here)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        Console().print(_table(found))
        broker = (found["shop_amqp_url"] or "").rpartition("@")[2].partition("/")[0]
        typer.echo(f"gateway  {found['gateway_url']}\nbroker   {broker}\nmailbox  {found['mailbox']}")
    raise typer.Exit(0 if _all_ready(here, found) else 1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is wrong on this machine, and what to do about it. Exit status 1 if anything is."""
    checks = _checks(_environment())
    if as_json:
        typer.echo(json.dumps(checks, indent=1, ensure_ascii=False))
    else:
        for check in checks:
            sign = "ok      " if check["ok"] else "PROBLEM "
            typer.echo(f"{sign}{check['what']}: {check['detail']}")
    raise typer.Exit(0 if all(check["ok"] for check in checks) else 1)


def _environment() -> Environment:
    try:
        here = Environment()
        here.claimed_ports()
        _ = here.retry_ladder
    except Misconfigured as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(78) from None
    return here


def ensure(here: Environment) -> None:
    """Return once all is ready, having started what was missing; what is started here stays."""
    if fleet.running(here):
        _join(here)
    else:
        _start_daemon(here)


def _start_daemon(here: Environment) -> None:
    """Start the supervisor in a session of its own and pass on what it says until all is ready."""
    here.make_folders()
    log = here.logs / "supervisor.log"
    said = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        command = [sys.executable, "-m", "deploy.local.supervisor"]
        daemon = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    _follow(here, log, said, daemon)


def _join(here: Environment) -> None:
    """A fleet is there: if a part is missing, have the supervisor look again. It cannot take in a new service: its
    process, the gateway's and the dead letters' have the flow that they started with."""
    new = set(here.services) - {entry["name"] for entry in here.state().get("services", [])}
    if new and here.state().get("phase") in ("ready", "incomplete"):
        what = (
            f"{', '.join(sorted(new))}: new since this fleet was started; `malote down`, then `malote up`, takes it in"
        )
        typer.echo(what, err=True)
        raise typer.Exit(1)
    if not _all_ready(here, _status(here)):
        log = here.logs / "supervisor.log"
        said = log.stat().st_size
        if here.state().get("phase") != "starting":
            os.kill(fleet.running(here), signal.SIGUSR1)
            processes.until(lambda: here.state().get("phase") != "incomplete", _LOOKS_WITHIN)
        _follow(here, log, said, None)


def _follow(here: Environment, log: Path, said: int, daemon: subprocess.Popen[bytes] | None) -> None:
    """Pass on the supervisor's lines until all is ready. Ends with status 1 when it gave up or time is over."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        if daemon and daemon.poll() is not None and fleet.running(here):
            daemon = None  # somebody else was quicker: follow theirs
        gone = daemon.poll() is not None if daemon else _has_given_up(here)
        ready = _all_ready(here, _status(here))  # before the last lines are read, or they would be missed
        with log.open() as lines:
            lines.seek(said)
            for line in lines.readlines():
                typer.echo(line.partition(" ")[2] if line[:2] == "20" else line, nl=False)
            said = lines.tell()
        if ready:
            return
        if gone or time.monotonic() > deadline:
            typer.echo(f"not everything is up; see {here.logs}", err=True)
            raise typer.Exit(1)
        time.sleep(0.1)


def _has_given_up(here: Environment) -> bool:
    return not fleet.running(here) or here.state().get("phase") == "incomplete"


def _status(here: Environment) -> dict[str, Any]:
    state = here.state()
    with httpx.Client(trust_env=False, timeout=3) as http:
        services = [
            {
                "name": entry["name"],
                "pid": entry["pid"],
                "port": entry["port"],
                "ready": _readiness(http, entry["port"])[0],
                "restarts": entry["restarts"],
                "since": entry["since"],
            }
            for entry in state.get("services", [])
        ]
    known = {name: state.get(name) for name in ("gateway_url", "shop_amqp_url", "mailbox")}
    return known | {"services": services}


def _readiness(http: httpx.Client, port: int) -> tuple[bool, str]:
    """Whether a service is ready, and what it says about itself."""
    try:
        answer = http.get(f"http://127.0.0.1:{port}/readyz")
    except httpx.HTTPError as error:
        return False, f"port {port} does not answer ({type(error).__name__})"
    try:
        checks: dict[str, Any] = answer.json()["checks"]
    except (ValueError, KeyError):
        return False, f"port {port} answers, but not as a service of ours"
    problems = [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]]
    return answer.status_code == 200, "; ".join(problems) or f"ready: {', '.join(checks)}"


def _all_ready(here: Environment, found: dict[str, Any]) -> bool:
    """By the living supervisor's word: the state file may be a dead one's."""
    ready = {service["name"] for service in found["services"] if service["ready"]}
    state = here.state()
    living = state.get("supervisor") == fleet.running(here) != 0
    return living and state["phase"] == "ready" and ready >= set(here.services)


def _table(found: dict[str, Any]) -> Table:
    table = Table("service", "pid", "port", "ready", "restarts", "since")
    for service in found["services"]:
        ready = "[green]yes[/]" if service["ready"] else "[red]no[/]"
        cells = (
            service["name"],
            service["pid"],
            service["port"],
            ready,
            service["restarts"],
            datetime.fromisoformat(service["since"]).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
        table.add_row(*map(str, cells))
    return table


def _welcome(here: Environment) -> None:
    """What a newcomer needs next: addresses, a token, and a line to paste that places an order."""
    gateway = here.state().get("gateway_url")  # of what runs, whatever the variables say in this terminal
    if gateway is None:
        typer.echo(f"up; logs {here.logs}")
        return
    from shared.tokens import issue_token

    token = issue_token(here.jwt_secret, subject="operator", role="operator", ttl=_TOKEN_SECONDS)
    customer = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}
    order = {"customer": customer, "currency": "BRL", "lines": [{"sku": "COFFEE-1KG", "quantity": 2}]}
    typer.echo(
        f"\ngateway  {gateway}\ndocs     {gateway}/docs\nmailbox  {here.mailbox}\nlogs     {here.logs}\n"
        f"\nAn operator's token, for a week (`malote token` makes more):\n{token}\n"
        f"\nPlace an order, and wait for it:\n"
        f"curl -sw '\\n' {gateway}/v1/orders -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-H 'Prefer: wait=10' -d '{json.dumps(order)}'\n"
    )


def _checks(here: Environment) -> list[dict[str, Any]]:
    """Each: `what` was looked at, whether it is `ok`, and the `detail`, for a problem with what to do."""
    here.make_folders()
    free = shutil.disk_usage(here.data).free
    version = ".".join(map(str, sys.version_info[:3]))
    checks = [
        _check("python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "Use Python 3.11, 3.12 or 3.13."),
        _check("disk", free > _DISK, f"{free / 1e9:.1f} GB free", f"Make room below {here.data}: a GB at least."),
        _check_rabbitmq(here),
        _check(
            "postgresql",
            True,
            str(install.find_postgres() or "not installed; only tests and large shops use it"),
        ),
        _check("pango", True, "there, for reports as pdf" if install.find_pango() else _NO_PANGO),
    ]
    taken = here.taken_ports(_our_pids(here))
    checks.append(_check("ports", not taken, "; ".join(taken) or "all ours or free"))
    if not fleet.running(here):
        return [*checks, _check("fleet", True, "not running; `malote up` starts it")]
    return [*checks, *_check_services(here), _check_topology(here)]


def _check(what: str, ok: bool, detail: str, remedy: str = "") -> dict[str, Any]:
    return {"what": what, "ok": ok, "detail": detail if ok else f"{detail}. {remedy}".rstrip(". ")}


def _check_rabbitmq(here: Environment) -> dict[str, Any]:
    if here.broker() is None:
        return _check("rabbitmq", True, "another broker, by AMQP_URL")
    found = install.find_rabbitmq()
    detail = str(found or ("in Docker" if install.docker() else "missing"))
    return _check("rabbitmq", detail != "missing", detail, "Run `malote up`: it installs it or says what to do.")


def _our_pids(here: Environment) -> set[int]:
    state = here.state()
    entries = [*state.get("services", []), *filter(None, [state.get("mail")])]
    return {state.get("broker") or 0, *(entry["pid"] for entry in entries)} if state else set()


def _check_services(here: Environment) -> list[dict[str, Any]]:
    with httpx.Client(trust_env=False, timeout=3) as http:
        said = {service: _readiness(http, here.port_of(service)) for service in here.services}
    return [
        _check(service, ready, detail, f"See {here.logs / service}.log.") for service, (ready, detail) in said.items()
    ]


def _check_topology(here: Environment) -> dict[str, Any]:
    """Every queue that the flow asks for is there, with none of its messages dead."""
    from shared import topology

    trusted = here.tls_of().context
    with httpx.Client(base_url=here.management_url, verify=trusted, trust_env=False, timeout=5) as http:
        try:
            listed = http.get("/api/queues").raise_for_status().json()
        except httpx.HTTPError as error:
            why = f"the management API fails ({type(error).__name__})"  # its text has the password in the address
            return _check("topology", False, why, "See `malote status`.")
    missing = set(topology.queues(here.retry_ladder)) - {queue["name"] for queue in listed}
    remedy = "`malote topology apply` makes them."
    return _check("topology", not missing, f"queues missing: {sorted(missing)}" if missing else "complete", remedy)
