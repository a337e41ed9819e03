"""The client of the retrieval benchmark: files, vector stores, searches and embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from benchmarks.running.measure import MeasurementError

T = TypeVar("T")

REQUEST_DEADLINE_S = 120.0
INGEST_DEADLINE_S = 3_600.0
POLL_S = 0.25
UPLOADS_AT_ONCE = 8
FILES_OF_A_BATCH = 500
"""OpenAI's maximum is 2,000."""


@dataclass(frozen=True, slots=True)
class SearchWeights:
    """Weights of vector search and full-text search."""

    embedding: float = 1.0
    text: float = 1.0


BOTH = SearchWeights()


class RetrievalClient:
    """A client of the public API.

    Args:
        url: base URL of the server, with or without `/v1`.
        key: key of a tenant whose limits a benchmark does not reach.
        embedder: name of the model for `/v1/embeddings`.
    """

    def __init__(self, url: str, *, key: str, embedder: str) -> None:
        self.embedder = embedder
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1") + "/v1",
            headers={"authorization": f"Bearer {key}"},
            timeout=REQUEST_DEADLINE_S,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def upload(self, texts: Mapping[str, str]) -> list[str]:
        """Upload one file per text, named after its key with `.txt` added; returns the ids."""
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            return list(pool.map(self._upload, texts.items()))

    @contextmanager
    def store(self, files: Sequence[str], *, chunk_tokens: int | None = None) -> Iterator[str]:
        """Create a vector store with these files indexed; delete it and the files at the end.

        Args:
            files: ids of the files.
            chunk_tokens: chunk size without overlap; None leaves the choice to the server.
        """
        strategy = _static(chunk_tokens) if chunk_tokens else {"type": "auto"}
        store = str(self._post("/vector_stores", {"name": "benchmark"})["id"])
        try:
            for some in in_batches(files, FILES_OF_A_BATCH):
                asked = {"file_ids": some, "chunking_strategy": strategy}
                self._indexed(store, self._post(f"/vector_stores/{store}/file_batches", asked))
            yield store
        finally:
            self._delete(f"/vector_stores/{store}")
            with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
                list(pool.map(self._delete, [f"/files/{file}" for file in files]))

    def search(
        self, store: str, question: str, *, limit: int, weights: SearchWeights = BOTH
    ) -> list[str]:
        """Return the distinct names of the files found, best first, without `.txt`."""
        asked = {
            "query": question,
            "max_num_results": limit,
            "ranking_options": {
                "ranker": "none",
                "hybrid_search": {
                    "embedding_weight": weights.embedding,
                    "text_weight": weights.text,
                },
            },
        }
        found = self._post(f"/vector_stores/{store}/search", asked)["data"]
        return list(dict.fromkeys(one["filename"].removesuffix(".txt") for one in found))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed texts that fit the model."""
        answer = self._post("/embeddings", {"model": self.embedder, "input": list(texts)})
        return [one["embedding"] for one in answer["data"]]

    def fits(self, text: str) -> bool:
        """Whether a text is short enough to be embedded whole."""
        asked = {"model": self.embedder, "input": text}
        answer = self._send("POST", "/embeddings", json=asked)
        if answer.status_code == httpx.codes.BAD_REQUEST:
            return False
        _checked(answer)
        return True

    def _upload(self, named: tuple[str, str]) -> str:
        name, text = named
        answer = self._send(
            "POST",
            "/files",
            data={"purpose": "user_data"},
            files={"file": (f"{name}.txt", text.encode(), "text/plain")},
        )
        return str(_checked(answer)["id"])

    def _indexed(self, store: str, batch: Mapping[str, Any]) -> None:
        """Wait for a batch, and check that every file was indexed."""
        end_s = monotonic() + INGEST_DEADLINE_S
        while batch["status"] == "in_progress":
            if monotonic() > end_s:
                raise MeasurementError(f"a batch was not indexed within {INGEST_DEADLINE_S:.0f} s")
            sleep(POLL_S)
            path = f"/vector_stores/{store}/file_batches/{batch['id']}"
            batch = _checked(self._send("GET", path))
        counts = batch["file_counts"]
        if counts["completed"] != counts["total"]:
            raise MeasurementError(f"not every file was indexed: {counts}")

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _checked(self._send("POST", path, json=body))

    def _delete(self, path: str) -> None:
        _checked(self._send("DELETE", path))

    def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **body)
        except httpx.HTTPError as error:
            url = self._http.base_url
            raise MeasurementError(f"{url} did not answer: {type(error).__name__}") from None


def in_batches(items: Sequence[T], size: int) -> list[list[T]]:
    """Split the items into batches."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _static(chunk_tokens: int) -> dict[str, Any]:
    sizes = {"max_chunk_size_tokens": chunk_tokens, "chunk_overlap_tokens": 0}
    return {"type": "static", "static": sizes}


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        path, told = answer.request.url.path, answer.text[:200]
        raise MeasurementError(f"{path} answered {answer.status_code}: {told}")
    body: dict[str, Any] = answer.json()
    return body
