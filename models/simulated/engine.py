"""The simulated engine: generated filler text at the speed of a step-time model.

For tests and load studies. Answers are seeded and marked as simulated. Knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from models.catalog import ModelSpec
from models.engine import (
    ContextLengthExceeded,
    Delta,
    EngineFailed,
    EngineOverloaded,
    GenerationRequest,
    RequestRejected,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.openai_stream import wants_usage
from models.simulated.frames import Frames
from models.simulated.scheduler import ScheduledSequence, Scheduler, Sleep
from models.simulated.text import (
    MARK,
    VOCABULARY_SIZE,
    SimulatedAnswer,
    chat_prompt,
    decode,
    encode,
    make_answer,
)

_DEFAULT_CONTEXT_TOKENS = 8192
_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions.
_MOST_CHOICES = 128  # OpenAI's maximum.
_DELTAS_BEFORE_FAILURE = 3
_TURN_END = "<|im_end|>\n"
_MARK = encode(MARK)[0]  # The first word token; byte tokens have lower ids.


@dataclass(slots=True)
class _Choice:
    """An answer in progress: its text, its progress, and how much was sent.

    `prompt` is set if events must contain token ids.
    """

    index: int
    answer: SimulatedAnswer
    sequence: ScheduledSequence
    prompt: list[int] | None = None
    sent: int = 0

    @property
    def done(self) -> bool:
        return self.sent == len(self.answer)


class SimulatedEngine:
    """An `Engine` that follows the `simulation` of a catalogue entry.

    Always greedy: an answer depends only on the model, its seed, the prompt, the request's `seed`
    and
    the choice. A prompt that ends with the beginning of an answer is continued, as a greedy model
    would do. `response_format`, `tools` (except in the prompt) and `logprobs` have no effect.
    and `logprobs` have no effect.

    Args:
        spec: the entry. If `max_ongoing_requests + max_queued_requests` sequences wait, further
            requests are refused.
        sleep: waits for a number of seconds.
        clock: returns Unix seconds.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spec = spec
        self._context_tokens = spec.context_tokens or _DEFAULT_CONTEXT_TOKENS
        self._most_waiting = spec.max_ongoing_requests + spec.max_queued_requests
        self._scheduler = Scheduler(spec.simulation, sleep=sleep)
        self._clock = clock
        self._requests = 0

    @property
    def running(self) -> int:
        """Number of sequences (choices, not requests) in the batch."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place in the batch."""
        return self._scheduler.waiting

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        """See `Engine.generate`."""
        prompts = self._prompts(request)
        choices = list(self._choices(request.body, prompts, chat=request.kind == "chat"))
        if self._scheduler.waiting >= self._most_waiting:
            raise EngineOverloaded("Too many requests wait for this model; try again later.")
        failing = self._counted()
        sent = 0
        frames = Frames(request, model=self._spec.id, created=self._clock())
        with self._scheduler.scheduled([choice.sequence for choice in choices]):
            ready = choices[0].sequence.ready
            await _next_step(ready, choices)
            if request.kind == "chat":
                for choice in choices:
                    yield _role(choice, frames)
            while True:
                for delta in _due(choices, frames, request.stream_interval):
                    yield delta
                    sent += 1
                    if failing and sent == _DELTAS_BEFORE_FAILURE:
                        raise _injected_failure()
                if all(choice.done for choice in choices):
                    break
                await _next_step(ready, choices)
        if failing:
            raise _injected_failure()
        usage = Usage(sum(map(len, prompts)), sum(len(choice.answer) for choice in choices))
        if wants_usage(request.body):
            yield frames.usage(usage)
        yield usage

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """See `Engine.tokenize`. There are no special tokens to add."""
        text = request.prompt or ""
        if request.messages is not None:
            text = chat_prompt(
                request.messages,
                request.tools,
                add_generation_prompt=request.add_generation_prompt,
            )
        ids = encode(text)
        strings = [decode([i]) for i in ids] if request.return_token_strs else None
        return Tokens(ids, self._context_tokens, strings)

    async def detokenize(self, token_ids: list[int]) -> str:
        """See `Engine.detokenize`."""
        _check_ids(token_ids, param="tokens")
        return decode(token_ids)

    def _counted(self) -> bool:
        """Count a request; returns whether it must fail."""
        self._requests += 1
        period = self._spec.simulation.fail_every
        return period > 0 and self._requests % period == 0

    def _prompts(self, request: GenerationRequest) -> list[list[int]]:
        """Return the token ids of each prompt: one for a chat, any number for a completion."""
        body = request.body
        if request.kind == "chat":
            goes_on = bool(body.get("continue_final_message"))
            text = chat_prompt(
                body["messages"], body.get("tools"), add_generation_prompt=not goes_on
            )
            return [encode(text.removesuffix(_TURN_END) if goes_on else text)]
        prompt = body["prompt"]
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            prompt = [prompt]
        if not prompt:
            raise RequestRejected("The prompt is empty.", param="prompt")
        prompts = [encode(one) if isinstance(one, str) else list(one) for one in prompt]
        for ids in prompts:
            _check_ids(ids, param="prompt")
        return prompts

    def _choices(
        self, body: dict[str, Any], prompts: Sequence[list[int]], *, chat: bool
    ) -> Iterator[_Choice]:
        n = body.get("n") or 1
        if not 1 <= n <= _MOST_CHOICES:
            raise RequestRejected(f"n must be 1 to {_MOST_CHOICES}, not {n}.", param="n")
        ready = asyncio.Event()
        for number, ids in enumerate(prompts):
            limit = self._limit(body, len(ids), chat=chat)
            for i in range(n):
                answer = self._rest(body, ids, limit, i) or self._answer(body, ids, limit, i)
                prefill_tokens = 0 if i else len(ids)  # The choices share the prompt's cache.
                sequence = ScheduledSequence(prefill_tokens, len(answer), ready)
                told = ids if body.get("return_token_ids") else None
                yield _Choice(number * n + i, answer, sequence, told)

    def _answer(
        self, body: dict[str, Any], ids: Sequence[int], limit: int, i: int
    ) -> SimulatedAnswer:
        """Return the answer of choice `i` to a prompt."""
        stop = body.get("stop") or ()
        key = f"{self._spec.id}|{self._spec.simulation.seed}|{body.get('seed')}|".encode()
        return make_answer(
            key + array("I", ids).tobytes() + b"|%d" % i,
            limit=limit,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            ignore_eos=bool(body.get("ignore_eos")),
        )

    def _rest(
        self, body: dict[str, Any], ids: Sequence[int], limit: int, i: int
    ) -> SimulatedAnswer | None:
        """Return the rest of choice `i` if the prompt ends with its beginning, else None."""
        if _MARK not in ids:
            return None
        said = ids[::-1].index(_MARK) + 1
        whole = self._answer(body, ids[:-said], said + limit, i)
        goes_on = said <= whole.cut and said < len(whole)
        if not goes_on or whole.text(0, said) != decode(ids[-said:]):
            return None
        return replace(whole, codes=whole.codes[said:], cut=whole.cut - said)

    def _limit(self, body: dict[str, Any], prompt_tokens: int, *, chat: bool) -> int:
        """Return the maximum tokens of a choice.

        Raises:
            ContextLengthExceeded: prompt and answer do not fit; the message is OpenAI's.
        """
        context, noun = self._context_tokens, "messages" if chat else "prompt"
        start = f"This model's maximum context length is {context} tokens. However,"
        if prompt_tokens >= context:
            said = f"your {noun} resulted in {prompt_tokens} tokens"
            text = f"{start} {said}. Please reduce the length of the {noun}."
            raise ContextLengthExceeded(text, param=noun)
        field = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
        asked = body.get(field)
        if asked is None:
            room = context - prompt_tokens
            return room if chat else min(room, _DEFAULT_COMPLETION_TOKENS)
        if asked < 1:
            raise RequestRejected(f"{field} must be at least 1, not {asked}.", param=field)
        if prompt_tokens + asked > context:
            parts = f"{prompt_tokens} in the {noun}, {asked} in the completion"
            said = f"you requested {prompt_tokens + asked} tokens ({parts})"
            text = f"{start} {said}. Please reduce the length of the {noun} or completion."
            raise ContextLengthExceeded(text, param=noun)
        return int(asked)


