"""`ringfence ingest` against a real gateway: one version of each file, and its source."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.serving.cli.ingest.ingesting import Ingest, done, folder, reasons
from tests.serving.cli.live_gateway import Client


@pytest.fixture
def older(ingest: Ingest, api: Client, docs: Path) -> Path:
    """A folder that an earlier version ingested: paths and hashes, but no sources."""
    ingest(docs)
    store = api.store("manuals")
    for row in api.rows("manuals"):
        kept = {name: row["attributes"][name] for name in ("path", "sha256")}
        path = f"/vector_stores/{store}/files/{row['id']}"
        api.http.post(path, json={"attributes": kept}).raise_for_status()
    api.live.tap.seen.clear()
    return docs


def test_files_of_an_earlier_version_are_taken_over_if_they_are_the_same(
    ingest: Ingest, api: Client, older: Path
) -> None:
    told = ingest(older, "--json")
    assert (set(done(told).values()), told.stderr) == ({"unchanged"}, "")
    assert set(api.contents("manuals")) == {f"{older}:docs/a.txt", f"{older}:docs/sub/b.md"}
    assert api.live.tap.uploads() == 0


def test_files_of_an_earlier_version_that_may_be_another_folder_s_stay(
    ingest: Ingest, api: Client, older: Path, tmp_path: Path
) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt", text="other")
    told = ingest(other, "--yes")
    assert "2 files that an earlier version took from a folder named 'docs'" in told.stderr
    assert "--remove docs" in told.stderr
    assert set(api.contents("manuals")) == {
        "None:docs/a.txt", "None:docs/sub/b.md", f"{other}:docs/a.txt",
    }  # fmt: skip
    assert [one["source"] for one in json.loads(ingest("--list", "--json").stdout)] == [
        str(other), "docs",
    ]  # fmt: skip
    assert ingest(older, "--json").stderr == ""
    assert len(api.rows("manuals")) == 3


def test_file_that_failed_again_and_again_in_an_earlier_version_is_there_once(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ingest(docs)
    (docs / "empty.txt").write_text("")
    kept = {"path": "docs/empty.txt", "sha256": hashlib.sha256(b"").hexdigest()}
    for _ in range(3):
        api.attach(api.store("manuals"), "empty.txt", "", kept)
    assert ingest(docs, code=1).stderr == ""
    assert f"{docs}:docs/empty.txt" in api.contents("manuals")
    assert len(api.all("/files")) == 3


def test_files_of_an_earlier_version_leave_by_their_name(
    ingest: Ingest, api: Client, older: Path
) -> None:
    (older / "a.txt").write_text("new")
    ingest(older)
    assert set(api.contents("manuals")) == {
        "None:docs/a.txt", f"{older}:docs/a.txt", f"{older}:docs/sub/b.md",
    }  # fmt: skip
    ingest("--remove", "docs", "--yes")
    assert set(api.contents("manuals")) == {f"{older}:docs/a.txt", f"{older}:docs/sub/b.md"}


def test_name_that_an_earlier_version_used_goes_on(
    ingest: Ingest, api: Client, older: Path
) -> None:
    (older / "a.txt").write_text("new")
    told = ingest(older, "--source", "docs", "--json")
    assert done(told) == {"docs/a.txt": "updated", "docs/sub/b.md": "unchanged"}
    assert set(api.contents("manuals")) == {"docs:docs/a.txt", "docs:docs/sub/b.md"}


def test_other_stores_keep_a_file_that_is_updated_or_removed(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ingest(docs)
    shelf = api.http.post("/vector_stores", json={"name": "shelf"}).json()["id"]
    for row in api.rows("manuals"):
        body = {"file_id": row["id"], "attributes": row["attributes"]}
        api.http.post(f"/vector_stores/{shelf}/files", json=body).raise_for_status()
    before = api.contents("shelf")
    (docs / "a.txt").write_text("new")
    (docs / "sub/b.md").unlink()
    assert set(done(ingest(docs, "--json")).values()) == {"updated", "removed"}
    assert api.contents("shelf") == before
    assert api.contents("manuals") == {f"{docs}:docs/a.txt": b"new"}


def test_failure_is_told_with_its_reason_and_the_others_go_on(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4\nbroken")
    head, *table = ingest(docs, code=1).stdout.splitlines()
    assert head == "2 added, 0 updated, 0 unchanged, 0 removed, 1 failed"
    assert table == ["path\treason", "docs/bad.pdf\tThe file is damaged: it cannot be read."]
    (docs / "bad.pdf").write_text("mended")
    assert done(ingest(docs, "--json"))["docs/bad.pdf"] == "updated"
    assert len(api.all("/files")) == 3


def test_file_that_failed_is_there_once_and_is_not_uploaded_again(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    (docs / "empty.txt").write_text("")
    for _ in range(3):
        assert reasons(ingest(docs, "--json", code=1)) == {
            "docs/empty.txt": "The file has no text."
        }
        assert (len(api.rows("manuals")), len(api.all("/files"))) == (3, 3)
    assert api.live.tap.uploads() == 3


def test_version_that_fails_does_not_replace_a_good_one(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ingest(docs)
    for _ in range(2):
        (docs / "a.txt").write_text("")
        assert reasons(ingest(docs, "--json", code=1)) == {"docs/a.txt": "The file has no text."}
        assert api.contents("manuals")[f"{docs}:docs/a.txt"] == b"text of a.txt"
        assert len(api.all("/files")) == 2


def test_one_failed_version_replaces_another(ingest: Ingest, api: Client, docs: Path) -> None:
    for text in ("", " ", "  "):
        (docs / "a.txt").write_text(text)
        ingest(docs, code=1)
        assert len(api.all("/files")) == len(api.contents("manuals")) == 2


def test_file_that_is_tried_again_has_the_rights_of_the_new_run(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    (docs / "a.txt").write_text("")
    ingest(docs / "a.txt", code=1)
    ingest(
        docs / "a.txt", "--access", "group:staff", "--access", "tenant", "--privacy", "open", code=1
    )
    (file,) = api.all("/files")
    assert (file["access"], file["privacy"]) == (["group:staff", "tenant"], "open")


def test_file_that_cannot_be_attached_does_not_stay(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    attach = re.compile(r"POST /v1/vector_stores/.+/files")
    api.live.tap.refuses = lambda line: attach.fullmatch(line) is not None
    assert set(reasons(ingest(docs, "--json", code=1)).values()) == {"It is refused."}
    assert api.all("/files") == []


def test_access_and_privacy_are_the_file_s(ingest: Ingest, api: Client, docs: Path) -> None:
    given = ["--access", "group:staff", "--access", "tenant", "--privacy", "open"]
    ingest(docs / "a.txt", *given)
    (file,) = api.all("/files")
    assert (file["access"], file["privacy"]) == (["group:staff", "tenant"], "open")
