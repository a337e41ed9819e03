"""Text of XLSX files: a section a sheet, a line a row, cells divided by bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import openpyxl

from rag.errors import FileUnreadable
from rag.parsing.archive import check_archive
from rag.parsing.document import Section

MAX_ROWS = 1_000_000
"""Of all sheets together. Empty ones count: a file of a few bytes can claim millions."""


def xlsx_sections(path: Path) -> Iterator[Section]:
    """One section a sheet, its name first. Of formulas, the value that was saved last.

    Raises:
        FileUnreadable: `check_archive` refuses the file, or it has too many rows.
    """
    check_archive(path)
    with path.open("rb") as file:  # A path would be refused for its ending.
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        left = MAX_ROWS
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # They are what the file claims, not what is there.
            rows = list(islice(sheet.iter_rows(values_only=True), left + 1))
            left -= len(rows)
            if left < 0:
                raise FileUnreadable(f"The file has more than {MAX_ROWS:,} rows; split it.")
            text = "\n".join(line for row in rows if (line := _line(row)))
            if text:
                yield Section(f"# {sheet.title}\n\n{text}")


def _line(row: Iterable[object]) -> str:
    """Cells with bars between them, without the empty ones at the end."""
    return " | ".join(map(_cell, row)).rstrip(" |")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return " ".join(str(value).split())
