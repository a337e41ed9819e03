"""Text of PDF files, page by page. Scanned pages stay unread, because there is no OCR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pypdf import PasswordType, PdfReader

from rag.errors import FileUnreadable
from rag.parsing.document import Section

MAX_PAGES = 5_000


def pdf_sections(path: Path) -> Iterator[Section]:
    """Yield one section per page.

    Raises:
        FileUnreadable: the PDF is encrypted, has too many pages, or contains no text.
    """
    with PdfReader(path) as reader:
        # Many PDFs are encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise FileUnreadable("The PDF is encrypted; upload it without a password.")
        if len(reader.pages) > MAX_PAGES:
            raise FileUnreadable(f"The PDF has more than {MAX_PAGES:,} pages; split it.")
        found = False
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text()
            found = found or bool(text.strip())
            yield Section(text, number)
        if not found:
            raise FileUnreadable("The PDF has no text; scanned pages need OCR, which is not done.")
