"""vLLM as a Ray Serve deployment.

Ray and vLLM do the work (placement, parallelism, LoRA, batching, parsers); this turns plain dicts
into vLLM's requests and vLLM's stream into ours.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray.llm._internal.serve.core.configs.accelerators import CPUConfig
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

from models.catalog import ModelSpec
from models.delivery.frames import Address
from models.delivery.sender import Sender
from models.engine import (
    Delta,
    EngineError,
    EngineFailed,
    EngineUnavailable,
    Failure,
    GenerationRequest,
    RequestRejected,
    TokenizeRequest,
    Tokens,
    Usage,
)
from models.openai_stream import (
    DATA,
    DONE,
    WITH_USAGE,
    chunks,
    event,
    head_of,
    usage_chunk,
    usage_of,
    wants_usage,
)
from models.ray_binding import between_nodes, bind_to_node
from models.vllm.chat import ParsedChat
from models.vllm.compat import run_in_one_process, serving_state
from models.vllm.config import llm_config, node_arguments
from models.vllm.errors import failure, rejection
from models.vllm.start import explained_start

# Fields of vLLM's own that are always null here and mean nothing to a client. A quoted key after a
# comma cannot occur inside a JSON string, where quotes are escaped, so bytes may be cut out.
_NULLS = tuple(
    f',"{name}":null'.encode()
    for name in ("token_ids", "stop_reason", "prompt_token_ids", "prompt_text")
)
_ERROR = DATA + b'{"error"'


class VLLMEngine(LLMServer):
    """One vLLM engine behind our protocol.

    Errors are returned as `Failure` values: Ray logs raised ones with their text, and that may
    hold a prompt.
    """

    async def __init__(  # type: ignore[misc]  # Ray
        self, llm_config: LLMConfig, *, spec: ModelSpec, source: str | Path
    ) -> None:
        bind_to_node()
        self._sender = Sender(tls=between_nodes().client)
        with explained_start():
            if spec.device == "cpu":
                llm_config.update_engine_kwargs(**node_arguments(spec, source))
                # vLLM would prefer it to the argument.
                os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
            if _one_thread(llm_config):
                run_in_one_process()
            await super().__init__(llm_config)

    async def _start_engine(self) -> None:
        """Start vLLM, without the actor (390 MB) in which Ray collects usage statistics."""
        if self.engine is None:
            raise EngineUnavailable("The model's engine is not running.")
        await self.engine.start()
        ParsedChat.take_over(self._serving_state().openai_serving_chat)

    async def generate(self, request: GenerationRequest, address: Address) -> Failure | None:
        """`Engine.generate` for a Serve handle: the items go to `address`."""
        items = self._generate(request)
        return await self._sender.deliver(items, address, failure=failure)

    async def tokenize(self, request: TokenizeRequest) -> Tokens | Failure:
        """`Engine.tokenize` for a Serve handle."""
        try:
            return await self._tokenize(request)
        except Exception as error:  # noqa: BLE001  The one boundary of this process.
            return failure(error)

    async def detokenize(self, token_ids: list[int]) -> str | Failure:
        """`Engine.detokenize` for a Serve handle."""
        try:
            return await self._detokenize(token_ids)
        except Exception as error:  # noqa: BLE001  The one boundary of this process.
            return failure(error)

    async def _generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | Usage, None]:
        wanted = wants_usage(request.body)
        frames = await self._start(request)
        async with aclosing(frames):
            async for frame in frames:
                delta = frame.encode()
                if delta.startswith(_ERROR):
                    raise _stream_error(delta)
                if delta == DONE:
                    continue
                if b'"choices":[]' in delta:
                    last, usage = _usage(delta)
                    if wanted:
                        yield last
                    yield usage
                    return
                yield _clean(delta)
        raise EngineFailed("The engine ended without a usage record.")

    async def _start(self, request: GenerationRequest) -> AsyncGenerator[str, None]:
        """The events as vLLM renders them; always with usage, whether asked or not."""
        state = self._serving_state()
        body = request.body | {
            "model": self._llm_config.model_id,
            "request_id": request.request_id,
            "stream": True,
            **WITH_USAGE,
            "stream_interval": request.stream_interval,
        }
        if request.kind == "chat":
            chat = ChatCompletionRequest.model_validate(body)
            answer = await state.openai_serving_chat.create_chat_completion(chat)
        else:
            completion = CompletionRequest.model_validate(body)
            answer = await state.openai_serving_completion.create_completion(completion)
        if isinstance(answer, ErrorResponse):
            raise rejection(answer.error.message, answer.error.param, answer.error.code)
        if not isinstance(answer, AsyncGenerator):
            raise EngineFailed("The engine did not stream.")
        return answer

    async def _tokenize(self, request: TokenizeRequest) -> Tokens:
        body: dict[str, Any] = {"return_token_strs": request.return_token_strs}
        if request.add_special_tokens is not None:
            body["add_special_tokens"] = request.add_special_tokens
        if request.messages is None:
            wire: Any = TokenizeCompletionRequest(prompt=request.prompt or "", **body)
        else:
            body |= {"messages": request.messages, "tools": request.tools}
            body["add_generation_prompt"] = request.add_generation_prompt
            wire = TokenizeChatRequest.model_validate(body)
        answer = await self._serving_state().serving_tokenization.create_tokenize(wire, None)
        if isinstance(answer, ErrorResponse):
            raise rejection(answer.error.message, answer.error.param, answer.error.code)
        return Tokens(answer.tokens, answer.max_model_len, answer.token_strs)

    async def _detokenize(self, token_ids: list[int]) -> str:
        serving = self._serving_state().serving_tokenization
        vocabulary = serving.model_config.get_vocab_size()
        if any(token >= vocabulary for token in token_ids):
            raise RequestRejected(f"Token ids are below {vocabulary} here.", param="tokens")
        answer = await serving.create_detokenize(DetokenizeRequest(tokens=token_ids), None)
        if isinstance(answer, ErrorResponse):
            raise rejection(answer.error.message, answer.error.param, answer.error.code)
        return str(answer.prompt)

    def _serving_state(self) -> Any:
        """The serving objects of vLLM."""
        if self.engine is None:
            raise EngineUnavailable("The model's engine is not running.")
        return serving_state(self.engine)


class ConfiguredEngine(VLLMEngine):
    """An engine whose configuration for Ray is made where it runs."""

    async def __init__(  # type: ignore[misc]  # Ray
        self, spec: ModelSpec, source: str | Path, environment: dict[str, str], drain_s: float
    ) -> None:
        with explained_start():
            config = llm_config(spec, source, environment=environment, drain_s=drain_s)
        await super().__init__(config, spec=spec, source=source)


def _one_thread(config: LLMConfig) -> bool:
    """Whether a model computes on one core, as vLLM would choose: all but one of this machine's."""
    kwargs = config.engine_kwargs
    workers = kwargs.get("tensor_parallel_size", 1) * kwargs.get("pipeline_parallel_size", 1)
    on_cpu = isinstance(config.accelerator_config, CPUConfig)
    return on_cpu and workers == 1 and len({c.physical_core for c in get_allowed_cpu_list()}) <= 2


def _clean(delta: Delta) -> Delta:
    for null in _NULLS:
        delta = delta.replace(null, b"")
    return delta


def _usage(delta: Delta) -> tuple[Delta, Usage]:
    """The usage event with OpenAI's fields only, and the counts in it."""
    chunk = next(chunks(delta))
    record = chunk["usage"]
    usage = usage_of(record)
    reasoning = record.get("completion_tokens_details")
    details = {"completion_tokens_details": reasoning} if reasoning else None
    return event(usage_chunk(head_of(chunk), usage, details)), usage


def _stream_error(delta: Delta) -> EngineError:
    error = next(chunks(delta))["error"]
    return rejection(error["message"], error.get("param"), error.get("code") or 500)


def build(
    spec: ModelSpec, source: str | Path, *, environment: dict[str, str], drain_s: float
) -> Application:
    """The deployment `Engine:<model>` of one model."""
    config = llm_config(spec, source, environment=environment, drain_s=drain_s)
    return build_llm_deployment(
        config,
        name_prefix="Engine:",
        bind_kwargs={"spec": spec, "source": source},
        deployment_cls=VLLMEngine,
    )
