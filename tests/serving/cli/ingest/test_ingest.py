"""`ringfence ingest` against a real gateway: sources, and what is added and removed."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from tests.serving.cli.ingest.ingesting import Ingest, done, folder
from tests.serving.cli.live_gateway import WITHIN_S, Client


def test_folder_is_put_into_a_store_without_links_and_hidden_files(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    folder(docs, ".hidden", ".git/config")
    (docs / "link.txt").symlink_to(docs / "a.txt")
    (docs / "loop").symlink_to(docs)
    assert ingest(docs).stdout == "2 added, 0 updated, 0 unchanged, 0 removed, 0 failed\n"
    assert api.contents("manuals") == {
        f"{docs}:docs/a.txt": b"text of a.txt",
        f"{docs}:docs/sub/b.md": b"text of sub/b.md",
    }


def test_second_run_uploads_nothing(ingest: Ingest, api: Client, docs: Path) -> None:
    ingest(docs)
    assert set(done(ingest(docs, "--json")).values()) == {"unchanged"}
    assert api.live.tap.uploads() == 2


def test_changed_file_replaces_the_old_one_and_a_gone_one_is_removed(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ingest(docs)
    (docs / "a.txt").write_text("new")
    (docs / "sub/b.md").unlink()
    assert done(ingest(docs, "--json")) == {"docs/a.txt": "updated", "docs/sub/b.md": "removed"}
    assert api.contents("manuals") == {f"{docs}:docs/a.txt": b"new"}
    assert len(api.all("/files")) == 1


def test_folder_of_the_same_name_elsewhere_is_another_source(
    ingest: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt", "c.txt", text="other")
    ingest(docs)
    assert done(ingest(other, "--json")) == {"docs/a.txt": "added", "docs/c.txt": "added"}
    assert api.contents("manuals") == {
        f"{docs}:docs/a.txt": b"text of a.txt",
        f"{docs}:docs/sub/b.md": b"text of sub/b.md",
        f"{other}:docs/a.txt": b"other a.txt",
        f"{other}:docs/c.txt": b"other c.txt",
    }
    assert set(done(ingest(docs, other, "--json")).values()) == {"unchanged"}


def test_source_is_the_same_however_its_path_is_written(
    ingest: Ingest, api: Client, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(docs)
    (tmp_path / "link").symlink_to(docs)
    monkeypatch.chdir(docs)
    for path in (".", "../docs/", tmp_path / "link", docs / "sub" / ".."):
        assert set(done(ingest(path, docs, "--json")).values()) == {"unchanged"}
    assert len(api.rows("manuals")) == 2


def test_folder_inside_a_source_is_a_source_of_its_own(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ingest(docs, "--exclude", "sub")
    ingest(docs / "sub")
    assert done(ingest(docs, "--exclude", "sub", "--json")) == {"docs/a.txt": "unchanged"}
    assert set(api.contents("manuals")) == {f"{docs}:docs/a.txt", f"{docs / 'sub'}:sub/b.md"}


def test_two_sources_of_one_run_are_told_apart(ingest: Ingest, docs: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt")
    told = json.loads(ingest(docs, other, "--json").stdout)
    assert [one["source"] for one in told if one["path"] == "docs/a.txt"] == [str(docs), str(other)]
    (other / "bad.txt").write_text("")
    table = ingest(docs, other, code=1).stdout.splitlines()[1:]
    assert table == ["source\tpath\treason", f"{other}\tdocs/bad.txt\tThe file has no text."]


def test_named_source_goes_on_from_another_place(
    ingest: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    ingest(docs, "--source", "guides")
    moved = docs.rename(tmp_path / "moved")
    told = done(ingest(moved, "--source", "guides", "--json"))
    assert told == {"guides/a.txt": "unchanged", "guides/sub/b.md": "unchanged"}
    assert set(api.contents("manuals")) == {"guides:guides/a.txt", "guides:guides/sub/b.md"}


def test_named_source_may_be_one_file(ingest: Ingest, api: Client, docs: Path) -> None:
    ingest(docs / "a.txt", "--source", "guides")
    assert set(api.contents("manuals")) == {"guides:guides/a.txt"}


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--list", "DOCS"], ["--list", "--remove", "x"], ["--remove", "x", "DOCS"],
        ["--source", "x", "--list"], ["--source", "x", "DOCS", "DOCS/sub"],
        ["--source", "", "DOCS"], ["--source", "/x", "DOCS"], ["--source", "a/b", "DOCS"],
        ["--source", "a\nb", "DOCS"], ["--source", "x" * 129, "DOCS"], ["--store", "", "DOCS"],
        ["--source", "\udcff", "DOCS"], ["--store", "\udcff", "DOCS"], ["DOCS", "DOCS/nowhere"],
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant_are_refused(
    ingest: Ingest, api: Client, docs: Path, arguments: list[str]
) -> None:
    given = [one.replace("DOCS", str(docs)) for one in arguments]
    assert ingest(*given, code=2).stderr
    assert api.all("/vector_stores") == []


def test_sources_are_listed_with_what_became_of_their_files(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    (docs / "empty.txt").write_text("")
    ingest(docs, code=1)
    ingest(docs / "sub", "--source", "guides")
    api.attach(api.store("manuals"), "c.txt", "text", {"path": "docs/c.txt", "year": 2026})
    listed = {one.pop("source"): one for one in json.loads(ingest("--list", "--json").stdout)}
    assert listed[str(docs)] == {"files": 3, "completed": 2, "in_progress": 0, "failed": 1}
    assert listed["guides"]["files"] == 1
    assert listed[None]["files"] == 1
    lines = ingest("--list").stdout.splitlines()
    assert lines[:2] == ["source\tfiles\tcompleted\tin_progress\tfailed", f"{docs}\t3\t2\t0\t1"]


@pytest.mark.parametrize("arguments", [["--list"], ["--remove", "x"]])
def test_store_that_is_not_there_is_not_made_to_be_looked_at(
    ingest: Ingest, api: Client, arguments: list[str]
) -> None:
    assert "no vector store is named 'manuals'" in ingest(*arguments, code=1).stderr
    assert api.all("/vector_stores") == []


@pytest.fixture
def shrunk(ingest: Ingest, docs: Path) -> Path:
    """A folder that has lost more than half of its ingested files, and has a new one."""
    folder(docs, "c.txt")
    ingest(docs)
    for name in ("a.txt", "c.txt"):
        (docs / name).unlink()
    return folder(docs, "new.txt")


def test_more_than_half_of_a_source_is_not_removed_unasked(
    ingest: Ingest, api: Client, shrunk: Path
) -> None:
    before = api.contents("manuals")
    told = ingest(shrunk, code=1)
    assert f"2 of 3 files of the source '{shrunk}' would be removed" in told.stderr
    assert "--yes" in told.stderr
    assert api.contents("manuals") == before


def test_more_than_half_is_removed_if_that_is_said_before(
    ingest: Ingest, api: Client, shrunk: Path
) -> None:
    assert set(done(ingest(shrunk, "--json", "--keep-deleted")).values()) == {"added", "unchanged"}
    ingest(shrunk, "--yes")
    assert set(api.contents("manuals")) == {f"{shrunk}:docs/new.txt", f"{shrunk}:docs/sub/b.md"}


def test_half_of_a_source_is_removed_unasked(ingest: Ingest, docs: Path) -> None:
    ingest(docs)
    (docs / "a.txt").unlink()
    assert done(ingest(docs, "--json")) == {"docs/a.txt": "removed", "docs/sub/b.md": "unchanged"}


def test_each_source_of_a_run_is_asked_for_by_itself(
    ingest: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    small = folder(tmp_path / "small", "only.txt")
    ingest(docs, small)
    (small / "only.txt").unlink()
    assert "1 of 1 files" in ingest(docs, small, code=1).stderr
    assert len(api.rows("manuals")) == 3


@pytest.mark.parametrize(("answer", "left"), [("y", 2), ("n", 3)])
def test_person_at_a_terminal_is_asked(api: Client, shrunk: Path, answer: str, left: int) -> None:
    master, terminal = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    process = api.start(shrunk, "--store", "manuals", stdin=terminal)
    _, told = process.communicate(timeout=WITHIN_S)
    os.close(terminal)
    os.close(master)
    assert "Remove them? [y/N]" in told
    assert (process.returncode, len(api.rows("manuals"))) == (int(answer == "n"), left)


def test_source_is_removed_by_its_name(
    ingest: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    ingest(docs, folder(tmp_path / "two" / "docs", "a.txt"))
    assert "2 of 2 files" in ingest("--remove", docs, code=1).stderr
    assert len(api.rows("manuals")) == 3
    assert set(done(ingest("--remove", docs, "--yes", "--json")).values()) == {"removed"}
    assert set(api.contents("manuals")) == {f"{tmp_path}/two/docs:docs/a.txt"}
    assert "has no source 'docs'" in ingest("--remove", "docs", "--yes", code=1).stderr


def test_patterns_leave_files_and_folders_out(ingest: Ingest, docs: Path) -> None:
    assert done(ingest(docs, "--exclude", "sub", "--json")) == {"docs/a.txt": "added"}
    assert set(done(ingest(docs, "--exclude", "*.txt", "--json", "--keep-deleted"))) == {
        "docs/sub/b.md"
    }
