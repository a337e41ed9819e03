"""Embedders: turn texts or token ids into L2-normalised vectors, in the order of the inputs.

Knows nothing of Ray or HTTP. Cheap to import: only `SentenceEmbedder` imports torch and
sentence-transformers.
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
from models.importing import without_collection
from models.resources.precision import resolved_dtype

T = TypeVar("T")

TOKEN_BUDGET = {"cpu": 1024, "gpu": 4096}
"""Maximum padded tokens of a batch. More padding slows a CPU down; a GPU needs large batches."""

Inputs = Sequence[str] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors `(n, dimension)` float32, L2-normalised, and the token count of each input."""

    vectors: NDArray[np.float32]
    token_counts: list[int]


class Embedder(Protocol):
    """Runs one embedding model."""

    async def embed(self, inputs: Inputs) -> Embeddings:
        """Embed texts, or token ids of the model's tokenizer, special tokens included.

        Vectors are in the order of the inputs. Nothing is truncated.

        Raises:
            EngineError: `ContextLengthExceeded` if an input is too long for the model,
                `RequestRejected` if ids are not from its tokenizer; both with `param="input"`.
        """
        ...


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group inputs of similar length, to keep padding small.

    Args:
        lengths: token count of each input.
        budget: maximum padded tokens of a batch, which is its longest input times its size. A
            longer
            input gets a batch of its own.

    Returns:
        Indices into `lengths`, each exactly once, by descending length within and across batches.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class SentenceEmbedder:
    """Runs a sentence-transformers model in this process; an `Embedder` in two steps.

    Tokenising and the model each have a thread, so the event loop is never blocked. The model's
    thread alternates between the batches of all callers, so a large request does not delay a small
    one. If a caller is cancelled, its remaining batches are dropped.

    Args:
        spec: the device, the floating-point type, and optionally a lower input limit.
        directory: the directory that `prepare` returned.
        threads: CPU threads of one operation.
        token_budget: padded tokens of a batch; None selects `TOKEN_BUDGET` of the device.
    """

    def __init__(
        self,
        spec: ModelSpec,
        directory: Path,
        *,
        threads: int = 1,
        token_budget: int | None = None,
    ) -> None:
        with without_collection():
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
        # torch's number of threads belongs to the thread that starts an operation.
        self._forward = ThreadPoolExecutor(1, "embed", torch.set_num_threads, (threads,))

    async def embed(self, inputs: Inputs) -> Embeddings:
        """See `Embedder.embed`."""
        return await self.embed_ids(await self.encode(inputs))

    async def encode(self, inputs: Inputs) -> list[list[int]]:
        """Tokenise and check the inputs; returns token ids.

        Raises:
            RequestRejected: see `Embedder.embed`.
        """
        return await _in(self._tokenizing, self._encode, inputs)

    async def embed_ids(self, ids: Sequence[Sequence[int]]) -> Embeddings:
        """Embed token ids from `encode`."""
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
        """Embed one batch, padded on the right; returns `(len(ids), dimension)`."""
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
