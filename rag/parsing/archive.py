"""Checks of Office files, which are zip archives of XML, before a library opens them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO
from xml.parsers import expat

from rag.errors import FileUnreadable

MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 512 * 1024**2
MAX_RATIO = 200
"""Maximum ratio of unpacked to packed size, over all members; ordinary sheets reach 50."""

_SMALL_BYTES = 10 * 1024**2
"""Unpacked size up to which any ratio is accepted."""

_BLOCK_BYTES = 65_536
_XML_NAMES = (".xml", ".rels", ".vml")


def check_archive(path: Path) -> None:
    """Check the directory of a zip archive, and the beginning of its XML members.

    Raises:
        FileUnreadable: the archive is damaged, encrypted, too large unpacked, or declares entities.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, path.stat().st_size)
            for member in members:
                if member.filename.lower().endswith(_XML_NAMES):
                    with archive.open(member) as content:
                        _check_prolog(content)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise FileUnreadable("The file is damaged: it cannot be unpacked.") from error
    except RuntimeError as error:  # zipfile raises it for a member with a password.
        raise FileUnreadable("The file is encrypted; upload it without a password.") from error


def _check_sizes(members: list[zipfile.ZipInfo], packed: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS:
        raise FileUnreadable(f"The file has more than {MAX_MEMBERS:,} parts inside.")
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > _SMALL_BYTES and unpacked > MAX_RATIO * packed):
        raise FileUnreadable("The file unpacks to far more than its size, and is not opened.")


def _check_prolog(content: IO[bytes]) -> None:
    """Reject a document type declaration: it can define entities, and Office files have none.

    Reads only up to the root element. Malformed XML is left to the library.
    """
    parser = expat.ParserCreate()
    begun: list[str] = []
    parser.StartElementHandler = lambda name, _: begun.append(name)
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        while not begun and (block := content.read(_BLOCK_BYTES)):
            parser.Parse(block)
    except (expat.ExpatError, LookupError):
        return


def _refuse_document_type(*_: object) -> None:
    raise FileUnreadable("The file declares XML entities, which office files never do.")
