from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reporting.statistics import Summary
from benchmarks.retrieval.client import RetrievalClient, in_batches
from benchmarks.retrieval.command import RetrievalOptions, run
from benchmarks.retrieval.cranfield import Quality
from benchmarks.retrieval.report import (
    Growth,
    KindQuality,
    Latencies,
    RetrievalRun,
    Speeds,
    markdown,
)
from benchmarks.retrieval.speed import _documents, _pieces, _repeated, growth, latencies, speeds
from benchmarks.running.command import NotSetUp
from benchmarks.running.machine import MachineInfo
from benchmarks.running.measure import MeasurementError
from benchmarks.running.ports import free_port
from tests.benchmarks.retrieval.fake_retrieval import FakeServer, serving

TEXTS = {"1": "wings lift air", "3": "flat plates drag"}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as started:
        yield started


@pytest.fixture
def client(server: FakeServer) -> Iterator[RetrievalClient]:
    with RetrievalClient(server.url, key="k", embedder="m") as opened:
        yield opened


def options(server: FakeServer, directory: Path) -> RetrievalOptions:
    (directory / "cran.all.1400").write_text(
        ".I 1\n.W\nwings lift air\n.I 3\n.W\nflat plates drag\n", "utf-8"
    )
    (directory / "cran.qry").write_text(".I 1\n.W\nwhy lift\n.I 2\n.W\nwhy drag\n", "utf-8")
    (directory / "qrels.txt").write_text("1 0 1 5\n2 0 3 5\n", "utf-8")
    return RetrievalOptions(
        url=server.url,
        key="k",
        embedder="m",
        data=directory,
        parts=("quality",),
        documents=None,
        pid=None,
        rounds=1,
        seed=1,
        out=directory / "out",
        command=("python",),
    )


def test_quality_of_all_three_kinds_is_measured(server: FakeServer, tmp_path: Path) -> None:
    finished = run(options(server, tmp_path))
    assert "| hybrid | 1.000 | 1.000 | 1.000 | 1.000 |" in finished.tables
    asked = [search["ranking_options"]["hybrid_search"] for search in server.searches]
    kinds = [(one["embedding_weight"], one["text_weight"]) for one in asked]
    assert kinds == [(0, 1.0)] * 2 + [(1.0, 0)] * 2 + [(1.0, 1.0)] * 2
    assert finished.path.exists()


def test_ingest_can_be_of_some_documents(server: FakeServer, tmp_path: Path) -> None:
    asked = replace(options(server, tmp_path), parts=("ingest",), documents=1)
    assert run(asked).path.is_file()
    assert server.uploaded == {"1.txt"}


def test_everything_that_was_made_is_deleted(server: FakeServer, tmp_path: Path) -> None:
    run(options(server, tmp_path))
    assert (server.files, server.stores) == ({}, {})


def test_file_that_is_not_indexed_ends_the_measurement(
    server: FakeServer, client: RetrievalClient
) -> None:
    server.failing = 1
    files = client.upload(TEXTS)
    with pytest.raises(MeasurementError, match="not every file"), client.store(files):
        pass
    assert (server.files, server.stores) == ({}, {})


def test_collection_that_is_not_there_is_told(server: FakeServer, tmp_path: Path) -> None:
    asked = replace(options(server, tmp_path), data=tmp_path / "elsewhere")
    with pytest.raises(NotSetUp, match="elsewhere"):
        run(asked)


def test_memory_needs_to_know_whose(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(NotSetUp, match="--pid"):
        run(replace(options(server, tmp_path), parts=("memory",)))


def test_speeds_of_three_ways_are_measured_in_each_round(client: RetrievalClient) -> None:
    found = speeds(client, TEXTS, rounds=2, seed=1)
    assert [len(found.whole_path), len(found.embedding_alone), len(found.naive)] == [2, 2, 2]
    assert all(rate > 0 for rate in (*found.whole_path, *found.embedding_alone, *found.naive))


def test_latencies_are_of_searches_after_the_warm_up(
    server: FakeServer, client: RetrievalClient
) -> None:
    found = latencies(client, TEXTS, ["why lift"] * 15, chunks=20, seed=1)
    assert (found.search.count, found.embedding.count, found.raw.count) == (5, 5, 5)
    assert server.strategies == [
        {
            "type": "static",
            "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
        }
    ]


def test_growth_is_of_the_process_that_was_named(client: RetrievalClient) -> None:
    found = growth(client, TEXTS, chunks=300, pid=os.getpid(), seed=1)
    assert found.before_bytes > 0
    assert found.after_bytes > 0


def test_text_that_is_too_long_is_embedded_in_pieces(client: RetrievalClient) -> None:
    text = " ".join(str(i) for i in range(250))
    pieces = _pieces(client, text)
    assert " ".join(pieces) == text
    assert [len(piece.split()) for piece in pieces] == [62, 63, 62, 63]


def test_documents_have_the_words_of_as_many_chunks() -> None:
    made = _documents(TEXTS, 300, seed=1)
    assert [len(text.split()) for text in made.values()] == [10_000, 10_000, 4_000]


def test_repeated_vectors_are_near_the_known_ones_and_of_unit_length() -> None:
    known = np.eye(3, dtype=np.float32)
    made = _repeated(known, 7, seed=1)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert (made @ known.T).argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_server_that_is_not_there_is_told_in_a_sentence() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with (
        RetrievalClient(url, key="k", embedder="m") as client,
        pytest.raises(MeasurementError, match="did not answer: ConnectError"),
    ):
        client.embed(["x"])


def test_batches_have_all_items_in_order() -> None:
    assert in_batches([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def test_report_tells_every_figure() -> None:
    machine = MachineInfo("cpu", 2, 2**30, "6", (0.0, 0.0, 0.0), "abc", {})
    report = markdown(
        RetrievalRun(
            began=datetime(2026, 1, 1, tzinfo=UTC),
            took_s=60,
            command=("python",),
            machine=machine,
            seed=1,
            quality={"dense": KindQuality(odd=Quality(0.4, 0.7), every=Quality(0.5, 0.8))},
            speeds=Speeds([9.0, 9.0], [10.0, 10.0], [5.0, 5.0]),
            latencies=Latencies(
                20_000, Summary(9, 0.030, 0.04), Summary(9, 0.015, 0.02), Summary(9, 0.005, 0.01)
            ),
            growth=Growth(50_000, 2**20, 3 * 2**20),
        )
    )
    assert "| dense | 0.500 | 0.800 | 0.400 | 0.700 |" in report
    assert "| ingest over embedding alone | 0.900 [0.900, 0.900] at 9.0 documents/s |" in report
    assert "| ingest over a naive loop | 1.800 [1.800, 1.800] at 9.0 documents/s |" in report
    assert "| search of 20,000 chunks, p50 / p99 | 30.0 / 40.0 ms |" in report
    assert "| added p50 | 10.0 ms |" in report
    assert "| memory for 50,000 chunks | 2 MiB |" in report
