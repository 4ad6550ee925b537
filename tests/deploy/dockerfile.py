"""Does what deploy/Dockerfile says, step by step, where there is no engine to build it with."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
OF_THE_SYSTEM = ("uv", "runtime")
"""Stages whose steps change the system itself: they can only be done in a root of their own."""


@dataclass(frozen=True)
class Step:
    """One instruction: its word, and what follows it."""

    word: str
    text: str


@dataclass
class Image:
    """What a stage has come to: its files below `root`, and what a container of it starts with."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


def steps(text: str) -> Iterator[Step]:
    """The instructions, with their continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield Step(word.upper(), rest.strip())


def stages(text: str) -> tuple[dict[str, str], dict[str, tuple[str, list[Step]]]]:
    """The arguments before the first stage, and by name each stage's base and steps."""
    arguments: dict[str, str] = {}
    found: dict[str, tuple[str, list[Step]]] = {}
    for step in steps(text):
        if step.word == "FROM":
            base, _, name = step.text.partition(" AS ")
            current: list[Step] = []
            found[name] = (substituted(base, arguments), current)
        elif found:
            current.append(step)
        else:
            name, _, value = step.text.partition("=")
            arguments[name] = value
    return arguments, found


def substituted(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda name: values.get(name[1], ""), text)


class Build:
    """Builds stages of the Dockerfile in folders below `work`; steps run on this machine, so those of the system are
    left out. A subclass can give them a root of their own."""

    left_out: tuple[str, ...] = OF_THE_SYSTEM

    def __init__(self, work: Path, arguments: Mapping[str, str]) -> None:
        self.work, self.arguments = work, dict(arguments)
        _, self.stages = stages(DOCKERFILE.read_text())
        self._built: dict[str, Image] = {}
        self._tools = work / "bin"
        self._tools.mkdir(parents=True)
        (self._tools / "python").symlink_to(os.path.realpath(sys.executable))
        (self._tools / "uv").symlink_to(ROOT / ".venv/uv/bin/uv")

    def image(self, name: str) -> Image:
        """Build a stage, and those that it needs, once each."""
        if name not in self._built:
            base, todo = self.stages[name]
            image = self.copy_of(self.image(base), name) if base in self.stages else self.base(name)
            given: dict[str, str] = {}
            for step in todo:
                self._do(step, image, given, name)
            self._built[name] = image
        return self._built[name]

    def _do(self, step: Step, image: Image, given: dict[str, str], stage: str) -> None:
        known = {**image.environment, **given}
        match step.word:
            case "ARG":
                name, _, default = step.text.partition("=")
                given[name] = self.arguments.get(name, default)
            case "ENV":
                for pair in shlex.split(step.text):
                    name, _, value = pair.partition("=")
                    image.environment[name] = substituted(value, known)
            case "WORKDIR":
                image.folder = step.text
                image.inside(".").mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = step.text
            case "COPY":
                self._copy(shlex.split(substituted(step.text, known)), image)
            case "RUN":
                if stage not in self.left_out:
                    self.run(re.sub(r"^(--\S+\s+)+", "", step.text), image, given)
            case "CMD" | "ENTRYPOINT":
                image.command += json.loads(step.text)
            case "HEALTHCHECK":
                image.health = json.loads(step.text.partition(" CMD ")[2])
            case "EXPOSE":
                pass
            case other:
                raise NotImplementedError(f"{other} in {DOCKERFILE}")

    def _copy(self, words: list[str], image: Image) -> None:
        origin = ROOT
        if words[0].startswith("--from="):
            stage = words.pop(0).removeprefix("--from=")
            if stage in self.left_out:
                return
            origin = self.image(stage).root
        *sources, target = words
        for source in sources:
            path, there = origin / source.lstrip("/"), image.inside(target)
            if origin != ROOT:
                there.parent.mkdir(parents=True, exist_ok=True)
                linked(path, there)
            elif path.is_dir():
                shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                there = there / path.name if target.endswith("/") else there
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, there)

    def base(self, name: str) -> Image:
        """What a stage starts from that is based on no other."""
        root = self.work / name
        root.mkdir(parents=True)
        return Image(root, {"PATH": f"{self._tools}:/usr/bin:/bin"})

    def copy_of(self, image: Image, name: str) -> Image:
        root = self.work / name
        linked(image.root, root)
        return Image(root, dict(image.environment), image.folder, image.user, list(image.command), list(image.health))

    def run(self, command: str, image: Image, given: Mapping[str, str]) -> None:
        """Do one step; its output comes with the error if it fails."""
        environment = {**passed_on(), **self.environment_of(image), **given, "UV_LINK_MODE": "hardlink"}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=image.inside("."), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}"

    @staticmethod
    def environment_of(image: Image) -> dict[str, str]:
        """What a container is told, with the image's own folders where they are here."""
        moved = re.compile(r"(?<![\w.])/(app|data)\b")
        return {name: moved.sub(rf"{image.root}/\1", value) for name, value in image.environment.items()}


def linked(path: Path, there: Path) -> None:
    """A copy of files that nobody changes afterwards."""
    subprocess.run(["cp", "--archive", "--link", "--no-target-directory", path, there], check=True)


def passed_on() -> dict[str, str]:
    """What package tools are told on this machine: where packages come from, and whom to trust."""
    wanted = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_CACHE_DIR", "PIP_", "SSL_", "REQUESTS_", "http", "HTTP", "no_", "NO_")
    found = {name: value for name, value in os.environ.items() if name.startswith(wanted)}
    return {"HOME": os.path.expanduser("~"), "UV_SYSTEM_CERTS": "1", **found}
