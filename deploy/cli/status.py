"""malote status, doctor, watch: the state of the fleet, its faults with advice, and mails about faults."""

import shutil
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from deploy.cli.output import Json, console, plain, print_json, table, visible
from deploy.local import fleet, ports, processes, replicas
from deploy.local.clock import zoned

if TYPE_CHECKING:
    from deploy.local.environment import Environment
    from deploy.local.finding import Finding

app = typer.Typer()
NOT_RUNNING = 3
_SIGNS = {"ok": "ok", "warning": "LOOK", "problem": "PROBLEM", "critical": "CRITICAL"}
_SIGN_WIDTH = 9


@app.command()
def status(as_json: Json = False) -> None:
    """What runs, where, and whether it is ready. Exit status 1: something is not; 3: nothing runs."""
    here = checked()
    if not fleet.running(here):
        nothing: dict[str, Any] = {
            "gateway_url": None,
            "shop_amqp_url": None,
            "mailbox": str(here.mailbox),
            "services": [],
            "others": [],
        }
        if as_json:
            print_json(nothing, indent=None)
        else:
            typer.echo("not running; `malote up` starts it")
        raise typer.Exit(NOT_RUNNING)
    found = look(here) | {"others": _others(here)}
    if as_json:
        print_json(found)
    else:
        _show(found)
    raise typer.Exit(0 if all_ready(here, found) and all(other["ready"] for other in found["others"]) else 1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Faults of the fleet, each cause before its consequences, with advice. Exit status 1 if there is a fault; a
    warning (LOOK) is none."""
    from deploy.local.findings import gather  # it imports the topology, which is slow

    findings = gather(checked())
    if as_json:
        print_json([_as_json(finding) for finding in findings])
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for finding in findings:
            typer.echo(_line(finding, width))
    raise typer.Exit(1 if any(finding.is_trouble for finding in findings) else 0)


@app.command()
def watch() -> None:
    """Mail faults that last longer than a minute to EMAIL_OPERATORS, and again when they are over.

    `malote up` does it by itself. Elsewhere run one: it needs MALOTE_SERVICE_URL, AMQP_URL and EMAIL_SMTP_HOST."""
    from deploy.local import watch as watching  # it imports the email service's settings, which is slow

    watching.main()


def checked() -> "Environment":
    """This machine's settings. Ends with status 78 where one is wrong."""
    from deploy.local.environment import Environment, Misconfigured  # it imports all settings, which is slow

    try:
        here = Environment()
        here.claimed_ports()
        _ = here.retry_ladder
    except Misconfigured as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(78) from None
    return here


def look(here: "Environment") -> dict[str, Any]:
    """The fleet from the supervisor's state file, with the answer of each service about itself."""
    from deploy.local.readiness import readiness

    state = here.state()
    entries = state.get("services", [])
    with ThreadPoolExecutor(max_workers=max(1, len(entries))) as pool:
        answers = [*pool.map(lambda entry: readiness(f"http://127.0.0.1:{entry['port']}"), entries)]
    services = [
        {"name": entry["name"], **dict(zip(("service", "replica"), replicas.split(entry["name"]), strict=True))}
        | {name: entry[name] for name in ("pid", "port")}
        | {"ready": answer.is_ready, "restarts": entry["restarts"], "since": entry["since"]}
        | {"problems": answer.problems | ({"http": answer.silence} if answer.silence else {})}
        | {"warnings": answer.warnings}
        for entry, answer in zip(entries, answers, strict=True)
    ]
    known = {name: state.get(name) for name in ("gateway_url", "shop_amqp_url", "mailbox")}
    return known | {"services": services}


def _others(here: "Environment") -> list[dict[str, Any]]:
    """The other parts that `malote up` started. `doctor` checks whether the broker and the mail server work."""
    state = here.state()
    broker = {"name": "broker", "pid": state.get("broker") or 0, "restarts": state.get("broker_restarts")}
    entries = [
        {"name": "supervisor", "pid": state.get("supervisor", 0)},
        *([broker | {"port": urlsplit(here.amqp_url).port}] if here.has_own_broker else []),
        *filter(None, (state.get(name) for name in ("mail", "watch"))),
    ]
    found = []
    for entry in entries:
        pid, port = entry["pid"], entry.get("port") or None
        problem = processes.trouble(pid) or ("" if port is None or ports.accepts(port) else "it does not answer")
        about = {"name": entry["name"], "pid": pid, "port": port, "ready": not problem}
        about |= {"restarts": entry.get("restarts"), "since": entry.get("since") or processes.since(pid)}
        found.append(about | {"problems": {"process": problem} if problem else {}, "warnings": {}})
    return found


def all_ready(here: "Environment", found: dict[str, Any]) -> bool:
    """Whether the supervisor lives and says that all is ready: the state file may be a dead supervisor's."""
    ready = {service["name"] for service in found["services"] if service["ready"]}
    state, counts = here.state(), replicas.wanted(here)
    living = state.get("supervisor") == fleet.running(here) != 0
    is_done = living and state["phase"] == "ready" and state.get("replicas", {}) == counts
    return is_done and ready >= set(replicas.names(here.services, counts))


def _show(found: dict[str, Any]) -> None:
    parts = [*found["services"], *found["others"]]
    console().print(table(("part", ">pid", ">port", "ready", ">restarts", "since"), map(_row, parts)))
    for service in parts:
        for colour, said in (("red", service["problems"]), ("yellow", service["warnings"])):
            for part, why in said.items():
                console().print(f"[{colour}]{service['name']}[/]: {plain(part)}: {plain(why)}")
    from shared.config.urls import places_in

    broker = places_in(found["shop_amqp_url"]) if found["shop_amqp_url"] else ""
    typer.echo(f"gateway  {found['gateway_url']}\nbroker   {broker}\nmailbox  {found['mailbox']}")
    if any(service["problems"] or service["warnings"] for service in parts):
        typer.echo("`malote doctor` says what is the cause, and what to do")


def _row(part: dict[str, Any]) -> tuple[str, ...]:
    ready = "[red]no[/]" if not part["ready"] else "[yellow]look[/]" if part["warnings"] else "[green]yes[/]"
    since = part["since"] and zoned(datetime.fromisoformat(part["since"]).astimezone(), "%Y-%m-%d %H:%M:%S")
    numbers = ["" if part[name] is None else str(part[name]) for name in ("pid", "port", "restarts")]
    return part["name"], *numbers[:2], ready, numbers[2], since or ""


def _as_json(finding: "Finding") -> dict[str, Any]:
    about = {"what": finding.what, "ok": not finding.is_trouble, "level": finding.level}
    return about | {"kind": finding.kind or None, "detail": finding.said()}


def _line(finding: "Finding", width: int | None) -> str:
    """`PROBLEM broker: …`, folded where there is a terminal."""
    text = f"{_SIGNS[finding.level]:<{_SIGN_WIDTH}}{finding.what}: {visible(finding.said())}"
    return text if width is None else textwrap.fill(text, width, subsequent_indent=" " * _SIGN_WIDTH)
