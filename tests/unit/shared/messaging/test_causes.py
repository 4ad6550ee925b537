"""Errors as operators read them."""

import ast
import asyncio
from pathlib import Path

import pytest
from aiormq.exceptions import ConnectionClosed

from deploy.local.environment import ROOT
from shared.messaging.causes import cause_of
from shared.persistence.database import Outage


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncio.CancelledError(), "the connection was lost"),
        (asyncio.CancelledError(ConnectionClosed(320, "FORCED")), "320 FORCED"),
        (ConnectionClosed(), "the connection to the broker was lost"),
        (TimeoutError(), "no answer in time"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError(2, "No such file or directory", "ca.pem"), "No such file or directory: ca.pem"),
        (ConnectionResetError(), "ConnectionResetError"),
        (Outage("no database: refused\nand more"), "no database: refused"),
        (KeyError("sku"), "KeyError: 'sku'"),
        (AssertionError(), "AssertionError"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_that_is_never_empty(error: BaseException, said: str) -> None:
    assert cause_of(error) == said


@pytest.mark.parametrize("folder", ["shared", "services", "deploy"])
def test_nobody_is_told_of_an_error_in_the_words_of_a_debugger(folder: str) -> None:
    """`repr` of an error is `CancelledError()`, or `OSError(28, 'No space left on device')`."""
    found = []
    for path in Path(ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            shown = node.value if isinstance(node, ast.FormattedValue) and node.conversion == ord("r") else None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "repr":
                shown = node.args[0]
            if isinstance(shown, ast.Name) and shown.id == "error":
                found.append(f"{path}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []
