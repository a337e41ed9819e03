"""Small files of every format, made by the libraries that read them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage

import docx
import openpyxl
import pptx
import pypdf

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(
        f'<!ENTITY {name} "{f"&{of};" * 10}">'
        for of, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
"""A document type whose entity `i` is 200 million characters."""


_PAGE = "/MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >>"


def pdf(pages: Sequence[str]) -> bytes:
    """Build a PDF with one line of ASCII on each page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R {_PAGE} /Contents {5 + 2 * i} 0 R >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    out = "%PDF-1.4\n"
    offsets = []
    for number, text in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        f"{out}xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    ).encode()


def encrypted_pdf(password: str) -> bytes:
    """Build a PDF that opens with a password, or for everyone if the password is empty."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(["Sealed words."])))
    writer.encrypt(password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word() -> bytes:
    """Build a DOCX with a heading, paragraphs around a table with a merged cell, and a tab."""
    document = docx.Document()
    document.add_heading("Annual report", 1)
    document.add_paragraph("Before the table.")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ["Name", "Age", "Ada", "36"], strict=True):
        cell.text = text
    table.add_row().cells[0].merge(table.rows[2].cells[1]).text = "Merged"
    document.add_paragraph("After\tthe table.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def slides() -> bytes:
    """Build a PPTX of two slides, the second with notes and a table."""
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[0])
    first.shapes.title.text = "Welcome"
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Figures"
    table = second.shapes.add_table(1, 2, 0, 0, 9_000_000, 900_000).table
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    second.notes_slide.notes_text_frame.text = "Speak slowly."
    out = io.BytesIO()
    deck.save(out)
    return out.getvalue()


def sheets() -> bytes:
    """Build an XLSX of two sheets with text, and an empty one."""
    book = openpyxl.Workbook()
    people = book.active
    people.title = "People"
    for row in (["Name", "Age"], ["Ada", 36], [None, None], ["Line\nbreak", 1.5]):
        people.append(row)
    book.create_sheet("Places").append(["Rome"])
    book.create_sheet("Empty")
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def mail() -> bytes:
    """Build an e-mail with plain text, HTML and an attachment."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Grüße", "ada@example.org", "b@example.org"
    message["Date"] = "Mon, 02 Mar 2026 10:00:00 +0000"
    message.set_content("Plain body.")
    message.add_alternative("<p>HTML body.</p>", subtype="html")
    message.add_attachment(b"secret attachment", "application", "pdf", filename="plan.pdf")
    return message.as_bytes()


def changed_zip(data: bytes, members: Mapping[str, bytes]) -> bytes:
    """Copy an archive with some members replaced or added."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if name not in members:
                new.writestr(name, old.read(name))
        for name, content in members.items():
            new.writestr(name, content)
    return out.getvalue()


def member(data: bytes, name: str) -> bytes:
    """Return the bytes of a member of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name)
