"""`ringfence ingest` against a real gateway: unreadable files and unusual names."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.cli.clients.documents import DocumentsClient
from serving.cli.ingest.plan import Contents, Source, plan
from tests.serving.cli.ingest.ingesting import Ingest, done, folder, planned, reasons, told_by
from tests.serving.cli.live_gateway import Client

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
"""Constants of Linux's <sys/prctl.h> and <sys/capability.h>."""


def test_path_that_is_no_file_fails(ingest: Ingest, docs: Path) -> None:
    os.mkfifo(docs / "fifo")
    assert reasons(ingest(docs / "fifo", "--json", code=1)) == {"fifo": "not a regular file"}


def test_source_that_goes_as_a_run_begins_is_not_taken_for_empty(
    ingest: Ingest, docs: Path, library_client: DocumentsClient
) -> None:
    ingest(docs)
    source = Source.at(docs, None)
    docs.rename(docs.with_name("moved"))
    contents = Contents(library_client.attached(library_client.store("manuals")))
    todo = plan(contents, [source], exclude=(), keep_deleted=False)
    assert [trouble.reason for _, trouble in todo.troubles] == ["No such file or directory"]
    assert todo.removals == []


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


CHANGES: dict[Callable[[Path], None], str] = {
    vanish: "No such file or directory",
    become_a_fifo: "not a regular file",
    become_a_link: "Too many levels of symbolic links",
    become_a_folder: "Is a directory",
}


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_is_another_when_it_is_read_fails_alone(
    docs: Path, library_client: DocumentsClient, change: Callable[[Path], None]
) -> None:
    late, todo = planned(library_client, docs)
    change(docs / "a.txt")
    told = {one.path: (one.done, one.reason) for one in late.carry_out(todo)}
    assert told == {"docs/a.txt": ("failed", CHANGES[change]), "docs/sub/b.md": ("added", None)}


def test_file_that_grows_while_it_is_read_is_there_as_it_was(
    ingest: Ingest, api: Client, docs: Path
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
        told = json.loads(ingest(log, "--json").stdout)
    finally:
        ended.set()
        writer.join()
    assert [one["done"] for one in told] == ["added"]
    (row,) = api.rows("manuals")
    content = api.content(row["id"])
    assert log.read_bytes().startswith(content)
    assert row["attributes"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_taken_is_named_with_its_reason(
    ingest: Ingest, api: Client, docs: Path
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
    assert reasons(ingest(docs, "--json", code=1)) == {
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


def test_unusual_names_are_names(ingest: Ingest, api: Client, docs: Path) -> None:
    folder(docs, *NAMES)
    ingest(docs)
    assert set(done(ingest(docs, "--json")).values()) == {"unchanged"}
    paths = {row["attributes"]["path"].removeprefix("docs/") for row in api.rows("manuals")}
    assert paths == {*NAMES, "a.txt", "sub/b.md"}


def test_names_of_failures_keep_to_their_lines(ingest: Ingest, docs: Path) -> None:
    folder(docs, *NAMES)
    for name in NAMES:
        (docs / name).write_text("")
    _, *table = ingest(docs, code=1).stdout.split("\n")[:-1]
    assert len(table) == 1 + len(NAMES)
    assert all(line.replace("\t", "", 1).isprintable() for line in table)


def without_override() -> None:
    """Make file modes apply to root too (see capabilities(7)), in a process that starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def test_folder_that_cannot_be_read_fails_alone_and_keeps_what_the_store_has(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    shut = folder(docs / "shut", "c.txt", "d/e.txt")
    secret = folder(docs, "secret.txt") / "secret.txt"
    ingest(docs)
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


def test_path_that_is_not_utf8_needs_a_name(ingest: Ingest, api: Client, tmp_path: Path) -> None:
    root = folder(tmp_path / os.fsdecode(b"f\xe9"), "a.txt")
    assert "give --source" in ingest(root, code=2).stderr
    ingest(root, "--source", "guides")
    assert set(api.contents("manuals")) == {"guides:guides/a.txt"}
