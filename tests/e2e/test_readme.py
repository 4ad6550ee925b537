"""What the README says is done here, letter by letter: its commands, its Python, its three steps to a service."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.orders import OrderConfirmed
from tests.e2e.conftest import ROOT, Fleet
from tests.e2e.test_cli import is_confirmed
from tests.running import LADDER, Broker, an_order

SCALES = "test_every_lane_scales_its_service_by_what_waits_and_what_is_being_worked_on"
WRITTEN = (
    "contracts/schemas/", "contracts/asyncapi/", "contracts/openapi/", "deploy/rabbitmq/", "docs/security.md",
    "docs/running.md", "docker-compose.yml", ".env.example", "deploy/Dockerfile", "deploy/k8s/", "deploy/prometheus/",
    "deploy/grafana/dashboards/",
)  # fmt: skip
"""What `make deploy` writes."""
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's fenced blocks, without the indent of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def test_it_stays_under_150_lines() -> None:
    assert README.count("\n") < 150


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in [line for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")]:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_orders_placed_with_curl_and_with_the_command_line_are_confirmed(fleet: Fleet) -> None:
    script = next(block for block in blocks("bash") if "curl" in block)
    said = fleet.run("bash", "-ec", script.replace("http://127.0.0.1:8000", fleet.status["gateway_url"]))
    answer, end = json.JSONDecoder().raw_decode(said)
    assert answer["status"] == "SUCCESS", answer
    shown = json.loads(fleet.malote("orders", "show", answer["order_id"], "--json"))
    assert shown["status"] == "CONFIRMED"
    assert said[end:].count("CONFIRMED") >= 2, "the one placed with the command line, and both in the list"


def test_a_report_is_made_with_the_command_line(fleet: Fleet, tmp_path: Path) -> None:
    script = next(block for block in blocks("bash") if "reports create" in block)
    fleet.run("bash", "-ec", script.replace("/tmp/orders.csv", str(tmp_path / "orders.csv")))
    assert (tmp_path / "orders.csv").read_text().startswith("order_id,status,")


def test_an_order_published_from_python_is_confirmed(fleet: Fleet) -> None:
    program = next(block for block in blocks("python") if "aio_pika" in block)
    order_id = fleet.run(".venv/bin/python", "-c", program).strip()
    is_confirmed(fleet, order_id)


@pytest.mark.timeout(400)
async def test_three_steps_make_a_service_and_nothing_else_is_edited_by_hand(broker: Broker, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    copy_checkout(scratch)
    (scratch / ".venv").symlink_to(ROOT / ".venv")
    write_loyalty(scratch)
    written = _changed(scratch)
    assert written == {f"contracts/{name}.py" for name in ("flow", "loyalty")} | {
        f"services/loyalty/{name}" for name in ("handlers.py", "service.toml")
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(scratch),
        "LOYALTY_AMQP_URL": broker.url,
        "LOYALTY_DATABASE_URL": f"sqlite:///{tmp_path / 'loyalty.db'}",
        "LOYALTY_PORT": "0",
    }

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def python(*arguments: str) -> None:
        run(sys.executable, *arguments)

    run("make", "--assume-old=.venv/stamp", "--assume-old=.venv/dev", "deploy")
    for path in _changed(scratch) - written:
        assert path.startswith(WRITTEN), f"{path} is not among what `make deploy` is said to write"
    assert {"deploy/k8s/overlays/production/loyalty/kustomization.yaml", "docker-compose.yml", ".env.example"} <= (
        _changed(scratch)
    )
    held = ("flow", "layout", "openapi", "threats", "asyncapi", "render", "settings", "running")
    tests = [*(f"tests/contract/test_{name}.py" for name in held), "tests/deploy/test_compose.py"]
    tests += [f"tests/deploy/test_k8s.py::{name}" for name in ("test_every_service_has_its_folder", SCALES)]
    tests += ["tests/deploy/test_prometheus.py::test_each_service_is_scraped"]
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not redoclys and not own_parser", *tests)
    declare = f"asyncio.run(topology.declare({broker.url!r}, {LADDER!r}))"
    python("-c", f"import asyncio; from shared.messaging import topology; {declare}")
    url = environment["LOYALTY_DATABASE_URL"]
    python("-c", f"from shared.persistence.database import migrate; migrate('loyalty', {url!r})")
    spy = await broker.spy(("loyalty", "points.earned.v1"))
    service = subprocess.Popen([sys.executable, "-m", "shared.service", "loyalty"], cwd=scratch, env=environment)
    try:
        order = an_order([("A", 3)])
        confirmed = OrderConfirmed(**order.model_dump(), confirmed_at=order.placed_at)
        await broker.publish(confirmed)
        assert (await spy.collect(1))[0] == {"order_id": str(order.order_id), "customer_id": "ana", "points": 3}
    finally:
        service.terminate()
        service.wait(30)


def write_loyalty(scratch: Path) -> None:
    """The first two steps."""
    contract, handlers = (block for block in blocks("python") if "PointsEarned" in block)
    (scratch / "contracts/loyalty.py").write_text(contract)
    flow = scratch / "contracts/flow.py"
    rows = flow.read_text().replace("email, jobs, orders", "email, jobs, loyalty, orders")
    edited = rows.replace(
        ' gateway",\n    orders.OrderRejected:',
        ' gateway loyalty",\n    loyalty.PointsEarned: "loyalty ->",\n    orders.OrderRejected:',
    )
    assert edited != rows
    flow.write_text(edited)
    own = scratch / "services/loyalty"
    own.mkdir()
    (own / "handlers.py").write_text(handlers)
    (own / "service.toml").write_text("port = 8006\n")


def _changed(scratch: Path) -> set[str]:
    """What git sees as new or changed."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    return {line[3:] for line in done.stdout.splitlines()}


def copy_checkout(scratch: Path) -> None:
    """The checkout's files, as a clone would have them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, scratch / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@malote.example"]
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "as cloned"]):
        subprocess.run([*git, *command], cwd=scratch, check=True)
