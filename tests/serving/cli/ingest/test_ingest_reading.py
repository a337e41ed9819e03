"""Reading a file that changes meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.cli.ingest.reading import Unreadable, reading

SIZE = 3_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(os.urandom(SIZE))
    return made


def hashed(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"other")


def shorten(file: Path) -> None:
    os.truncate(file, SIZE // 2)


def replace(file: Path) -> None:
    new = file.with_name("new")
    new.write_text("new")
    new.replace(file)


@pytest.mark.parametrize("change", [append, replace, Path.unlink])
def test_file_is_read_again_as_it_was_when_it_was_opened(
    file: Path, change: Callable[[Path], None]
) -> None:
    raw = file.read_bytes()
    with reading(file) as opened:
        sha256 = opened.sha256()
        change(file)
        opened.seek(0)
        assert (sha256, opened.read()) == (hashed(raw), raw)
        opened.check(sha256)


@pytest.mark.parametrize(
    ("change", "told"), [(shorten, "became shorter"), (overwrite, "changed while it was read")]
)
def test_file_that_has_other_bytes_the_second_time_is_refused(
    file: Path, change: Callable[[Path], None], told: str
) -> None:
    def read_twice() -> None:
        with reading(file) as opened:
            sha256 = opened.sha256()
            change(file)
            opened.seek(0)
            opened.read()
            opened.check(sha256)

    with pytest.raises(Unreadable, match=told):
        read_twice()


def test_length_is_told_as_clients_ask_for_it(file: Path) -> None:
    with reading(file) as opened:
        opened.sha256()
        append(file)
        assert (opened.tell(), opened.seek(0, os.SEEK_END), opened.seek(7)) == (SIZE, SIZE, 7)
        assert opened.read(3) == file.read_bytes()[7:10]


def test_empty_file_has_the_hash_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with reading(tmp_path / "empty") as opened:
        assert opened.sha256() == hashed(b"")
        opened.check(hashed(b""))
