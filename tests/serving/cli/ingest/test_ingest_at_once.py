"""`ringfence ingest` against a real gateway: several runs at once, and stores of one name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.cli.clients.documents import DocumentsClient
from tests.serving.cli.ingest.ingesting import Ingest, folder, planned, told_by
from tests.serving.cli.live_gateway import Client, Live, client


def test_store_name_that_two_have_is_refused_until_one_is_chosen(
    ingest: Ingest, api: Client, docs: Path
) -> None:
    ids = [api.http.post("/vector_stores", json={"name": "manuals"}).json()["id"] for _ in "ab"]
    told = ingest(docs, code=1).stderr
    assert "2 vector stores are named 'manuals'" in told
    assert all(one in told for one in ids)
    assert api.live.tap.uploads() == 0
    ingest(docs, "--store", ids[1])
    assert [len(api.all(f"/vector_stores/{one}/files")) for one in ids] == [0, 2]


def test_id_of_no_store_is_not_taken_for_a_name(ingest: Ingest, api: Client, docs: Path) -> None:
    nobody = f"vs_{'0' * 32}"
    assert f"no vector store has the id {nobody}" in ingest(docs, "--store", nobody, code=1).stderr
    assert api.all("/vector_stores") == []


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


def test_store_that_many_ask_for_at_once_is_one_for_each_name(
    api: Client, library_client: DocumentsClient
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(library_client.store, ["manuals", "guides"] * 6))
    assert made == [api.store("manuals"), api.store("guides")] * 6


def test_store_is_one_for_each_person_who_reads_no_other_s(live: Live, home: Path) -> None:
    people = [client(live, home, user=user, tenant="several") for user in ("ann", "bob")]
    with people[0] as ann, people[1] as bob:
        documents = [DocumentsClient(one.http) for one in (ann, bob)]
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda one: one.store("manuals"), documents * 4))
        assert made == [ann.store("manuals"), bob.store("manuals")] * 4
        assert made[0] != made[1]


def test_file_that_two_runs_add_at_once_is_there_once(
    ingest: Ingest, api: Client, docs: Path, library_client: DocumentsClient
) -> None:
    late, todo = planned(library_client, docs)
    ingest(docs)
    assert {one.done for one in late.carry_out(todo)} == {"added"}
    assert len(api.contents("manuals")) == len(api.all("/files")) == 2


def test_file_that_another_run_has_replaced_is_waited_for(
    ingest: Ingest, api: Client, docs: Path, library_client: DocumentsClient
) -> None:
    ingest(docs)
    late, todo = planned(library_client, docs)
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
