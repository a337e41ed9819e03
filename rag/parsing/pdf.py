"""Text of PDF files, page by page. What is only a picture of text stays unread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pypdf import PasswordType, PdfReader

from rag.errors import FileUnreadable
from rag.parsing.document import Section

MAX_PAGES = 5_000


def pdf_sections(path: Path) -> Iterator[Section]:
    """One section a page.

    Raises:
        FileUnreadable: it is encrypted, has too many pages, or no text.
    """
    with PdfReader(path) as reader:
        # Many are encrypted with an empty password, only to forbid printing.
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