async def _next_step(ready: asyncio.Event, choices: Sequence[_Choice]) -> None:
    """Wait for the scheduler, which runs in this process and always wakes its sequences."""
    await ready.wait()
    ready.clear()
    if any(choice.sequence.lost for choice in choices):
        raise EngineFailed("The simulated engine was stopped.")


def _due(choices: Sequence[_Choice], frames: Frames, stream_interval: int) -> Iterator[Delta]:
    """Yield deltas of unsent tokens: one token first, then `stream_interval` at a time."""
    for choice in choices:
        produced, length = choice.sequence.produced, len(choice.answer)
        while choice.sent < produced:
            end = min(choice.sent + (stream_interval if choice.sent else 1), length)
            if end > produced:
                break
            begin, choice.sent = choice.sent, end
            text = choice.answer.text(begin, end)
            if text or choice.done or choice.prompt:
                finish = choice.answer.finish if choice.done else None
                delta = frames.content(choice.index, text, finish)
                yield _with_ids(delta, choice, begin, end) if choice.prompt else delta


def _role(choice: _Choice, frames: Frames) -> Delta:
    """Return the first event of a chat choice; with the prompt's tokens if requested."""
    delta = frames.role(choice.index)
    if choice.prompt is None:
        return delta
    told = b',"prompt_token_ids":' + orjson.dumps(choice.prompt)
    return delta.removesuffix(b"}\n\n") + told + b"}\n\n"


def _with_ids(delta: Delta, choice: _Choice, begin: int, end: int) -> Delta:
    """Add token ids to an event; the first event of a choice also gets those of the prompt."""
    told = b',"token_ids":' + orjson.dumps(_ids(choice.answer, begin, end))
    if begin == 0:
        told += b',"prompt_token_ids":' + orjson.dumps(choice.prompt)
    return delta.removesuffix(b"}]}\n\n") + told + b"}]}\n\n"


def _ids(answer: SimulatedAnswer, begin: int, end: int) -> list[int]:
    """Return the tokens of a part of an answer."""
    return [_MARK + code for code in answer.codes[begin:end]]


def _check_ids(ids: Sequence[int], *, param: str) -> None:
    if not all(0 <= i < VOCABULARY_SIZE for i in ids):
        raise RequestRejected(
            f"Token ids of this model are 0 to {VOCABULARY_SIZE - 1}.", param=param
        )


def _injected_failure() -> EngineFailed:
    return EngineFailed("The simulated engine failed, because its configuration requests it.")
