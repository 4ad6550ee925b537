"""Writes reports: bytes in, bytes or a file out. Pure functions, which run in processes of their own.

Each library is imported where it is used, so that reading a media type loads none of them.
"""

import csv
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from contracts.reports import PAGES, ReportWish

CONCATENATED = ("csv", "jsonl")
"""The formats whose file is the concatenation of its parts."""


class PangoMissing(Exception):
    """This machine lacks the libraries for pdf; the text says what to install."""


def write_part(raw: Path, request: ReportWish, first_row: int, target: Path) -> int:
    """Write a part of the file, from raw rows: RFC 4180 without a header, in the columns of the report's kind.

    `first_row` counts the report's rows from 0. The part with row 0 has the header, if the format has one.
    Returns the number of rows written; 0 for pdf and html, which `assemble` writes.
    """
    from services.reports.templates import tables

    with raw.open("rb") as rows, target.open("wb") as file:
        match request.format:
            case "csv":
                return tables.write_csv_part(rows, request, first_row == 0, file)
            case "jsonl":
                return tables.write_jsonl_part(rows, request, file)
            case "parquet":
                return tables.write_parquet_part(rows, request, file)
            case "xlsx":
                return tables.write_xlsx_part(rows, request, first_row, file)
            case _:
                shutil.copyfileobj(rows, file)
                return 0


def write_part_of(database: str, query: str, request: ReportWish, first_row: int, target: Path) -> int:
    """Write a part of the file, from the rows that a query finds in a SQLite database."""
    raw, address = target.with_name("raw"), f"{Path(database).resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, uri=True)) as connection,
        raw.open("w", newline="", encoding="utf-8") as file,
    ):
        connection.execute("PRAGMA busy_timeout=10000")
        csv.writer(file).writerows(connection.execute(query))
    return write_part(raw, request, first_row, target)


def assemble(parts: Iterable[bytes], request: ReportWish, target: Path) -> None:
    """Write the file from its parts in order, with one part in memory at a time. Raises `PangoMissing`."""
    if request.format in PAGES:
        from services.reports.templates import summary

        summary.write(parts, request, target)
    elif request.format in CONCATENATED:
        with target.open("wb") as file:
            file.writelines(parts)
    else:
        from services.reports.templates import tables

        write = tables.write_parquet if request.format == "parquet" else tables.write_xlsx
        write(parts, request, target)


def assemble_files(folder: Path, number: int, request: ReportWish, target: Path) -> None:
    """`assemble` with the parts in files named `000000`, `000001` and so on."""
    assemble(((folder / f"{each:06}").read_bytes() for each in range(number)), request, target)
