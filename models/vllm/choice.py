"""One choice of a chat, as vLLM's parsers of tool calls and reasoning read it. See decision 53.

Many parsers were made for one token at a time: with more they lose or garble a call. When they are
told that an answer is over, most close whatever is open, so that a call that was cut short looks
complete. Here they read one token at a time, and what they close counts only if the model itself
ended. Read against vLLM 0.29.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionRequest,
)
from vllm.outputs import CompletionOutput
from vllm.parser.abstract_parser import Parser
from vllm.tokenizers import TokenizerLike

from models.vllm.forced_calls import NamedCall, RequiredCalls
from models.vllm.steps import Step, Steps, ended_by_model
from models.vllm.tool_calls import ToolCallPiece, ToolCalls

READ_WHOLE = frozenset(
    {
        "FunctionGemmaToolParser",
        "GraniteToolParser",
        "HunyuanA13BToolParser",
        "Internlm2ToolParser",
        "JambaToolParser",
        "MiniCPM5XMLToolParser",
        "Phi4MiniJsonToolParser",
        "xLAMToolParser",
    }
)
"""Tool parsers that garble, leak or lose calls in a stream, even token by token, but find them in
the whole text."""

DeltaMessage = dict[str, Any]
"""The `delta` of a streamed chunk. Empty while a parser needs more to know what a token is."""


class ParsedChoice:
    """Reads the outputs of one choice.

    Args:
        request: what was asked for.
        parser: makes a parser in its first state.
        tokenizer: of the model.
    """

    def __init__(
        self,
        request: ChatCompletionRequest,
        *,
        parser: Callable[[], Parser],
        tokenizer: TokenizerLike,
    ) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._new_parser = parser
        self._parser = parser()
        self._steps = Steps(tokenizer, skip_special_tokens=request.skip_special_tokens)
        self._wants_calls = wants_calls(request)
        self._forced = self._wants_calls and request.tool_choice not in ("auto", None)
        self._plain = self._plain_calls()
        self._read_whole = (
            self._wants_calls
            and self._plain is None
            and type(self._parser.tool_parser).__name__ in READ_WHOLE
        )
        self._calls = ToolCalls(only_first=request.parallel_tool_calls is False)
        self._text = ""
        self._content = ""
        self._reasoned = False

    def read(
        self, output: CompletionOutput, prompt_ids: Sequence[int]
    ) -> Iterator[tuple[Step, DeltaMessage]]:
        """Each token of an output, and what the client is told of it."""
        for step in self._steps.of(output):
            self._text += step.text
            self.ids += step.ids
            told: DeltaMessage = {}
            if not self._read_whole:
                told = self._told(self._parse(step.text, step.ids, prompt_ids))
            yield step, told

    def end(self, output: CompletionOutput) -> tuple[DeltaMessage, str]:
        """The last delta and `finish_reason`, after the last output was read."""
        by_model = ended_by_model(output)
        delta: DeltaMessage = {}
        if not self._read_whole:
            closing = self._parse("", [], finished=True)
            if not by_model:
                closing.pop("tool_calls", None)  # The parser closed what the model had not.
            delta = self._told(closing)
        if self._wants_calls:
            rest = self._missed() if by_model else self._cut_off()
            for name, value in rest.items():
                delta[name] = delta[name] + value if name in delta else value
        return delta, self._finish_reason(str(output.finish_reason), by_model=by_model)

    def reasoning_tokens(self) -> int:
        """How many of the tokens were reasoning."""
        return int(self._parser.count_reasoning_tokens(self.ids))

    def _plain_calls(self) -> NamedCall | RequiredCalls | None:
        """The reader of forced calls that are plain JSON, and not in the model's own form."""
        tools = self._parser.tool_parser
        if not self._forced or tools is None or not tools.supports_required_and_named:
            return None
        self._parser.tool_parser = None  # What is no reasoning is content then.
        named = self._named
        return RequiredCalls() if named is None else NamedCall(named)

    @property
    def _named(self) -> str | None:
        choice = self.request.tool_choice
        named = isinstance(choice, ChatCompletionNamedToolChoiceParam)
        return choice.function.name if named else None

    def _parse(
        self,
        text: str,
        ids: list[int],
        prompt_ids: Sequence[int] | None = None,
        *,
        finished: bool = False,
    ) -> DeltaMessage:
        message = self._parser.parse_delta(
            delta_text=text,
            delta_token_ids=ids,
            request=self.request,
            prompt_token_ids=prompt_ids,
            finished=finished,
        )
        return {} if message is None else message.model_dump(exclude_none=True)

    def _told(self, message: DeltaMessage) -> DeltaMessage:
        """What the client is told of what a parser said."""
        told = {name: message[name] for name in ("content", "reasoning") if message.get(name)}
        pieces = _pieces(message)
        if self._plain is not None:
            pieces = self._plain.read(told.pop("content", ""))
        if self._calls.begun and not told.get("content", "").strip():
            told.pop("content", None)  # White space between calls.
        self._content += told.get("content", "")
        self._reasoned |= "reasoning" in told
        if calls := self._calls.grow(pieces):
            told["tool_calls"] = calls
        return told

    def _missed(self) -> DeltaMessage:
        """What the whole text of a model that ended has, and the stream of it had not."""
        broken = self._calls.begun and not self._calls.whole
        if not (self._read_whole or broken or self._untold()):
            return {}
        reasoning, content, found = self._new_parser().parse(
            self._text, self.request, enable_auto_tools=True, model_output_token_ids=self.ids
        )
        pieces = [
            ToolCallPiece(at, call.id, call.name, call.arguments)
            for at, call in enumerate(found or ())
        ]
        missed: DeltaMessage = {"tool_calls": self._calls.complete(pieces)}
        if self._read_whole:
            missed |= {"reasoning": reasoning, "content": content}
        if not self._calls.begun and not missed.get("content"):
            missed["content"] = self._untold()
        return {name: value for name, value in missed.items() if value}

    def _cut_off(self) -> DeltaMessage:
        """The text of a call that was cut short before its name, as it was generated."""
        untold = self._untold()
        return {"content": untold} if untold else {}

    def _untold(self) -> str:
        """The text after the content that was told.

        Empty after calls or reasoning, where marks stand between that nobody is told.
        """
        if self._calls.begun or self._reasoned or not self._text.startswith(self._content):
            return ""
        untold = self._text.removeprefix(self._content)
        return untold if untold.strip() else ""

    def _finish_reason(self, reason: str, *, by_model: bool) -> str:
        if reason != "stop" or not (self._forced or self._calls.begun):
            return reason
        if not by_model and not self._calls.whole:
            return "length"  # `stop` is also how a complete call of a named function ends.
        return "tool_calls" if self._calls.begun and self._named is None else "stop"


def wants_calls(request: ChatCompletionRequest) -> bool:
    """Whether the model may call tools."""
    return bool(request.tools) and request.tool_choice != "none"


def _pieces(message: DeltaMessage) -> Iterator[ToolCallPiece]:
    for call in message.get("tool_calls", ()):
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        yield ToolCallPiece(call["index"], call.get("id"), name, arguments)
