"""What the README and docs/ tell people to type can be typed: `malote` takes the command line, and JSON is JSON."""

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from deploy.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "deploy/prometheus/alerts.yml"])
CODE = re.compile(r"^( *)```bash\n(.*?)^ *```|((?:^ {4}(?! *[*\-\d]).*\n)+)", re.DOTALL | re.MULTILINE)
TOOLS = {"malote", ".venv/bin/malote"}
ANY_ID = "0197b0e2-7c5a-7000-8000-000000000000"
EXAMPLES = {
    "ID": ANY_ID, "JTI": "a-token", "GROUP": "0f1e2d3c4b5a", "LANE": "stock", "SKU": "MUG", "-N": "-1",
    "…": "2026-01-31", f"{ANY_ID[:8]}-…": ANY_ID,
}  # fmt: skip
"""What stands in the place of words that a reader replaces by his own."""
ONLY_NAMED = re.compile(r"malote [a-z]+( [a-z]+)?")
"""Prose that speaks of a command, such as `malote dlq edit`, need not give what it is called with."""


def blocks(path: Path) -> list[str]:
    """The lines of shell in a document, each as one, without comments."""
    found = [fenced or indented for _, fenced, indented in CODE.findall(path.read_text(encoding="utf-8"))]
    return [line for block in found for line in block.replace("\\\n", " ").splitlines()]


def whole_commands() -> list[str]:
    """Each `malote …` that is typed as it stands: in blocks of shell, and in prose with an argument or an option."""
    found = set()
    for path in DOCUMENTS:
        for line in blocks(path):
            for part in re.split(r"\$\(| \| |[;)]", re.sub(r"(?:^| )#(?: .*)?$", "", line)):
                if part.split()[:1] and part.split()[0] in TOOLS:
                    found.add(part.strip())
        prose = " ".join(path.read_text(encoding="utf-8").split())
        found |= {said for said in re.findall(r"`(malote [^`]+)`", prose) if not ONLY_NAMED.fullmatch(said)}
    return sorted(found)


def named_commands() -> list[str]:
    """Each command that prose names without more."""
    prose = " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in DOCUMENTS)
    return sorted({said for said in re.findall(r"`(malote [^`]+)`", prose) if ONLY_NAMED.fullmatch(said)})


def command_of(words: list[str]) -> Any:
    """The command that the first words name, which are taken from the list."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return command


@pytest.mark.parametrize("said", whole_commands())
def test_what_is_to_be_typed_is_taken_by_the_command_line(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALOTE_TOKEN", "MALOTE_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    words = [EXAMPLES.get(word, word) for word in shlex.split(said)[1:]]
    command = command_of(words)
    assert command is not get_command(app), said
    given = command.make_context("malote", words).params  # raises for what is missing, unknown or no such value
    if command.name == "token":
        assert given["role"], "a token needs --role"
        assert given["subject"], "a token needs --subject"
    if command.name == "purge":
        assert given["yes"], "without a terminal, it asks for --yes"


@pytest.mark.parametrize("said", named_commands())
def test_a_command_that_is_named_is_one(said: str) -> None:
    words = said.split()[1:]
    command = command_of(words)
    assert command is not get_command(app), said
    assert not (words and hasattr(command, "commands")), said


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_body_of_each_request_is_json(path: Path) -> None:
    text = "\n".join(fenced for _, fenced, _ in CODE.findall(path.read_text(encoding="utf-8")))
    commands = re.split(r"\n(?=\S)", text.replace("\\\n", " ")) if "curl" in text else []
    for command in commands:
        words = shlex.split(command, comments=True)
        for option, value in itertools.pairwise(words):
            if "curl" in words and option in ("-d", "--data", "--json"):
                json.loads(value)


def test_each_decision_has_a_number_of_its_own_and_no_number_is_left_out() -> None:
    found = sorted((ROOT / "docs/adr").glob("*.md"))
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for path in found:
        assert path.read_text().startswith(f"# {int(path.name[:4])}. "), path.name
