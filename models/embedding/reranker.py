"""Rerankers: score how well texts answer a question, in the order of the texts.

Knows nothing of Ray or HTTP. Cheap to import: only `CrossEncoderReranker` imports torch and
sentence-transformers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from models.catalog import ModelSpec
from models.resources.precision import resolved_dtype

BATCH = {"cpu": 8, "gpu": 64}
"""Pairs in one batch."""


class Reranker(Protocol):
    """Runs one model that reads a question and a text together."""

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """Score the texts from 0 to 1, in their order.

        If question and text are too long together, the longer one is truncated.

        Raises:
            EngineError: the model failed or does not answer.
        """
        ...


class CrossEncoderReranker:
    """Runs a cross-encoder of sentence-transformers in this process; a `Reranker`.

    One thread works batch by batch, so callers alternate. If a caller is cancelled, its remaining
    batches are dropped.

    Args:
        spec: the device, the floating-point type, and optionally a lower limit of a pair's length.
        directory: the directory that `prepare` returned.
        threads: CPU threads of one operation.
    """

    def __init__(self, spec: ModelSpec, directory: Path, *, threads: int = 1) -> None:
        import torch  # noqa: PLC0415  Seconds and hundreds of MB.
        import transformers  # noqa: PLC0415
        from sentence_transformers import CrossEncoder  # noqa: PLC0415

        transformers.utils.logging.disable_progress_bar()
        self._model: Any = CrossEncoder(
            str(directory),
            device="cuda" if spec.device == "gpu" else "cpu",
            num_labels=1,
            max_length=spec.context_tokens,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": resolved_dtype(spec, directory, bfloat16=False)},
        ).eval()
        self._sigmoid = torch.nn.Sigmoid()
        self._batch = BATCH[spec.device]
        # torch's number of threads belongs to the thread that starts an operation.
        self._forward = ThreadPoolExecutor(1, "rerank", torch.set_num_threads, (threads,))

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """See `Reranker.rerank`."""
        loop = asyncio.get_running_loop()
        pairs = [(question, text) for text in texts]
        scores: list[float] = []
        for start in range(0, len(pairs), self._batch):
            batch = pairs[start : start + self._batch]
            scores += await loop.run_in_executor(self._forward, self._score, batch)
        return scores

    def close(self) -> None:
        """Stop the thread."""
        self._forward.shutdown(cancel_futures=True)

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        scores: list[float] = self._model.predict(
            pairs, batch_size=self._batch, activation_fn=self._sigmoid, show_progress_bar=False
        ).tolist()
        return scores
