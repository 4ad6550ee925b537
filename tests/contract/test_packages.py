"""What `make up` installs is enough to run: what only tests need is never imported by what runs."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("contracts", "shared", "services", "deploy")
PACKAGES: dict[str, dict[str, Any]] = {
    package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}

PROVIDED = packages_distributions()


@cache
def running() -> set[str]:
    """The packages that running needs, with all extras and without groups, by the lock file."""
    found: set[str] = set()
    malote = PACKAGES["malote"]
    asked = [*malote["dependencies"], *(one for more in malote["optional-dependencies"].values() for one in more)]
    while asked:
        wanted = asked.pop()
        package = PACKAGES[wanted["name"]]
        extras = [one for extra in wanted.get("extra", ()) for one in package["optional-dependencies"][extra]]
        if wanted["name"] not in found or extras:
            asked += [one for one in [*package.get("dependencies", ()), *extras] if one["name"] not in found]
        found.add(wanted["name"])
    return found


@cache
def imported() -> dict[str, str]:
    """The top modules of other people's that our code imports, and a file that does."""
    found = {}
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in found.items() if name not in (*OURS, *sys.stdlib_module_names)}


@pytest.mark.parametrize("module", imported())
def test_what_we_import_is_installed_to_run(module: str) -> None:
    distributions = {re.sub(r"[-_.]+", "-", name).lower() for name in PROVIDED[module]}
    assert distributions & running(), f"{imported()[module]} imports {module}, which is in no dependency of ours"
