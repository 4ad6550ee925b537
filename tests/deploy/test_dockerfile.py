"""deploy/Dockerfile: its own steps, done here, make images that hold one service and run read-only."""

import asyncio
import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import install
from deploy.local.ports import free_port
from shared.messaging import topology
from tests.deploy.dockerfile import DOCKERFILE, ROOT, Build, Image, stages, steps
from tests.postgres import PostgresCluster
from tests.running import SECRET

# Without its capabilities root is held to files' permissions like anybody, as in a container with cap_drop: ALL.
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if os.geteuid() == 0 else []
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
EXTRAS = {
    name: {re.split(r"[>\[]", wanted)[0] for wanted in wanted_by}
    for name, wanted_by in PYPROJECT["project"]["optional-dependencies"].items()
}


def test_the_dockerfile_has_no_faults_that_hadolint_knows() -> None:
    linted = subprocess.run([ROOT / ".venv/bin/hadolint", DOCKERFILE], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout


def test_every_version_is_pinned() -> None:
    arguments, found = stages(DOCKERFILE.read_text())
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", arguments["PYTHON"])
    pinned = [step.text for step in found["uv"][1] if step.word == "ARG"]
    assert re.fullmatch(r"UV=\d+\.\d+\.\d+", pinned[0])
    bootstrap = (ROOT / "deploy/local/bootstrap.sh").read_text()
    assert re.findall(r"^UV=\S+$", bootstrap, re.MULTILINE) == pinned[:1], "the same uv on every machine"
    assert '"uv==$UV"' in bootstrap
    syncs = [step.text for _, todo in found.values() for step in todo if "uv sync" in step.text]
    assert len(syncs) == 3
    assert all("--frozen --no-dev" in sync for sync in syncs)
    building = PYPROJECT["tool"]["uv"]["build-constraint-dependencies"]
    assert any(pin.startswith("hatchling==") for pin in building)


def test_the_system_brings_what_pdfs_are_drawn_with_to_reports_only() -> None:
    text = next(step.text for step in steps(DOCKERFILE.read_text()) if "apt-get" in step.text)
    packages = re.search(r"reports\) set -- ([^;]*);;", text.replace("\\\n", " "))
    assert packages
    assert set(packages[1].split()) == {*install._PANGO.values(), *install._FONTS.values()}
    assert re.search(r"\*\) exit 0 ;;", text)


def test_only_what_images_are_made_of_goes_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for step in steps(DOCKERFILE.read_text())
        if step.word == "COPY" and "--from" not in step.text
        for source in step.text.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.parametrize(("service", "extra"), [("reports", "--extra=reports"), ("loyalty", "")])
def test_a_service_without_an_extra_of_its_own_needs_none(service: str, extra: str) -> None:
    _, found = stages(DOCKERFILE.read_text())
    asks = next(step.text for step in found["packages"][1] if "tomllib" in step.text).removesuffix("> extra")
    told = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "SERVICE": service}
    said = subprocess.run(["/bin/sh", "-c", asks], cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == extra


@pytest.fixture
def work() -> Iterator[Path]:
    """Thousands of files, which are not worth keeping as pytest keeps its own."""
    with tempfile.TemporaryDirectory(prefix="malote-image-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("service", ["email"])
def test_an_image_holds_its_service_alone_and_runs_where_nothing_can_be_written(
    service: str, work: Path, vhost: str, postgres: PostgresCluster
) -> None:
    image = Build(work, {"SERVICE": service}).image("service")
    _holds_only(service, image)
    name = f"image_{service}"
    database = postgres.create_database(name)
    asyncio.run(topology.declare(vhost))
    try:
        _runs(service, image, {f"{service.upper()}_AMQP_URL": vhost, f"{service.upper()}_DATABASE_URL": database}, work)
    finally:
        postgres.drop_database(name)


def _holds_only(service: str, image: Image) -> None:
    packages = next(image.root.glob("app/.venv/lib/python3*/site-packages"))
    installed = importlib.metadata.distributions(path=[str(packages)])
    found = {dist.name.lower().replace("_", "-").replace(".", "-"): dist.version for dist in installed}
    own = EXTRAS.get(service, set())
    others = set().union(*EXTRAS.values()) - own
    assert own <= set(found)
    assert not others & set(found)
    assert not {"pytest", "ruff", "mypy"} & set(found)
    locked = {(package["name"], package["version"]) for package in LOCK["package"]}
    assert set(found.items()) <= locked
    assert {path.name for path in (packages / "services").iterdir() if path.name[0] != "_"} == {service}
    assert not (packages / "deploy").exists()
    assert (packages / "shared/__pycache__").is_dir(), "bytecode is made with the image: nothing can be written later"


def _runs(service: str, image: Image, secrets: dict[str, str], work: Path) -> None:
    """As in a cluster: what is secret comes as files, nothing can be added, it migrates itself, then it is ready."""
    subprocess.run(["find", image.root, "-type", "d", "-exec", "chmod", "a-w", "{}", "+"], check=True)
    folder = work / "secrets"
    folder.mkdir()
    for variable, value in secrets.items():
        (folder / variable).write_text(value + "\n")
    environment = Build.environment_of(image)
    environment |= {"MALOTE_SECRETS_DIR": str(folder), "MALOTE_PORT": str(free_port()), "MALOTE_JWT_SECRET": SECRET}
    environment["MALOTE_HEALTH_PORT"] = str(free_port())
    environment["MALOTE_RETRY_LADDER"] = ",".join(topology.DEFAULT_LADDER)
    _inside(image, ["python", "-m", "shared.migrations"], environment)
    _inside(image, ["python", "-m", "shared.migrations", "--wait"], environment)
    with _started(image, environment) as process:
        end = time.monotonic() + 30
        while _inside(image, [*image.health, "/readyz"], environment, check=False).returncode != 0:
            assert process.poll() is None, (work / "log").read_text()
            assert time.monotonic() < end, (work / "log").read_text()
        alive = _inside(image, image.health, environment)
        assert alive.stdout.strip() == '{"status":"ok"}'
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)  # uvicorn passes on the signal that it has heeded
        assert '"event":"stopped"' in (work / "log").read_text()
    assert _inside(image, image.health, environment, check=False).returncode == 1


@contextlib.contextmanager
def _started(image: Image, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with (image.root.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*POWERLESS, *image.command], cwd=image.inside("."), env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _inside(
    image: Image, command: list[str], environment: dict[str, str], check: bool = True
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*POWERLESS, *command], cwd=image.inside("."), env=environment, text=True, capture_output=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
