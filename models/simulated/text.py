"""The tokens and answers of a simulated model.

The vocabulary consists of the 256 bytes and the words of answers. So tokenising is reversible for
any text, and an answer has as many tokens as were generated. Knows nothing of time or of
transport.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import orjson

Finish = Literal["stop", "length"]

MARK = "[simulated]"
"""The beginning of every answer, so that none is mistaken for a real model's."""

# With the full stop there are 64 pieces, selected by the low six bits of a byte. No word is a
# prefix of another, so that tokenising an answer finds the same words.
_WORDS = """
above across after again along among answer apart around before below beside between bright
calm clear cloud cold copper corner dark day deep distant dry early east evening field fire
forest garden glass gold green harbour hill house island kind lamp large late light long meadow
mild morning mountain narrow near night north ocean open path quiet river road shadow silver
stone summer
""".split()  # noqa: SIM905  One string is easier to read than 63.
_PIECES = (MARK, *(f" {word}" for word in _WORDS), ".")
_RAW_PIECES = tuple(piece.encode() for piece in _PIECES)
_IDS = {raw: 256 + i for i, raw in enumerate(_RAW_PIECES) if raw != b"."}
_PIECE = re.compile(b"|".join(re.escape(raw) for raw in _IDS))
_VOCABULARY = [bytes([byte]) for byte in range(256)] + list(_RAW_PIECES)

VOCABULARY_SIZE = len(_VOCABULARY)

_SHORTEST = 16
_LENGTHS = 112


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """The answer of one choice: a piece of text per token, computed before the first is sent.

    `codes` holds one byte per token. Tokens from `cut` on belong to a stop sequence: `tail` is the
    text that remains of the first of them.
    """

    codes: bytes
    finish: Finish
    cut: int
    tail: str = ""

    def __len__(self) -> int:
        return len(self.codes)

    def text(self, start: int, end: int) -> str:
        """Return the text of the tokens from `start` to `end` (exclusive)."""
        text = "".join([_PIECES[code] for code in self.codes[start : min(end, self.cut)]])
        return text + self.tail if start <= self.cut < end else text


def make_answer(
    key: bytes, *, limit: int, stop: Sequence[str], ignore_eos: bool
) -> SimulatedAnswer:
    """Generate the answer for `key`.

    Args:
        key: everything that the answer depends on.
        limit: maximum tokens; a smaller limit gives a prefix of the same answer.
        stop: texts that end the answer and are not part of it.
        ignore_eos: whether to continue to the limit instead of ending naturally.
    """
    natural = _SHORTEST + hashlib.sha256(key).digest()[0] % _LENGTHS
    ends = not ignore_eos and natural <= limit
    length = natural if ends else limit
    noise = hashlib.shake_256(key).digest(length)
    codes = b"\x00" + bytes(1 + (byte & 63) for byte in noise[1:])
    answer = SimulatedAnswer(codes, "stop" if ends else "length", cut=length)
    return _stopped(answer, stop) if stop else answer


def _stopped(answer: SimulatedAnswer, stop: Sequence[str]) -> SimulatedAnswer:
    """Cut the answer at the first complete stop text; the tokens of that text still count."""
    text = answer.text(0, len(answer))
    found = [(text.find(word) + len(word), text.find(word)) for word in stop if word in text]
    if not found:
        return answer
    end, start = min(found)
    ends = list(accumulate(len(_PIECES[code]) for code in answer.codes))
    cut = bisect_right(ends, start)
    begins = ends[cut - 1] if cut else 0
    codes = answer.codes[: bisect_left(ends, end) + 1]
    return SimulatedAnswer(codes, "stop", cut=cut, tail=text[begins:start])


def encode(text: str) -> list[int]:
    """Tokenise a text. A lone surrogate, which UTF-8 cannot represent, becomes a question mark."""
    raw = text.encode("utf-8", "replace")
    ids: list[int] = []
    end = 0
    for match in _PIECE.finditer(raw):
        ids.extend(raw[end : match.start()])
        ids.append(_IDS[match.group()])
        end = match.end()
    ids.extend(raw[end:])
    return ids


def decode(ids: Sequence[int]) -> str:
    """Decode token ids of the vocabulary; invalid UTF-8 becomes U+FFFD."""
    return b"".join([_VOCABULARY[i] for i in ids]).decode("utf-8", "replace")


def chat_prompt(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
    *,
    add_generation_prompt: bool,
) -> str:
    """Render messages in ChatML, like the models of the catalogue. Only text parts are used."""
    turns = [("system", orjson.dumps(tools).decode())] if tools else []
    turns += [(message["role"], _content(message.get("content"))) for message in messages]
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n" if add_generation_prompt else text


def _content(content: str | Sequence[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", "") for part in content)
