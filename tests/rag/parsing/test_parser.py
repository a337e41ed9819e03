from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag.errors import FileUnreadable
from rag.parsing import media_types
from rag.parsing.document import Document, Section
from rag.parsing.parser import parse
from tests.rag.parsing.sample_files import encrypted_pdf, mail, pdf, sheets, slides, word


def parsed(path: Path, data: bytes, media_type: str) -> Document:
    file = path / "file"
    file.write_bytes(data)
    return parse(file, media_type=media_type, filename="file.xyz")


def reason(path: Path, data: bytes, media_type: str) -> str:
    with pytest.raises(FileUnreadable) as caught:
        parsed(path, data, media_type)
    return caught.value.message


def only_text(path: Path, data: bytes, media_type: str) -> str:
    (section,) = parsed(path, data, media_type).sections
    assert section.page is None
    return section.text


def test_pdf_text_keeps_its_page(tmp_path: Path) -> None:
    document = parsed(tmp_path, pdf(["First page.", "", "Third page."]), media_types.PDF)
    assert document.sections == [Section("First page.", 1), Section("Third page.", 3)]


def test_pdf_without_text_asks_for_ocr(tmp_path: Path) -> None:
    assert reason(tmp_path, pdf(["", " "]), media_types.PDF) == (
        "The PDF has no text; scanned pages need OCR, which is not done."
    )


def test_pdf_with_a_password_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path, encrypted_pdf("s3cret"), media_types.PDF) == (
        "The PDF is encrypted; upload it without a password."
    )


def test_pdf_that_opens_without_a_password_is_read(tmp_path: Path) -> None:
    document = parsed(tmp_path, encrypted_pdf(""), media_types.PDF)
    assert document.sections == [Section("Sealed words.", 1)]


def test_docx_text_has_headings_and_tables_in_order(tmp_path: Path) -> None:
    assert only_text(tmp_path, word(), media_types.DOCX) == (
        "# Annual report\n\nBefore the table.\n\n"
        "Name | Age |\nAda | 36 |\nMerged |\nAfter\tthe table."
    )


def test_pptx_text_keeps_its_slide_and_notes(tmp_path: Path) -> None:
    assert parsed(tmp_path, slides(), media_types.PPTX).sections == [
        Section("Welcome", 1),
        Section("Figures\n\nleft | right |\n\nNotes: Speak slowly.", 2),
    ]


def test_xlsx_text_is_a_section_a_sheet(tmp_path: Path) -> None:
    assert parsed(tmp_path, sheets(), media_types.XLSX).sections == [
        Section("# People\n\nName | Age\nAda | 36\nLine break | 1.5"),
        Section("# Places\n\nRome"),
    ]


def test_html_text_is_what_a_reader_sees(tmp_path: Path) -> None:
    page = (
        "<html><head><title>Title</title><style>p{}</style></head><body><h2>Head</h2>"
        "<script>alert(1)</script><p>One <b>bold</b>\n word&amp;sign</p><ul><li>a<li>b</ul>"
        "<table><tr><td>x<td>ü</table><pre>keep\n  this</pre></body></html>"
    )
    assert only_text(tmp_path, page.encode(), media_types.HTML) == (
        "Title\n\n## Head\n\nOne bold word&sign\n\n- a\n\n- b\n\nx | ü |\n\nkeep\n  this"
    )


def test_html_nested_a_hundred_thousand_deep_is_read_to_its_end(tmp_path: Path) -> None:
    page = b"<html><body>" + b"<div>x" * 100_000 + b"the end"
    assert only_text(tmp_path, page, media_types.HTML).endswith("xthe end")


def test_html_longer_than_a_block_loses_no_letter(tmp_path: Path) -> None:
    page = "<p>" + "wörd " * 50_000 + "</p>"
    assert only_text(tmp_path, page.encode(), media_types.HTML).split() == ["wörd"] * 50_000


def test_mail_has_headers_body_and_names_of_attachments(tmp_path: Path) -> None:
    assert only_text(tmp_path, mail(), media_types.MAIL) == (
        "Subject: Grüße\nFrom: ada@example.org\nTo: b@example.org\n"
        "Date: Mon, 02 Mar 2026 10:00:00 +0000\n\nPlain body.\n\nAttachments: plan.pdf"
    )


def test_mail_of_html_alone_is_read_as_html(tmp_path: Path) -> None:
    data = b"Subject: s\nContent-Type: text/html; charset=nonsense\n\n<p>Only <i>this</i></p>"
    assert only_text(tmp_path, data, media_types.MAIL) == "Subject: s\n\nOnly this"


def test_json_is_laid_out_with_its_characters_as_themselves(tmp_path: Path) -> None:
    text = only_text(tmp_path, json.dumps({"name": "Zoë"}).encode(), media_types.JSON)
    assert text == '{\n  "name": "Zoë"\n}'


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}', "[" * 100_000, '{"broken": '])
def test_json_that_is_none_stays_as_it_is(tmp_path: Path, text: str) -> None:
    assert text.strip() == only_text(tmp_path, text.encode(), media_types.JSON)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_text_is_decoded(tmp_path: Path, encoding: str) -> None:
    text = "Name;Größe\nAda;1,60 plain words follow the first line"
    assert text == only_text(tmp_path, text.encode(encoding), media_types.CSV)


def test_text_of_an_old_encoding_is_decoded(tmp_path: Path) -> None:
    text = "Die Straße führt über die Brücke, und später über große Hügel nach Süden. " * 20
    assert text.strip() == only_text(tmp_path, text.encode("cp1252"), media_types.PLAIN)


@pytest.mark.parametrize("media_type", sorted(media_types.SUPPORTED))
def test_an_empty_file_of_any_type_is_refused(tmp_path: Path, media_type: str) -> None:
    assert reason(tmp_path, b"", media_type)


def test_a_file_of_white_space_is_refused(tmp_path: Path) -> None:
    assert reason(tmp_path, b" \n\t\x00 \n", media_types.PLAIN) == "The file has no text."


def test_a_type_that_is_not_supported_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadable, match=r"'\.xyz' \(image/png\)") as caught:
        parsed(tmp_path, b"", "image/png")
    assert caught.value.code == "unsupported_file"
