"""Derives a model's context and the size of its KV cache from `config.json`.

Uses transformers, which knows the defaults of each architecture. Loads no weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.conversion import PreparationFailed

BLOCK_TOKENS = 128
"""Tokens in a block of vLLM's KV cache on a CPU."""

_SCALED_ALREADY = frozenset({"su", "longrope", "llama3"})
"""Types of RoPE scaling for which `max_position_embeddings` is already the scaled length."""


_NO_CONTEXT = 0
"""Window of a layer that has a state instead of a context; vLLM keeps it in a few blocks."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The parts of a model's architecture that determine its memory.

    Attributes:
        context_tokens: Maximum context; None if the model does not say.
        values_per_token: Numbers that a token adds to the KV cache of each layer.
        windows: Sliding window of each layer in tokens; None if it sees the whole context.
    """

    context_tokens: int | None
    values_per_token: int
    windows: tuple[int | None, ...]

    def cache_bytes(self, context_tokens: int, *, step_tokens: int, value_bytes: int) -> int:
        """Return the KV cache of one sequence with a full context, in whole blocks.

        Args:
            context_tokens: maximum length of a sequence.
            step_tokens: maximum tokens of one step, which a window holds in addition.
            value_bytes: size of a number in the cache.
        """
        kinds = Counter(self.windows)
        layers = _group_size(kinds.values())
        blocks = 0
        for window, count in kinds.items():
            groups = math.ceil(count / layers)
            blocks += groups * _blocks(context_tokens, window, step_tokens)
        return blocks * layers * BLOCK_TOKENS * self.values_per_token * value_bytes


def _group_size(counts: Collection[int]) -> int:
    """Return how many layers share a block; vLLM groups layers of a kind and pads groups."""
    fewest, most = min(counts), max(counts)
    return most if most < fewest * 1.5 else fewest


def _blocks(context_tokens: int, window: int | None, step_tokens: int) -> int:
    """Return the maximum number of blocks of one sequence in a layer."""
    if window is None:
        return math.ceil(context_tokens / BLOCK_TOKENS)
    return math.ceil(min(context_tokens, window + step_tokens) / BLOCK_TOKENS) + 1


def architecture(directory: Path) -> Architecture:
    """Read the architecture of the model in a directory of Hugging Face's layout.

    Raises:
        PreparationFailed: transformers cannot read its `config.json`; the message says why.
    """
    from transformers import AutoConfig  # noqa: PLC0415  Three seconds: it imports torch.

    try:
        whole: Any = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        text: Any = whole.get_text_config()
        return Architecture(_context_tokens(text), _values_per_token(text), _windows(text))
    except Exception as error:  # noqa: BLE001  Each architecture fails in its own way.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PreparationFailed(f"{directory / 'config.json'}: {reason[0]}") from None


def _context_tokens(text: Any) -> int | None:
    """Return the context as vLLM derives it, without the tokenizer's limit."""
    length: float | None = getattr(text, "max_position_embeddings", None)
    if length is None:
        return None
    factor = 1.0
    if "gemma3" not in text.model_type:
        for rope in _ropes(text):
            kind = rope.get("rope_type")
            if kind in _SCALED_ALREADY:
                continue
            factor = rope.get("factor") or factor
            if kind == "yarn":
                length = rope["original_max_position_embeddings"]
    return int(length * factor)


def _ropes(text: Any) -> list[Mapping[str, Any]]:
    """Return the RoPE parameters, one entry for each kind of layer if they differ."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    return nested or [parameters]


def _values_per_token(text: Any) -> int:
    if latent := getattr(text, "kv_lora_rank", None):
        return int(latent + text.qk_rope_head_dim)
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(2 * _kv_heads(text, heads) * head_dim)


def _kv_heads(text: Any, heads: int) -> int:
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        return 1
    for name in ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"):
        if count := getattr(text, name, None):
            return int(count)
    return heads


def _windows(text: Any) -> tuple[int | None, ...]:
    window: int | None = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return (window,) * int(text.num_hidden_layers)
    of_kind: dict[str, int | None] = {"sliding_attention": window, "linear_attention": _NO_CONTEXT}
    return tuple(of_kind.get(kind) for kind in kinds)
