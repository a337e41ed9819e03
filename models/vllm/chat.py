"""Streams of chats that a parser of vLLM's reads, in place of vLLM's own rendering."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.tokenizers import TokenizerLike

from models.engine import Usage
from models.openai_stream import Chunk, chat_choice, event, head, usage_chunk
from models.vllm.choice import ParsedChoice, wants_calls
from models.vllm.steps import Step

Event = str
"""A rendered server-sent event."""

PULSE_TOKENS = 16
"""Of so many tokens one has an event even if a parser tells nothing: the engine has not stalled."""


class ParsedChat(OpenAIServingChat):
    """vLLM's chat endpoint, whose parsers are read by `ParsedChoice`."""

    @staticmethod
    def take_over(chat: OpenAIServingChat) -> None:
        """Have a chat endpoint that vLLM made, as it makes its own only, render as this one."""
        chat.__class__ = ParsedChat

    def chat_completion_stream_generator(
        self,
        request: ChatCompletionRequest,
        result_generator: AsyncGenerator[RequestOutput, None],
        *args: Any,
        **kwargs: Any,
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer; vLLM's own where no parser is at work."""
        render = self._render if self._is_parsed(request) else self._unparsed
        return render(request, result_generator, *args, **kwargs)

    def _unparsed(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Event, None]:
        events: AsyncGenerator[Event, None] = super().chat_completion_stream_generator(
            *args, **kwargs
        )
        return events

    def _is_parsed(self, request: ChatCompletionRequest) -> bool:
        parser = self.parser_cls
        if parser is None:
            return False
        if parser.reasoning_parser_cls is not None:
            return True
        return parser.tool_parser_cls is not None and wants_calls(request)

    async def _render(
        self,
        request: ChatCompletionRequest,
        outputs: AsyncGenerator[RequestOutput, None],
        request_id: str,
        model: str,
        _conversation: object,
        tokenizer: TokenizerLike,
        _metadata: object,
        *,
        chat_template_kwargs: dict[str, Any] | None = None,
        **_: object,
    ) -> AsyncGenerator[Event, None]:
        begin = head("chat", request_id, model=model, created=time.time())
        parser = partial(
            self.parser_cls,
            tokenizer,
            request.tools,
            chat_template_kwargs=chat_template_kwargs,
            model_config=self.model_config,
        )
        choices = [
            ParsedChoice(request, parser=parser, tokenizer=tokenizer) for _ in range(request.n or 1)
        ]
        first: RequestOutput | None = None
        async with aclosing(outputs):
            async for result in outputs:
                if first is None:
                    first = result
                    for chunk in self._opening(request, first):
                        yield _event(begin | chunk)
                for output in result.outputs:
                    self._raise_if_error(output.finish_reason, request_id)
                    for chunk in self._chunks(choices[output.index], output, first):
                        yield _event(begin | chunk)
        yield _event(usage_chunk(begin, *self._usage(first, choices)))

    def _opening(
        self, request: ChatCompletionRequest, first: RequestOutput
    ) -> Iterator[dict[str, Any]]:
        """The role of each choice, and the prompt's tokens where they are wanted."""
        delta = {"role": self.get_chat_request_role(request), "content": ""}
        prompt = {"prompt_token_ids": first.prompt_token_ids} if request.return_token_ids else {}
        for index in range(request.n or 1):
            yield _choice(index, delta) | prompt

    def _chunks(
        self, choice: ParsedChoice, output: CompletionOutput, first: RequestOutput
    ) -> Iterator[dict[str, Any]]:
        """What the client is told of an output."""
        for step, delta in choice.read(output, first.prompt_token_ids):
            more = self._of_token(step, choice)
            if delta or more or len(choice.ids) % PULSE_TOKENS == 0:
                yield _choice(output.index, delta, **more)
        if output.finish_reason is not None:
            delta, finish_reason = choice.end(output)
            yield _choice(output.index, delta, finish_reason=finish_reason)

    def _of_token(self, step: Step, choice: ParsedChoice) -> dict[str, Any]:
        """What the client wants to know of each token, whatever a parser makes of its text."""
        told: dict[str, Any] = {}
        if choice.request.logprobs and step.logprobs:
            logprobs = self._create_chat_logprobs(
                token_ids=step.ids,
                top_logprobs=step.logprobs,
                tokenizer=choice.tokenizer,
                num_output_top_logprobs=choice.request.top_logprobs,
            )
            told["logprobs"] = logprobs.model_dump()
        if choice.request.return_token_ids:
            told["token_ids"] = step.ids
        return told

    def _usage(
        self, first: RequestOutput | None, choices: Sequence[ParsedChoice]
    ) -> tuple[Usage, dict[str, Any]]:
        """What the answer used, and further fields of its usage object."""
        prompt = len(first.prompt_token_ids) if first is not None else 0
        cached = (first.num_cached_tokens if first is not None else None) or 0
        usage = Usage(prompt, sum(len(choice.ids) for choice in choices), cached)
        if not self._include_reasoning_tokens_details:
            return usage, {}
        reasoning = sum(choice.reasoning_tokens() for choice in choices)
        return usage, {"completion_tokens_details": {"reasoning_tokens": reasoning}}


def _choice(index: int, delta: dict[str, Any], **fields: Any) -> Chunk:
    return {"choices": [chat_choice(index, delta, **fields)]}


def _event(chunk: Chunk) -> Event:
    return event(chunk).decode()
