"""Hostile files: each gets an error sentence in bounded time, which quotes nothing of the file."""

from __future__ import annotations

import contextlib
import io
import random
import re
import zipfile
from pathlib import Path

import pytest

from rag.errors import FileUnreadable
from rag.parsing import archive, decoding, media_types, parser, pdf, spreadsheet
from rag.parsing.parser import parse
from tests.rag.parsing import sample_files as samples

ENTITIES = "The file declares XML entities, which office files never do."
GOOD = {
    media_types.PDF: samples.pdf(["First page.", "Second page."]),
    media_types.DOCX: samples.word(),
    media_types.PPTX: samples.slides(),
    media_types.XLSX: samples.sheets(),
    media_types.MAIL: samples.mail(),
    media_types.HTML: b"<html><body><p>Some <b>words</b></p></body></html>",
    media_types.JSON: b'{"some": ["words", 1]}',
}


def reason(path: Path, data: bytes, media_type: str) -> str:
    file = path / "file"
    file.write_bytes(data)
    with pytest.raises(FileUnreadable) as caught:
        parse(file, media_type=media_type, filename="file.xyz")
    return caught.value.message


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        (media_types.DOCX, "word/document.xml"),
        (media_types.DOCX, "[Content_Types].xml"),
        (media_types.PPTX, "ppt/slides/slide1.xml"),
        (media_types.XLSX, "xl/worksheets/sheet1.xml"),
        (media_types.XLSX, "xl/workbook.xml"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, media_type: str, name: str, encoding: str) -> None:
    xml = samples.member(GOOD[media_type], name).decode()
    bomb = samples.BOMB + xml.partition("?>")[2].replace("</", "&i;</", 1)
    data = samples.changed_zip(GOOD[media_type], {name: bomb.encode(encoding)})
    assert reason(tmp_path, data, media_type) == ENTITIES


def test_a_comment_does_not_hide_entities(tmp_path: Path) -> None:
    xml = f'<?xml version="1.0"?><!--{"x" * 200_000}-->{samples.BOMB.partition("?>")[2]}<a>&i;</a>'
    data = samples.changed_zip(GOOD[media_types.DOCX], {"word/document.xml": xml.encode()})
    assert reason(tmp_path, data, media_types.DOCX) == ENTITIES


@pytest.mark.parametrize("media_type", [media_types.DOCX, media_types.PPTX, media_types.XLSX])
def test_a_zip_bomb_is_not_opened(tmp_path: Path, media_type: str) -> None:
    data = samples.changed_zip(GOOD[media_type], {"bomb.xml": bytes(30_000_000)})
    assert "unpacks to far more" in reason(tmp_path, data, media_type)


def test_an_archive_of_too_many_members_is_not_opened(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        for i in range(archive.MAX_MEMBERS + 1):
            zipped.writestr(str(i), b"")
    assert "10,000 parts" in reason(tmp_path, out.getvalue(), media_types.DOCX)


@pytest.mark.parametrize("media_type", [media_types.PDF, media_types.DOCX, media_types.XLSX])
def test_half_a_file_is_damaged(tmp_path: Path, media_type: str) -> None:
    data = GOOD[media_type]
    assert reason(tmp_path, data[: len(data) // 3], media_type)


@pytest.mark.parametrize("media_type", [media_types.PDF, media_types.DOCX, media_types.PPTX])
def test_random_bytes_are_damaged(tmp_path: Path, media_type: str) -> None:
    data = random.Random(1).randbytes(5_000)  # noqa: S311
    assert "damaged" in reason(tmp_path, data, media_type)


def test_an_office_file_of_another_kind_is_damaged(tmp_path: Path) -> None:
    assert "damaged" in reason(tmp_path, GOOD[media_types.XLSX], media_types.DOCX)


def test_a_pdf_whose_pages_go_in_circles_is_refused(tmp_path: Path) -> None:
    data = GOOD[media_types.PDF].replace(b"/Kids [4 0 R 6 0 R]", b"/Kids [2 0 R 2 0 R]")
    assert data != GOOD[media_types.PDF]
    assert reason(tmp_path, data, media_types.PDF)


def test_a_pdf_of_too_many_pages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGES", 1)
    assert "more than 1 pages" in reason(tmp_path, GOOD[media_types.PDF], media_types.PDF)


def test_a_sheet_of_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreadsheet, "MAX_ROWS", 4)
    assert "more than 4 rows" in reason(tmp_path, GOOD[media_types.XLSX], media_types.XLSX)


def test_a_sheet_that_claims_a_million_rows_and_columns_is_read(tmp_path: Path) -> None:
    name = "xl/worksheets/sheet1.xml"
    xml = samples.member(GOOD[media_types.XLSX], name)
    large = re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:XFD1048576"', xml)
    file = tmp_path / "file"
    file.write_bytes(samples.changed_zip(GOOD[media_types.XLSX], {name: large}))
    document = parse(file, media_type=media_types.XLSX, filename="file.xlsx")
    assert large != xml
    assert "Ada | 36" in document.sections[0].text


def test_a_text_of_a_hundred_megabytes_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    with file.open("wb") as hole:
        hole.truncate(decoding.MAX_TEXT_BYTES + 1)
    with pytest.raises(FileUnreadable, match="more than 80 MB"):
        parse(file, media_type=media_types.CSV, filename="file.csv")


def test_a_document_of_too_much_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "MAX_CHARACTERS", 1_000)
    assert "1,000 characters" in reason(tmp_path, b"word " * 201, media_types.PLAIN)


def test_a_table_that_claims_to_be_wide_costs_nothing(tmp_path: Path) -> None:
    xml = samples.member(GOOD[media_types.DOCX], "word/document.xml")
    wide = xml.replace(b"<w:tcPr>", b'<w:tcPr><w:gridSpan w:val="999999999"/>')
    file = tmp_path / "file"
    file.write_bytes(samples.changed_zip(GOOD[media_types.DOCX], {"word/document.xml": wide}))
    document = parse(file, media_type=media_types.DOCX, filename="file.docx")
    assert "Ada | 36" in document.sections[0].text


@pytest.mark.parametrize("media_type", sorted(GOOD))
def test_a_changed_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path, media_type: str
) -> None:
    chance = random.Random(media_type)  # noqa: S311
    file = tmp_path / "file"
    read = 0
    for _ in range(60):
        file.write_bytes(_changed(GOOD[media_type], chance))
        with contextlib.suppress(FileUnreadable):
            assert parse(file, media_type=media_type, filename="file").sections
            read += 1
    assert read


def _changed(data: bytes, chance: random.Random) -> bytes:
    """Draw bytes with some replaced, removed or repeated; in an archive, those of a member."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            name = chance.choice(zipped.namelist())
        if chance.random() < 0.7:
            return samples.changed_zip(data, {name: _changed(samples.member(data, name), chance)})
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(changed) or 1)
        change = chance.randrange(3)
        if change == 0 and changed:
            changed[at] = chance.randrange(256)
        elif change == 1:
            del changed[at : at + chance.randint(1, 40)]
        else:
            changed[at:at] = changed[at : at + chance.randint(1, 40)]
    return bytes(changed)
