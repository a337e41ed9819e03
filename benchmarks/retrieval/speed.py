"""Speed of ingestion and search, compared with direct use of Chroma.

The raw index runs in this process, which saves it the cost of a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting.statistics import summarise
from benchmarks.retrieval.client import RetrievalClient, in_batches
from benchmarks.retrieval.report import Growth, Latencies, Speeds
from benchmarks.running.machine import tree_pss_bytes
from benchmarks.running.rounds import alternating

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

EMBEDDED_AT_ONCE = 64
REQUESTS_AT_ONCE = 2
CHUNK_TOKENS = 100
"""The minimum of OpenAI's API."""

FILE_WORDS = 10_000
WORDS_OF_A_CHUNK = 80
"""Some words of these abstracts are two tokens; the exact number of chunks is not needed."""

RESULTS = 10
NOISE = 0.02
WARM_UP = 10


def speeds(client: RetrievalClient, texts: Mapping[str, str], *, rounds: int, seed: int) -> Speeds:
    """Measure documents per second of three ways to the same vectors, in alternating order."""
    pieces = [piece for text in texts.values() for piece in _pieces(client, text)]
    ways: Mapping[str, Callable[[], float]] = {
        "whole path": lambda: _ingest(client, texts),
        "embedding alone": lambda: _embed(client, pieces),
        "naive": lambda: _add_one_by_one(client, pieces),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _, order in alternating(list(ways), rounds=rounds, seed=seed):
        for way in order:
            rates[way].append(len(texts) / ways[way]())
    return Speeds(rates["whole path"], rates["embedding alone"], rates["naive"])


def latencies(
    client: RetrievalClient,
    texts: Mapping[str, str],
    questions: Sequence[str],
    *,
    chunks: int,
    seed: int,
) -> Latencies:
    """Time each search, the embedding of its question, and a raw query with that vector."""
    known = np.array(_embedded(client, [_opening(text) for text in texts.values()]), np.float32)
    raw = _raw_collection(_repeated(known, chunks, seed=seed))
    times: dict[str, list[float]] = {"search": [], "embedding": [], "raw": []}
    files = client.upload(_documents(texts, chunks, seed=seed))
    with client.store(files, chunk_tokens=CHUNK_TOKENS) as store:
        for question in questions:
            begun_s = perf_counter()
            client.search(store, question, limit=RESULTS)
            searched_s = perf_counter()
            vectors = client.embed([question])
            embedded_s = perf_counter()
            raw.query(query_embeddings=vectors, n_results=RESULTS)  # type: ignore[arg-type]
            times["search"].append(searched_s - begun_s)
            times["embedding"].append(embedded_s - searched_s)
            times["raw"].append(perf_counter() - embedded_s)
    kept = {name: summarise(taken[WARM_UP:]) for name, taken in times.items()}
    return Latencies(chunks, kept["search"], kept["embedding"], kept["raw"])


def growth(
    client: RetrievalClient, texts: Mapping[str, str], *, chunks: int, pid: int, seed: int
) -> Growth:
    """Measure the memory of process `pid` before and after adding chunks, each after a search.

    Raises:
        PermissionError: the process belongs to another user.
    """
    question = next(iter(texts.values()))[:200]
    first, *others = client.upload(_documents(texts, chunks, seed=seed))
    with client.store([first], chunk_tokens=CHUNK_TOKENS) as store:
        client.search(store, question, limit=RESULTS)
        before = tree_pss_bytes([pid])
    with client.store(others, chunk_tokens=CHUNK_TOKENS) as store:
        client.search(store, question, limit=RESULTS)
        return Growth(chunks, before, tree_pss_bytes([pid]))


def _ingest(client: RetrievalClient, texts: Mapping[str, str]) -> float:
    """Return the seconds until every text can be found, without their deletion."""
    begun_s = perf_counter()
    with client.store(client.upload(texts)):
        return perf_counter() - begun_s


def _embed(client: RetrievalClient, pieces: Sequence[str]) -> float:
    begun_s = perf_counter()
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        list(pool.map(client.embed, in_batches(pieces, EMBEDDED_AT_ONCE)))
    return perf_counter() - begun_s


def _add_one_by_one(client: RetrievalClient, pieces: Sequence[str]) -> float:
    begun_s = perf_counter()
    collection = _collection()
    for number, piece in enumerate(pieces):
        vectors: Any = client.embed([piece])
        collection.add(ids=[str(number)], embeddings=vectors, documents=[piece])
    return perf_counter() - begun_s


def _embedded(client: RetrievalClient, pieces: Sequence[str]) -> list[list[float]]:
    batches = in_batches(pieces, EMBEDDED_AT_ONCE)
    return [vector for some in batches for vector in client.embed(some)]


def _pieces(client: RetrievalClient, text: str) -> list[str]:
    """Halve a text until each part can be embedded whole."""
    if client.fits(text):
        return [text]
    words = text.split()
    middle = len(words) // 2
    halves = (" ".join(words[:middle]), " ".join(words[middle:]))
    return [piece for half in halves for piece in _pieces(client, half)]


def _opening(text: str) -> str:
    return " ".join(text.split()[:WORDS_OF_A_CHUNK])


def _documents(texts: Mapping[str, str], chunks: int, *, seed: int) -> dict[str, str]:
    """Build documents of about that many chunks from abstracts in changing order."""
    source = np.random.default_rng(seed)
    every = [text.split() for text in texts.values()]
    words: list[str] = []
    while len(words) < chunks * WORDS_OF_A_CHUNK:
        for i in source.permutation(len(every)):
            words += every[i]
    files = in_batches(words[: chunks * WORDS_OF_A_CHUNK], FILE_WORDS)
    return {f"part-{number}": " ".join(some) for number, some in enumerate(files)}


def _repeated(known: NDArray[np.float32], count: int, *, seed: int) -> NDArray[np.float32]:
    """Return `count` unit vectors near the known ones."""
    source = np.random.default_rng(seed)
    vectors = known[np.arange(count) % len(known)]
    noisy = vectors + source.normal(0, NOISE, vectors.shape).astype(np.float32)
    unit: NDArray[np.float32] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return unit


def _raw_collection(vectors: NDArray[np.float32]) -> Collection:
    collection = _collection()
    ids = [str(number) for number in range(len(vectors))]
    for some in in_batches(range(len(vectors)), 1_000):
        collection.add(ids=[ids[i] for i in some], embeddings=vectors[some])
    return collection


def _collection() -> Collection:
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
    import chromadb  # noqa: PLC0415  Seconds, and only for what is compared with it.

    client = chromadb.EphemeralClient()
    name = f"raw-{perf_counter() * 1e9:.0f}"
    return client.create_collection(
        name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
