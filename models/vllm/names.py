"""The names that the installed vLLM gives to its types, quantisations, parsers and arguments.

The catalogue checks configurations against them without importing vLLM, which takes ten seconds:
`make vllm-names` writes them to a file of ours, and a test compares the two.
"""

from __future__ import annotations

import dataclasses
import json

from vllm.config.model import _STR_DTYPE_TO_TORCH_DTYPE
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from models.catalog import VLLM_NAMES


def installed_names() -> dict[str, list[str]]:
    """All names, by kind, in order."""
    arguments = [
        field.name for cls in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(cls)
    ]
    names = {
        "dtype": ["auto", *_STR_DTYPE_TO_TORCH_DTYPE],
        "quantization": QUANTIZATION_METHODS,
        "tool_call_parser": ToolParserManager.list_registered(),
        "reasoning_parser": ReasoningParserManager.list_registered(),
        "engine_kwargs": [name for name in arguments if not name.startswith("_")],
    }
    return {kind: sorted(set(found)) for kind, found in names.items()}


if __name__ == "__main__":
    VLLM_NAMES.write_text(json.dumps(installed_names(), indent=1) + "\n", "utf-8")
