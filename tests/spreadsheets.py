"""The cells that a spreadsheet program reads from a CSV file, also if it splits lines at another separator."""

import csv
import io
import itertools
from collections.abc import Iterator

FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""The beginnings of formulas: = + - @, and their full-width forms."""
WHITE = ("\t", "\r", "\n")
SEPARATORS = (",", ";", "\t")


def harmless(value: str) -> str:
    """A text as a CSV has it: no cell begins with a formula, wherever the text is split."""
    found, is_start = "", True
    for letter in value:
        found += f"'{letter}" if is_start and letter in FORMULAS else letter
        is_start = letter in {*SEPARATORS, *WHITE, '"'} or (is_start and letter == " ")
    return f"'{found}" if value.startswith(WHITE) else found


def cells_anywhere(content: str) -> Iterator[str]:
    """All cells that a program can find: split at any of the separators or at some of them, with quotes and without.
    Blanks and quotes around a cell are gone."""
    for number in range(1, len(SEPARATORS) + 1):
        for chosen in itertools.combinations(SEPARATORS, number):
            alike = content
            for separator in chosen:
                alike = alike.replace(separator, chosen[0])
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
                for row in csv.reader(io.StringIO(alike, newline=""), delimiter=chosen[0], quoting=quoting):
                    yield from (cell.strip(' "') for cell in row)
