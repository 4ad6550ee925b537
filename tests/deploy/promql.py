"""Reads what a PromQL expression asks for: the names of its metrics, and what it wants of their labels."""

import re
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\$?[a-zA-Z_:][\w:]*|[\d.][\w.]*|=~|!~|[!=<>]=|\S)""", re.VERBOSE
)
_NAME = re.compile(r"[a-zA-Z_:][\w:]*")
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}


@dataclass(frozen=True)
class Selector:
    """`name{label op "value", …}`."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> list[Selector]:
    """All selectors of an expression. Raises ValueError for one without a name, or what is no PromQL at all."""
    tokens = _TOKEN.findall(expression)
    found, at = [], 0
    while at < len(tokens):
        token, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if token in _LISTS:
            at = tokens.index(")", at) + 1 if after == "(" else at + 1
        elif token == "[":
            at = tokens.index("]", at) + 1
        elif token == "{":
            raise ValueError(f"a selector without a name: {expression}")
        elif not _NAME.fullmatch(token) or token.lower() in _WORDS or after in ("(", "by", "without"):
            at += 1
        elif after == "{":
            end = tokens.index("}", at)
            found.append(Selector(token, tuple(_matchers(tokens[at + 2 : end]))))
            at = end + 1
        else:
            found.append(Selector(token, ()))
            at += 1
    return found


def _matchers(tokens: list[str]) -> list[tuple[str, str, str]]:
    parts = [index for index, token in enumerate(tokens) if token == ","]
    bounds = pairwise([-1, *parts, len(tokens)])
    groups = [tokens[first + 1 : last] for first, last in bounds if last > first + 1]
    return [(label, operator, value[1:-1]) for label, operator, value in groups]
