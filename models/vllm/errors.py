"""vLLM's errors as ours. Text is passed on only where it cannot hold a prompt."""

from __future__ import annotations

import logging
import re
import traceback

from jinja2 import TemplateError
from pydantic import ValidationError
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import VLLMError
from vllm.v1.engine.exceptions import EngineDeadError

from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineUnavailable,
    Failure,
    RequestRejected,
)

logger = logging.getLogger(__name__)

_SAFE_PARAMETERS = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "n", "max_tokens", "min_tokens", "logprobs",
        "frequency_penalty", "presence_penalty", "repetition_penalty", "seed", "top_logprobs",
        "prompt_logprobs", "max_completion_tokens",
    }
)  # fmt: skip


# vLLM names no parameter here. The sentences hold numbers only; what follows them names a variable.
_CHOICES = re.compile(r"n must be (?:1 when using greedy sampling|at most \d+), got \d+\.")

_GRAMMAR_WORDS = ("grammar", "schema", "regex", "structured output", "pattern")


def rejection(  # noqa: PLR0911  One return for each kind.
    message: str, param: str | None, status: int
) -> EngineError:
    """Our error for one of vLLM's.

    Its text is passed on only where it can hold nothing but numbers: a message may quote the
    value that was refused, and that may be a prompt.
    """
    text = message.split(" (parameter=", maxsplit=1)[0]
    if "maximum context length" in message or param == "input_tokens":
        return ContextLengthExceeded(text)
    if "max_model_len" in message:
        return ContextLengthExceeded(
            "max_tokens is larger than the model's context; ask for fewer.", param=param
        )
    if status in (429, 503):
        return EngineOverloaded("Too many requests wait for this model; try again later.")
    if status >= 500:
        logger.error("the engine answered %d", status)
        return EngineFailed("The model's engine failed.")
    if sentence := _CHOICES.match(text):
        return RequestRejected(sentence[0], param="n")
    if param in _SAFE_PARAMETERS:
        return RequestRejected(text, param=param)
    if param == "structured_outputs" or any(word in message for word in _GRAMMAR_WORDS):
        return RequestRejected(
            "The JSON schema is not valid, or uses a feature that guided decoding does not have.",
            param="response_format",
        )
    field = param if param and param.isidentifier() else None
    return RequestRejected("The model cannot run this request as it is.", param=field)


def failure(error: Exception) -> Failure:
    """Any error of the engine as the value that goes to the gateway. Raises nothing."""
    if isinstance(error, EngineError):
        return Failure.of(error)
    if isinstance(error, EngineDeadError):
        return Failure(EngineUnavailable, "The model's engine has stopped.")
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        return Failure(RequestRejected, "The model cannot run this request as it is.", field)
    if isinstance(error, VLLMError | ValueError | TypeError | OverflowError | TemplateError):
        rejected = create_error_response(error).error
        return Failure.of(rejection(rejected.message, rejected.param, rejected.code))
    # The text of an unknown error may hold a prompt: its type and place go to the log, no more.
    place = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s in the engine\n%s", type(error).__name__, place)
    return Failure(EngineFailed, "The model's engine failed.")
