"""The published schemas stay what others rely on, also when somebody changes their files by hand.

What was published is asked of git: it is what the main branch has, or on that branch itself what it had before, and
what the last release had.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from contracts import schema

ROOT = Path(__file__).resolve().parents[2]
FOLDER = schema.FOLDER.relative_to(ROOT).as_posix()
MAIN = ("origin/HEAD", "origin/main", "origin/master", "main", "master")


SHALLOW = """\
This clone has no history, so what was published cannot be asked of it, and any change would pass. Fetch the rest: `git
fetch --unshallow --tags`; in CI, check out with the whole history (GitHub's actions/checkout: `fetch-depth: 0`)."""


def git(*command: str, root: Path = ROOT) -> str | None:
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def published_at(root: Path = ROOT) -> list[str]:
    """The commits whose schemas count as published."""
    assert git("rev-parse", "--is-shallow-repository", root=root) != "true", SHALLOW
    head = git("rev-parse", "HEAD", root=root)
    base = next(filter(None, (git("merge-base", "HEAD", branch, root=root) for branch in MAIN)), head)
    before = git("rev-parse", "HEAD^", root=root) if base == head else None
    release = git("describe", "--tags", "--abbrev=0", "HEAD^", root=root)
    released = release and git("rev-parse", f"{release}^{{commit}}", root=root)
    return [commit for commit in dict.fromkeys((base, before, released)) if commit]


def committed(commit: str) -> dict[str, dict[str, Any]]:
    names = (git("ls-tree", "--name-only", commit, f"{FOLDER}/") or "").splitlines()
    return {Path(name).name: json.loads(git("show", f"{commit}:{name}") or "{}") for name in names if ".json" in name}


def test_no_published_schema_has_changed_for_the_worse() -> None:
    commits = published_at()
    if not commits:
        pytest.skip("no history here to ask what was published")
    for commit in commits:
        problems = schema.broken(committed(commit), schema.read(schema.FOLDER), schema.read(schema.RETIRED))
        assert not problems, "\n\n".join(problems)


def test_no_schema_of_the_code_differs_for_the_worse_from_its_file() -> None:
    problems = schema.broken(schema.read(schema.FOLDER), schema.schemas(), schema.read(schema.RETIRED))
    assert not problems, "\n\n".join(problems)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository of three commits, of which the first was released."""
    root = tmp_path / "history"
    root.mkdir()
    author = ["-c", "user.name=Ana", "-c", "user.email=ana@example.com"]
    commit = [*author, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--allow-empty", "--message", "One more"]
    steps = [["init", "--quiet", "--initial-branch=main"], commit, ["tag", "v1"], commit, commit]
    for step in steps:
        assert git(*step, root=root) is not None, step
    return root


def test_published_is_what_was_there_before_and_what_was_released(history: Path) -> None:
    there, before, released = (git("rev-parse", f"HEAD~{back}", root=history) for back in range(3))
    assert published_at(history) == [there, before, released]
    git("switch", "--quiet", "--create", "other", "HEAD^", root=history)
    assert published_at(history) == [before, released]


def test_a_clone_without_history_is_no_witness(history: Path, tmp_path: Path) -> None:
    assert git("clone", "--quiet", "--depth=1", history.as_uri(), str(tmp_path / "clone"), root=tmp_path) is not None
    with pytest.raises(AssertionError, match="fetch --unshallow"):
        published_at(tmp_path / "clone")
