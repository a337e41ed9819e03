"""Reranking: a question and texts in, how well each text answers it out, in the order of the texts.

Knows nothing of Ray or HTTP. Cheap to import: torch and sentence-transformers only load with a
`CrossEncoderReranker`.
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
"""Pairs that are read together."""


class Reranker(Protocol):
    """Runs one model that reads a question and a text together."""

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """Scores of the texts, 0 to 1, in their order.

        Of a question and a text that are too long together, the end of the longer is not read.

        Raises:
            EngineError: the model failed, or does not answer.
        """
        ...


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers in this process; `Reranker`.

    One thread does the work batch by batch, so callers take turns; a caller that goes away takes
    its remaining batches with it.

    Args:
        spec: says where it runs, its type of number, and a lower limit than its own for a pair.
        directory: what `prepare` returned.
        threads: of the CPU, for one operation.
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
        # The number of threads is a property of the thread that starts an operation.
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
