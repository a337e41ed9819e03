"""Restores whole answers of OpenAI's chat and completion APIs: one object, or a stream of chunks.

Each choice has several texts (content, reasoning, each tool call's arguments); a value may be cut
in each of them on its own. Chunks go out one to one and in order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

from models.openai_stream import Chunk
from serving.privacy.pseudonyms import Pseudonyms
from serving.privacy.scrubbing.pseudonym_variants import Forms
from serving.privacy.scrubbing.restore import Restorer

Channel = tuple[str, int]
"""One text of a choice: its field, and for tool calls which of them."""

_ORDER = {"reasoning_content": 0, "reasoning": 0, "content": 1, "refusal": 1, "text": 1}
"""A model that has begun a later field has ended those before it. Other fields come last."""
_LAST = 2
_FIELDS = ("reasoning_content", "reasoning", "content", "refusal")


def answers_in_json(body: Mapping[str, Any]) -> bool:
    """Whether that chat request asks for an answer that is JSON."""
    wanted = body.get("response_format")
    return isinstance(wanted, dict) and wanted.get("type") in {"json_object", "json_schema"}


class AnswerRestorer:
    """Restores the chunks of one answer. Keeps its place from one provider's attempt to the next.

    A name of a called function is restored only where it comes in one piece, as it always does: it
    must not be held back. `logprobs` are dropped while there is anything to restore: they tell of
    tokens that are not in the text any more.

    Args:
        pseudonyms: of the request. The map outlives every attempt to answer it.
        in_json: whether the content is JSON; arguments of tools always are.
    """

    def __init__(self, pseudonyms: Pseudonyms, *, in_json: bool = False) -> None:
        self._forms = Forms(pseudonyms.values)
        self._in_json = in_json
        self._choices: dict[int, dict[Channel, Restorer]] = {}
        self._last: Chunk = {}

    def feed(self, chunk: Chunk) -> Chunk:
        """The chunk, or the whole answer, with values restored; itself where nothing changes."""
        choices = chunk.get("choices")
        if not (self._forms and isinstance(choices, list) and choices):
            return chunk
        self._last = chunk
        restored = [self._choice(choice) for choice in choices]
        if all(new is old for new, old in zip(restored, choices, strict=True)):
            return chunk
        return {**chunk, "choices": restored}

    def finish(self) -> Chunk | None:
        """Return a last chunk with the held-back text, if the stream ended without an end."""
        choices = []
        for index in sorted(self._choices):
            if rest := self._ended(index, after=_LAST + 1):
                is_text = any(name == "text" for name, _ in rest)
                said: Chunk = {"text": ""} if is_text else {"delta": {}}
                choices.append(_with({"index": index, **said, "finish_reason": None}, rest))
        if not choices:
            return None
        return {**{k: v for k, v in self._last.items() if k != "usage"}, "choices": choices}

    def _choice(self, choice: Chunk) -> Chunk:
        index = choice.get("index") or 0
        said = dict(_texts(choice))
        new = {channel: self._restored(index, channel, text) for channel, text in said.items()}
        whole = choice.get("finish_reason") is not None or "message" in choice
        begun = max((_order(channel) for channel, text in said.items() if text), default=0)
        for channel, rest in self._ended(index, after=_LAST + 1 if whole else begun).items():
            new[channel] = new.get(channel, "") + rest
        if new == said and choice.get("logprobs") is None:
            return choice
        return _with(choice, new)

    def _restored(self, index: int, channel: Channel, text: str) -> str:
        if channel[0] == "name":
            name = Restorer(self._forms)
            return name.feed(text) + name.flush()
        channels = self._choices.setdefault(index, {})
        restorer = channels.get(channel)
        if restorer is None:
            in_json = channel[0] == "arguments" or (self._in_json and channel[0] == "content")
            restorer = channels[channel] = Restorer(self._forms, in_json=in_json)
        return restorer.feed(text)

    def _ended(self, index: int, *, after: int) -> dict[Channel, str]:
        """Return the held-back text of a choice's earlier fields."""
        return {
            channel: rest
            for channel, restorer in self._choices.get(index, {}).items()
            if _order(channel) < after and (rest := restorer.flush())
        }


async def restored(
    chunks: AsyncIterator[Chunk], restorer: AnswerRestorer
) -> AsyncGenerator[Chunk, None]:
    """Chunks with values restored, as they come.

    An error of `chunks` passes, and what is held back stays with the restorer: the next attempt
    goes on from there.
    """
    async for chunk in chunks:
        yield restorer.feed(chunk)
    if (rest := restorer.finish()) is not None:
        yield rest


def _order(channel: Channel) -> int:
    return _ORDER.get(channel[0], _LAST)


def _message(choice: Chunk) -> Chunk | None:
    said = choice.get("message") or choice.get("delta")
    return said if isinstance(said, dict) else None


def _calls(message: Chunk) -> Iterator[tuple[int, Chunk]]:
    """Each tool call that says something about its function, by its place in the answer."""
    for place, call in enumerate(message.get("tool_calls") or ()):
        if isinstance(call.get("function"), dict):
            yield call.get("index", place), call["function"]


def _texts(choice: Chunk) -> Iterator[tuple[Channel, str]]:
    """Every text that a choice has in this chunk."""
    if isinstance(text := choice.get("text"), str):
        yield ("text", 0), text
    message = _message(choice)
    if message is None:
        return
    for name in _FIELDS:
        if isinstance(text := message.get(name), str):
            yield (name, 0), text
    for at, function in _calls(message):
        for name in ("name", "arguments"):
            if isinstance(text := function.get(name), str):
                yield (name, at), text


def _with(choice: Chunk, texts: Mapping[Channel, str]) -> Chunk:
    """A choice with other texts."""
    new = {**choice, "logprobs": None} if "logprobs" in choice else dict(choice)
    plain = {name: text for (name, _), text in texts.items() if name in _ORDER}
    if "text" in plain:
        new["text"] = plain.pop("text")
    calls: dict[int, Chunk] = {}
    for (name, at), text in texts.items():
        if name not in _ORDER:
            calls.setdefault(at, {})[name] = text
    if plain or calls:
        where = "message" if "message" in choice else "delta"
        message = {**(choice.get(where) or {}), **plain}
        new[where] = message | ({"tool_calls": _with_calls(message, calls)} if calls else {})
    return new


def _with_calls(message: Chunk, calls: Mapping[int, Chunk]) -> list[Chunk]:
    """Put new texts into tool calls; a call without other fields goes to the end."""
    there = message.get("tool_calls") or []
    places = [call.get("index", place) for place, call in enumerate(there)]
    changed = [
        {**call, "function": {**(call.get("function") or {}), **calls.get(at, {})}}
        if at in calls
        else call
        for at, call in zip(places, there, strict=True)
    ]
    rest = [
        {"index": at, "function": function} for at, function in calls.items() if at not in places
    ]
    return changed + rest
