"""Text of XLSX files: a section per sheet, a line per row, cells separated by bars."""

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
"""Maximum rows of all sheets together. Empty rows count, as a tiny file can declare millions."""


def xlsx_sections(path: Path) -> Iterator[Section]:
    """Yield one section per sheet, headed by its name. Formulas give their last saved value.

    Raises:
        FileUnreadable: `check_archive` rejects the file, or it has too many rows.
    """
    check_archive(path)
    with path.open("rb") as file:  # Given a path, openpyxl would check the suffix.
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        left = MAX_ROWS
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # The declared dimensions may be wrong.
            rows = list(islice(sheet.iter_rows(values_only=True), left + 1))
            left -= len(rows)
            if left < 0:
                raise FileUnreadable(f"The file has more than {MAX_ROWS:,} rows; split it.")
            text = "\n".join(line for row in rows if (line := _line(row)))
            if text:
                yield Section(f"# {sheet.title}\n\n{text}")


def _line(row: Iterable[object]) -> str:
    """Join cells with bars, without the empty cells at the end."""
    return " | ".join(map(_cell, row)).rstrip(" |")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    return " ".join(str(value).split())
