"""Every command and option that advice to operators names is there."""

import re

import pytest
from typer.main import get_command

from deploy.cli.app import app
from deploy.local.advice import TEXTS

NAMED = sorted(
    {said for texts in TEXTS.values() for pair in texts.values() for said in re.findall(r"`(.+?)`", pair.next)}
)


@pytest.mark.parametrize("said", NAMED)
def test_it_can_be_typed(said: str) -> None:
    program, *words = said.split()
    assert program == "malote"
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert command is not get_command(app), said
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, said
