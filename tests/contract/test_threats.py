"""docs/security.md says what the code does: who can send what, and tests that are there."""

import re
from pathlib import Path

import pytest

from contracts.flow import FLOW
from contracts.threats import DOCUMENT, table, written

ROOT = Path(__file__).resolve().parents[2]
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_who_can_send_what_is_as_the_flow_has_it() -> None:
    assert written(TEXT) == TEXT, "`python -m contracts.threats` writes it anew"
    assert all(f"`{message.key}`" in table() for message in FLOW)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:tests|shared|services|deploy|docs)/[\w./-]+)`", TEXT))))
def test_each_file_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).exists()
