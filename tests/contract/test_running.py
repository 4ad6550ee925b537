"""What docs/running.md names is there: settings, tests, its own headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/running.md").read_text()
DOCUMENTED = set(re.findall(r"^#([A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def named(pattern: str) -> list[str]:
    found = sorted(set(re.findall(pattern, TEXT)))
    assert found, pattern
    return found


@pytest.mark.parametrize("variable", named(r"\b(?:MALOTE|REPORTS|EMAIL|DEADLETTERS|GATEWAY)_[A-Z_]+\b"))
def test_each_setting_is_one(variable: str) -> None:
    common = f"MALOTE_{variable.partition('_')[2]}"
    address = variable.endswith(("_DATABASE_URL", "_AMQP_URL"))
    assert variable in DOCUMENTED or common in DOCUMENTED or address


@pytest.mark.parametrize("anchor", named(r"\]\(#([a-z-]+)\)"))
def test_each_heading_that_is_linked_to_is_there(anchor: str) -> None:
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    assert anchor in headings


@pytest.mark.parametrize("path", named(r"(?:\]\(\.\./|`)((?:deploy|tests|shared|contracts)/[\w./-]+|CHANGELOG\.md)"))
def test_each_file_is_there(path: str) -> None:
    assert (ROOT / path).exists()
