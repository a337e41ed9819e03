"""`ringfence ingest` against a stand-in of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from serving.cli.ingest import ingest
from tests.serving.cli.library_stand_in import Library, listening

Ingest = Callable[..., Result]


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("a.txt", "sub/b.md", ".hidden", ".git/config"):
        (root / name).write_text(f"text of {name}")
    (root / "link.txt").symlink_to(root / "a.txt")
    (root / "loop").symlink_to(root)
    return root


@pytest.fixture
def run(library: Library, home: Path) -> Iterator[Ingest]:  # noqa: ARG001  Sets it up.
    app = typer.Typer()
    app.command()(ingest)
    with listening(library) as url:

        def invoke(*arguments: str | Path, code: int = 0) -> Result:
            fixed = ["--store", "manuals", "--url", url, "--key", "rf-key"]
            result = CliRunner().invoke(app, [*map(str, arguments), *fixed])
            assert result.exit_code == code, (result.output, result.exception)
            return result

        yield invoke


def done(result: Result) -> dict[str, str]:
    return {one["path"]: one["done"] for one in json.loads(result.stdout)}


def test_folder_is_put_into_a_store_without_links_and_hidden_files(
    run: Ingest, library: Library, docs: Path
) -> None:
    assert run(docs).stdout == "2 added, 0 updated, 0 unchanged, 0 removed, 0 failed\n"
    assert library.stores == {"vs_1": "manuals"}
    assert library.paths() == {
        "docs/a.txt": b"text of a.txt",
        "docs/sub/b.md": b"text of sub/b.md",
    }


def test_second_run_uploads_nothing(run: Ingest, library: Library, docs: Path) -> None:
    run(docs)
    assert set(done(run(docs, "--json")).values()) == {"unchanged"}
    assert (len(library.uploads), len(library.stores)) == (2, 1)


def test_changed_file_replaces_the_old_one_and_a_gone_one_is_removed(
    run: Ingest, library: Library, docs: Path
) -> None:
    run(docs)
    (docs / "a.txt").write_text("new")
    (docs / "sub/b.md").unlink()
    assert done(run(docs, "--json")) == {"docs/a.txt": "updated", "docs/sub/b.md": "removed"}
    assert library.paths() == {"docs/a.txt": b"new"}
    assert len(library.files) == 1


def test_what_is_not_below_the_given_roots_stays(
    run: Ingest, library: Library, docs: Path, tmp_path: Path
) -> None:
    (tmp_path / "docs2").mkdir()
    (tmp_path / "docs2/c.txt").write_text("c")
    run(docs, tmp_path / "docs2")
    (tmp_path / "docs2/c.txt").unlink()
    (docs / "a.txt").unlink()
    run(docs, "--keep-deleted")
    assert len(library.paths()) == 3
    run(docs)
    assert set(library.paths()) == {"docs/sub/b.md", "docs2/c.txt"}


def test_failure_is_told_with_its_reason_and_the_others_go_on(
    run: Ingest, library: Library, docs: Path
) -> None:
    (docs / "bad.pdf").write_text("broken")
    head, *table = run(docs, code=1).stdout.splitlines()
    assert head == "2 added, 0 updated, 0 unchanged, 0 removed, 1 failed"
    assert table == ["path\treason", "docs/bad.pdf\tThe file is broken."]
    (docs / "bad.pdf").write_text("mended")
    assert done(run(docs, "--json"))["docs/bad.pdf"] == "updated"
    assert len(library.files) == 3


def test_file_that_cannot_be_attached_does_not_stay(
    run: Ingest, library: Library, docs: Path
) -> None:
    library.refuse_attaching = True
    assert set(done(run(docs, "--json", code=1)).values()) == {"failed"}
    assert library.files == {}


def test_patterns_leave_files_and_folders_out(run: Ingest, docs: Path) -> None:
    assert done(run(docs, "--exclude", "sub", "--json")) == {"docs/a.txt": "added"}
    assert set(done(run(docs, "--exclude", "*.txt", "--json", "--keep-deleted"))) == {
        "docs/sub/b.md"
    }


def test_access_and_privacy_are_sent_with_the_file(
    run: Ingest, library: Library, docs: Path
) -> None:
    run(docs / "a.txt", "--access", "group:staff", "--access", "user:jo", "--privacy", "open")
    (form,) = library.uploads
    for name, value in (("access", '["group:staff", "user:jo"]'), ("privacy", "open")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in form


def test_two_paths_of_the_same_name_are_refused(run: Ingest, docs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "docs"
    other.mkdir(parents=True)
    assert "same name" in run(docs, other, code=2).stderr


def test_store_name_that_two_have_is_refused(run: Ingest, library: Library, docs: Path) -> None:
    library.stores.update(vs_1="manuals", vs_2="manuals")
    assert "2 vector stores are named 'manuals'" in run(docs, code=1).stderr
