"""An upgrade under load: the fleet begins as an earlier revision, and is brought up to date process by process."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared.persistence.database import migrate
from tests.several import ROOT

if TYPE_CHECKING:
    from tests.chaos.world import World

BEFORE_SECONDS = 5.0
"""The old fleet works for so long."""
_APPLY = "import asyncio, json, sys; from shared import topology; asyncio.run(topology.apply(*json.load(sys.stdin)))"
_MIGRATE = "import json, sys; from shared.persistence.database import migrate; migrate(*json.load(sys.stdin))"


async def unpacked(revision: str, folder: Path) -> Path:
    """A folder with the code of that time. Raises RuntimeError if git does not know the revision."""
    git = ["git", "archive", "--format=tar", revision, "contracts", "services", "shared", "deploy"]
    packed = await asyncio.to_thread(subprocess.run, git, cwd=ROOT, capture_output=True)
    if packed.returncode != 0:
        raise RuntimeError(f"there is no revision {revision!r} here: {packed.stderr.decode().strip()}")
    into = folder / "old"
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(into, filter="data")
    return into


async def apply_topology(
    root: Path, amqp_url: str, management_url: str, passwords: Mapping[str, str], ladder: Sequence[str]
) -> None:
    """As the code in `root` does it."""
    await _run(root, _APPLY, [amqp_url, management_url, passwords, ladder])


async def migrated(root: Path, service: str, url: str) -> None:
    """The same for a database."""
    await _run(root, _MIGRATE, [service, url])


async def _run(root: Path, program: str, arguments: Sequence[object]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=root, env=environment, stdin=asyncio.subprocess.PIPE
    )
    await child.communicate(json.dumps(arguments).encode())
    if child.returncode != 0:
        raise RuntimeError(f"the code in {root} failed: status {child.returncode}")


async def brought_up_to_date(world: "World") -> None:
    """As `docs/running.md` says: the topology, then for each service its database and its processes, one by one."""
    await asyncio.sleep(BEFORE_SECONDS)
    world.say("upgrade: the topology")
    await world.apply_topology()
    for service, url in world.fleet.database_urls.items():
        world.say(f"upgrade: {service}")
        await asyncio.to_thread(migrate, service, url)
        for name in world.fleet.of(service):
            process = world.process(name)
            process.root = ROOT
            await process.restart()
