"""`python -m benchmarks.retrieval`: measures quality (on Cranfield) and cost of retrieval.

A client of a running server. Its key must allow some thousand requests.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.retrieval.client import BOTH, RetrievalClient, SearchWeights
from benchmarks.retrieval.cranfield import Cranfield, quality, read
from benchmarks.retrieval.report import KindQuality, RetrievalRun, markdown, write_json
from benchmarks.retrieval.speed import growth, latencies, speeds
from benchmarks.running.command import REPOSITORY, Finished, NotSetUp, carry_out, names_of, progress
from benchmarks.running.machine import describe

PARTS = ("quality", "ingest", "search", "memory")
KINDS = {"lexical": SearchWeights(embedding=0), "dense": SearchWeights(text=0), "hybrid": BOTH}
DEEPEST = 100
SEARCHED_CHUNKS = 20_000
GROWN_CHUNKS = 50_000
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """The parameters of a run.

    Attributes:
        parts: Members of `PARTS` to run.
        documents: Number of documents that measure ingestion; None for all.
        pid: Process that holds the vector index; needed only for memory.
        command: The command line without the key.
    """

    url: str
    key: str
    embedder: str
    data: Path
    parts: Sequence[str]
    documents: int | None
    pid: int | None
    rounds: int
    seed: int
    out: Path
    command: tuple[str, ...]


def run(options: RetrievalOptions) -> Finished:
    """Measure the chosen parts and write the result.

    Raises:
        NotSetUp: The collection is missing, or memory is chosen without a process.
        MeasurementError: The server's answers are wrong.
    """
    began, begun_s, machine = datetime.now(UTC), perf_counter(), describe(REPOSITORY)
    collection = _collection(options)
    with RetrievalClient(options.url, key=options.key, embedder=options.embedder) as client:
        figures = _figures(client, collection, options)
    result = RetrievalRun(
        began=began,
        took_s=perf_counter() - begun_s,
        command=options.command,
        machine=machine,
        seed=options.seed,
        **figures,
    )
    return Finished(began=began, tables=markdown(result), path=write_json(result, options.out))


def _figures(
    client: RetrievalClient, collection: Cranfield, options: RetrievalOptions
) -> dict[str, Any]:
    """Measure the chosen parts one after another; returns fields of the run."""
    texts, seed = collection.abstracts, options.seed
    questions = list(collection.questions.values())
    some = dict(list(texts.items())[: options.documents])
    parts: Mapping[str, tuple[str, Callable[[], Any]]] = {
        "quality": ("quality", lambda: _quality(client, collection)),
        "ingest": ("speeds", lambda: speeds(client, some, rounds=options.rounds, seed=seed)),
        "search": (
            "latencies",
            lambda: latencies(client, texts, questions, chunks=SEARCHED_CHUNKS, seed=seed),
        ),
        "memory": (
            "growth",
            lambda: growth(client, texts, chunks=GROWN_CHUNKS, pid=options.pid or 0, seed=seed),
        ),
    }
    figures = {}
    for part in options.parts:
        field, measure = parts[part]
        figures[field] = measure()
        progress(f"{part} measured")
    return figures


def _collection(options: RetrievalOptions) -> Cranfield:
    if "memory" in options.parts and options.pid is None:
        raise NotSetUp("memory needs --pid, the process that holds the vector index")
    try:
        return read(options.data)
    except OSError as error:
        raise NotSetUp(f"Cranfield is not at {options.data}: {error.strerror}") from None


def _quality(client: RetrievalClient, collection: Cranfield) -> dict[str, KindQuality]:
    """Measure each kind of search, on all questions and on the odd-numbered ones."""
    files = client.upload(collection.abstracts)
    progress(f"{len(files)} abstracts uploaded")
    with client.store(files) as store:
        progress("indexed")
        kinds = {}
        for name, weights in KINDS.items():
            rankings = {
                number: client.search(store, question, limit=DEEPEST, weights=weights)
                for number, question in collection.questions.items()
            }
            kinds[name] = KindQuality(
                odd=quality(collection, rankings, remainder=1),
                every=quality(collection, rankings),
            )
            progress(f"{name}: nDCG@10 {kinds[name].every.ndcg_at_10:.3f}")
    return kinds


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the benchmark, and print and log the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--key",
        default=os.environ.get("RINGFENCE_API_KEY", ""),
        help="key (default: RINGFENCE_API_KEY)",
    )
    parser.add_argument(
        "--embedder", default="all-minilm-l6-v2", help="the server's name of the embedding model"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="directory of the Cranfield collection"
    )
    parser.add_argument(
        "--parts",
        type=lambda text: names_of(text, PARTS),
        default=list(PARTS),
        help=f"comma-separated list from: {','.join(PARTS)}",
    )
    parser.add_argument("--documents", type=int, help="documents to ingest (default: all)")
    parser.add_argument("--pid", type=int, help="process that holds the vector index")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of ingestion")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = vars(parser.parse_args(given))
    log = chosen.pop("log")
    command = ["python", "-m", "benchmarks.retrieval", "--parts", ",".join(chosen["parts"])]
    for option in ("documents", "rounds"):
        if chosen[option]:
            command += [f"--{option}", str(chosen[option])]
    options = RetrievalOptions(**chosen, command=tuple(command))
    return carry_out("benchmarks.retrieval", lambda: run(options), log=log)
