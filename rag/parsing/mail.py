"""Text of e-mail: its main headers and body. Attachments are listed by name, not read."""

from __future__ import annotations

from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

from rag.errors import FileUnreadable
from rag.parsing.decoding import MAX_TEXT_BYTES, decoded
from rag.parsing.document import Section
from rag.parsing.web_page import html_text

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def mail_sections(path: Path) -> Iterator[Section]:
    """Return headers, body and names of attachments as one section.

    Raises:
        FileUnreadable: the file is larger than a text may be.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise FileUnreadable(f"The e-mail has more than {MAX_TEXT_BYTES // 1_000_000} MB.")
    with path.open("rb") as file:
        message = BytesParser(EmailMessage, policy=policy.default).parse(file)
    headers = [f"{name}: {message[name]}" for name in _HEADERS if message[name]]
    names = [name for part in message.iter_attachments() if (name := part.get_filename())]
    attached = [f"Attachments: {', '.join(names)}"] if names else []
    yield Section("\n\n".join(["\n".join(headers), _body(message), *attached]))


def _body(message: EmailMessage) -> str:
    """Return the plain-text body if there is one, else the text of the HTML body."""
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        text = data.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeDecodeError):  # The charset is unknown or wrong.
        text = decoded(data)
    return html_text(text) if part.get_content_type() == "text/html" else text
