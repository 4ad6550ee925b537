"""Builds every image by the Dockerfile's own steps, each in a clean Debian, and runs it there, read-only and as nobody.

    python -m tests.deploy.clean_root [SERVICE ...]

Takes minutes, root and debootstrap, so `make test` does not. The clean Debian stands in for the official image of
Python: the same release, with Debian's own Python 3.11 under /usr/local/bin.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.local import install
from deploy.local.ports import free_port
from deploy.local.rabbitmq import RabbitNode
from shared.messaging import topology
from tests.deploy.dockerfile import ROOT, Build, Image, passed_on
from tests.postgres import PostgresCluster

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UV_CACHE = Path.home() / ".cache/uv"
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/handlers.py"))
DRAWS_PDFS = "import matplotlib.pyplot; from weasyprint import HTML; HTML(string='<p>Olá').write_pdf('/tmp/one.pdf')"


class Rooted(Build):
    """Every step runs in the root of its own stage."""

    left_out = ()

    def __init__(self, work: Path, debian: Path, arguments: Mapping[str, str]) -> None:
        super().__init__(work, arguments)
        self._debian = debian

    def base(self, name: str) -> Image:
        subprocess.run(["cp", "--archive", self._debian, self.work / name], check=True)
        return Image(self.work / name, {"PATH": SYSTEM_PATH})

    def run(self, command: str, image: Image, given: Mapping[str, str]) -> None:
        environment = {**passed_on(), **image.environment, **given, "HOME": "/root"}
        cached = image.root / "root/.cache/uv"
        cached.mkdir(parents=True, exist_ok=True)
        inside = f"""set -e
            mount --bind {UV_CACHE} {cached}
            mount --bind /dev {image.root}/dev
            mount -t proc proc {image.root}/proc
            exec chroot {image.root} /bin/sh -c "$1"
        """
        step = ["unshare", "--mount", "sh", "-c", inside, "sh", f"cd {image.folder} && {command}"]
        done = subprocess.run(step, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"{command}\n{done.stdout}"


def debian(folder: Path) -> Path:
    """A bare Debian 12 with Python 3.11, in the place of python:3.11-slim-bookworm."""
    if not shutil.which("debootstrap"):
        install.package("debootstrap")
    root = folder / "debian"
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True, stdout=subprocess.DEVNULL
    )
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
    for path in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy2(Path("/") / path, root / path)
    return root


def command_in(image: Image, command: list[str]) -> list[str]:
    """A container's way: the file system can't be written but for /tmp, the user is the image's, no capabilities."""
    inside = f"""set -e
        mount --bind {image.root} {image.root}
        mount -o remount,bind,ro {image.root}
        mount -t tmpfs -o size=64m tmpfs {image.root}/tmp
        mount --bind /dev {image.root}/dev
        mount -t proc proc {image.root}/proc
        exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- \
            chroot --userspec={image.user} {image.root} env --chdir={image.folder} "$@"
    """
    inside = inside.replace("--bounding-set=-all", "--bounding-set=-all,+sys_chroot,+setuid,+setgid")
    return ["unshare", "--mount", "sh", "-c", inside, "sh", *command]


@contextlib.contextmanager
def running(image: Image, environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        command = command_in(image, image.command)
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def tried(service: str, work: Path, clean: Path, node: RabbitNode, cluster: PostgresCluster) -> str:
    """Build, migrate, run until ready, look, stop. A line of figures."""
    started = time.monotonic()
    image = Rooted(work / service, clean, {"SERVICE": service}).image("service")
    built = time.monotonic() - started
    own = service.upper()
    environment = {
        **image.environment,
        f"{own}_AMQP_URL": node.amqp_url,
        f"{own}_DATABASE_URL": cluster.create_database(service),
        "REPORTS_STORAGE_URL": "/tmp/reports",
        "MALOTE_JWT_SECRET": secrets.token_hex(16),
        "MALOTE_PORT": str(free_port()),
        "MALOTE_HEALTH_PORT": str(free_port()),
    }

    def inside(*command: str) -> "subprocess.CompletedProcess[str]":
        asked = command_in(image, list(command))
        return subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120)

    said = inside("sh", "-c", "id -u; touch /app/here /data/here /usr/here /root/here")
    assert said.stdout.strip() == "10001", said
    assert said.stderr.count("Read-only file system") >= 3, said
    migrated = inside("python", "-m", "shared.migrations")
    assert migrated.returncode == 0, migrated
    if service == "reports":
        drawn = inside("python", "-W", "error", "-c", DRAWS_PDFS)
        assert (drawn.returncode, drawn.stderr) == (0, ""), drawn
    log = work / service / "log"
    with running(image, environment, log) as process:
        end = time.monotonic() + 60
        while inside(*image.health, "/readyz").returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
        resident = _kilobytes(process.pid, "RssAnon") // 1024
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    text = log.read_text()
    assert '"event":"stopped"' in text, text
    assert not re.search("Read-only|Permission denied|Traceback", text), text
    packages = _megabytes(image.root / "app/.venv")
    system = _megabytes(image.root) - packages - _megabytes(clean)
    shutil.rmtree(work / service)
    sizes = f"{packages:5} MB of packages, {system:4} MB of the system's, {resident:4} MB of memory when ready"
    return f"{service:12} {sizes}, built in {built:.0f} s"


def tools(work: Path, clean: Path, node: RabbitNode, cluster: PostgresCluster) -> str:
    """The command line: migrates all, applies the topology."""
    image = Rooted(work / "tools", clean, {}).image("tools")
    urls = {f"{service.upper()}_DATABASE_URL": cluster.create_database(f"tools_{service}") for service in SERVICES}
    users = {f"{user.upper()}_AMQP_URL": node.url_for(user, "one") for user in (*SERVICES, "shop")}
    told = {"AMQP_URL": node.amqp_url, "AMQP_MANAGEMENT_URL": node.management_url}
    environment = {**image.environment, **urls, **users, **told}
    for command in (["migrate", "all"], ["topology", "apply"], ["--help"]):
        asked = command_in(image, [image.command[0], *command])
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
    packages = _megabytes(image.root / "app/.venv")
    shutil.rmtree(work / "tools")
    return f"{'tools':12} {packages:5} MB of packages"


def _megabytes(path: Path) -> int:
    said = subprocess.run(["du", "--summarize", "--block-size=1M", "--one-file-system", path], capture_output=True)
    return int(said.stdout.split()[0])


def _kilobytes(pid: int, field: str) -> int:
    return int(re.findall(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


def main(wanted: list[str]) -> None:
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="malote-clean-") as name, contextlib.ExitStack() as servers:
        work = Path(name)
        ports = (free_port(), free_port(), free_port(), free_port())
        node = RabbitNode(work / "broker", *ports, secrets.token_hex(8))
        cluster = PostgresCluster(work / "postgres", free_port())
        servers.callback(node.kill)
        servers.callback(cluster.remove)
        node.start()
        cluster.start()
        asyncio.run(topology.declare(node.amqp_url))
        clean = debian(work)
        print(
            f"{'clean':12} {_megabytes(clean):5} MB of Debian with Python, in the place of the official image",
            flush=True,
        )
        for service in wanted or [*SERVICES, "tools"]:
            line = (
                tools(work, clean, node, cluster) if service == "tools" else tried(service, work, clean, node, cluster)
            )
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
