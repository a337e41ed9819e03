"""Fingerprints of embedders: model, revision, dimension and the vectors of fixed texts (canaries).

A model's name stays the same if its weights, its pooling or a library change. The vectors of the
canaries do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.embedding.embedder import Embedder

CANARIES = (
    "The pump must be primed before it is started for the first time.",
    "Who signs an invoice above five thousand euros?",
    "Section 4.2: the tenant gives notice of three months, in writing.",
    "lol no idea, ask Maria when she is back from lunch",
    "SELECT name FROM parts WHERE stock < 3 ORDER BY name;",
    "def area(radius): return 3.14159 * radius ** 2",
    "Mix the flour with the eggs, and let the dough rest for an hour.",
    "Patients with impaired kidneys receive half of the usual dose.",
    "Der Zug nach Hamburg fährt heute von Gleis sieben.",
    "Le rapport annuel sera publié en mars.",
    "2026-03-01;4711;brass valve;12;EUR 8.40",
    "ERROR disk full on volume 3, write refused",
    "Lift and drag of a thin wing at supersonic speed",
    "Once upon a time there was a lighthouse that nobody needed.",
    "Dear Sir or Madam, thank you for your letter of 2 May.",
    "42",
)
"""The texts mix registers and languages, so that almost any change of the model affects some of
them."""

LEAST_COSINE = 0.999
"""Batching, threads and processors change the cosine of a float32 model by less than 0.0001."""


@dataclass(frozen=True, slots=True)
class EmbedderFingerprint:
    """The fingerprint of an embedder, as a generation stores it.

    Attributes:
        canaries: vectors of `CANARIES`, `(n, dimension)` float32, row by row.
    """

    model: str
    revision: str
    dimension: int
    canaries: bytes


class PinnedGeneration(Protocol):
    """The part of a store's generation that identifies its embedder."""

    @property
    def store_id(self) -> str: ...  # noqa: D102  Named by the schema.
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def canaries(self) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ServedEmbedder:
    """An embedding model that is being served.

    Attributes:
        windows: splits a chunk's text into pieces that fit the model.
        tokenizer: directory of the tokenizer that chunking uses.
    """

    embedder: Embedder
    revision: str
    windows: Callable[[str], list[str]]
    tokenizer: str = ""


async def pin(embedder: Embedder, model: str, revision: str) -> EmbedderFingerprint:
    """Embed the canaries and return the fingerprint.

    Raises:
        EngineError: the embedder failed.
    """
    vectors = await _canary_vectors(embedder)
    return EmbedderFingerprint(model, revision, vectors.shape[1], vectors.tobytes())


async def canary_cosine(embedder: Embedder, canaries: bytes) -> float:
    """Return the lowest cosine between stored and current canary vectors; -1 if dimensions differ.

    Raises:
        EngineError: the embedder failed.
    """
    now = await _canary_vectors(embedder)
    return worst_cosine(canaries, now.tobytes())


def worst_cosine(one: bytes, other: bytes) -> float:
    """Return the lowest cosine of two sets of canary vectors, row by row; -1 if sizes differ."""
    if len(one) != len(other):
        return -1.0
    first, second = (
        np.frombuffer(raw, np.float32).reshape(len(CANARIES), -1) for raw in (one, other)
    )
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(lengths, 1e-12)).min())


async def mismatch(
    generation: PinnedGeneration, embedder: Embedder | None, revision: str | None
) -> str | None:
    """Return why the served embedder did not make a generation's vectors; None if it did.

    Args:
        generation: a generation of a store.
        embedder: the embedder served under the generation's model; None if there is none.
        revision: the revision of that embedder.

    Returns:
        A sentence with the command that repairs it, or None.

    Raises:
        EngineError: the embedder failed.
    """
    if embedder is None:
        return _told(generation, f"{generation.model!r}, which is not served", "MODEL")
    if revision != generation.revision:
        reason = f"revision {generation.revision!r} of {generation.model!r}; {revision!r} is served"
        return _told(generation, reason, generation.model)
    vectors = await _canary_vectors(embedder)
    if vectors.shape[1] != generation.dimension:
        reason = f"{generation.dimension} dimensions; {vectors.shape[1]} are served"
        return _told(generation, reason, generation.model)
    cosine = worst_cosine(generation.canaries, vectors.tobytes())
    if cosine < LEAST_COSINE:
        reason = f"another {generation.model!r}: fixed texts have a cosine of {cosine:.4f} only"
        return _told(generation, reason, generation.model)
    return None


def _told(generation: PinnedGeneration, reason: str, model: str) -> str:
    return (
        f"The vectors of {generation.store_id} were made by {reason}. "
        f"`ringfence reembed --store {generation.store_id} --model {model}` makes new ones."
    )


async def _canary_vectors(embedder: Embedder) -> NDArray[np.float32]:
    return np.ascontiguousarray((await embedder.embed(CANARIES)).vectors, dtype=np.float32)
