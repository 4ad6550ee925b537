"""What `make up` installs is enough to run: what only tests need is never imported by what runs."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("contracts", "shared", "services", "deploy")


def running() -> set[str]:
    """The packages that running needs, with all extras and without groups, by the lock file."""
    found: set[str] = set()
    packages = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    malote = packages["malote"]
    asked = [*malote["dependencies"], *(one for more in malote["optional-dependencies"].values() for one in more)]
    while asked:
        wanted = asked.pop()
        package = packages[wanted["name"]]
        extras = [one for extra in wanted.get("extra", ()) for one in package["optional-dependencies"][extra]]
        if wanted["name"] not in found or extras:
            asked += [one for one in [*package.get("dependencies", ()), *extras] if one["name"] not in found]
        found.add(wanted["name"])
    return found


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


def test_what_we_import_is_installed_to_run() -> None:
    provided, installed = packages_distributions(), running()
    for module, path in imported().items():
        distributions = {re.sub(r"[-_.]+", "-", name).lower() for name in provided[module]}
        assert distributions & installed, f"{path} imports {module}, which is in no dependency of ours"
