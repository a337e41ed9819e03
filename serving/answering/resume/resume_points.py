"""Resume points: the local model continues a broken answer from its tokens, or from its text.

By tokens a greedy answer goes on as if nothing had happened. Text that is tokenised anew may
differ where it was cut.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.engine import Engine, GenerationRequest, RequestRejected, TokenizeRequest

CONTEXT_IDS = 8
"""Tokens before a text that are decoded with it, as the first token may lose a space."""

MOST_STEPS_BACK = 8
"""More tokens than one character is made of."""

_CHAT_ONLY = frozenset(
    {
        "messages", "max_completion_tokens", "response_format", "tools", "tool_choice",
        "parallel_tool_calls", "reasoning_effort", "logprobs", "top_logprobs", "stream_options",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PartialText:
    """The text of an answer that broke off.

    Attributes:
        text: all that the client has.
        tokens: about how many that is.
        routes: from where it came, in order.
        prompt_ids: of the last attempt, where its engine told; else None.
        ids: what that attempt produced.
        at: where in the text that begins.
        tokens_before: about how many are before that.
    """

    text: str = field(repr=False)
    tokens: int
    routes: Sequence[str]
    prompt_ids: Sequence[int] | None = field(default=None, repr=False)
    ids: Sequence[int] = field(default=(), repr=False)
    at: int = 0
    tokens_before: int = 0


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The place in a text where an attempt resumes, and about how many tokens precede it."""

    at: int
    tokens: int


def resume(body: Mapping[str, Any], text: str, tokens: int) -> dict[str, Any]:
    """A chat request that asks for the rest of an answer of which `text` is there."""
    new = dict(body) | shortened(body, tokens)
    if text:
        new["messages"] = [*body["messages"], {"role": "assistant", "content": text}]
    return new


def shortened(body: Mapping[str, Any], tokens: int) -> dict[str, int]:
    """The bounds of a request on its answer, now that there are so many tokens of it."""
    floors = {"max_completion_tokens": 1, "max_tokens": 1, "min_tokens": 0}
    return {
        name: max(floor, body[name] - tokens)
        for name, floor in floors.items()
        if body.get(name) is not None
    }


async def resumed(
    engine: Engine, request: GenerationRequest, partial: PartialText, *, number: int
) -> tuple[GenerationRequest, ResumePoint]:
    """The request for the rest, and where in the answer it begins.

    Args:
        engine: of the model here.
        request: the first one.
        partial: what there is.
        number: of the attempt; ids of requests are not used twice.

    Raises:
        EngineError: it cannot be asked.
    """
    request = replace(request, request_id=f"{request.request_id}-{number}")
    if partial.prompt_ids is not None and not request.body.get("tools"):
        place = await _said_whole(engine, partial)
        if place is not None:
            return await _by_ids(engine, request, partial, place)
    body = resume(request.body, partial.text, partial.tokens)
    if partial.text:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return replace(request, body=body), ResumePoint(len(partial.text), partial.tokens)


async def _by_ids(
    engine: Engine, request: GenerationRequest, partial: PartialText, place: tuple[int, int]
) -> tuple[GenerationRequest, ResumePoint]:
    """The request for what comes after the first so many tokens, which are so much text."""
    count, length = place
    resume_point = ResumePoint(partial.at + length, partial.tokens_before + count)
    prompt = [*(partial.prompt_ids or ()), *partial.ids[:count]]
    bounds = shortened(request.body, resume_point.tokens)
    most = bounds.pop("max_completion_tokens", bounds.pop("max_tokens", None))
    if most is None:
        context = await engine.tokenize(TokenizeRequest(prompt=" "))
        most = max(1, context.context_tokens - len(prompt))
    body = {name: value for name, value in request.body.items() if name not in _CHAT_ONLY}
    body |= bounds | {"prompt": prompt, "max_tokens": most}
    return replace(request, kind="completion", body=body), resume_point


async def _said_whole(engine: Engine, partial: PartialText) -> tuple[int, int] | None:
    """Count the tokens whose text was sent completely, and the characters of that text.

    An engine may have produced more than it has said: what may become a stop sequence, or a
    character that is not whole. That is produced again. None: tokens and text do not match.
    """
    said, ids = partial.text[partial.at :], list(partial.ids)
    context = list((partial.prompt_ids or ())[-CONTEXT_IDS:])
    try:
        lead = await engine.detokenize(context)

        async def text(count: int) -> str:
            return (await engine.detokenize(context + ids[:count]))[len(lead) :]

        if not (whole := await text(len(ids))).startswith(said):
            return None
        if whole == said:
            return len(ids), len(said)
        last = await _last_within(text, len(ids), len(said))
        for count in range(last, max(-1, last - MOST_STEPS_BACK), -1):
            if said.startswith(found := await text(count)):
                return count, len(found)
    except RequestRejected:
        pass
    return None


async def _last_within(text: Callable[[int], Awaitable[str]], count: int, length: int) -> int:
    """The most tokens, below a count, that are no more text than that; about, at broken ones."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(await text(middle)) <= length:
            low = middle
        else:
            high = middle - 1
    return low
