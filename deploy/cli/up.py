"""malote up, scale, down: the fleet on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import status
from deploy.cli.errors import NotRunning
from deploy.cli.output import Json, print_json
from deploy.local import fleet, processes, replicas

if TYPE_CHECKING:
    from deploy.local.environment import Environment

app = typer.Typer()
_START_TIMEOUT = 300.0  # a first start may install RabbitMQ
_STOP_TIMEOUT = 90.0
_LOOKS_WITHIN = 5.0
_TOKEN_SECONDS = 7 * 24 * 3600


@app.command()
def up(
    detach: Annotated[bool, typer.Option(help="Return once everything is ready.")] = False,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--replicas",
            metavar="SERVICE=NUMBER",
            help="So many processes of a service; one of each that is not named. See `malote scale`.",
        ),
    ] = None,
) -> None:
    """Start everything: broker, topology, databases, a mail server, every service, a small catalogue.

    In a fleet that runs it starts what is missing."""
    here = status.checked()
    counts = counted(here, given or [], "--replicas")
    if detach or fleet.running(here):
        ensure(here, counts)
    else:
        from deploy.local import supervisor  # it imports all services, which takes seconds

        raise typer.Exit(supervisor.supervise(here, counts, True, lambda: _welcome(here, "Ctrl-C")))
    _welcome(here, "`make down`")


@app.command()
def down() -> None:
    """Stop everything: the services first, then the broker."""
    from deploy.local.environment import Environment

    here = Environment()  # a fleet can be stopped even if a setting has become wrong
    found = here.state_file.exists()
    if pid := fleet.running(here):
        typer.echo("stopping the services, then the broker", err=True)
        os.kill(pid, signal.SIGTERM)
        if not processes.until(lambda: not processes.command_line(pid), _STOP_TIMEOUT):
            os.kill(pid, signal.SIGKILL)
    fleet.end_orphans(here)
    typer.echo("stopped" if pid or found else "nothing was running")


@app.command()
def scale(
    given: Annotated[
        list[str], typer.Argument(metavar="SERVICE=NUMBER", show_default=False, help="How many, from 1 to 32.")
    ],
    as_json: Json = False,
) -> None:
    """Let a service of the fleet that runs here have so many processes, such as stock=3, and wait until it has.

    They share its database and its messages. Each has a port and a log of its own: stock, stock-1, stock-2. Whoever
    calls the service over HTTP goes on calling the first. To have fewer, the last ones finish what they have in hand
    and end. After `malote down`, `malote up` starts one process of each service again."""
    here = status.checked()
    if not fleet.running(here):
        raise NotRunning("nothing is running; `malote up` starts it")
    counts = counted(here, given, "SERVICE=NUMBER")
    _join(here, counts, is_silent=as_json)
    running = [one for one in status.look(here)["services"] if one["service"] in counts]
    if as_json:
        print_json({"services": running})
        return
    for service in counts:
        where = ", ".join(str(one["port"]) for one in running if one["service"] == service)
        typer.echo(f"{service}: {counts[service]} ready, at {where}")


def counted(here: "Environment", given: Sequence[str], where: str) -> dict[str, int]:
    """The numbers in `stock=2`. Raises `typer.BadParameter`, which names the parameter `where`."""
    try:
        return replicas.read(given, here.services)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=where) from None


def ensure(here: "Environment", counts: replicas.Counts = MappingProxyType({})) -> None:
    """Start the missing parts, which then stay, and return once all is ready."""
    if fleet.running(here):
        _join(here, counts)
    else:
        _start_daemon(here, counts)


def _start_daemon(here: "Environment", counts: replicas.Counts) -> None:
    """Start the supervisor in a session of its own, and print its lines until all is ready."""
    from deploy.local.environment import ROOT

    here.make_folders()
    log = here.logs / "supervisor.log"
    said = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        told = [f"{service}={number}" for service, number in counts.items()]
        command = [sys.executable, "-m", "deploy.local.supervisor", *told]
        daemon = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    _follow(here, log, said, daemon)


def _join(here: "Environment", counts: replicas.Counts, is_silent: bool = False) -> None:
    """Let the supervisor of a running fleet start missing parts and new services, and end superfluous ones."""
    pid = fleet.running(here)
    # From then on it obeys signals. Until then, while it imports or installs a broker, a signal would end it.
    obeys = processes.until(lambda: here.state().get("supervisor") == pid, _LOOKS_WITHIN)
    if counts:
        replicas.change(here, counts)
    if not status.all_ready(here, status.look(here)):
        log = here.logs / "supervisor.log"
        said = log.stat().st_size
        if obeys and (counts or here.state().get("phase") != "starting"):
            os.kill(pid, signal.SIGUSR1)
            processes.until(lambda: here.state().get("phase") != "incomplete", _LOOKS_WITHIN)
        _follow(here, log, said, None, is_silent)


def _follow(
    here: "Environment", log: Path, said: int, daemon: subprocess.Popen[bytes] | None, is_silent: bool = False
) -> None:
    """Print the supervisor's lines, unless silent, until all is ready. Exit with status 1 if it gave up or time is
    over."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        if daemon and daemon.poll() is not None and fleet.running(here):
            daemon = None  # another command was quicker: follow its supervisor
        gone = daemon.poll() is not None if daemon else _has_given_up(here)
        ready = status.all_ready(here, status.look(here))  # before the last lines are read, so that none is missed
        with log.open() as lines:
            lines.seek(said)
            for line in () if is_silent else lines.readlines():
                typer.echo(line.partition(" ")[2] if line[:2] == "20" else line, nl=False)
            said = lines.tell()
        if ready:
            return
        if gone or time.monotonic() > deadline:
            typer.echo(f"not everything is up; see {here.logs}", err=True)
            raise typer.Exit(1)
        time.sleep(0.1)


def _has_given_up(here: "Environment") -> bool:
    state = here.state()
    is_told = state.get("replicas", {}) == replicas.wanted(here)
    return not fleet.running(here) or (state.get("phase") == "incomplete" and is_told)


def _welcome(here: "Environment", stops: str) -> None:
    """The next steps of a newcomer: addresses, a token, a line to paste that places an order, and how to stop the
    fleet."""
    gateway = here.state().get("gateway_url")  # of the running fleet, whatever the variables in this terminal are
    if gateway is None:
        typer.echo(f"up; logs {here.logs}; {stops} stops it")
        return
    from shared.http.tokens import issue_token

    token = issue_token(here.jwt_secret, subject="operator", role="operator", ttl=_TOKEN_SECONDS)
    customer = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}
    order = {"customer": customer, "currency": "BRL", "lines": [{"sku": "COFFEE-1KG", "quantity": 2}]}
    typer.echo(
        f"\ngateway  {gateway}\ndocs     {gateway}/docs\nmailbox  {here.mailbox}\nlogs     {here.logs}\n"
        f"\nAn operator's token, for a week (`malote token` makes more):\n{token}\n"
        f"\nPlace an order, and wait for it:\n"
        f"curl -sw '\\n' {gateway}/v1/orders -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-H 'Prefer: wait=10' -d '{json.dumps(order)}'\n"
        f"\n{stops} stops everything.\n"
    )
