"""Embedding: texts or token ids in, vectors of unit length out, in the order of the inputs.

Knows nothing of Ray or HTTP. Cheap to import: torch and sentence-transformers only load with a
`SentenceEmbedder`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.catalog import ModelSpec
from models.embedding.own_token_ids import OwnTokenIds
from models.engine import ContextLengthExceeded, RequestRejected
from models.resources.precision import resolved_dtype

T = TypeVar("T")

TOKEN_BUDGET = {"cpu": 1024, "gpu": 4096}
"""Padded tokens of a batch. More is slower on a CPU, by the padding; a GPU has to be filled."""

Inputs = Sequence[str] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors `(n, dimension)` float32, L2-normalised, and the tokens of each input."""

    vectors: NDArray[np.float32]
    token_counts: list[int]


class Embedder(Protocol):
    """Runs one embedding model."""

    async def embed(self, inputs: Inputs) -> Embeddings:
        """Embed texts, or token ids as the model's tokenizer gives them (special ones included).

        Order is kept. Nothing is truncated.

        Raises:
            EngineError: `ContextLengthExceeded` for an input longer than the model takes,
                `RequestRejected` for ids that are not of its tokenizer; both with `param="input"`.
        """
        ...


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group inputs of like length, so that little of a padded batch is padding.

    Args:
        lengths: tokens of each input.
        budget: most padded tokens of a batch, which is its longest input times its size. An input
            that is longer makes a batch of its own.

    Returns:
        Indices into `lengths`: each exactly once, by falling length within and across batches.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class SentenceEmbedder:
    """A sentence-transformers model in this process; `Embedder`, and its two halves.

    Tokenising and the model run in a thread each, never on the event loop. The model's thread
    takes the batches of all callers in turn, so a large request does not hold up a small one, and
    a caller that goes away takes its remaining batches with it.

    Args:
        spec: says where it runs, its type of number, and a lower limit than its own for an input.
        directory: what `prepare` returned.
        threads: of the CPU, for one operation.
        token_budget: padded tokens of one batch; None: `TOKEN_BUDGET` of the device.
    """

    def __init__(
        self,
        spec: ModelSpec,
        directory: Path,
        *,
        threads: int = 1,
        token_budget: int | None = None,
    ) -> None:
        import torch  # noqa: PLC0415  Seconds and hundreds of MB.
        import transformers  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        transformers.utils.logging.disable_progress_bar()
        self._torch = torch
        self._device = "cuda" if spec.device == "gpu" else "cpu"
        self._model: Any = SentenceTransformer(
            str(directory),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": resolved_dtype(spec, directory, bfloat16=False)},
        ).eval()
        limits = [limit for limit in (self._model.max_seq_length, spec.context_tokens) if limit]
        self.max_tokens: int | None = min(limits, default=None)
        self.token_budget = token_budget or TOKEN_BUDGET[spec.device]
        self.dimension: int = self._model.get_embedding_dimension()
        self._own_ids = OwnTokenIds(self._model.tokenizer)
        self._pad_id = self._model.tokenizer.pad_token_id or 0
        self._tokenizing = ThreadPoolExecutor(1, "tokenize")
        # The number of threads is a property of the thread that starts an operation.
        self._forward = ThreadPoolExecutor(1, "embed", torch.set_num_threads, (threads,))

    async def embed(self, inputs: Inputs) -> Embeddings:
        """See `Embedder.embed`."""
        return await self.embed_ids(await self.encode(inputs))

    async def encode(self, inputs: Inputs) -> list[list[int]]:
        """Token ids of each input, checked.

        Raises:
            RequestRejected: see `Embedder.embed`.
        """
        return await _in(self._tokenizing, self._encode, inputs)

    async def embed_ids(self, ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embed what `encode` returned."""
        lengths = [len(one) for one in ids]
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        for batch in token_budget_batches(lengths, self.token_budget):
            vectors[batch] = await _in(self._forward, self._embed, [ids[i] for i in batch])
        return Embeddings(vectors, lengths)

    def close(self) -> None:
        """Stop the threads."""
        self._tokenizing.shutdown(cancel_futures=True)
        self._forward.shutdown(cancel_futures=True)

    def _encode(self, inputs: Inputs) -> list[list[int]]:
        texts = [one for one in inputs if isinstance(one, str)]
        if texts:
            encoding = self._model.tokenizer(texts, truncation=False, padding=False, verbose=False)
            ids: list[list[int]] = encoding["input_ids"]
        else:
            ids = [list(one) for one in inputs if not isinstance(one, str)]
        for i, one in enumerate(ids):
            self._check(i, one)
            if not texts and (reason := self._own_ids.why_not(one)):
                raise RequestRejected(f"input[{i}]: {reason}", param="input")
        return ids

    def _check(self, i: int, ids: list[int]) -> None:
        if not ids:
            raise RequestRejected(f"input[{i}] is empty.", param="input")
        if self.max_tokens and len(ids) > self.max_tokens:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self.max_tokens} tokens. However,"
                f" input[{i}] has {len(ids)} tokens. Please reduce its length.",
                param="input",
            )

    def _embed(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors `(len(ids), dimension)` of one batch, padded on the right."""
        torch = self._torch
        rows = [torch.tensor(one) for one in ids]
        lengths = torch.tensor([len(one) for one in ids])
        padded = torch.nn.utils.rnn.pad_sequence(rows, True, self._pad_id)  # noqa: FBT003
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            features = {
                "input_ids": padded.to(self._device),
                "attention_mask": mask.to(self._device),
            }
            vectors = self._model(features)["sentence_embedding"].float()
            unit = torch.nn.functional.normalize(vectors, dim=-1)
        array: NDArray[np.float32] = unit.cpu().numpy()
        return array


async def _in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
