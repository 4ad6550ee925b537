"""How the published schemas are kept: what is refused, what is said of it, and how a message ends."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from contracts import schema
from contracts.base import Command, Event
from contracts.flow import BY_KEY, FLOW, NOWHERE


class Gift(Event):
    """Somebody is given something."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "gift.given.v1"

    to: str
    pieces: int = Field(default=1, ge=1)


class GiftAsItShouldNotBecome(Gift):
    """A wish of somebody who did not think of its readers."""

    pieces: int = Field(default=2, ge=1)
    wrapped: bool


class GiftAsItMayBecome(Gift):
    """There is one field more."""

    wrapped: bool = False


class GiveGift(Command):
    """Give somebody something."""

    key: ClassVar[str] = "gift.give.v1"

    pieces: int = Field(ge=1, le=10)


class GiveMore(GiveGift):
    """Ten were too few."""

    pieces: int = Field(ge=1, le=20)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published schemas, to be played with."""
    copied = tmp_path / "schemas"
    shutil.copytree(schema.FOLDER, copied)
    monkeypatch.setattr(schema, "FOLDER", copied)
    monkeypatch.setattr(schema, "RETIRED", copied / "retired")
    for name, wanted in schema.schemas().items():
        (copied / name).write_text(schema.text(wanted))
    return copied


def declare(monkeypatch: pytest.MonkeyPatch, message: type[Event] | type[Command]) -> None:
    for other in [known for known in FLOW if known.key == message.key]:
        monkeypatch.delitem(FLOW, other)
    monkeypatch.setitem(FLOW, message, NOWHERE)
    monkeypatch.setitem(BY_KEY, message.key, message)


def test_a_breaking_change_is_refused_with_the_field_and_the_way_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, Gift)
    schema.write()
    before = (folder / "gift.given.v1.json").read_text()
    declare(monkeypatch, GiftAsItShouldNotBecome)
    with pytest.raises(SystemExit) as refusal:
        schema.write()
    said = str(refusal.value)
    assert "gift.given.v1: pieces: left out, it meant 1 and would mean 2" in said
    assert "gift.given.v1: wrapped: a new field is required: give it a default" in said
    assert "gift.given.v2 beside it" in said
    assert (folder / "gift.given.v1.json").read_text() == before


def test_a_compatible_change_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, Gift)
    schema.write()
    declare(monkeypatch, GiftAsItMayBecome)
    schema.write()
    assert "wrapped" in json.loads((folder / "gift.given.v1.json").read_text())["properties"]


def test_a_command_may_be_given_more_freedom_and_no_less(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, GiveGift)
    schema.write()
    declare(monkeypatch, GiveMore)
    schema.write()
    declare(monkeypatch, GiveGift)
    with pytest.raises(SystemExit, match="`maximum` was 20 and is 10"):
        schema.write()


def test_a_message_ends_only_when_somebody_says_so_and_its_name_is_not_given_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, Gift)
    schema.write()
    monkeypatch.delitem(FLOW, Gift)
    with pytest.raises(SystemExit, match=r"(?s)gift\.given\.v1: no message .*schemas/retired/"):
        schema.write()
    (folder / "retired").mkdir(exist_ok=True)
    (folder / "gift.given.v1.json").rename(folder / "retired/gift.given.v1.json")
    schema.write()
    declare(monkeypatch, Gift)
    with pytest.raises(SystemExit, match="a retired message had this name"):
        schema.write()
