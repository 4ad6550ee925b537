"""The layout is a rule: the same file names in every service, and nothing at the root that is not named here."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    "services", "shared", "contracts", "deploy", "tests", "docs", "docker-compose.yml", "Makefile",
    "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "uv.lock",
}  # fmt: skip
IN_A_SERVICE = {
    "__init__", "handlers", "periodic", "api", "domain", "store", "adapters", "settings",
    "service.toml", "migrations", "templates", "static",
}  # fmt: skip
"""Modules without their `.py`: each is a file, or a package of files that are named after their subjects."""
IN_THE_GATEWAY = {"jobs", "starts", "proxy", "limits"}
"""What only the service has that clients come to."""
LONGEST_IN_THE_GATEWAY = 250
"""Lines of a file: what the gateway does for others, it does in few words."""
SERVICES = sorted(path.parent for path in (ROOT / "services").glob("*/handlers.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(line) for line in listed.stdout.splitlines()]


def test_the_root_holds_nothing_else() -> None:
    assert {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")} <= TOP


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_a_service_has_only_the_names_that_all_have(service: Path) -> None:
    names = {
        path.relative_to("services", service.name).parts[0]
        for path in tracked()
        if path.parts[:2] == ("services", service.name)
    }
    modules = {name.removesuffix(".py") for name in names}
    assert modules - IN_A_SERVICE - (IN_THE_GATEWAY if service.name == "gateway" else set()) == set()
    assert len(modules) == len(names), "a file and a package of the same name"


def test_no_file_of_the_gateway_is_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "services/gateway").rglob("*.py")}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_IN_THE_GATEWAY} == {}


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_the_domain_imports_only_contracts_and_the_standard_library(service: Path) -> None:
    if not (service / "domain.py").exists():
        pytest.skip("no decisions to make")
    tree = ast.parse((service / "domain.py").read_text())
    froms = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {
        name for name in froms if name.startswith(("shared", "services", "sqlalchemy", "fastapi", "faststream"))
    }


def handlers() -> list[ast.AsyncFunctionDef]:
    found = []
    for service in SERVICES:
        if (service / "handlers.py").exists():
            tree = ast.parse((service / "handlers.py").read_text())
            found += [n for n in tree.body if isinstance(n, ast.AsyncFunctionDef) and n.name.startswith("on_")]
    return found


def test_half_of_the_handlers_have_at_most_ten_lines() -> None:
    lengths = sorted((node.end_lineno or 0) - node.lineno for node in handlers())
    assert lengths[len(lengths) // 2] <= 10, lengths


def loaders() -> list[str]:
    """The functions that handlers name as what loads their rows."""
    names = []
    for service in SERVICES:
        for node in ast.walk(ast.parse((service / "handlers.py").read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("loads", "loads_jobs"):
                names.append(f"{service.name}: {ast.unparse(node.value).rpartition('.')[2]}")
    return names


def test_a_loader_is_named_by_what_it_loads() -> None:
    assert [name for name in loaders() if ": load_" not in name] == []
