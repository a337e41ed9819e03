"""`ringfence ingest` against a real gateway: what stores hold after it, and what it tells."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pty
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from serving.cli.ingest import ingest
from serving.cli.ingest_plan import Contents, Plan, Source, plan
from serving.cli.ingest_run import Run
from serving.cli.library_client import LibraryClient
from tests.serving.cli.live_gateway import WITHIN_S, Client, Live, client, gateway

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
"""Of Linux's <sys/prctl.h> and <sys/capability.h>."""

Ingest = Callable[..., Result]


@pytest.fixture(scope="module")
def live(embedded_valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with gateway(tmp_path_factory.mktemp("gateway"), embedded_valkey_url) as running:
        yield running


@pytest.fixture
def api(live: Live, home: Path) -> Iterator[Client]:
    live.tap.seen.clear()
    with client(live, home) as made:
        yield made
    live.tap.refuses = lambda _: False


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return folder(tmp_path / "one" / "docs", "a.txt", "sub/b.md")


@pytest.fixture
def run(api: Client) -> Ingest:
    app = typer.Typer()
    app.command()(ingest)

    def invoke(*arguments: str | Path, code: int = 0, key: str = api.key) -> Result:
        fixed = ["--store", "manuals", "--url", api.live.url, "--key", key]
        result = CliRunner().invoke(app, [*fixed, *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def folder(root: Path, *names: str, text: str = "text of") -> Path:
    """A folder with a file of each name."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text} {name}")
    return root


def done(result: Result) -> dict[str, str]:
    return {one["path"]: one["done"] for one in json.loads(result.stdout)}


def reasons(result: Result) -> dict[str, str]:
    """Of what failed."""
    told = json.loads(result.stdout)
    return {one["path"]: one["reason"] for one in told if one["done"] == "failed"}


def test_folder_is_put_into_a_store_without_links_and_hidden_files(
    run: Ingest, api: Client, docs: Path
) -> None:
    folder(docs, ".hidden", ".git/config")
    (docs / "link.txt").symlink_to(docs / "a.txt")
    (docs / "loop").symlink_to(docs)
    assert run(docs).stdout == "2 added, 0 updated, 0 unchanged, 0 removed, 0 failed\n"
    assert api.contents("manuals") == {
        f"{docs}:docs/a.txt": b"text of a.txt",
        f"{docs}:docs/sub/b.md": b"text of sub/b.md",
    }


def test_second_run_uploads_nothing(run: Ingest, api: Client, docs: Path) -> None:
    run(docs)
    assert set(done(run(docs, "--json")).values()) == {"unchanged"}
    assert api.live.tap.uploads() == 2


def test_changed_file_replaces_the_old_one_and_a_gone_one_is_removed(
    run: Ingest, api: Client, docs: Path
) -> None:
    run(docs)
    (docs / "a.txt").write_text("new")
    (docs / "sub/b.md").unlink()
    assert done(run(docs, "--json")) == {"docs/a.txt": "updated", "docs/sub/b.md": "removed"}
    assert api.contents("manuals") == {f"{docs}:docs/a.txt": b"new"}
    assert len(api.all("/files")) == 1


def test_folder_of_the_same_name_elsewhere_is_another_source(
    run: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt", "c.txt", text="other")
    run(docs)
    assert done(run(other, "--json")) == {"docs/a.txt": "added", "docs/c.txt": "added"}
    assert api.contents("manuals") == {
        f"{docs}:docs/a.txt": b"text of a.txt",
        f"{docs}:docs/sub/b.md": b"text of sub/b.md",
        f"{other}:docs/a.txt": b"other a.txt",
        f"{other}:docs/c.txt": b"other c.txt",
    }
    assert set(done(run(docs, other, "--json")).values()) == {"unchanged"}


def test_source_is_the_same_however_its_path_is_written(
    run: Ingest, api: Client, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(docs)
    (tmp_path / "link").symlink_to(docs)
    monkeypatch.chdir(docs)
    for path in (".", "../docs/", tmp_path / "link", docs / "sub" / ".."):
        assert set(done(run(path, docs, "--json")).values()) == {"unchanged"}
    assert len(api.rows("manuals")) == 2


def test_folder_inside_a_source_is_a_source_of_its_own(
    run: Ingest, api: Client, docs: Path
) -> None:
    run(docs, "--exclude", "sub")
    run(docs / "sub")
    assert done(run(docs, "--exclude", "sub", "--json")) == {"docs/a.txt": "unchanged"}
    assert set(api.contents("manuals")) == {f"{docs}:docs/a.txt", f"{docs / 'sub'}:sub/b.md"}


def test_two_sources_of_one_run_are_told_apart(run: Ingest, docs: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt")
    told = json.loads(run(docs, other, "--json").stdout)
    assert [one["source"] for one in told if one["path"] == "docs/a.txt"] == [str(docs), str(other)]
    (other / "bad.txt").write_text("")
    table = run(docs, other, code=1).stdout.splitlines()[1:]
    assert table == ["source\tpath\treason", f"{other}\tdocs/bad.txt\tThe file has no text."]


def test_named_source_goes_on_from_another_place(
    run: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    run(docs, "--source", "guides")
    moved = docs.rename(tmp_path / "moved")
    told = done(run(moved, "--source", "guides", "--json"))
    assert told == {"guides/a.txt": "unchanged", "guides/sub/b.md": "unchanged"}
    assert set(api.contents("manuals")) == {"guides:guides/a.txt", "guides:guides/sub/b.md"}


def test_named_source_may_be_one_file(run: Ingest, api: Client, docs: Path) -> None:
    run(docs / "a.txt", "--source", "guides")
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
    run: Ingest, api: Client, docs: Path, arguments: list[str]
) -> None:
    given = [one.replace("DOCS", str(docs)) for one in arguments]
    assert run(*given, code=2).stderr
    assert api.all("/vector_stores") == []


def test_sources_are_listed_with_what_became_of_their_files(
    run: Ingest, api: Client, docs: Path
) -> None:
    (docs / "empty.txt").write_text("")
    run(docs, code=1)
    run(docs / "sub", "--source", "guides")
    api.attach(api.store("manuals"), "c.txt", "text", {"path": "docs/c.txt", "year": 2026})
    listed = {one.pop("source"): one for one in json.loads(run("--list", "--json").stdout)}
    assert listed[str(docs)] == {"files": 3, "completed": 2, "in_progress": 0, "failed": 1}
    assert listed["guides"]["files"] == 1
    assert listed[None]["files"] == 1
    lines = run("--list").stdout.splitlines()
    assert lines[:2] == ["source\tfiles\tcompleted\tin_progress\tfailed", f"{docs}\t3\t2\t0\t1"]


@pytest.mark.parametrize("arguments", [["--list"], ["--remove", "x"]])
def test_store_that_is_not_there_is_not_made_to_be_looked_at(
    run: Ingest, api: Client, arguments: list[str]
) -> None:
    assert "no vector store is named 'manuals'" in run(*arguments, code=1).stderr
    assert api.all("/vector_stores") == []


@pytest.fixture
def shrunk(run: Ingest, docs: Path) -> Path:
    """A folder of which more than half is gone since it was ingested, and a file is new."""
    folder(docs, "c.txt")
    run(docs)
    for name in ("a.txt", "c.txt"):
        (docs / name).unlink()
    return folder(docs, "new.txt")


def test_more_than_half_of_a_source_is_not_removed_unasked(
    run: Ingest, api: Client, shrunk: Path
) -> None:
    before = api.contents("manuals")
    told = run(shrunk, code=1)
    assert f"2 of 3 files of the source '{shrunk}' would be removed" in told.stderr
    assert "--yes" in told.stderr
    assert api.contents("manuals") == before


def test_more_than_half_is_removed_if_that_is_said_before(
    run: Ingest, api: Client, shrunk: Path
) -> None:
    assert set(done(run(shrunk, "--json", "--keep-deleted")).values()) == {"added", "unchanged"}
    run(shrunk, "--yes")
    assert set(api.contents("manuals")) == {f"{shrunk}:docs/new.txt", f"{shrunk}:docs/sub/b.md"}


def test_half_of_a_source_is_removed_unasked(run: Ingest, docs: Path) -> None:
    run(docs)
    (docs / "a.txt").unlink()
    assert done(run(docs, "--json")) == {"docs/a.txt": "removed", "docs/sub/b.md": "unchanged"}


def test_each_source_of_a_run_is_asked_for_by_itself(
    run: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    small = folder(tmp_path / "small", "only.txt")
    run(docs, small)
    (small / "only.txt").unlink()
    assert "1 of 1 files" in run(docs, small, code=1).stderr
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
    run: Ingest, api: Client, docs: Path, tmp_path: Path
) -> None:
    run(docs, folder(tmp_path / "two" / "docs", "a.txt"))
    assert "2 of 2 files" in run("--remove", docs, code=1).stderr
    assert len(api.rows("manuals")) == 3
    assert set(done(run("--remove", docs, "--yes", "--json")).values()) == {"removed"}
    assert set(api.contents("manuals")) == {f"{tmp_path}/two/docs:docs/a.txt"}
    assert "has no source 'docs'" in run("--remove", "docs", "--yes", code=1).stderr


@pytest.fixture
def older(run: Ingest, api: Client, docs: Path) -> Path:
    """A folder that an earlier version ingested: paths and hashes, but no sources."""
    run(docs)
    store = api.store("manuals")
    for row in api.rows("manuals"):
        kept = {name: row["attributes"][name] for name in ("path", "sha256")}
        path = f"/vector_stores/{store}/files/{row['id']}"
        api.http.post(path, json={"attributes": kept}).raise_for_status()
    api.live.tap.seen.clear()
    return docs


def test_files_of_an_earlier_version_are_taken_over_if_they_are_the_same(
    run: Ingest, api: Client, older: Path
) -> None:
    told = run(older, "--json")
    assert (set(done(told).values()), told.stderr) == ({"unchanged"}, "")
    assert set(api.contents("manuals")) == {f"{older}:docs/a.txt", f"{older}:docs/sub/b.md"}
    assert api.live.tap.uploads() == 0


def test_files_of_an_earlier_version_that_may_be_another_folder_s_stay(
    run: Ingest, api: Client, older: Path, tmp_path: Path
) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt", text="other")
    told = run(other, "--yes")
    assert "2 files that an earlier version took from a folder named 'docs'" in told.stderr
    assert "--remove docs" in told.stderr
    assert set(api.contents("manuals")) == {
        "None:docs/a.txt", "None:docs/sub/b.md", f"{other}:docs/a.txt",
    }  # fmt: skip
    assert [one["source"] for one in json.loads(run("--list", "--json").stdout)] == [
        str(other), "docs",
    ]  # fmt: skip
    assert run(older, "--json").stderr == ""
    assert len(api.rows("manuals")) == 3


def test_file_that_failed_again_and_again_in_an_earlier_version_is_there_once(
    run: Ingest, api: Client, docs: Path
) -> None:
    run(docs)
    (docs / "empty.txt").write_text("")
    kept = {"path": "docs/empty.txt", "sha256": hashlib.sha256(b"").hexdigest()}
    for _ in range(3):
        api.attach(api.store("manuals"), "empty.txt", "", kept)
    assert run(docs, code=1).stderr == ""
    assert f"{docs}:docs/empty.txt" in api.contents("manuals")
    assert len(api.all("/files")) == 3


def test_files_of_an_earlier_version_leave_by_their_name(
    run: Ingest, api: Client, older: Path
) -> None:
    (older / "a.txt").write_text("new")
    run(older)
    assert set(api.contents("manuals")) == {
        "None:docs/a.txt", f"{older}:docs/a.txt", f"{older}:docs/sub/b.md",
    }  # fmt: skip
    run("--remove", "docs", "--yes")
    assert set(api.contents("manuals")) == {f"{older}:docs/a.txt", f"{older}:docs/sub/b.md"}


def test_name_that_an_earlier_version_used_goes_on(run: Ingest, api: Client, older: Path) -> None:
    (older / "a.txt").write_text("new")
    told = run(older, "--source", "docs", "--json")
    assert done(told) == {"docs/a.txt": "updated", "docs/sub/b.md": "unchanged"}
    assert set(api.contents("manuals")) == {"docs:docs/a.txt", "docs:docs/sub/b.md"}


def test_other_stores_keep_a_file_that_is_updated_or_removed(
    run: Ingest, api: Client, docs: Path
) -> None:
    run(docs)
    shelf = api.http.post("/vector_stores", json={"name": "shelf"}).json()["id"]
    for row in api.rows("manuals"):
        body = {"file_id": row["id"], "attributes": row["attributes"]}
        api.http.post(f"/vector_stores/{shelf}/files", json=body).raise_for_status()
    before = api.contents("shelf")
    (docs / "a.txt").write_text("new")
    (docs / "sub/b.md").unlink()
    assert set(done(run(docs, "--json")).values()) == {"updated", "removed"}
    assert api.contents("shelf") == before
    assert api.contents("manuals") == {f"{docs}:docs/a.txt": b"new"}


def test_failure_is_told_with_its_reason_and_the_others_go_on(
    run: Ingest, api: Client, docs: Path
) -> None:
    (docs / "bad.pdf").write_bytes(b"%PDF-1.4\nbroken")
    head, *table = run(docs, code=1).stdout.splitlines()
    assert head == "2 added, 0 updated, 0 unchanged, 0 removed, 1 failed"
    assert table == ["path\treason", "docs/bad.pdf\tThe file is damaged: it cannot be read."]
    (docs / "bad.pdf").write_text("mended")
    assert done(run(docs, "--json"))["docs/bad.pdf"] == "updated"
    assert len(api.all("/files")) == 3


def test_file_that_failed_is_there_once_and_is_not_uploaded_again(
    run: Ingest, api: Client, docs: Path
) -> None:
    (docs / "empty.txt").write_text("")
    for _ in range(3):
        assert reasons(run(docs, "--json", code=1)) == {"docs/empty.txt": "The file has no text."}
        assert (len(api.rows("manuals")), len(api.all("/files"))) == (3, 3)
    assert api.live.tap.uploads() == 3


def test_version_that_fails_does_not_replace_a_good_one(
    run: Ingest, api: Client, docs: Path
) -> None:
    run(docs)
    for _ in range(2):
        (docs / "a.txt").write_text("")
        assert reasons(run(docs, "--json", code=1)) == {"docs/a.txt": "The file has no text."}
        assert api.contents("manuals")[f"{docs}:docs/a.txt"] == b"text of a.txt"
        assert len(api.all("/files")) == 2


def test_one_failed_version_replaces_another(run: Ingest, api: Client, docs: Path) -> None:
    for text in ("", " ", "  "):
        (docs / "a.txt").write_text(text)
        run(docs, code=1)
        assert len(api.all("/files")) == len(api.contents("manuals")) == 2


def test_file_that_is_tried_again_has_the_rights_of_the_new_run(
    run: Ingest, api: Client, docs: Path
) -> None:
    (docs / "a.txt").write_text("")
    run(docs / "a.txt", code=1)
    run(
        docs / "a.txt", "--access", "group:staff", "--access", "tenant", "--privacy", "open", code=1
    )
    (file,) = api.all("/files")
    assert (file["access"], file["privacy"]) == (["group:staff", "tenant"], "open")


def test_file_that_cannot_be_attached_does_not_stay(run: Ingest, api: Client, docs: Path) -> None:
    attach = re.compile(r"POST /v1/vector_stores/.+/files")
    api.live.tap.refuses = lambda line: attach.fullmatch(line) is not None
    assert set(reasons(run(docs, "--json", code=1)).values()) == {"It is refused."}
    assert api.all("/files") == []


def test_patterns_leave_files_and_folders_out(run: Ingest, docs: Path) -> None:
    assert done(run(docs, "--exclude", "sub", "--json")) == {"docs/a.txt": "added"}
    assert set(done(run(docs, "--exclude", "*.txt", "--json", "--keep-deleted"))) == {
        "docs/sub/b.md"
    }


def test_access_and_privacy_are_the_file_s(run: Ingest, api: Client, docs: Path) -> None:
    given = ["--access", "group:staff", "--access", "tenant", "--privacy", "open"]
    run(docs / "a.txt", *given)
    (file,) = api.all("/files")
    assert (file["access"], file["privacy"]) == (["group:staff", "tenant"], "open")


def test_store_name_that_two_have_is_refused_until_one_is_chosen(
    run: Ingest, api: Client, docs: Path
) -> None:
    ids = [api.http.post("/vector_stores", json={"name": "manuals"}).json()["id"] for _ in "ab"]
    told = run(docs, code=1).stderr
    assert "2 vector stores are named 'manuals'" in told
    assert all(one in told for one in ids)
    assert api.live.tap.uploads() == 0
    run(docs, "--store", ids[1])
    assert [len(api.all(f"/vector_stores/{one}/files")) for one in ids] == [0, 2]


def test_id_of_no_store_is_not_taken_for_a_name(run: Ingest, api: Client, docs: Path) -> None:
    nobody = f"vs_{'0' * 32}"
    assert f"no vector store has the id {nobody}" in run(docs, "--store", nobody, code=1).stderr
    assert api.all("/vector_stores") == []


def told_by(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, str]]]:
    """Exit code and outcomes of a run in a process, which leaves nothing else on its outputs."""
    stdout, stderr = process.communicate(timeout=WITHIN_S)
    assert stderr == ""
    return process.returncode, json.loads(stdout)


@pytest.mark.full  # Processes of their own take long to start.
def test_first_runs_at_once_make_one_store_of_each_name(
    api: Client, docs: Path, tmp_path: Path
) -> None:
    other = folder(tmp_path / "two" / "docs", "a.txt", "c.txt")
    runs = [("manuals", docs), ("manuals", docs), ("manuals", other), ("guides", docs)]
    started = [api.start(path, "--store", name, "--json") for name, path in runs]
    assert {told_by(process)[0] for process in started} == {0}
    assert sorted(one["name"] for one in api.all("/vector_stores")) == ["guides", "manuals"]
    ours = {f"{docs}:docs/a.txt", f"{docs}:docs/sub/b.md"}
    assert set(api.contents("guides")) == ours
    others = {f"{other}:docs/a.txt", f"{other}:docs/c.txt"}
    assert set(api.contents("manuals")) == ours | others
    assert len(api.all("/files")) == 6


@pytest.fixture
def library(api: Client) -> Iterator[LibraryClient]:
    """What the command works with, for what happens between two of its steps."""
    with httpx.Client(base_url=f"{api.live.url}/v1", headers=api.http.headers) as http:
        yield LibraryClient(http)


def test_store_that_many_ask_for_at_once_is_one_for_each_name(
    api: Client, library: LibraryClient
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(library.store, ["manuals", "guides"] * 6))
    assert made == [api.store("manuals"), api.store("guides")] * 6


def test_store_is_one_for_each_person_who_reads_no_other_s(live: Live, home: Path) -> None:
    people = [client(live, home, user=user, tenant="several") for user in ("ann", "bob")]
    with people[0] as ann, people[1] as bob:
        library = [LibraryClient(one.http) for one in (ann, bob)]
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda one: one.store("manuals"), library * 4))
        assert made == [ann.store("manuals"), bob.store("manuals")] * 4
        assert made[0] != made[1]


def planned(library: LibraryClient, docs: Path) -> tuple[Run, Plan]:
    """A run that has looked, and has done nothing yet."""
    store = library.store("manuals")
    contents = Contents(library.attached(store))
    todo = plan(contents, [Source.at(docs, None)], exclude=(), keep_deleted=False)
    return Run(library, store, {}), todo


def test_file_that_two_runs_add_at_once_is_there_once(
    run: Ingest, api: Client, docs: Path, library: LibraryClient
) -> None:
    late, todo = planned(library, docs)
    run(docs)
    assert {one.done for one in late.carry_out(todo)} == {"added"}
    assert len(api.contents("manuals")) == len(api.all("/files")) == 2


def test_file_that_another_run_has_replaced_is_waited_for(
    run: Ingest, api: Client, docs: Path, library: LibraryClient
) -> None:
    run(docs)
    late, todo = planned(library, docs)
    first = {row["attributes"]["path"]: row["id"] for row in api.rows("manuals")}
    api.attach(
        api.store("manuals"), "a.txt", "text of a.txt",
        next(row["attributes"] for row in api.rows("manuals") if row["id"] == first["docs/a.txt"]),
    )  # fmt: skip
    api.http.delete(f"/files/{first['docs/a.txt']}").raise_for_status()
    api.http.delete(f"/files/{first['docs/sub/b.md']}").raise_for_status()
    told = {one.path: one.reason for one in late.carry_out(todo)}
    assert told == {
        "docs/a.txt": None,
        "docs/sub/b.md": "it was taken out of the store meanwhile; run this again",
    }


def vanish(file: Path) -> None:
    file.unlink()


def become_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def become_a_link(file: Path) -> None:
    file.rename(file.with_name(".hidden"))
    file.symlink_to(file.with_name(".hidden"))


def become_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


CHANGES = {
    vanish: "No such file or directory",
    become_a_fifo: "not a regular file",
    become_a_link: "Too many levels of symbolic links",
    become_a_folder: "Is a directory",
}


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_is_another_when_it_is_read_fails_alone(
    docs: Path, library: LibraryClient, change: Callable[[Path], None]
) -> None:
    late, todo = planned(library, docs)
    change(docs / "a.txt")
    told = {one.path: (one.done, one.reason) for one in late.carry_out(todo)}
    assert told == {"docs/a.txt": ("failed", CHANGES[change]), "docs/sub/b.md": ("added", None)}


def test_file_that_grows_while_it_is_read_is_there_as_it_was(
    run: Ingest, api: Client, docs: Path
) -> None:
    log, ended = docs / "log.txt", threading.Event()
    log.write_text("line\n" * 20_000)

    def grow() -> None:
        with log.open("a", buffering=1) as opened:
            while not ended.wait(0.001):
                opened.write("line\n")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        told = json.loads(run(log, "--json").stdout)
    finally:
        ended.set()
        writer.join()
    assert [one["done"] for one in told] == ["added"]
    (row,) = api.rows("manuals")
    content = api.content(row["id"])
    assert log.read_bytes().startswith(content)
    assert row["attributes"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_taken_is_named_with_its_reason(
    run: Ingest, api: Client, docs: Path
) -> None:
    (docs / "dead").symlink_to(docs / "nowhere")
    (docs / "ring").symlink_to(docs / "gnir")
    (docs / "gnir").symlink_to(docs / "ring")
    (docs / "self").symlink_to(docs)
    os.mkfifo(docs / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(docs / "socket"))
    (docs / "empty.txt").write_text("")
    folder(docs / Path(*(["x" * 200] * 3)), "deep.txt")
    (docs / os.fsdecode(b"caf\xe9.txt")).touch()
    folder(docs / os.fsdecode(b"f\xe9"), "inside.txt")
    links = "a broken symbolic link"
    assert reasons(run(docs, "--json", code=1)) == {
        "docs/dead": links,
        "docs/ring": links,
        "docs/gnir": links,
        "docs/fifo": "not a regular file",
        "docs/socket": "not a regular file",
        "docs/empty.txt": "The file has no text.",
        "docs/caf\\udce9.txt": "its name is not valid UTF-8",
        "docs/f\\udce9": "its name is not valid UTF-8",
        f"docs/{'x' * 200}/{'x' * 200}/{'x' * 200}": "its path is longer than 512 characters",
    }
    assert len(api.rows("manuals")) == 3


NAMES = (
    "[/red].txt", "a\nb.txt", "tab\there.txt", "\x1b[31m.txt", 'quo"te.txt', "Größe 漢字 😀.txt",
    "back\\slash.txt", "100%.txt", ":smile:.txt", " .txt", "-n.txt", "x" * 251 + ".txt",
)  # fmt: skip


def test_unusual_names_are_names(run: Ingest, api: Client, docs: Path) -> None:
    folder(docs, *NAMES)
    run(docs)
    assert set(done(run(docs, "--json")).values()) == {"unchanged"}
    paths = {row["attributes"]["path"].removeprefix("docs/") for row in api.rows("manuals")}
    assert paths == {*NAMES, "a.txt", "sub/b.md"}


def test_names_of_failures_keep_to_their_lines(run: Ingest, docs: Path) -> None:
    folder(docs, *NAMES)
    for name in NAMES:
        (docs / name).write_text("")
    _, *table = run(docs, code=1).stdout.split("\n")[:-1]
    assert len(table) == 1 + len(NAMES)
    assert all(line.replace("\t", "", 1).isprintable() for line in table)


def without_override() -> None:
    """Have the mode of a file bind root too (see capabilities(7)). For a process that begins."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_folder_that_cannot_be_read_fails_alone_and_keeps_what_the_store_has(
    run: Ingest, api: Client, docs: Path
) -> None:
    shut = folder(docs / "shut", "c.txt", "d/e.txt")
    secret = folder(docs, "secret.txt") / "secret.txt"
    run(docs)
    before = api.contents("manuals")
    (docs / "a.txt").unlink()
    shut.chmod(0)
    secret.chmod(0)
    try:
        arguments = (docs, shut, "--store", "manuals", "--json")
        code, told = told_by(api.start(*arguments, preexec_fn=without_override))
    finally:
        shut.chmod(0o700)
    assert (code, {one["path"]: one["done"] for one in told}) == (1, {
        "docs/a.txt": "removed", "docs/secret.txt": "failed", "docs/shut": "failed",
        "docs/sub/b.md": "unchanged", "shut": "failed",
    })  # fmt: skip
    assert {one["reason"] for one in told if one["done"] == "failed"} == {"Permission denied"}
    del before[f"{docs}:docs/a.txt"]
    assert api.contents("manuals") == before


def test_path_that_is_not_utf8_needs_a_name(run: Ingest, api: Client, tmp_path: Path) -> None:
    root = folder(tmp_path / os.fsdecode(b"f\xe9"), "a.txt")
    assert "give --source" in run(root, code=2).stderr
    run(root, "--source", "guides")
    assert set(api.contents("manuals")) == {"guides:guides/a.txt"}
