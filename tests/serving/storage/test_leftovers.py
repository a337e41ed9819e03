"""Rows that a stop could not write: kept completely in the first writable place, and private."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.storage.leftovers import Leftover, Leftovers, lines_of

LINES = ["first", "zweite: ä\u2028, and still the second"]


def leftovers(*folders: Path) -> Leftovers:
    return Leftovers(folders, "usage", what="rows")


def test_lines_are_read_as_they_were_kept(tmp_path: Path) -> None:
    kept = leftovers(tmp_path / "a")
    [told] = kept.keep(LINES)
    [file] = kept.files()
    assert told == Leftover(2, "rows", str(file))
    assert lines_of(file) == LINES


def test_files_of_another_kind_are_not_found(tmp_path: Path) -> None:
    leftovers(tmp_path / "a").keep(LINES)
    assert Leftovers((tmp_path / "a",), "egress", what="entries").files() == []


def test_nothing_is_no_file(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "a").keep([]) == []
    assert not (tmp_path / "a").exists()


def test_files_are_private(tmp_path: Path) -> None:
    leftovers(tmp_path / "a").keep(LINES)
    [file] = leftovers(tmp_path / "a").files()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_second_folder_is_for_when_the_first_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    kept = leftovers(tmp_path / "a", tmp_path / "b")
    [told] = kept.keep(LINES)
    assert told.file is not None
    assert Path(told.file).parent == tmp_path / "b"
    assert len(kept.files()) == 1


def test_what_no_folder_takes_is_lost_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    assert leftovers(tmp_path / "a").keep(LINES) == [Leftover(2, "rows", None)]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_folder_that_others_may_write_to_is_neither_used_nor_believed(
    tmp_path: Path, mode: int
) -> None:
    kept = leftovers(tmp_path / "a")
    kept.keep(LINES)
    (tmp_path / "a").chmod(mode)
    assert kept.files() == []
    assert kept.keep(LINES) == [Leftover(2, "rows", None)]


def test_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "a").symlink_to(tmp_path / "other")
    assert leftovers(tmp_path / "a").keep(LINES) == [Leftover(2, "rows", None)]
    assert list((tmp_path / "other").iterdir()) == []


def test_file_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "gone") == []


def test_state_directories_do_not_share_their_folders(tmp_path: Path) -> None:
    ones = [Leftovers.of(tmp_path / name, "usage", what="rows") for name in ("a", "b")]
    assert len({folder for one in ones for folder in one._folders}) == 4
