"""A detector in another process, reached through a Ray Serve handle.

Every failure is `DetectorUnavailable`: nothing leaves when nobody can say what is in it. Does
not import spaCy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ray.serve.handle import DeploymentHandle

from models.engine import EngineError
from models.remote.engine import answer_of
from serving.privacy.spans import DetectorUnavailable, Span

CALL_CHARACTERS = 1_000
"""Texts of up to this length get `timeout_s`; each character more adds `MORE` of it."""

MORE = 0.05 / CALL_CHARACTERS


class RemoteDetector:
    """`Detector` over a Serve handle.

    Args:
        handle: of a `DetectorServer`.
        timeout_s: for a thousand characters, queueing included. Every further thousand adds a
            twentieth of it.
    """

    def __init__(self, handle: DeploymentHandle, *, timeout_s: float = 2.0) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        """See `Detector.detect`. A call that is given up is cancelled there too."""
        texts = list(texts)
        if not any(texts):
            return [[] for _ in texts]
        try:
            found: list[list[Span]] = await answer_of(
                self._handle.detect.remote(texts), timeout_s=self._deadline_s(texts)
            )
        except EngineError as error:
            raise DetectorUnavailable(f"Detection failed: {type(error).__name__}.") from None
        if not _fits(texts, found):
            raise DetectorUnavailable("Detection gave an answer to something else.")
        return found

    def _deadline_s(self, texts: Sequence[str]) -> float:
        more = max(0, sum(map(len, texts)) - CALL_CHARACTERS)
        return self._timeout_s * (1 + more * MORE)


def _fits(texts: Sequence[str], found: Sequence[Sequence[Span]]) -> bool:
    """Whether each text has its spans, in order, inside of it and apart."""
    return len(found) == len(texts) and all(
        _in_order([0, *(place for span in spans for place in (span.start, span.end)), len(text)])
        for text, spans in zip(texts, found, strict=True)
    )


def _in_order(places: Sequence[int]) -> bool:
    return all(low <= high for low, high in pairwise(places))
