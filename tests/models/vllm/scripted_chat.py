"""vLLM's chat endpoint before an engine that says what a test has written, token by token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import orjson
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from models.vllm.chat import ParsedChat
from serving.gateway.collect import Collector
from tests.models.vllm.tool_formats import CONTROL_TOKENS

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {
        "type": "function",
        "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}},
    },
]
PROMPT_IDS = [1, 2, 3]


class Configuration:
    """What the endpoint asks of a model's configuration."""

    model = "scripted"
    generation_config = "vllm"
    hf_overrides = None
    hf_config = hf_text_config = SimpleNamespace(model_type="llama")

    def get_diff_sampling_param(self) -> dict[str, Any]:
        return {}


class Client:
    """What the endpoint asks of an engine's client when it is made."""

    model_config = Configuration()
    renderer = None
    input_processor = None


@cache
def tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A token for each byte, for each control mark, and for each of `words`."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    raw = Tokenizer(BPE(vocab={byte: at for at, byte in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False)
    raw.decoder = Decoder()
    raw.add_special_tokens([AddedToken(mark, special=True) for mark in CONTROL_TOKENS])
    raw.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=CONTROL_TOKENS[0], clean_up_tokenization_spaces=False
    )


WORDS = tokenizer(
    *("weather", "ping", "name", "arguments", "parameters", "city", "days", "Oslo", "functions"),
    *('{"', '": ', '": "', '", "', '"}', "}", "[", "]", "{}", ", ", '="', '">', "</", ': {"'),
)
"""Several characters a token, as models have them."""

BYTES = tokenizer()


class Script:
    """What a model says: its tokens, and how it ended.

    Args:
        text: what the model says.
        tokens: which tokenizer cuts it.
        at_most: tokens, as `max_tokens` has it.
        stop: a string that ends the answer before it.
        choices: how many times it is said.
    """

    def __init__(
        self,
        text: str,
        tokens: PreTrainedTokenizerFast = WORDS,
        *,
        at_most: int | None = None,
        stop: str | None = None,
        choices: int = 1,
    ) -> None:
        self._tokens = tokens
        self._ids = tokens.encode(text, add_special_tokens=False)[:at_most]
        self.text = tokens.decode(self._ids)
        self._whole = at_most is None or at_most > len(self._ids)
        self._choices = choices
        self._stop = stop if stop is not None and stop in text else None

    async def outputs(self, interval: int) -> AsyncGenerator[RequestOutput, None]:
        """As vLLM gives them: one token, then as many as `interval` at a time."""
        said, ids = "", list[int]()
        for at, (token, text, reason) in enumerate(self._steps()):
            said += text
            ids.append(token)
            if at == 0 or len(ids) == interval or reason is not None:
                stop = self._stop if reason == "stop" else None
                outputs = [
                    CompletionOutput(
                        index, said, ids, None, _logprobs(ids), finish_reason=reason,
                        stop_reason=stop,
                    )
                    for index in range(self._choices)
                ]  # fmt: skip
                finished = reason is not None
                yield RequestOutput("r", None, PROMPT_IDS, None, outputs, finished=finished)
                said, ids = "", []

    def _steps(self) -> list[tuple[int, str, str | None]]:
        """Each token with the text that it completes; the last with how the answer ended."""
        steps: list[tuple[int, str, str | None]] = []
        done = ""
        for count, token in enumerate(self._ids, 1):
            text = self._tokens.decode(self._ids[:count])
            if self._stop is not None and self._stop in text:
                return [*steps, (token, text[: text.index(self._stop)][len(done) :], "stop")]
            more = "" if text.endswith("\N{REPLACEMENT CHARACTER}") else text[len(done) :]
            if self._stop is not None:  # What may begin the stop string waits.
                more = more[: max(0, len(done) + len(more) - len(self._stop) + 1 - len(done))]
            done += more
            steps.append((token, more, None))
        if self._whole:
            rest = self.text[len(done) :]
            return [*steps, (self._tokens.eos_token_id, rest, "stop")]
        return [*steps[:-1], (*steps[-1][:2], "length")]


def _logprobs(ids: Sequence[int]) -> list[dict[int, Logprob]]:
    return [{token: Logprob(-0.5, 1, WORDS.decode(token))} for token in ids]


async def events(
    script: Script,
    *,
    parser: str | None = None,
    reasoning: str | None = None,
    interval: int = 1,
    tokens: PreTrainedTokenizerFast = WORDS,
    rendered_by_vllm: bool = False,
    **body: Any,
) -> list[dict[str, Any]]:
    """Chunks of the answer to a chat with two tools."""
    chat = OpenAIServingChat(
        Client(),
        None,
        "assistant",
        online_renderer=None,
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
        enable_auto_tools=parser is not None,
        tool_parser=parser,
        reasoning_parser=reasoning or "",
    )
    if not rendered_by_vllm:
        ParsedChat.take_over(chat)
    request = ChatCompletionRequest.model_validate(
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "?"}],
            "tools": TOOLS,
            "stream": True,
            "stream_options": {"include_usage": True},
            "skip_special_tokens": False,
        }
        | body
    )
    rendered = chat.chat_completion_stream_generator(
        request,
        script.outputs(interval),
        "chatcmpl-1",
        "scripted",
        [],
        tokens,
        RequestResponseMetadata(request_id="1"),
    )
    return [
        orjson.loads(event.removeprefix("data: "))
        async for event in rendered
        if not event.startswith("data: [DONE]")
    ]


def answer_of(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The unstreamed answer's only choice."""
    collector = Collector()
    for chunk in chunks:
        collector.add(b"data: " + orjson.dumps(chunk) + b"\n\n")
    choice: dict[str, Any] = collector.answer()["choices"][0]
    return choice


def calls_of(choice: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and arguments of each call."""
    calls = choice["message"].get("tool_calls", [])
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
