"""The beginning of an answer is held back until it says something.

Providers send a first chunk with a role alone, and fail after it as well as before: whoever has
shown nothing to a client may still go elsewhere.
"""

from __future__ import annotations

from models.openai_stream import Chunk

_WORDS = ("content", "refusal", "reasoning_content", "tool_calls")


class Beginning:
    """The chunks of one answer, held back up to the first that says something. None is lost."""

    def __init__(self) -> None:
        self._held: list[Chunk] | None = []

    def passed(self, chunk: Chunk) -> list[Chunk]:
        """The chunks that may go on now that this one has come; often none at first."""
        if self._held is None:
            return [chunk]
        self._held.append(chunk)
        if not _says_something(chunk):
            return []
        held, self._held = self._held, None
        return held


def _says_something(chunk: Chunk) -> bool:
    """Whether it has text, a call or an end. An answer that is whole has ended."""
    return any(
        choice.get("finish_reason")
        or choice.get("text")
        or any(choice.get("delta", {}).get(name) for name in _WORDS)
        for choice in chunk["choices"]
    )
