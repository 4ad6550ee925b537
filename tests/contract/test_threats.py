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


# -- ASVS -------------------------------------------------------------------------------------------------------------

REQUIREMENTS = {
    "1.1": 2, "1.2": 9, "1.3": 11, "1.4": 3, "1.5": 2, "2.1": 3, "2.2": 3, "2.3": 4, "2.4": 1, "3.2": 2, "3.3": 4,
    "3.4": 6, "3.5": 5, "3.7": 2, "4.1": 3, "4.2": 1, "4.3": 2, "4.4": 4, "5.1": 1, "5.2": 3, "5.3": 2, "5.4": 3,
    "6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5, "6.6": 3, "6.8": 4, "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5,
    "7.5": 2, "7.6": 2, "8.1": 2, "8.2": 3, "8.3": 1, "8.4": 1, "9.1": 3, "9.2": 4, "10.1": 2, "10.2": 2, "10.3": 4,
    "10.4": 11, "10.5": 5, "10.6": 2, "10.7": 3, "11.1": 2, "11.2": 3, "11.3": 3, "11.4": 4, "11.5": 1, "11.6": 1,
    "12.1": 3, "12.2": 2, "12.3": 4, "13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5, "14.1": 2, "14.2": 4, "14.3": 3,
    "15.1": 3, "15.2": 3, "15.3": 7, "16.1": 1, "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 3, "17.1": 1, "17.2": 4,
    "17.3": 2,
}  # fmt: skip
"""How many requirements of levels 1 and 2 each section of ASVS 5.0 has: there they are numbered without a gap."""
TO = "\N{EN DASH}"
NUMBER = r"\d+\.\d+(?:\.\d+)?"
ROWS = re.findall(rf"^\| ({NUMBER}(?:[{TO}, ]+{NUMBER})*) [^|]+\| ([^|]*)\| ([^|]*)\|$", TEXT, re.MULTILINE)


def answered(numbers: str) -> list[str]:
    """`1.2.6` to `1.2.8` -> each of the three; `4.3, 4.4` -> all of both sections."""
    found = []
    for part in numbers.split(", "):
        first, _, last = part.partition(TO)
        known = [f"{section}.{n}" for section, most in REQUIREMENTS.items() for n in range(1, most + 1)]
        within = [number for number in known if f"{number}.".startswith(f"{first}.")]
        if last:
            ends = [number for number in known if f"{number}.".startswith(f"{last}.")]
            within = known[known.index(within[0]) : known.index(ends[-1]) + 1]
        assert within, f"there is no requirement {part}"
        found += within
    return found


def test_each_requirement_of_levels_1_and_2_is_answered_once() -> None:
    found = [number for numbers, _, _ in ROWS for number in answered(numbers)]
    wanted = [f"{section}.{n}" for section, most in REQUIREMENTS.items() for n in range(1, most + 1)]
    assert len(wanted) == 253
    assert sorted(found) == sorted(wanted)


def test_what_is_not_met_or_in_part_says_why_and_nothing_else_does() -> None:
    marked = {n for numbers, how, _ in ROWS if how.startswith(("**partly**", "**not met**")) for n in answered(numbers)}
    reasons = TEXT.partition("## What is not met")[2]
    explained = re.findall(rf"^- \*\*({NUMBER}(?:, {NUMBER})*)\*\*:", reasons, re.MULTILINE)
    assert {n for numbers in explained for n in answered(numbers)} == marked


def test_each_part_that_is_pointed_to_is_there() -> None:
    for name, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", TEXT):
        text = (DOCUMENT.parent / name).read_text(encoding="utf-8") if name else TEXT
        heads = [head.replace("`", "") for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
        anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
        assert anchor in anchors, (name, anchor)
