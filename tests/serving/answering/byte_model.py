"""A greedy model with one fixed text; like vLLM, its text lags behind its tokens.

What may become a stop sequence, and a character that is not whole, is held back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.engine import (
    Delta,
    Engine,
    EngineError,
    GenerationRequest,
    TokenizeRequest,
    Tokens,
    Usage,
)
from tests.serving.fakes import HEAD, TEXT_HEAD, event

PROMPT = [0, 1, 2]
FIRST = 10


@dataclass
class ByteModel(Engine):
    """Dies after the next number of tokens in `deaths` in each request, until the list is used up.

    Its tokens are pieces of `width` bytes of the text, by their place in it.
    """

    text: str
    deaths: list[int]
    error: EngineError
    width: int = 1
    requests: list[GenerationRequest] = field(default_factory=list)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        self.requests.append(request)
        chat, body = request.kind == "chat", request.body
        prompt = PROMPT if chat else body["prompt"]
        ids = list(range(FIRST, FIRST + len(self._pieces)))[len(prompt) - len(PROMPT) :]
        ids = ids[: body.get("max_tokens", len(ids))]
        dies_after = self.deaths.pop(0) if self.deaths else None
        if chat:
            opening = _choice({"role": "assistant", "content": ""}, [])
            yield event(HEAD | {"choices": [opening], "prompt_token_ids": prompt})
        said, end = "", 0
        while end < len(ids):
            if dies_after is not None and end >= dies_after:
                raise self.error
            start, end = end, min(end + request.stream_interval, len(ids))
            text, finish = _told(
                self._bytes(ids[:end]), _stops(body.get("stop")), last=end == len(ids)
            )
            extra = {} if chat or start else {"prompt_token_ids": list(prompt)}
            delta = text[len(said) :]
            said = text
            choice = _choice({"content": delta}, ids[start:end], finish)
            if not chat:
                choice = choice | {"text": delta} | extra
                del choice["delta"]
            yield event((HEAD if chat else TEXT_HEAD) | {"choices": [choice]})
            if finish:
                break
        yield Usage(len(prompt), end)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        del request
        return Tokens([0], 4096)

    async def detokenize(self, token_ids: list[int]) -> str:
        lead = "".join("<>" for one in token_ids if one < FIRST)
        return lead + self._bytes(token_ids).decode(errors="replace")

    @property
    def _pieces(self) -> list[bytes]:
        raw = self.text.encode()
        return [raw[at : at + self.width] for at in range(0, len(raw), self.width)]

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._pieces[one - FIRST] for one in ids if one >= FIRST)


def _choice(delta: dict[str, str], ids: Sequence[int], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "token_ids": list(ids), "finish_reason": finish}


def _stops(stop: str | list[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else stop or []


def _told(raw: bytes, stops: list[str], *, last: bool) -> tuple[str, str | None]:
    """Return the text of some tokens, and the finish reason if any."""
    text = raw.decode(errors="ignore")
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "stop"
    if last:
        return text, "length"
    held = max((len(stop) - 1 for stop in stops), default=0)
    return text[: max(0, len(text) - held)], None
